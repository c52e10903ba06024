"""Rows, tables and criteria of scores that are given, without any model."""

import json
import types

import numpy as np

from gptjax import evaluation
from gptjax.evaluation import Result
from gptjax.tasks.scores import Counts, ratio


def result(*right, loss=0.5):
    rows = np.array([[one, 1] for one in right], np.float64)

    def measure(sums_K):
        accuracy = ratio(sums_K[..., 0], sums_K[..., 1])
        return {"accuracy": accuracy, "f1/x": accuracy}

    return Result(types.SimpleNamespace(), {"loss": loss}, [Counts(rows, measure, "sig:1")])


def test_of_one_task_metrics_have_their_own_names():
    """Those of single labels are not among them."""
    assert evaluation.numbers({"a": result(1, 1, 0, 1)}) == {"loss": 0.5, "accuracy": 0.75}


def test_of_several_they_are_named_by_task_and_the_losses_are_averaged():
    found = evaluation.numbers({"a": result(1), "b": result(0, loss=1.5)})
    assert found == {"loss": 1.0, "a/loss": 0.5, "a/accuracy": 1.0, "b/loss": 1.5, "b/accuracy": 0.0}
    assert evaluation.numbers({"a": result(1), "b": result(0, loss=None)})["loss"] is None


def test_a_table_has_intervals_and_signatures():
    lines = evaluation.table({"a": result(*[1] * 30, *[0] * 10)}).splitlines()
    assert lines[2] == "| a | loss | 0.5000 | | |"
    assert lines[3].startswith("| a | accuracy | 0.7500 | 0.6")
    assert lines[3].endswith("| 40 |")
    assert lines[4] == "| a | (sig:1) | | | |"
    assert len(lines) == 5


def test_files_hold_every_metric(tmp_path):
    files = evaluation.write({"a": result(1, 0)}, tmp_path / "new", {"step": 3})
    assert [file.name for file in files] == ["results.md", "results.json"]
    document = json.loads(files[1].read_text())
    assert document["step"] == 3
    assert document["tasks"]["a"]["metrics"] == {"loss": 0.5, "accuracy": 0.5, "f1/x": 0.5}
