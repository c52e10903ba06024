"""What every family owes: the logits of transformers, and the way back to the same files.

The reviewed files are made by transformers (tests/pretrained.py); where it is installed, it reads our exports too.
"""

import json

import jax
import numpy as np
import pytest

from gptjax import model
from gptjax.data.console import Console
from gptjax.interop.blueprint import read_config
from gptjax.interop.exports import export_huggingface
from gptjax.interop.families import FAMILIES
from gptjax.interop.huggingface import HuggingFaceModel
from gptjax.interop.imports import load
from gptjax.model.positions import SCALINGS
from tests import pretrained

SILENT = Console(silent=True)
every = pytest.mark.parametrize("name", pretrained.MODELS)


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """Gives name -> reader, blueprint and parameters; each is read once."""
    found = {}

    def opened(name):
        if name not in found:
            reader = HuggingFaceModel(pretrained.folder_of(name, tmp_path_factory.mktemp("models") / name))
            blueprint = read_config(reader.config, name)
            found[name] = reader, blueprint, load(blueprint, reader, SILENT)
        return found[name]

    return opened


def test_every_family_is_among_them():
    kinds = {
        json.loads((pretrained.GOLDEN / name / "config.json").read_text())["model_type"] for name in pretrained.MODELS
    }
    assert kinds == set(FAMILIES)


@every
def test_it_gives_the_logits_of_transformers(opened, name):
    """In float32, to 1e-4, for a vocabulary that is padded here, from parameters that eight devices share."""
    _, blueprint, params = opened(name)
    assert {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(params)} == {8}
    apply = jax.jit(lambda params, tokens_BT: model.apply(blueprint.cfg, params, tokens_BT)[0])
    logits_TV = apply(jax.device_get(params), pretrained.TOKENS_T[None])[0, -pretrained.NUM_SHOWN :]
    expected_TV = np.load(pretrained.GOLDEN / name / "logits.npy", allow_pickle=False)
    np.testing.assert_allclose(logits_TV[:, : pretrained.VOCAB_SIZE], expected_TV, rtol=0, atol=1e-4)


@every
def test_it_leaves_as_it_came(opened, tmp_path, name):
    """The same tensors under the same names, without padding, and a config that reads as the same model."""
    reader, blueprint, params = opened(name)
    kind = export_huggingface(blueprint.cfg, params, pretrained.tokenizer(), tmp_path / "out", SILENT)
    again = HuggingFaceModel(tmp_path / "out")
    assert kind == blueprint.model_type
    assert read_config(again.config, "out").cfg == blueprint.cfg
    assert again.names() == reader.names()
    for tensor in reader.names():
        np.testing.assert_array_equal(again.read(tensor), reader.read(tensor), err_msg=tensor)


@every
def test_padding_is_zero(opened, name):
    _, blueprint, params = opened(name)
    assert blueprint.cfg.padded_vocab_size == 384
    assert not np.any(np.asarray(params["tokens"]["embedding"])[pretrained.VOCAB_SIZE :])
    if not blueprint.cfg.tie_embeddings:
        assert not np.any(np.asarray(params["head"]["kernel"])[:, pretrained.VOCAB_SIZE :])


def test_the_declared_tensors_are_all_parameters(opened):
    """The shapes that a declaration gives, layer by layer, are those of the model's tree, but for the padding."""
    for name in pretrained.MODELS:
        _, blueprint, params = opened(name)
        count = sum(np.prod(tensor.shape(blueprint.cfg)) for _, tensor, _ in blueprint.named())
        padding = sum(
            (384 - pretrained.VOCAB_SIZE) * blueprint.cfg.d_model for path in ("tokens", "head") if path in params
        )
        assert count + padding == sum(leaf.size for leaf in jax.tree.leaves(params)), name


@pytest.mark.parametrize("name", ["linear", "yarn_by_index", "llama3"])
def test_angles_are_those_of_transformers(name):
    """By position, for 32 pairs of channels: where pairs are kept, mixed and stretched."""
    expected = json.loads((pretrained.GOLDEN / "angles.json").read_text())[name]
    angles_R, size = SCALINGS[name](10_000.0, 32, 8.0, 1024)
    np.testing.assert_allclose(angles_R, expected["angles"], rtol=1e-5)
    assert size == pytest.approx(expected["size"])


# ---- with transformers


@pytest.fixture
def transformers():
    """The library, where it and torch are installed."""
    pytest.importorskip("torch", reason="PyTorch is not installed")
    return pytest.importorskip("transformers", reason="transformers is not installed")


@pytest.mark.torch
@every
def test_the_reviewed_logits_are_those_of_transformers(request, transformers, name):
    """--update-golden makes the model anew first."""
    if request.config.getoption("--update-golden"):
        pretrained.make(name)
    expected_TV = np.load(pretrained.GOLDEN / name / "logits.npy", allow_pickle=False)
    actual_TV = pretrained.logits(pretrained.GOLDEN / name, pretrained.TOKENS_T)[-pretrained.NUM_SHOWN :]
    np.testing.assert_allclose(actual_TV, expected_TV, rtol=0, atol=1e-4)


@pytest.mark.torch
@every
def test_transformers_loads_what_leaves(transformers, opened, tmp_path, name):
    """In shards, with equal logits and the same tokens of a text."""
    _, blueprint, params = opened(name)
    export_huggingface(blueprint.cfg, params, pretrained.tokenizer(), tmp_path / "out", SILENT, shard_size=20_000)
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 1
    expected_TV = np.load(pretrained.GOLDEN / name / "logits.npy", allow_pickle=False)
    actual_TV = pretrained.logits(tmp_path / "out", pretrained.TOKENS_T)[-pretrained.NUM_SHOWN :]
    np.testing.assert_allclose(actual_TV, expected_TV, rtol=0, atol=1e-4)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer("the cat; héllo").input_ids == pretrained.tokenizer().encode("the cat; héllo").tolist()
    assert tokenizer.eos_token_id == pretrained.tokenizer().eos_id


@pytest.mark.torch
def test_the_reviewed_angles_are_those_of_transformers(request, transformers):
    """--update-golden writes them."""
    text = json.dumps(pretrained.angles(), indent=1) + "\n"
    if request.config.getoption("--update-golden"):
        (pretrained.GOLDEN / "angles.json").write_text(text)
    assert text == (pretrained.GOLDEN / "angles.json").read_text()
