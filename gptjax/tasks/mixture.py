"""The tasks of an experiment together: whose rows come how often, and a batch's sums, whole and for each task.

One task alone goes through unchanged. Of several, each position says whose it is (`labels["task"]`), so that a batch
may hold rows of all, each read by its own head.

Shapes: B batch, T position, D model width.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import jax.numpy as jnp

from gptjax import registry
from gptjax.data.sequences import LabelArrays, OfTask, Rows
from gptjax.registry import Choices
from gptjax.tasks.table import TASKS
from gptjax.tasks.task import Heads, Setting, Task
from gptjax.types import Array, Batch, Metrics, UserError


@dataclasses.dataclass(frozen=True)
class Mixture:
    """One or more tasks, by name."""

    tasks: Mapping[str, Task]
    temperature: float = 1.0

    @functools.cached_property
    def learned(self) -> dict[str, Task]:
        """Those with something to learn from."""
        return {name: task for name, task in self.tasks.items() if task.has_training}

    @property
    def classifiers(self) -> tuple[tuple[str, int], ...]:
        """Name and size of each classifier that the model needs."""
        return tuple((name, len(task.classes)) for name, task in self.tasks.items() if task.classes)

    @property
    def unembeds(self) -> bool:
        """Whether learning reads the next token."""
        return any(task.unembeds for task in self.learned.values())

    @property
    def label_arrays(self) -> LabelArrays:
        """What `Batch.labels` holds of each position of a training batch."""
        arrays = {name: array for task in self.learned.values() for name, array in task.label_arrays.items()}
        return {**arrays, "task": ((), "int32")} if len(self.learned) > 1 else arrays

    def training_rows(self, seq_len: int) -> Sequence[Rows]:
        """Returns the rows of all tasks by weight; raises UserError where there is nothing to learn from."""
        if not self.learned:
            raise UserError("no task has a file to learn from; set tasks.NAME.train=FILE, or --mode=evaluate")
        rows = {name: task.training_rows(seq_len) for name, task in self.learned.items()}
        if len(rows) == 1:
            return next(iter(rows.values()))
        arrays = {name: array for name, array in self.label_arrays.items() if name != "task"}
        return [
            OfTask(part, number, weight * part.weight / sum(part.weight for part in parts), arrays)
            for number, (parts, weight) in enumerate(zip(rows.values(), self._weights(rows), strict=True))
            for part in parts
        ]

    def _weights(self, rows: Mapping[str, Sequence[Rows]]) -> list[float]:
        """Returns how often each task is taken: weight x rows^(1/temperature) (T5, arXiv 1910.10683, section 3.5.2).

        At temperature 1 every row is as likely as the next, at infinity every task.
        """
        sizes = [sum(map(len, parts)) for parts in rows.values()]
        return [
            self.tasks[name].weight * (size / max(sizes)) ** (1 / self.temperature)
            for name, size in zip(rows, sizes, strict=True)
        ]

    def metrics(self, heads: Heads, x_BTD: Array, batch: Batch) -> Metrics:
        """Returns the metrics of a training batch: those of one task, or the sums of several and, by name, each one's.

        A task's `loss_weight` multiplies its objective.
        """
        if len(self.learned) == 1:
            (task,) = self.learned.values()
            return task.metrics(heads, x_BTD, batch)
        found: dict[str, tuple[Array, Array]] = {}
        zero = jnp.zeros((), jnp.float32)
        loss, objective, count = zero, zero, zero
        for number, (name, task) in enumerate(self.learned.items()):
            own_BT = batch.labels["task"] == number
            metrics = dict(task.metrics(heads, x_BTD, batch._replace(loss_mask_BT=batch.loss_mask_BT * own_BT)))
            own_objective = metrics.pop("objective", metrics["loss"])[0]
            objective = objective + task.loss_weight * own_objective
            loss, count = loss + metrics["loss"][0], count + metrics["loss"][1]
            found |= {f"{name}/{metric}": pair for metric, pair in metrics.items()}
        return {**found, "loss": (loss, count), "objective": (objective, count)}


def build_tasks(choices: Choices, setting: Setting, temperature: float = 1.0) -> Mixture:
    """Makes the tasks of an experiment; `setting` is theirs but for the name. Raises UserError with every problem."""
    tasks = {
        name: registry.build(TASKS, choice, setting=setting._replace(name=name)) for name, choice in choices.items()
    }
    return Mixture(tasks, temperature)
