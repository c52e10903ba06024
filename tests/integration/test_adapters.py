"""Adapters on the command line: from a run to a run, and out of it in every format."""

import numpy as np
import pytest

from gptjax import inference
from gptjax.model import lora
from tests.integration.command_line import SHORT, rows

LORA = ("--config.model.lora.rank=4", "--config.optim.trained=adapters", "--config.optim.peak_lr=0.003")


@pytest.fixture(scope="module")
def adapted(command_line, text, finished, tmp_path_factory):
    """A run that adapts a finished one, and what it said."""
    workdir = tmp_path_factory.mktemp("adapted") / "run"
    start = f"--config.checkpoint.init_from={finished}"
    return workdir, command_line.train(workdir, f"--config.data.path={text}", *SHORT, start, *LORA).stdout


def test_a_run_adapts_the_model_of_another(adapted, finished):
    """It begins as good as the other ended, learns, and leaves its weights as they were, to the bit."""
    workdir, said = adapted
    assert "trained   9,216 of them" in said
    assert f"parameters from step 40 of {finished}" in said
    assert "fresh, since it has none: blocks/attention/key/lora_a/kernel" in said
    losses = [row["loss"] for row in rows(workdir)]
    assert losses[0] == pytest.approx(rows(finished)[-1]["loss"], rel=0.2)
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    before = dict_of(inference.load(str(finished)).params)
    base, adapters = lora.split(inference.load(str(workdir)).params)
    for path, x in dict_of(base).items():
        np.testing.assert_array_equal(x, before[path], err_msg=path)
    assert all(np.any(x != 0) for x in dict_of(adapters).values())


def dict_of(tree, prefix=""):
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {path: x for name, below in tree.items() for path, x in dict_of(below, f"{prefix}/{name}").items()}


def merged(workdir):
    loaded = inference.load(str(workdir))
    return lora.merge(loaded.cfg, loaded.params)[1]


def test_it_leaves_merged_or_alone_and_comes_back(adapted, finished, entry_point, tmp_path):
    workdir, _ = adapted
    for source, target, *flags in (
        (workdir, "merged", "--format=workdir"),
        (workdir, "alone", "--format=peft"),
        (tmp_path / "alone", "again", f"--base={finished}"),
    ):
        result = entry_point("convert", f"--from={source}", f"--to={tmp_path / target}", *flags)
        assert result.returncode == 0, result.stderr
    expected = dict_of(merged(workdir))
    for target in ("merged", "again"):
        assert (inference.load(str(tmp_path / target)).cfg.lora.rank > 0) == (target == "again")
        for path, x in dict_of(merged(tmp_path / target)).items():
            np.testing.assert_allclose(x, expected[path], atol=1e-6, err_msg=path)


def test_its_lower_blocks_leave_alone(adapted, entry_point, tmp_path):
    workdir, _ = adapted
    flags = (f"--from={workdir}", f"--to={tmp_path / 'lower'}", "--format=workdir", "--layers=1")
    result = entry_point("convert", *flags)
    assert (result.returncode, "1 of the 2 blocks of" in result.stdout) == (0, True), result
    lower = inference.load(str(tmp_path / "lower"))
    assert lower.cfg.num_layers == 1
    for path, x in dict_of(lower.params["blocks"]).items():
        np.testing.assert_array_equal(x, dict_of(merged(workdir)["blocks"])[path][:1], err_msg=path)


def test_mistakes_are_said(adapted, finished, entry_point, tmp_path):
    workdir, _ = adapted
    for flags, words in (
        ((f"--from={finished}", "--format=peft"), "has no adapters"),
        ((f"--from={workdir}", f"--base={finished}"), "--base belongs to an import"),
        ((f"--from={tmp_path}", f"--base={finished}"), "adapter_config.json cannot be read"),
        ((f"--from={workdir}", "--layers=1"), "--layers changes nothing with --format=huggingface"),
        ((f"--from={workdir}", "--format=workdir", "--layers=3"), "--layers=3 is not from 1 to 2"),
    ):
        result = entry_point("convert", *flags, f"--to={tmp_path}/out")
        assert result.returncode == 2
        assert words in result.stderr


def test_a_model_without_adapters_is_scored_on_the_tasks_of_an_experiment_with_some(finished, text, entry_point):
    """Nothing is trained then: what would be says nothing about the model."""
    flags = ("--config=experiments/tiny.py", f"--workdir={finished}", "--mode=evaluate", f"--config.data.path={text}")
    result = entry_point("main", *flags, *LORA, "--config.evaluation.num_windows=8")
    assert result.returncode == 0, result.stderr
    assert "step 40 of" in result.stdout
