"""What the runs of a sweep have come to, read from their folders while some still go on; and means over seeds.

Reads files and computes; knows nothing of how a report looks.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.special import stdtrit

from gptjax import config
from gptjax.sweep.runs import SEED, Run
from gptjax.train.metrics import criterion, read_rows, seconds_at
from gptjax.train.workdir import Workdir, write_atomically
from gptjax.types import UserError

OUTCOME = "outcome.json"
STATES = ("finished", "diverged", "failed", "unfinished", "not started", "another run", "unreadable")


@dataclasses.dataclass(frozen=True)
class Result:
    """A run as its folder tells it; only a finished one enters a mean."""

    run: Run
    state: str
    """One of STATES."""
    why: str
    """What keeps the run out of the means; empty where it is finished."""
    rows: Sequence[Mapping[str, Any]] = ()
    facts: Mapping[str, Any] | None = None
    saved: Mapping[str, Any] | None = None
    """What config.json holds."""

    @property
    def seed(self) -> int:
        """The seed that the run has by its config."""
        return self.run.cfg.seed

    @property
    def options(self) -> Mapping[str, Any]:
        """The resolved config, flat: that which the run wrote, or that which it will have."""
        return config.flatten(self.saved or config.to_plain(self.run.cfg))

    @property
    def metric(self) -> str:
        """What the run is judged by."""
        return self.run.cfg.evaluation.metric

    @property
    def num_params(self) -> int | None:
        """The number of parameters, where the run has begun."""
        return self.facts["num_params"] if self.facts else None

    @property
    def step(self) -> int:
        """The last step that a row speaks of."""
        return max((row["step"] for row in self.rows), default=0)

    def last(self, name: str, split: str = "valid") -> float | None:
        """Returns a number of the last row of a split, or None."""
        rows = [row for row in self.rows if row["split"] == split]
        return rows[-1].get(name) if rows else None

    def curve(self, split: str) -> "Curve":
        """Returns the loss of a split along the run; NaN where it was not finite."""
        rows = [row for row in self.rows if row["split"] == split]
        steps = np.array([row["step"] for row in rows], float)
        tokens = np.array([row["tokens_seen"] for row in rows], float)
        flops_per_token = self.facts["flops_per_step"] / self.facts["tokens_per_step"] if self.facts else math.nan
        return Curve(
            steps=steps,
            tokens=tokens,
            flops=tokens * flops_per_token,
            seconds=seconds_at(self.rows, steps),
            loss=np.array([math.nan if row["loss"] is None else row["loss"] for row in rows], float),
        )

    @property
    def seconds(self) -> float:
        """Time that the training steps took: without compilation, evaluations and checkpoints."""
        return float(seconds_at(self.rows, np.array([self.step], float))[0])


class Curve(NamedTuple):
    """Points along a run, by each measure of how far it is."""

    steps: np.ndarray
    tokens: np.ndarray
    flops: np.ndarray
    seconds: np.ndarray
    loss: np.ndarray


def read_result(run: Run) -> Result:
    """Returns what a run has come to; a damaged file is told as the run's state, never raised."""
    workdir = Workdir(run.workdir)
    outcome = _read_json(run.workdir / OUTCOME)
    if not workdir.config.exists():
        failed = outcome is not None
        return Result(run, "failed" if failed else "not started", _words(outcome) if failed else "no row yet")
    try:
        saved = workdir.read_config()
        differing = _differences(saved, run)
        rows = read_rows(workdir.metrics)
    except UserError as error:
        return Result(run, "unreadable", str(error))
    if differing:
        return Result(run, "another run", f"its config.json differs from this command's config: {'; '.join(differing)}")
    state, why = _state(run, rows, outcome)
    return Result(run, state, why, rows, _read_json(workdir.facts), saved)


def _state(run: Run, rows: Sequence[Mapping[str, Any]], outcome: Mapping[str, Any] | None) -> tuple[str, str]:
    num_steps = run.cfg.optim.num_steps
    train, valid = ([row for row in rows if row["split"] == split] for split in ("train", "valid"))
    for kind, last in (("training", train[-1:]), ("validation", valid[-1:])):
        if last and last[0]["loss"] is None:
            return "diverged", f"the {kind} loss is not finite at step {last[0]['step']}"
    if valid and _has_ended(run, valid):
        judged_by_loss = run.cfg.evaluation.metric == "loss"  # else it may rise while what counts gets better
        if train and judged_by_loss and valid[-1]["loss"] > train[0]["loss"]:
            return "diverged", f"the last validation loss, {valid[-1]['loss']:.4g}, is above the first training loss"
        return "finished", ""
    step = max((row["step"] for row in rows), default=0)
    if outcome is not None:
        return "failed", f"at step {step} of {num_steps}: {_words(outcome)}"
    return "unfinished", f"at step {step} of {num_steps}"


def _has_ended(run: Run, valid: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the last evaluation is that of the last step, or one that a run gives up at."""
    step, cfg = valid[-1]["step"], run.cfg.evaluation
    if step == run.cfg.optim.num_steps:
        return True
    measured = [row for row in valid if row.get(cfg.metric) is not None]
    best = min(measured, key=lambda row: criterion(row, cfg.metric) or 0.0, default={"step": 0})
    return cfg.gives_up(step - best["step"])


def is_done(run: Run) -> bool:
    """Whether there is nothing left to do: its end is evaluated, and saved unless checkpoints were removed."""
    checkpoints, result = Workdir(run.workdir).checkpoints, read_result(run)
    valid = [row for row in result.rows if row["split"] == "valid"]
    if not valid or not _has_ended(run, valid):
        return False
    return not checkpoints.is_dir() or (checkpoints / str(valid[-1]["step"])).is_dir()


def _differences(saved: Mapping[str, Any], run: Run) -> list[str]:
    """Says in what the run that is there differs from the one asked for; where the text is matters, as what it is."""
    there, here = (
        {**config.fingerprint(cfg), "data.path": cfg.data.path} for cfg in (config.from_config_dict(saved), run.cfg)
    )
    return [
        f"{path}: {there.get(path)!r} there, {here.get(path)!r} here"
        for path in sorted(there.keys() | here.keys())
        if there.get(path) != here.get(path)
    ]


def write_outcome(run: Run, exit_code: int, words: str) -> None:
    """Keeps how a run failed, for the report."""
    write_atomically(run.workdir / OUTCOME, json.dumps({"exit_code": exit_code, "words": words}) + "\n")


def _words(outcome: Mapping[str, Any] | None) -> str:
    return "" if outcome is None else f"{how(outcome['exit_code'])}: {outcome['words']}"


def how(exit_code: int) -> str:
    """Says how a process ended."""
    return f"exit code {exit_code}" if exit_code >= 0 else f"died of signal {-exit_code}"


def _read_json(path: Path) -> dict[str, Any] | None:
    """Returns what a file holds, or None where it is missing or damaged: neither file decides what a run is."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


# ---- means over seeds


class Estimate(NamedTuple):
    """A mean over seeds and the half width of its 95 % interval, None where there is one seed only."""

    mean: float
    half_width: float | None
    count: int


def estimate(values: Sequence[float]) -> Estimate | None:
    """Returns the mean with Student's t interval for `values` drawn alike; None for no values."""
    if not values:
        return None
    half_width = None
    if len(values) > 1:
        half_width = float(stdtrit(len(values) - 1, 0.975) * np.std(values, ddof=1) / math.sqrt(len(values)))
    return Estimate(float(np.mean(values)), half_width, len(values))


@dataclasses.dataclass(frozen=True)
class Arm:
    """The runs that differ in nothing but their seed."""

    name: str
    results: Sequence[Result]

    @property
    def finished(self) -> list[Result]:
        """The runs that means are taken over."""
        return [result for result in self.results if result.state == "finished"]

    def estimate(self, measure: Callable[[Result], float | None]) -> Estimate | None:
        """Returns the mean of a measure over finished runs, or None where one of them does not know it."""
        values = [measure(result) for result in self.finished]
        return None if None in values else estimate([value for value in values if value is not None])

    def difference(self, baseline: "Arm", name: str = "loss") -> Estimate | None:
        """Returns the mean over common seeds of a number of this arm's last validation row less the baseline's."""
        theirs = {result.seed: result.last(name) for result in baseline.finished}
        pairs = [(result.last(name), theirs[result.seed]) for result in self.finished if result.seed in theirs]
        return estimate([ours - other for ours, other in pairs if ours is not None and other is not None])


def group(results: Sequence[Result]) -> list[Arm]:
    """Returns the arms in the order of the sweep; the first is the baseline."""
    names = dict.fromkeys(result.run.arm for result in results)
    return [Arm(name, [result for result in results if result.run.arm == name]) for name in names]


def differing_options(arms: Sequence[Arm]) -> dict[str, list[Any]]:
    """Returns the options in which the arms' resolved configs differ, an arm's value each; None where it has none."""
    flat = [arm.results[0].options for arm in arms]
    paths = dict.fromkeys(path for options in flat for path in options if path != SEED)
    table = {path: [options.get(path) for options in flat] for path in paths}
    return {path: values for path, values in table.items() if any(value != values[0] for value in values)}
