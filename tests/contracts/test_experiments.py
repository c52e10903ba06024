"""What every experiment file owes: a note of how to run it, a config that fits, and a step that can be compiled."""

import ast
import dataclasses
import math
import re

import jax
import pytest

from experiments.ablations import lstm_vs_transformer
from gptjax import config, model
from gptjax.data.sources import load_corpus
from gptjax.experiment import build
from gptjax.experiment_file import open_experiment
from gptjax.model import accounting
from gptjax.model.gpt import BLOCKS
from gptjax.sharding import AXES, Layout, MeshConfig, shardings
from tests import experiments

every = pytest.mark.parametrize("name", experiments.NAMES)

BASES = ("base", "smollm2_adapted")
"""What experiments start from, and is none."""

PUBLISHED = {
    "gpt2_124m": 124_439_808,
    "gpt2_355m": 354_823_168,
    "gpt2_774m": 774_030_080,
    "gpt2_1558m": 1_557_611_200,
    "llama3_8b": 8_030_261_248,
    "llama3_70b": 70_553_706_496,
    "smollm2_135m": 134_515_008,
}
"""Parameters of the released weights."""

GPT3 = {
    "gpt3_125m": (125_226_240, 125),
    "gpt3_350m": (355_871_744, 356),
    "gpt3_760m": (760_300_032, 760),
    "gpt3_1300m": (1_315_723_264, 1_320),
    "gpt3_2700m": (2_651_553_280, 2_650),
    "gpt3_6700m": (6_658_404_352, 6_660),
    "gpt3_13b": (12_853_386_240, 12_850),
    "gpt3_175b": (174_604_259_328, 174_600),
}
"""Parameters of the paper's shapes, and the millions that its table D.1 rounds them to (Brown et al. 2020)."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A little text: no experiment needs its own to be traced, only the number of its tokens' ids."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "text.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 400)
    cfg = experiments.load("tiny").data
    return load_corpus(type(cfg)(path=str(folder / "text.txt"), cache_dir=str(folder)))


def notes(name):
    """Returns the docstring of an experiment."""
    return ast.get_docstring(ast.parse((experiments.FOLDER / f"{name}.py").read_text(encoding="utf-8")))


def device_count(name):
    """Returns the number of devices of the topology that an experiment's notes name, None where they name none."""
    topology = re.search(r"--topology=\w+:([\dx]+)", notes(name))
    return topology and math.prod(map(int, topology[1].split("x")))


@every
def test_its_docstring_is_an_entry_of_a_lab_notebook(name):
    """What for, the command, the hardware with its time, and what to expect."""
    if name in BASES:
        return
    text = notes(name)
    assert text is not None
    assert f"--config=experiments/{name}.py" in text
    for word in ("Run:", "Hardware:", "Expect:"):
        assert re.search(rf"^{word} +\S", text, re.MULTILINE), word


@every
def test_it_fits_together(name):
    config.validate(experiments.load(name), device_count(name) or 1)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_model_has_its_number_of_parameters(name):
    assert accounting.num_params(experiments.load(name).model) == PUBLISHED[name]


@pytest.mark.parametrize("name", GPT3)
def test_a_gpt3_has_the_papers_number_of_parameters(name):
    """Exactly by its shape, and by the number that the paper prints, rounded to millions or tens of them."""
    exact, millions = GPT3[name]
    assert accounting.num_params(experiments.load(name).model) == exact
    assert abs(exact / 1e6 - millions) <= 5


def test_what_is_compared_by_position_has_equal_parameters():
    """To 2 %, outside the embeddings of tokens and positions; and nothing that is set means nothing to its block."""
    sizes = {}
    file = open_experiment(str(experiments.FOLDER / "ablations" / "lstm_vs_transformer.py"))
    for changes in lstm_vs_transformer.sweep():
        cfg = file.read([(path, str(value)) for path, value in changes.items()])
        config.validate(cfg, 1)
        assert not cfg.model.ignored()
        rows = accounting.parameter_table(dataclasses.replace(cfg.model, vocab_size=257))
        sizes[cfg.model.block.name, cfg.seed] = sum(row.count for row in rows if not row.path.endswith("embedding"))
    assert sizes.keys() == {(block, seed) for block in BLOCKS for seed in lstm_vs_transformer.SEEDS}
    assert max(sizes.values()) < 1.02 * min(sizes.values())


@pytest.mark.parametrize("name", [*PUBLISHED, *GPT3])
def test_it_divides_over_the_fleet_that_it_names(name):
    """Every parameter over the axes of its mesh, and the batch into micro-batches of the size that it allows."""
    count = device_count(name)
    assert count is not None
    cfg = experiments.load(name)
    sizes = cfg.mesh.shape(count)
    layout = Layout(jax.sharding.AbstractMesh(tuple(sizes[axis] for axis in AXES), AXES), cfg.mesh.rules)
    shardings(layout, model.logical_axes(cfg.model), model.param_shapes(cfg.model))
    parts = sizes["replica"] * sizes["fsdp"] * sizes["expert"]
    assert cfg.data.batch_size % (parts * cfg.train.max_sequences_per_device) == 0


@every
def test_it_changes_little(name):
    """Base plus differences: few options, so that what the experiment is about can be seen."""
    default, ours = (config.flatten(config.to_plain(experiments.load(each))) for each in ("base", name))
    assert len(default) < 150
    differing = {path for path in default.keys() | ours.keys() if default.get(path) != ours.get(path)}
    replaced = {path.removesuffix(".name") for path in differing if path.endswith(".name")}
    differing = {path for path in differing if path.rpartition(".")[0] not in replaced or path.endswith(".name")}
    assert (len(differing) > 0) == (name != "base")
    assert len(differing) <= 32, differing


FIRST = ("tiny", "small", "gpt2_124m", "gpt3_175b", "llama3_8b", "finetune_sst2")


def is_like_another(name):
    """Whether an experiment differs from others in its sizes alone, or has what its ablation varies at the default."""
    return name not in FIRST


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * is_like_another(name)) for name in experiments.NAMES],
)
def test_its_step_lowers_from_shapes_alone(name, corpus):
    """Tracing finds what does not fit together without a parameter or a batch in memory."""
    cfg = experiments.load(name)
    if cfg.model.resolve().num_kv_heads % 2:  # heads that divide over no tensor axis
        cfg = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, batch_size=8))
    rows = math.gcd(cfg.data.batch_size, 8)
    cfg = dataclasses.replace(cfg, mesh=MeshConfig(fsdp=rows, tensor=8 // rows, rules="fsdp_tp"))
    lowered = build(cfg, corpus).lower_train_step()
    assert f"tensor<{cfg.data.batch_size}x{cfg.model.seq_len}xi32>" in lowered.as_text()
