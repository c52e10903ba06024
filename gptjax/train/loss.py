"""The loss of a batch: model features into a task's metrics. The one place where model and task meet."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gptjax import manual, model, sharding, zigzag
from gptjax.model.config import ModelConfig
from gptjax.sharding import Layout
from gptjax.types import Batch, Metrics, Params, stream_key


def make_loss_fn(cfg: ModelConfig, task, seed: int | None) -> Callable:
    """Builds (params, batch, step, part) -> (objective, metrics); a seed of None evaluates, without dropout.

    The objective is the sum of the loss over tokens, or what the task puts in its place, and what the model adds.
    `part` numbers the micro-batches of a step, so that each draws its own dropout.
    """

    def loss_fn(params: Params, batch: Batch, step, part) -> tuple[object, Metrics]:
        dropout_key = None
        if seed is not None and cfg.dropout > 0:
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
        metrics = task.metrics(lambda x, ahead=0: model.unembed(cfg, head, x, ahead), x_BTD, batch)
        objective = metrics.pop("objective", metrics["loss"])[0] + aux.pop("extra_loss", 0)
        return objective, manual.total({**metrics, **aux})

    return loss_fn


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
