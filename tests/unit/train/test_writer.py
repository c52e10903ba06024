"""What TensorBoard's own reader finds; tests/unit/train/test_records.py has the rows of a run."""

import pytest
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.metadata import SESSION_START_INFO_TAG, parse_session_start_info_plugin_data

from gptjax.train.writer import TensorBoard
from gptjax.types import UserError


def tensors(directory, tag):
    """Returns the points of a tag as (step, content)."""
    board = EventAccumulator(str(directory), size_guidance={"tensors": 0}).Reload()
    return [(event.step, event.tensor_proto) for event in board.Tensors(tag)]


def test_a_flushed_point_is_seen_while_the_run_goes_on(tmp_path):
    board = TensorBoard(tmp_path, 0)
    board.scalars(3, {"loss": 2.5, "mfu": None})
    board.flush()
    assert [(step, list(proto.float_val)) for step, proto in tensors(tmp_path, "loss")] == [(3, [2.5])]
    board.close()


def test_a_text_stands_as_it_was_written(tmp_path):
    """Indented, which in Markdown is code: neither * nor < of a sample means anything."""
    board = TensorBoard(tmp_path, 0)
    board.text(1, "samples", "def f(x):\n\n    return x * 2 * <b> * 'äöü'")
    board.close()
    ((step, proto),) = tensors(tmp_path, "samples")
    lines = proto.string_val[0].decode().split("\n")
    assert step == 1
    assert all(line.startswith("    ") for line in lines)
    assert [line[4:] for line in lines] == ["def f(x):", "", "    return x * 2 * <b> * 'äöü'"]


def test_settings_are_found_by_the_table_of_runs(tmp_path):
    """TensorBoard's own reader of that table; what the run writes later, in a file of its own, is kept."""
    settings = {"model.norm.name": "rmsnorm", "optim.peak_lr": 0.5, "model.use_bias": False, "seed": 3}
    board = TensorBoard(tmp_path, 0)
    board.hparams("norm=rmsnorm,seed=3", settings)
    board.close()
    run = TensorBoard(tmp_path, 0)
    run.scalars(1, {"loss": 2.5})
    run.close()
    content = EventAccumulator(str(tmp_path)).Reload().SummaryMetadata(SESSION_START_INFO_TAG).plugin_data.content
    session = parse_session_start_info_plugin_data(content)
    assert session.group_name == "norm=rmsnorm,seed=3"
    found = {name: getattr(value, value.WhichOneof("kind")) for name, value in session.hparams.items()}
    assert found == settings
    assert [step for step, _ in tensors(tmp_path, "loss")] == [1]


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        TensorBoard(tmp_path / "file", 0)
