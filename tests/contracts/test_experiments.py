"""What every experiment file owes: a note of how to run it, a config that fits, and a step that can be compiled."""

import ast
import dataclasses
import math
import re

import pytest

from gptjax import config
from gptjax.data.sources import load_corpus
from gptjax.experiment import build
from gptjax.sharding import MeshConfig
from tests import experiments

every = pytest.mark.parametrize("name", experiments.NAMES)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A little text: no experiment needs its own to be traced, only the number of its tokens' ids."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "text.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 400)
    cfg = experiments.load("tiny").data
    return load_corpus(type(cfg)(path=str(folder / "text.txt"), cache_dir=str(folder)))


@every
def test_its_docstring_is_an_entry_of_a_lab_notebook(name):
    """What for, the command, the hardware with its time, and what to expect."""
    if name == "base":
        return
    notes = ast.get_docstring(ast.parse((experiments.FOLDER / f"{name}.py").read_text(encoding="utf-8")))
    assert notes is not None
    assert f"--config=experiments/{name}.py" in notes
    for word in ("Run:", "Hardware:", "Expect:"):
        assert re.search(rf"^{word} +\S", notes, re.MULTILINE), word


@every
def test_it_fits_together(name):
    config.validate(experiments.load(name), device_count=1)


@every
def test_it_changes_little(name):
    """Base plus differences: few options, so that what the experiment is about can be seen."""
    default, ours = (config.flatten(config.to_plain(experiments.load(each))) for each in ("base", name))
    assert len(default) < 150
    differing = {path for path in default.keys() | ours.keys() if default.get(path) != ours.get(path)}
    assert (len(differing) > 0) == (name != "base")
    assert len(differing) <= 25, differing


@every
def test_its_step_lowers_from_shapes_alone(name, corpus):
    """Tracing finds what does not fit together without a parameter or a batch in memory."""
    cfg = experiments.load(name)
    rows = math.gcd(cfg.data.batch_size, 8)
    cfg = dataclasses.replace(cfg, mesh=MeshConfig(fsdp=rows, tensor=8 // rows, rules="fsdp_tp"))
    lowered = build(cfg, corpus).lower_train_step()
    assert f"tensor<{cfg.data.batch_size}x{cfg.model.seq_len}xi32>" in lowered.as_text()
