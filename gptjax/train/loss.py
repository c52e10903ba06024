"""The loss of a batch: model features into a task's metrics. The one place where model and task meet."""

from collections.abc import Callable

import jax

from gptjax import model
from gptjax.model.config import ModelConfig
from gptjax.types import Batch, Metrics, Params, stream_key


def make_loss_fn(cfg: ModelConfig, task, seed: int | None) -> Callable:
    """Builds (params, batch, step, part) -> (loss_sum, metrics); a seed of None evaluates, without dropout.

    `part` numbers the micro-batches of a step, so that each draws its own dropout.
    """

    def loss_fn(params: Params, batch: Batch, step, part) -> tuple[object, Metrics]:
        dropout_key = None
        if seed is not None and cfg.dropout > 0:
            dropout_key = jax.random.fold_in(stream_key(seed, "dropout", step), part)
        x_BTD, _, _ = model.features(
            cfg,
            params,
            batch.tokens_BT,
            positions_BT=batch.positions_BT,
            segment_ids_BT=batch.segment_ids_BT,
            dropout_key=dropout_key,
        )
        metrics = task.metrics(lambda x: model.unembed(cfg, params, x), x_BTD, batch)
        return metrics["loss"][0], metrics

    return loss_fn
