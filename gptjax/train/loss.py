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
from gptjax.tasks.mixture import Mixture
from gptjax.tasks.task import Heads, Task
from gptjax.types import Array, Batch, Metrics, Params, stream_key


def read(cfg: ModelConfig, params: Params, batch: Batch, dropout_key: Array | None = None) -> tuple[Heads, Array, dict]:
    """Returns the heads that read a batch's features, the features x_BTD, and what the model adds to the loss."""
    x_BTD, _, aux = model.features(
        cfg,
        params,
        batch.tokens_BT,
        positions_BT=batch.positions_BT,
        segment_ids_BT=batch.segment_ids_BT,
        dropout_key=dropout_key,
    )
    top, x_BTD = model.head_params(cfg, params, x_BTD)
    heads = Heads(
        unembed=lambda x, ahead=0: model.unembed(cfg, top, x, ahead),
        classify=lambda x, name: model.classify(cfg, top, x, name),
    )
    return heads, x_BTD, aux


def make_loss_fn(cfg: ModelConfig, task: Task | Mixture, seed: int | None) -> Callable:
    """Builds (params, batch, step, part) -> (objective, metrics); a seed of None drops nothing.

    The objective is the sum of the loss over targets, or what the task puts in its place, and what the model adds.
    `part` numbers the micro-batches of a step, so that each draws its own dropout.
    """

    def loss_fn(params: Params, batch: Batch, step, part) -> tuple[Array, Metrics]:
        dropout_key = None
        if seed is not None and cfg.drops:
            dropout_key = jax.random.fold_in(stream_key(seed, "dropout", step), part)
        heads, x_BTD, aux = read(cfg, params, batch, dropout_key)
        metrics = dict(task.metrics(heads, x_BTD, batch))
        objective = metrics.pop("objective", metrics["loss"])[0] + aux.pop("extra_loss", 0)
        return objective, manual.total({**metrics, **aux})

    return loss_fn


def make_output_fn(cfg: ModelConfig, task: Task, *, by_position: bool = False) -> Callable:
    """Builds (params, batch, step, part) -> (metrics, what the task reads predictions from); nothing is dropped.

    With `by_position` there are the metrics of `loss_by_position` too.
    """

    def output_fn(params: Params, batch: Batch, step, part) -> tuple[Metrics, Array | None]:
        heads, x_BTD, aux = read(cfg, params, batch)

        def score(loss_mask_BT: Array) -> tuple[Array, dict[str, Any]]:
            metrics = dict(task.metrics(heads, x_BTD, batch._replace(loss_mask_BT=loss_mask_BT)))
            return metrics["loss"][0], metrics

        if by_position:
            # The loss is a sum over what the mask counts: its derivative by the mask is the loss of each target.
            (_, metrics), loss_BT = jax.value_and_grad(score, has_aux=True)(batch.loss_mask_BT)
            metrics = {**metrics, **loss_by_position(loss_BT, batch, cfg.seq_len)}
        else:
            _, metrics = score(batch.loss_mask_BT)
        metrics.pop("objective", None)
        aux.pop("extra_loss", None)
        return manual.total({**metrics, **aux}), task.outputs(heads, x_BTD, batch)

    return output_fn


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
