"""Workdirs of other people's models: what is written, where arrays lie, and that it is whole or not there."""

import json
import tracemalloc

import jax
import numpy as np
import pytest

from gptjax.data.console import Console
from gptjax.data.tokenizer import load_tokenizer
from gptjax.interop.blueprint import read_config
from gptjax.interop.huggingface import HuggingFaceModel
from gptjax.interop.imports import assemble, import_pretrained, load
from gptjax.interop.pretrained import Pretrained
from gptjax.sharding import Layout, MeshConfig, make_mesh
from gptjax.train.checkpoint import Checkpoints
from gptjax.types import UserError
from tests import pretrained

SILENT = Console(silent=True)


@pytest.mark.parametrize("names", [("layers", "embed", "q_heads"), ("layers", None, "embed"), (None, None, None)])
def test_layers_are_put_together_where_their_parts_lie(names):
    """Each is read once, whatever the devices; a layer that is smaller than its place is followed by zeros."""
    layout = Layout(make_mesh(MeshConfig(fsdp=4, tensor=2)), "fsdp_tp")
    random = np.random.default_rng(0)
    layers = list(random.standard_normal((3, 16, 5), np.float32))
    reads = []

    def reader(n):
        return lambda: reads.append(n) or layers[n]

    array = assemble((3, 16, 8), layout.sharding(names), [reader(n) for n in range(3)], stacked=True)
    assert reads == [0, 1, 2]
    assert array.sharding == layout.sharding(names)
    expected = np.zeros((3, 16, 8), np.float32)
    expected[:, :, :5] = layers
    np.testing.assert_array_equal(array, expected)


def test_an_array_without_layers_is_put_together_too():
    layout = Layout(make_mesh(MeshConfig()), "fsdp")
    whole = np.random.default_rng(0).standard_normal((5, 16), np.float32)
    array = assemble((8, 16), layout.sharding(("vocab", "embed")), [lambda: whole], stacked=False)
    np.testing.assert_array_equal(array, np.pad(whole, ((0, 3), (0, 0))))


def test_a_workdir_holds_parameters_tokenizer_and_config_alone(tmp_path):
    model = HuggingFaceModel(pretrained.folder_of("llama", tmp_path / "in"))
    num_params = import_pretrained(model, tmp_path / "out", SILENT, dtype="bfloat16")
    assert num_params == sum(np.prod(model.shape(name)) for name in model.names())
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"config.json", "checkpoints", "tokenizer"}
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["model"]["dtype"] == "bfloat16"
    assert written["data"]["tokenizer"] == {"name": "saved", "path": str(tmp_path / "out" / "tokenizer")}
    tokenizer = load_tokenizer(tmp_path / "out" / "tokenizer")
    checkpoints = Checkpoints(tmp_path / "out" / "checkpoints", read_only=True)
    meta = checkpoints.meta(0)
    assert checkpoints.steps() == [0]
    assert (meta["step"], meta["imported_from"]) == (0, str(tmp_path / "in"))
    assert (meta["tokenizer"], meta["config"]) == (tokenizer.fingerprint, written)


def test_a_folder_that_is_in_use_is_left_alone(tmp_path):
    model = HuggingFaceModel(pretrained.folder_of("llama", tmp_path / "in"))
    with pytest.raises(UserError, match=r"--to=.*in exists and is not empty"):
        import_pretrained(model, tmp_path / "in", SILENT)
    assert (tmp_path / "in" / "config.json").exists()


def damaged(name, value):
    """A folder with a number in one tensor that is not finite."""

    def damage(folder):
        import safetensors.numpy

        tensors = safetensors.numpy.load_file(folder / "model.safetensors")
        tensors[name].flat[0] = value
        safetensors.numpy.save_file(tensors, folder / "model.safetensors")

    return damage


def larger_tokenizer(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 200}))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (damaged("model.norm.weight", np.nan), r"'model.norm.weight' holds numbers that are not finite"),
        (damaged("lm_head.weight", np.inf), r"'lm_head.weight' holds numbers that are not finite"),
        (larger_tokenizer, r"model.embed_tokens.weight of shape \[300, 16\] instead of \[200, 16\]"),
    ],
)
def test_what_fails_leaves_nothing(tmp_path, damage, words):
    folder = pretrained.folder_of("llama", tmp_path / "in")
    damage(folder)
    with pytest.raises(UserError, match=words):
        import_pretrained(HuggingFaceModel(folder), tmp_path / "out", SILENT)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tmp_path, monkeypatch):
    model = HuggingFaceModel(pretrained.folder_of("llama", tmp_path / "in"))
    tokenizer = pretrained.tokenizer()
    monkeypatch.setattr(type(model), "tokenizer", lambda self: tokenizer)
    monkeypatch.setattr(tokenizer, "vocab_size", 301)
    with pytest.raises(UserError, match="its tokenizer has 301 tokens and the model 300; take the tokenizer"):
        import_pretrained(model, tmp_path / "out", SILENT)


def test_an_unknown_dtype_is_refused(tmp_path):
    model = HuggingFaceModel(pretrained.folder_of("llama", tmp_path / "in"))
    with pytest.raises(UserError, match="--dtype=float16 is unknown; a model computes in float32 or bfloat16"):
        import_pretrained(model, tmp_path / "out", SILENT, dtype="float16")


class Counted(Pretrained):
    """A Llama of many equal layers, made when they are read."""

    source = "made up"

    def __init__(self, num_layers):
        self.config = {
            **dict(model_type="llama", vocab_size=128, hidden_size=128, intermediate_size=1024),
            **dict(num_hidden_layers=num_layers, num_attention_heads=2, max_position_embeddings=8),
        }
        blueprint = read_config(self.config, self.source)
        self._shapes = {name: tensor.shape(blueprint.cfg) for name, tensor, _ in blueprint.named()}

    def names(self):
        return frozenset(self._shapes)

    def shape(self, name):
        return self._shapes[name]

    def read(self, name):
        return np.ones(self._shapes[name], np.float32)

    def tokenizer(self):
        raise NotImplementedError


def test_beside_the_model_one_parameter_and_one_tensor_are_in_memory():
    """jax may take numpy's memory over; more than it takes is a parameter's parts, a tensor and flags, at most."""
    model = Counted(num_layers=16)
    blueprint = read_config(model.config, model.source)
    load(blueprint, model, SILENT)  # whatever is made once
    tracemalloc.start()
    params = load(blueprint, model, SILENT)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    tensor, whole = 128 * 1024 * 4, sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    assert whole > 50 * tensor
    assert peak < whole + (16 + 2) * tensor
