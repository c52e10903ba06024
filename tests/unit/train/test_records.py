"""Rows reach metrics.jsonl, TensorBoard and the screen alike."""

import json

import numpy as np
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

from gptjax.train.progress import Display
from gptjax.train.records import Records
from gptjax.train.workdir import Workdir

SPEED = {"tokens_per_second": 100.0, "step_seconds": 0.5, "mfu": None}
KEYS = {
    "step",
    "split",
    "loss",
    "bits_per_byte",
    "tokens_seen",
    "tokens_per_second",
    "step_seconds",
    "learning_rate",
    "grad_norm",
    "mfu",
    "batch_checksum",
}


def metrics(loss):
    numbers = {
        "learning_rate": np.float32(0.1),
        "grad_norm": np.float32(2.0),
        "batch_checksum": np.uint32(2**32 - 1),
        "skipped_steps": np.int32(0),
        "skipped_in_a_row": np.int32(0),
        "grad_norm/blocks": np.float32(1.5),
    }
    return {
        "loss": (np.float32(loss * 4), np.float32(4)),
        "bits_per_byte": (np.float32(0), np.float32(0)),
        **{name: (number, 1) for name, number in numbers.items()},
    }


def write(tmp_path, start, steps, loss=1.5):
    workdir = Workdir(tmp_path)
    with Display(workdir.log) as display, Records(workdir, display, start, 10) as records:
        for step in steps:
            records.train_row(step, 4 * step, metrics(loss), SPEED, {"blocks": np.float32(3.0)})
        records.valid_row(steps[-1], 4 * steps[-1], {"loss": 2.5, "bits_per_byte": None})
        records.text(steps[-1], "samples", "def f():\n    <b>*x*</b>")
    return [json.loads(line) for line in workdir.metrics.read_text().splitlines()]


def test_train_rows_have_every_field_and_unknown_ones_are_null(tmp_path):
    row, valid = write(tmp_path, 0, [1])
    assert set(row) >= KEYS
    assert (row["loss"], row["bits_per_byte"], row["mfu"], row["batch_checksum"]) == (1.5, None, None, 2**32 - 1)
    assert valid == {"step": 1, "split": "valid", "tokens_seen": 4, "loss": 2.5, "bits_per_byte": None}


def test_reports_find_all_that_was_measured_in_the_row_of_an_evaluation(tmp_path):
    workdir, means = Workdir(tmp_path), {"loss": 2.5, "loss_by_position/1": 3.0, "experts/load_0": 0.5}
    with Display(workdir.log) as display, Records(workdir, display, 0, 10) as records:
        records.valid_row(1, 4, means)
    assert json.loads(workdir.metrics.read_text()) == {"step": 1, "split": "valid", "tokens_seen": 4, **means}


def test_a_loss_that_is_not_finite_is_null(tmp_path):
    row, _ = write(tmp_path, 0, [1], loss=float("nan"))
    assert row["loss"] is None


def test_tensorboard_shows_scalars_and_texts_and_forgets_what_was_cut_off(tmp_path):
    write(tmp_path, 0, [1, 2, 3])
    write(tmp_path, 1, [2])
    board = EventAccumulator(str(tmp_path), size_guidance={"tensors": 0}).Reload()
    assert [event.step for event in board.Tensors("train/loss")] == [1, 2]
    tags = {tag for group in board.Tags().values() if isinstance(group, list) for tag in group}
    expected = {"train/loss", "train/grad_norm/blocks", "train/param_norm/blocks", "valid/loss", "train/step_seconds"}
    assert tags >= expected
    assert not {"train/mfu", "train/batch_checksum", "valid/bits_per_byte"} & tags


def test_the_log_has_a_line_a_row(tmp_path):
    write(tmp_path, 0, [1])
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert lines[0].startswith("step 1/10  train  loss 1.5000  100 tokens/s  MFU -")
    assert lines[1].startswith("step 1/10  valid  loss 2.5000")
