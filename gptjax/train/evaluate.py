"""Evaluation: the metrics of a split, summed on the host in float64."""

from collections.abc import Callable, Iterable

import jax
import numpy as np

from gptjax import zigzag
from gptjax.sharding import Layout
from gptjax.train.loss import on_mesh
from gptjax.train.metrics import Totals
from gptjax.types import Array, Batch, Metrics, Params


def make_eval_step(output_fn: Callable, layout: Layout, names: Params) -> Callable:
    """Builds (params, batch) -> (metrics as (sum, count), outputs in the order of their rows).

    `names` are the logical names of the parameters' dims.
    """
    both = on_mesh(output_fn, layout, names, ((), ("act_batch", "act_seq")))
    parts = layout.parts("act_seq")

    def eval_step(params: Params, batch: Batch) -> tuple[Metrics, Array | None]:
        metrics, outputs = both(params, batch, 0, 0)
        return metrics, outputs if outputs is None or parts == 1 else zigzag.gathered(outputs, parts)

    return eval_step


def evaluate(
    eval_step: Callable, params: Params, batches: Iterable[Batch]
) -> tuple[dict[str, float | None], np.ndarray | None]:
    """Returns the mean of each metric over all batches, and the outputs of all rows one after the other.

    A mean is None where nothing was counted or it is not finite; outputs are None where the task has none.
    """
    totals, outputs = Totals(), []

    def fetch(results: tuple[Metrics, Array | None]) -> None:
        metrics, output = jax.device_get(results)
        totals.add(metrics)
        if output is not None:
            outputs.append(output)

    previous = None
    for batch in batches:
        results = eval_step(params, batch)
        if previous is not None:  # fetched while the device works on the next
            fetch(previous)
        previous = results
    if previous is not None:
        fetch(previous)
    return totals.means(), np.concatenate(outputs) if outputs else None
