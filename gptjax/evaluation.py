"""Scores of an experiment's tasks: what the model predicts, how good that is, and the files that say so.

Runs what the experiment has compiled; trains nothing.
"""

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gptjax.data import pipeline
from gptjax.data.sequences import Packed, Rows
from gptjax.experiment import Experiment
from gptjax.sample.complete import complete
from gptjax.tasks.scores import Counts, Score
from gptjax.tasks.task import ExampleTask, Prediction, Task
from gptjax.train.config import EvaluationConfig
from gptjax.train.evaluate import evaluate
from gptjax.train.metrics import criterion
from gptjax.train.workdir import write_atomically
from gptjax.types import Params, UserError


class Result(NamedTuple):
    """What came of scoring a task."""

    task: Task
    means: Mapping[str, float | None]
    """Of what is a mean over targets, such as the loss."""
    counts: Sequence[Counts] = ()
    """What the task's own metrics are measured on."""
    examples: Sequence[Any] = ()
    predictions: Sequence[Prediction] = ()

    @property
    def numbers(self) -> dict[str, float | None]:
        """Every metric by name."""
        return {**self.means, **{name: value for counts in self.counts for name, value in counts.values().items()}}

    def scores(self) -> dict[str, Score]:
        """Returns the task's own metrics with their intervals."""
        return {name: score for counts in self.counts for name, score in counts.scores().items()}


def score_all(experiment: Experiment, params: Params) -> dict[str, Result]:
    """Scores every task that has something to be scored on."""
    found = {
        name: score(experiment, name, params)
        for name, task in experiment.tasks.tasks.items()
        if not isinstance(task, ExampleTask) or task.valid is not None
    }
    if not found:
        raise UserError("no task has anything to be scored on; set tasks.NAME.valid=FILE")
    return found


def score(experiment: Experiment, name: str, params: Params) -> Result:
    """Scores a task on all that there is, or on the first evaluation.num_windows or num_examples."""
    cfg, task = experiment.cfg.evaluation, experiment.tasks.tasks[name]
    seq_len = row_length(experiment)
    rows = task.validation_rows(seq_len, cfg.num_examples if isinstance(task, ExampleTask) else cfg.num_windows)
    batch_size = cfg.batch_size or experiment.cfg.data.batch_size
    batches = pipeline.evaluation_batches(experiment.cfg.data, rows, seq_len, batch_size, experiment.batch_sharding)
    means, outputs = evaluate(experiment.eval_steps[name], params, batches)
    if not isinstance(task, ExampleTask):
        return Result(task, means)
    assert isinstance(rows, Packed)
    examples = task.examples("valid", cfg.num_examples)
    if outputs is None:
        predictions = _written(experiment, task, examples, params)
        if not predictions:
            return Result(task, means)
    else:
        counts = task.validation_counts(seq_len, cfg.num_examples)
        predictions = _read(task, examples, rows, counts, outputs)
    return Result(task, means, task.counts(examples, predictions), examples, predictions)


def row_length(experiment: Experiment) -> int:
    """Returns the length of the rows that are scored."""
    longest = experiment.model.seq_len
    return min(experiment.cfg.evaluation.seq_len or longest, longest)


def with_references(experiment: Experiment, params: Params) -> Experiment:
    """Returns the experiment with what a model makes of the rows of each task that compares with one."""
    cfg = experiment.cfg
    batch_size = cfg.evaluation.batch_size or cfg.data.batch_size

    def outputs(name: str, rows: Rows, seq_len: int) -> np.ndarray:
        batches = pipeline.evaluation_batches(cfg.data, rows, seq_len, batch_size, experiment.batch_sharding)
        found = evaluate(experiment.eval_steps[name], params, batches)[1]
        assert found is not None
        return found

    tasks = dict(experiment.tasks.tasks)
    for name, task in tasks.items():
        if isinstance(task, ExampleTask) and task.needs_reference:
            reference = {}
            if task.has_training:
                length = experiment.model.seq_len
                reference["train"] = outputs(name, task.training_rows(length)[0], length)
            if task.valid is not None:
                length = row_length(experiment)
                reference["valid"] = outputs(name, task.validation_rows(length, None), length)
            tasks[name] = dataclasses.replace(task, setting=task.setting._replace(reference=reference))
    return dataclasses.replace(experiment, tasks=dataclasses.replace(experiment.tasks, tasks=tasks))


def _read(
    task: ExampleTask, examples: Sequence[Any], rows: Packed, counts: Sequence[int], outputs_RT: np.ndarray
) -> list[Prediction]:
    """Gives the task what was read at the counted positions of each example's segments."""
    read = iter(
        [
            outputs_RT[row, start:stop][segment.loss_mask_T > 0]
            for (row, start, stop), segment in zip(rows.places, rows.segments, strict=True)
        ]
    )
    return [
        task.predict(example, list(itertools.islice(read, count)))
        for example, count in zip(examples, counts, strict=True)
    ]


def _written(experiment: Experiment, task: ExampleTask, examples: Sequence[Any], params: Params) -> list[Prediction]:
    """Lets the model write after each prompt."""
    tokenizer, sampling = experiment.tokenizer, task.sampling()
    prompts = [task.prompt(example, experiment.model.seq_len) for example in examples]
    asked = [prompt for prompt in prompts if prompt is not None]
    if len(asked) < len(prompts):
        return []
    ids = complete(
        experiment.model,
        params,
        asked,
        sampling,
        experiment.cfg.seed,
        eos_id=task.ends,
        vocab_size=tokenizer.vocab_size,
        batch_size=experiment.cfg.evaluation.batch_size or experiment.cfg.data.batch_size,
    )
    return [task.written(example, tokenizer.decode(tokens)) for example, tokens in zip(examples, ids, strict=True)]


def numbers(results: Mapping[str, Result]) -> dict[str, float | None]:
    """Returns the metrics for a row of records: of one task by their names; of several by task, and their mean loss.

    Those of single labels are left to the files that `write` makes.
    """
    each = {name: {m: v for m, v in result.numbers.items() if _is_whole(m)} for name, result in results.items()}
    if len(each) == 1:
        return next(iter(each.values()))
    losses = [own["loss"] for own in each.values()]
    known = [loss for loss in losses if loss is not None]
    mean = sum(known) / len(known) if len(known) == len(losses) else None
    return {"loss": mean, **{f"{name}/{metric}": value for name, own in each.items() for metric, value in own.items()}}


def _is_whole(metric: str) -> bool:
    """Whether a metric is of all labels together."""
    return "/" not in metric or metric.startswith("loss_by_position/")


def rehearse(experiment: Experiment, params: Params) -> None:
    """Reads all that evaluations will read and scores an example of each task: mistakes are said before the first step.

    Raises UserError for an example that does not fit, and for an evaluation.metric that nothing measures.
    """
    cfg = experiment.cfg
    for task in experiment.tasks.tasks.values():
        if isinstance(task, ExampleTask) and task.valid is not None:
            task.validation_rows(row_length(experiment), cfg.evaluation.num_examples)
            for example in task.examples("valid", cfg.evaluation.num_examples):
                task.prompt(example, experiment.model.seq_len)
    if cfg.evaluation.metric != "loss":  # which all have
        one = dataclasses.replace(cfg, evaluation=dataclasses.replace(cfg.evaluation, num_examples=1, num_windows=1))
        results = score_all(dataclasses.replace(experiment, cfg=one), params)
        criterion(numbers(results), cfg.evaluation.metric)


def extent(cfg: EvaluationConfig) -> str:
    """Says how much is scored."""
    limits = {"windows": cfg.num_windows, "examples": cfg.num_examples}
    words = [f"the first {limit:,} {what}" for what, limit in limits.items() if limit is not None]
    return f"scored on {' and '.join(words)}" if words else "scored on all there is"


def table(results: Mapping[str, Result]) -> str:
    """Returns a table in Markdown: a row a metric, with its interval where it has one."""
    lines = ["| task | metric | value | 95 % interval | examples |", "|---|---|---:|---|---:|"]
    for name, result in results.items():
        for metric, value in result.means.items():
            lines.append(f"| {name} | {metric} | {'-' if value is None else f'{value:.4f}'} | | |")
        for metric, found in result.scores().items():
            if _is_whole(metric):
                interval = f"{found.low:.4f} to {found.high:.4f}"
                lines.append(f"| {name} | {metric} | {found.value:.4f} | {interval} | {found.count:,} |")
        for signature in (counts.signature for counts in result.counts if counts.signature):
            lines.append(f"| {name} | ({signature}) | | | |")
    return "\n".join(lines) + "\n"


def write(results: Mapping[str, Result], folder: Path, about: Mapping[str, Any]) -> list[Path]:
    """Writes results.md, results.json and each task's predictions in the format of its file; returns what it wrote."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {
        **about,
        "tasks": {
            name: {
                "metrics": dict(result.numbers),
                "intervals": {name: [found.low, found.high] for name, found in result.scores().items()},
                "signatures": [counts.signature for counts in result.counts if counts.signature],
                "examples": len(result.examples),
            }
            for name, result in results.items()
        },
    }
    write_atomically(folder / "results.md", table(results))
    write_atomically(folder / "results.json", json.dumps(document, indent=2) + "\n")
    written = [folder / "results.md", folder / "results.json"]
    for name, result in results.items():
        if result.predictions and isinstance(task := result.task, ExampleTask):
            written.append(task.write(folder / name, str(task.valid), result.examples, result.predictions))
    return written
