"""Evaluation: the metrics of a split, summed on the host in float64."""

from collections.abc import Callable, Iterable

import jax

from gptjax import sharding
from gptjax.train.metrics import Totals
from gptjax.types import Batch, Metrics, Params


def make_eval_step(loss_fn: Callable, layout) -> Callable:
    """Builds (params, batch) -> metrics as (sum, count)."""

    def eval_step(params: Params, batch: Batch) -> Metrics:
        with sharding.use(layout):
            return loss_fn(params, batch, 0, 0)[1]

    return eval_step


def evaluate(eval_step: Callable, params: Params, batches: Iterable[Batch]) -> dict[str, float | None]:
    """Returns the mean of each metric over all batches; None where nothing was counted or it is not finite."""
    totals = Totals()
    previous = None
    for batch in batches:
        metrics = eval_step(params, batch)
        if previous is not None:  # fetched while the device works on the next
            totals.add(jax.device_get(previous))
        previous = metrics
    if previous is not None:
        totals.add(jax.device_get(previous))
    return totals.means()
