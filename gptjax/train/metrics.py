"""Numbers of a run: sums into means, and `metrics.jsonl`, the record that other programs read."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gptjax.train.workdir import write_atomically, writing
from gptjax.types import Metrics, UserError

LOWER_IS_BETTER = ("loss", "bits_per_byte", "perplexity")


class Totals:
    """Sums of (sum, count) pairs by name, in float64."""

    def __init__(self):
        self._sums: dict[str, float] = {}
        self._counts: dict[str, float] = {}

    def add(self, metrics: Metrics) -> None:
        """Adds a step's pairs, already on the host."""
        for name, (total, count) in metrics.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(total)
            self._counts[name] = self._counts.get(name, 0.0) + float(count)

    def means(self) -> dict[str, float | None]:
        """Returns sum / count by name; None where nothing was counted or the mean is not finite."""
        return {
            name: finite(total / self._counts[name]) if self._counts[name] else None
            for name, total in self._sums.items()
        }


def finite(number: float | None) -> float | None:
    """Returns the number, or None where it is not finite: JSON has no word for it."""
    return number if number is not None and math.isfinite(number) else None


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Returns the rows of a metrics.jsonl, also of one that a run is writing; none where there is no file."""
    rows = [_row(path, line) for line in _whole_lines(path)] if path.is_file() else []
    for row in rows:
        train = {"step_seconds"} if row.get("split") == "train" else set()
        if missing := {"split", "loss", "tokens_seen", *train} - row.keys():
            raise UserError(f"{path}: the row of step {row['step']} has no {', '.join(sorted(missing))}")
    return rows


def criterion(found: Mapping[str, float | None], metric: str) -> float | None:
    """Returns what the best checkpoint has least of: a loss as it is, other metrics negated.

    Raises UserError where there is no such metric.
    """
    if metric not in found:
        raise UserError(f"evaluation.metric={metric!r} is not measured; valid: {', '.join(found)}")
    value = found[metric]
    return -value if value is not None and not metric.endswith(LOWER_IS_BETTER) else value


def seconds_at(rows: Sequence[Mapping[str, Any]], steps: np.ndarray) -> np.ndarray:
    """Returns how long the training steps up to each of some took: without compilation, evaluations, checkpoints."""
    train = [row for row in rows if row["split"] == "train"]
    known = np.array([0, *(row["step"] for row in train)], float)
    speeds = np.array([row["step_seconds"] for row in train], float)
    return np.interp(steps, known, np.concatenate([[0.0], np.cumsum(np.diff(known) * speeds)]))


class MetricsFile:
    """`metrics.jsonl`: one JSON object a line, (split, step) unique, whatever interrupted the run that wrote it."""

    def __init__(self, path: Path, last_step: int):
        """Opens the file for a run that continues after `last_step`: later rows and a torn last line are cut off."""
        self._path = path
        if path.is_file():
            write_atomically(
                path, "".join(line for line in _whole_lines(path) if _row(path, line)["step"] <= last_step)
            )
        with writing(path):
            self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - closed by close()

    def write(self, row: Mapping[str, Any]) -> None:
        """Appends a row; numbers keep their full precision."""
        with writing(self._path):
            self._file.write(json.dumps(row, allow_nan=False) + "\n")
            self._file.flush()

    def sync(self) -> None:
        """Forces the rows to disk: done before a checkpoint, which must not outlive the rows that led to it."""
        with writing(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _whole_lines(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    if lines and not _is_json(lines[-1]):
        lines.pop()  # a write that was cut short
    return lines


def _is_json(line: str) -> bool:
    try:
        return line.endswith("\n") and isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _row(path: Path, line: str) -> dict[str, Any]:
    row = json.loads(line) if _is_json(line) else {}
    if not isinstance(row.get("step"), int):
        raise UserError(f"{path} holds a line that is no row of metrics: {line[:60]!r}; move the file away")
    return row
