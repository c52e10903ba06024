"""The loss of a batch: model features into a task's metrics. The one place where model and task meet.

Shapes: B batch, T position.
"""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gptjax import manual, model, sharding, zigzag
from gptjax.model.config import ModelConfig
from gptjax.sharding import Layout
from gptjax.types import Array, Batch, Metrics, Params, stream_key


def make_loss_fn(cfg: ModelConfig, task, seed: int | None, *, by_position: bool = False) -> Callable:
    """Builds (params, batch, step, part) -> (objective, metrics); a seed of None evaluates, without dropout.

    The objective is the sum of the loss over tokens, or what the task puts in its place, and what the model adds.
    `part` numbers the micro-batches of a step, so that each draws its own dropout. With `by_position` there are the
    metrics of `loss_by_position` too.
    """

    def loss_fn(params: Params, batch: Batch, step, part) -> tuple[object, Metrics]:
        dropout_key = None
        if seed is not None and cfg.drops:
            dropout_key = jax.random.fold_in(stream_key(seed, "dropout", step), part)
        x_BTD, _, aux = model.features(
            cfg,
            params,
            batch.tokens_BT,
            positions_BT=batch.positions_BT,
            segment_ids_BT=batch.segment_ids_BT,
            dropout_key=dropout_key,
        )
        head, x_BTD = model.head_params(cfg, params, x_BTD)

        def score(loss_mask_BT: Array) -> tuple[Array, dict[str, Any]]:
            counted = batch._replace(loss_mask_BT=loss_mask_BT)
            metrics = task.metrics(lambda x, ahead=0: model.unembed(cfg, head, x, ahead), x_BTD, counted)
            return metrics["loss"][0], metrics

        if by_position:
            # The loss is a sum over what the mask counts: its derivative by the mask is the loss of each target.
            (_, metrics), loss_BT = jax.value_and_grad(score, has_aux=True)(batch.loss_mask_BT)
            metrics = {**metrics, **loss_by_position(loss_BT, batch, cfg.seq_len)}
        else:
            _, metrics = score(batch.loss_mask_BT)
        objective = metrics.pop("objective", metrics["loss"])[0] + aux.pop("extra_loss", 0)
        return objective, manual.total({**metrics, **aux})

    return loss_fn


def loss_by_position(loss_BT: Array, batch: Batch, seq_len: int) -> Metrics:
    """Returns `loss_by_position/E`, for E each power of two and seq_len: the loss at positions below E.

    Those below the power before are left out. At position p a target is predicted from p + 1 tokens of its segment.
    """
    ends = [*(2**k for k in range((seq_len - 1).bit_length())), seq_len]
    metrics = {}
    for start, end in itertools.pairwise([0, *ends]):
        counted_BT = batch.loss_mask_BT * ((start <= batch.positions_BT) & (batch.positions_BT < end))
        metrics[f"loss_by_position/{end}"] = jnp.sum(loss_BT * counted_BT), jnp.sum(counted_BT)
    return metrics


def on_mesh(function: Callable, layout: Layout, params: Any, results: Any) -> Callable:
    """Makes (params, batch, step, part) -> results of the whole batch from a function that may see a device's part.

    `params` and `results` are trees of the dims' logical names. Rows that are split over devices are put into their
    order first.
    """

    def run(tree: Params, batch: Batch, step, part):
        batch = jax.tree.map(lambda x: zigzag.spread(x, layout.parts("act_seq")) if x.ndim > 1 else x, batch)
        rows = jax.tree.map(lambda x: ("act_batch", "act_seq", *[None] * x.ndim)[: x.ndim], batch)
        with sharding.use(layout):
            each = manual.per_device(function, layout, (params, rows, (), ()), results)
            return each(tree, batch, jnp.asarray(step), jnp.asarray(part))

    return run
