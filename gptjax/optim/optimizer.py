"""The optimiser: clipping, an update rule, decay by group, averaging, and skipping of what is not finite.

It sees the part of the parameters that is trained, and its state is of that part alone.
"""

import math
from typing import Any

import jax
import optax
from jax.sharding import NamedSharding, PartitionSpec
from optax import contrib

from gptjax import registry
from gptjax.optim.config import OptimConfig
from gptjax.optim.masks import assign_factors, assign_groups, layer_factors, leaves_of, put, take, trained_part
from gptjax.optim.matrices import matrices
from gptjax.optim.rules import OPTIMIZERS, Parts
from gptjax.optim.schedules import SCHEDULES, with_warmup
from gptjax.optim.transforms import AverageState, SkipState, average_params, on_part, scale_each, skip_nonfinite
from gptjax.types import Params


def make_schedule(cfg: OptimConfig) -> optax.Schedule:
    """Returns the learning rate as a function of the number of updates so far."""
    steps_after = max(1, cfg.num_steps - cfg.warmup_steps)
    after = registry.build(SCHEDULES, cfg.schedule, cfg.peak_lr, steps_after)
    return with_warmup(after, cfg.peak_lr, cfg.warmup_steps)


def make_optimizer(
    cfg: OptimConfig, params: Params, names: Any, factors: Any = None
) -> optax.GradientTransformationExtraArgs:
    """Builds the optimiser for parameters (or their shapes).

    Its update takes the gradients of the trained part and all parameters, and the extra argument `loss`, for Sophia
    `gradient_at` too (optim/curvature.py), a function of the part. `names` are the logical names of the parameters'
    dims. `factors`, a tree like the parameters' from whoever knows the model, multiplies each one's learning rate,
    decay included, beside those of the config.
    """
    part = trained_part(cfg, params, names)
    groups = leaves_of(assign_groups(params, {"decay": cfg.decay, "no_decay": cfg.no_decay}), part)
    decay_mask = jax.tree.map(lambda group: group == "decay", groups)
    schedule = make_schedule(cfg)
    descent = [optax.add_decayed_weights(cfg.weight_decay, decay_mask), optax.scale_by_learning_rate(schedule)]
    if cfg.lr_factors:
        descent.append(scale_each(leaves_of(assign_factors(params, cfg.lr_factors), part)))
    if cfg.layer_decay != 1:
        descent.append(scale_each(layer_factors(params, names, part, cfg.layer_decay)))
    if factors is not None:
        descent.append(scale_each(leaves_of(factors, part)))
    parts = Parts(tuple(descent), schedule, matrices(part, leaves_of(names, part)))
    rule = registry.build(OPTIMIZERS, cfg.optimizer, parts)
    clip = optax.clip_by_global_norm(cfg.clip_norm) if cfg.clip_norm is not None else optax.identity()
    tx = optax.chain(clip, rule)
    tx = skip_nonfinite(tx if cfg.ema_decay is None else average_params(tx, cfg.ema_decay))
    return on_part(tx, part)


def evaluation_params(opt_state: Any, params: Params) -> Params:
    """Returns what evaluation and samples use: averages where the optimiser keeps some, else `params` itself."""
    kinds = (AverageState, contrib.ScheduleFreeState)
    for state in jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, kinds)):
        if isinstance(state, AverageState):
            return put(params, state.average)
        if isinstance(state, contrib.ScheduleFreeState):
            return put(params, _schedule_free_average(state, take(params, state.z)))
    return params


_schedule_free_average = jax.jit(contrib.schedule_free_eval_params)


def skips(opt_state: Any) -> SkipState:
    """Returns the counters of skipped updates in an optimiser state made here."""
    assert isinstance(opt_state, SkipState)
    return opt_state


def state_shardings(opt_state: Any, params: Params, param_shardings: Any, replicated: Any) -> Any:
    """Gives each leaf of an optimiser state (or its shapes) the sharding of the parameter that it belongs to.

    A leaf belongs to the parameter whose path ends its own path; what belongs to none is replicated. Where shapes
    differ, as those of Adafactor's means and SOAP's bases do, a dim lies as the parameter's next dim of the same size
    does, and dims without such a one are split over the axes that are left. Plain `jit(tx.init)` would replicate Adam's
    moments on every device.
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
            if keys[start:] in by_path:
                shape, sharding = by_path[keys[start:]]
                return sharding if shape == leaf.shape else _aligned(leaf.shape, shape, sharding)
        return replicated

    return jax.tree_util.tree_map_with_path(one, opt_state)


def _aligned(shape: tuple[int, ...], like: tuple[int, ...], sharding: NamedSharding) -> NamedSharding:
    """Returns the sharding of an array whose dims are found, in order, among those of a sharded one."""
    entries = [*sharding.spec, *[None] * (len(like) - len(sharding.spec))]
    places: list[int | None] = []
    start = 0
    for size in shape:
        places.append(next((dim for dim in range(start, len(like)) if like[dim] == size), None))
        start = start if places[-1] is None else places[-1] + 1
    spec = [None if place is None else entries[place] for place in places]
    left = [entry for dim, entry in enumerate(entries) if entry is not None and dim not in places]
    for dim in (dim for dim, place in enumerate(places) if place is None):
        for entry in left:
            if shape[dim] % math.prod(sharding.mesh.shape[axis] for axis in _axes(entry)) == 0:
                spec[dim] = entry
                left.remove(entry)
                break
    return NamedSharding(sharding.mesh, PartitionSpec(*spec))


def _axes(entry: str | tuple[str, ...]) -> tuple[str, ...]:
    return (entry,) if isinstance(entry, str) else entry
