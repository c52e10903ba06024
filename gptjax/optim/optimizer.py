"""The optimiser: clipping, an update rule, decay by group, and skipping of what is not finite."""

from typing import Any

import jax
import optax

from gptjax import registry
from gptjax.optim.config import OptimConfig
from gptjax.optim.masks import assign_groups
from gptjax.optim.schedules import SCHEDULES, with_warmup
from gptjax.optim.transforms import SkipState, skip_nonfinite
from gptjax.types import Params


def adamw(
    learning_rate,
    weight_decay,
    decay_mask,
    *,
    b1: float = 0.9,
    b2: float = 0.95,
    eps: float = 1e-8,
    mu_dtype: str | None = None,
):
    """Adam with decoupled decay (Loshchilov and Hutter 2019, arXiv 1711.05101).

    The first moment is kept in `mu_dtype`, the second in float32: Optax offers no other.
    """
    return optax.adamw(
        learning_rate, b1=b1, b2=b2, eps=eps, mu_dtype=mu_dtype, weight_decay=weight_decay, mask=decay_mask
    )


OPTIMIZERS = {
    "adamw": adamw,
}


def make_schedule(cfg: OptimConfig) -> optax.Schedule:
    """Returns the learning rate as a function of the number of updates so far."""
    steps_after = max(1, cfg.num_steps - cfg.warmup_steps)
    after = registry.build(SCHEDULES, cfg.schedule, cfg.peak_lr, steps_after)
    return with_warmup(after, cfg.peak_lr, cfg.warmup_steps)


def make_optimizer(cfg: OptimConfig, params: Params) -> optax.GradientTransformationExtraArgs:
    """Builds the optimiser for parameters (or their shapes); its update takes the extra argument `loss`."""
    groups = assign_groups(params, {"decay": cfg.decay, "no_decay": cfg.no_decay})
    decay_mask = jax.tree.map(lambda group: group == "decay", groups)
    rule = registry.build(OPTIMIZERS, cfg.optimizer, make_schedule(cfg), cfg.weight_decay, decay_mask)
    clip = optax.clip_by_global_norm(cfg.clip_norm) if cfg.clip_norm is not None else optax.identity()
    return skip_nonfinite(optax.chain(clip, rule))


def skips(opt_state: Any) -> SkipState:
    """Returns the counters of skipped updates in an optimiser state made here."""
    assert isinstance(opt_state, SkipState)
    return opt_state


def state_shardings(opt_state: Any, params: Params, param_shardings: Any, replicated: Any) -> Any:
    """Gives each leaf of an optimiser state (or its shapes) the sharding of the parameter that it belongs to.

    A leaf belongs to the parameter whose path ends its own path and whose shape is the same; the rest is replicated.
    Plain `jit(tx.init)` would replicate Adam's moments on every device.
    """
    by_path = {
        tuple(map(str, path)): (leaf.shape, sharding)
        for (path, leaf), sharding in zip(
            jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(param_shardings), strict=True
        )
    }

    def one(path, leaf):
        keys = tuple(map(str, path))
        for start in range(len(keys)):
            shape, sharding = by_path.get(keys[start:], (None, None))
            if shape == leaf.shape:
                return sharding
        return replicated

    return jax.tree_util.tree_map_with_path(one, opt_state)
