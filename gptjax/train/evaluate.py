"""Evaluation: the metrics of a split, summed on the host in float64."""

from collections.abc import Callable, Iterable

import jax

from gptjax.sharding import Layout
from gptjax.train.loss import on_mesh
from gptjax.train.metrics import Totals
from gptjax.types import Batch, Metrics, Params


def make_eval_step(loss_fn: Callable, layout: Layout, names: Params) -> Callable:
    """Builds (params, batch) -> metrics as (sum, count); `names` are the logical names of the parameters' dims."""
    metrics = on_mesh(lambda *arguments: loss_fn(*arguments)[1], layout, names, ())

    def eval_step(params: Params, batch: Batch) -> Metrics:
        return metrics(params, batch, 0, 0)

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
