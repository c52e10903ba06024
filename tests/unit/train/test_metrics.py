"""metrics.jsonl: unique rows, whatever interrupted the run that wrote them."""

import json
import math

import numpy as np
import pytest

from gptjax.train.metrics import MetricsFile, Totals, criterion, finite, seconds_at
from gptjax.types import UserError


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_after_the_restored_step_and_a_torn_line_are_cut_off(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": step, "loss": 1.0}) + "\n" for step in range(1, 8)) + '{"step": 8, "lo')
    file = MetricsFile(path, last_step=5)
    file.write({"step": 6, "loss": 0.1})
    file.close()
    assert [row["step"] for row in rows(path)] == [1, 2, 3, 4, 5, 6]
    assert rows(path)[-1]["loss"] == 0.1
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_run_from_scratch_keeps_no_row(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n')
    MetricsFile(path, last_step=0).close()
    assert path.read_text() == ""


def test_numbers_keep_their_full_precision(tmp_path):
    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(path, last_step=0)
    file.write({"step": 1, "loss": 0.1 + 0.2, "batch_checksum": 4294967295})
    file.close()
    assert rows(path) == [{"step": 1, "loss": 0.1 + 0.2, "batch_checksum": 4294967295}]


def test_a_file_of_something_else_is_not_overwritten(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('my notes\n{"step": 1}\n')
    with pytest.raises(UserError, match="no row of metrics"):
        MetricsFile(path, last_step=0)
    assert path.read_text().startswith("my notes")


def test_totals_are_means_of_sums():
    totals = Totals()
    totals.add({"loss": (np.float32(6.0), 2), "empty": (0.0, 0)})
    totals.add({"loss": (np.float32(1.0), 5), "empty": (0.0, 0)})
    assert totals.means() == {"loss": 1.0, "empty": None}


@pytest.mark.parametrize(("number", "expected"), [(1.5, 1.5), (None, None), (math.nan, None), (-math.inf, None)])
def test_what_json_cannot_say_is_null(number, expected):
    assert finite(number) == expected


@pytest.mark.parametrize(
    ("metric", "least"), [("loss", 1.0), ("a/loss", 0.5), ("a/accuracy", -1.0), ("b/accuracy", 0.0)]
)
def test_the_best_has_the_least_criterion(metric, least):
    assert criterion({"loss": 1.0, "a/loss": 0.5, "a/accuracy": 1.0, "b/accuracy": 0.0}, metric) == least


def test_a_metric_that_is_not_measured_is_said():
    with pytest.raises(UserError, match=r"evaluation\.metric='f1' is not measured; valid: loss, accuracy"):
        criterion({"loss": 1.0, "accuracy": 0.5}, "f1")


def test_the_time_of_steps_is_that_of_their_rows():
    """Ten steps of half a second and ten of a whole one; a step between rows lies between their times."""
    rows = [{"split": "train", "step": 10, "step_seconds": 0.5}, {"split": "train", "step": 20, "step_seconds": 1.0}]
    rows.insert(1, {"split": "valid", "step": 10})
    assert seconds_at(rows, np.array([5.0, 10.0, 20.0])).tolist() == [2.5, 5.0, 15.0]
