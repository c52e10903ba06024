"""`python -m gptjax.convert`: a model of others comes in, is sampled, trained and leaves; mistakes are plain lines."""

import json
import subprocess
import sys
import types

import numpy as np
import pytest

from gptjax import run
from gptjax.config import ExperimentConfig
from gptjax.interop.huggingface import HuggingFaceModel
from gptjax.train.config import CheckpointConfig
from gptjax.types import UserError
from tests import pretrained
from tests.integration.command_line import ROOT
from tests.integration.test_bad_input import assert_plain_mistake

FEW = (
    *("--config.optim.num_steps=2", "--config.optim.warmup_steps=1", "--config.data.batch_size=8"),
    *("--config.evaluation.num_windows=4", "--config.sample.prompts="),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return pretrained.folder_of("llama", tmp_path_factory.mktemp("others") / "llama")


@pytest.fixture(scope="module")
def imported(command_line, folder, tmp_path_factory):
    """The workdir of the model, as the command line makes it."""
    workdir = tmp_path_factory.mktemp("imported") / "llama"
    result = command_line.run("convert", f"--from={folder}", f"--to={workdir}")
    assert (result.returncode, result.stderr) == (0, "")
    said = f"imported {15_056:,} parameters to {workdir}; try python -m gptjax.sample --workdir={workdir} --prompt=TEXT"
    assert result.stdout.splitlines()[-1] == said
    return workdir


@pytest.fixture(scope="module")
def tuned(command_line, imported, text, tmp_path_factory):
    """A run that starts from its parameters, by its own config.json."""
    workdir = tmp_path_factory.mktemp("tuned") / "run"
    arguments = (f"--config={imported}/config.json", f"--workdir={workdir}", f"--config.data.path={text}", *FEW)
    start = f"--config.checkpoint.init_from={imported}"
    result = command_line.run("main", *arguments, start)
    assert result.returncode == 0, result.stderr
    assert f"of {imported}" in result.stdout
    return workdir


@pytest.mark.slow
def test_an_imported_model_is_sampled(command_line, imported):
    result = command_line.run("sample", f"--workdir={imported}", "--prompt=the cat", "--max_tokens=8")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("the cat")


def test_what_was_trained_leaves_as_the_model_came(entry_point, folder, tuned, tmp_path):
    """Of the same family and tensors, with other values."""
    result = entry_point("convert", f"--from={tuned}", f"--to={tmp_path}/out", "--step=2")
    assert (result.returncode, result.stderr) == (0, "")
    said = f"exported to {tmp_path}/out, as a model of the llama family; transformers loads it"
    assert result.stdout.splitlines()[-1] == said
    before, after = HuggingFaceModel(folder), HuggingFaceModel(tmp_path / "out")
    assert after.names() == before.names()
    moved = [name for name in before.names() if np.any(before.read(name) != after.read(name))]
    assert set(moved) == before.names()
    assert max(np.abs(before.read(name) - after.read(name)).max() for name in moved) < 0.01
    assert json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())["chat_template"] == pretrained.TEMPLATE


@pytest.mark.slow
def test_an_imported_model_is_scored(command_line, imported, text):
    arguments = (f"--config={imported}/config.json", f"--workdir={imported}", f"--config.data.path={text}", *FEW)
    result = command_line.run("main", "--mode=evaluate", *arguments)
    assert result.returncode == 0, result.stderr
    assert f"step 0 of {imported}" in result.stdout


def test_an_imported_model_is_no_run_to_go_on_with(entry_point, imported, text, tmp_path):
    """Neither in its own workdir nor from another; the message says how to start from it."""
    words = [f"{imported} holds a model imported from", f"--config.checkpoint.init_from={imported}", "--workdir=DIR"]
    own = (f"--config={imported}/config.json", f"--config.data.path={text}", *FEW)
    assert_plain_mistake(entry_point("main", *own, f"--workdir={imported}"), words)
    cfg = ExperimentConfig(checkpoint=CheckpointConfig(resume_from=str(imported)))
    nothing = types.SimpleNamespace(latest=lambda: None)
    with pytest.raises(UserError) as error:
        run.initialize(types.SimpleNamespace(cfg=cfg), nothing, types.SimpleNamespace(), ())
    assert all(word in str(error.value) for word in words)


MISTAKES = {
    "nothing": ([], ["--from"]),
    "no target": (["--from=x"], ["--to"]),
    "misspelt flag": (["--fromm=x", "--to=y", "--from=x"], ["--fromm", "did you mean --from"]),
    "missing model": (["--from=no_such_model", "--to=y"], ["--from=no_such_model does not exist"]),
    "package": (["--from=pypi:no-such-package", "--to=y"], ["pip install --no-deps no-such-package"]),
    "unknown format": (["--from=x", "--to=y", "--format=onnx"], ["--format=onnx", "huggingface"]),
    "size that is none": (["--from=x", "--to=y", "--shard_size=big"], ["--shard_size", "big"]),
    "size of nothing": (["--from=x", "--to=y", "--shard_size=0"], ["--shard_size", "0"]),
    "step of an import": (["--from={folder}", "--to=y", "--step=3"], ["--step belongs to an export"]),
    "tokenizer of an export": (["--from={imported}", "--to=y", "--tokenizer=t"], ["--tokenizer belongs to an import"]),
    "step that is not there": (["--from={imported}", "--to=y", "--step=3"], ["no checkpoint of step 3", "0"]),
    "step that is none": (["--from={imported}", "--to=y", "--step=newest"], ["--step", "newest"]),
    "dtype of an import": (["--from={folder}", "--to=y", "--dtype=float16"], ["--dtype=float16", "bfloat16"]),
    "dtype of an export": (["--from={imported}", "--to=y", "--dtype=int8"], ["--dtype=int8", "bfloat16, float16"]),
    "target in use": (["--from={folder}", "--to={imported}"], ["exists and is not empty", "choose another"]),
    "pickle": (["--from={folder}/x.pt", "--to=y"], ["x.pt is a pickle"]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_a_line_with_its_cure(entry_point, folder, imported, tmp_path, name):
    arguments, words = MISTAKES[name]
    (folder / "x.pt").write_bytes(b"PK\x03\x04")
    filled = [argument.format(folder=folder, imported=imported) for argument in arguments]
    filled = [f"--to={tmp_path}/y" if argument == "--to=y" else argument for argument in filled]
    assert_plain_mistake(entry_point("convert", *filled), words)
    assert not list(tmp_path.iterdir())


def test_help_fits_a_screen_and_imports_no_jax():
    program = "import sys; from gptjax.convert import main; main(['--help']); assert 'jax' not in sys.modules"
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize(
    ("text", "expected"), [("5GB", 5 * 10**9), ("200mb", 200 * 10**6), ("7", 7), ("3KB", 3000), ("9B", 9)]
)
def test_sizes_are_read_with_their_units(text, expected):
    from gptjax.convert import num_bytes

    assert num_bytes(text) == expected


@pytest.mark.parametrize("text", ["5TB", "2G", "5MK", "0GB", "GB", ""])
def test_what_is_no_size_is_refused(text):
    from gptjax.convert import num_bytes

    with pytest.raises(ValueError):
        num_bytes(text)
