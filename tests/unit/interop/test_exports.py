"""Folders for transformers: shards, tokenizers of every kind, what stands beside them, and whole or not at all."""

import dataclasses
import json

import numpy as np
import pytest
import tokenizers

from gptjax.data.console import Console
from gptjax.data.tokenizer import ByteTokenizer, CharTokenizer
from gptjax.interop.exports import export_huggingface, plan_shards
from gptjax.interop.huggingface import HuggingFaceModel
from gptjax.interop.library import library_json
from gptjax.model import lora
from gptjax.model.config import LoRAConfig, ModelConfig
from gptjax.registry import Choice
from gptjax.types import UserError
from tests import pretrained
from tests.params import random_params

SILENT = Console(silent=True)
GPT = ModelConfig(vocab_size=257, d_model=8, num_heads=2, num_layers=2, seq_len=16, use_bias=False).resolve()


def test_shards_hold_as_many_tensors_as_fit_or_one():
    sizes = {"a": 3, "b": 3, "c": 5, "d": 9, "e": 1, "f": 4}
    assert plan_shards(sizes, 6) == [["a", "b"], ["c"], ["d"], ["e", "f"]]
    assert plan_shards(sizes, 100) == [list(sizes)]


def test_a_family_that_has_biases_gets_zeros(tmp_path):
    """GPT-2 has a bias everywhere; a model without computes the same with zeros."""
    params = random_params(GPT, 0.3)
    assert export_huggingface(GPT, params, ByteTokenizer(), tmp_path / "out", SILENT) == "gpt2"
    written = HuggingFaceModel(tmp_path / "out")
    fused = written.read("transformer.h.1.attn.c_attn.weight")
    query = np.asarray(params["blocks"]["attention"]["query"]["kernel"][1])
    np.testing.assert_array_equal(fused[:, :8], query.reshape(8, 8))
    for name in written.names():
        if name.endswith("bias") and "ln_" not in name:
            assert not np.any(written.read(name)), name


def test_adapters_are_merged(tmp_path):
    adapted = dataclasses.replace(GPT, lora=LoRAConfig(rank=2, targets=r"blocks/mlp/up"))
    params = random_params(adapted, 0.3)
    export_huggingface(adapted, params, ByteTokenizer(), tmp_path / "out", SILENT)
    _, merged = lora.merge(adapted, params)
    written = HuggingFaceModel(tmp_path / "out").read("transformer.h.0.mlp.c_fc.weight")
    np.testing.assert_array_equal(written, merged["blocks"]["mlp"]["up"]["kernel"][0])
    assert np.any(written != params["blocks"]["mlp"]["up"]["kernel"][0])


def test_weights_are_stored_as_asked_in_shards_that_an_index_lists(tmp_path):
    params = random_params(GPT, 0.3)
    export_huggingface(GPT, params, ByteTokenizer(), tmp_path / "out", SILENT, dtype="bfloat16", shard_size=3_000)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert len(files) > 1
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    sizes = [(tmp_path / "out" / file).stat().st_size for file in files]
    embedding = 257 * 8 * 2
    assert max(sizes) < embedding + 5_000
    written = HuggingFaceModel(tmp_path / "out")
    assert index["metadata"]["total_size"] == sum(2 * np.prod(written.shape(name)) for name in written.names())
    embedding_VD = np.asarray(params["tokens"]["embedding"])[:257]
    np.testing.assert_allclose(written.read("transformer.wte.weight"), embedding_VD, rtol=2**-8)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["dtype"], config["architectures"]) == ("bfloat16", ["GPT2LMHeadModel"])


def test_what_stands_beside_the_weights(tmp_path):
    """The ends of a text by number and by name, the template, and the longest text."""
    tokenizer = pretrained.tokenizer()
    named = type(tokenizer).from_settings({**tokenizer.settings(), "eos": "<|endoftext|>", "chat_template": "hello"})
    cfg = dataclasses.replace(GPT, vocab_size=300)
    export_huggingface(cfg, random_params(cfg, 0.3), named, tmp_path / "out", SILENT)
    said = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert (said["eos_token"], said["chat_template"], said["model_max_length"]) == ("<|endoftext|>", "hello", 16)
    for name in ("config.json", "generation_config.json"):
        assert json.loads((tmp_path / "out" / name).read_text())["eos_token_id"] == named.eos_id
    again = HuggingFaceModel(tmp_path / "out").tokenizer()
    assert (again.eos_id, again.chat_template) == (named.eos_id, "hello")


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), CharTokenizer("\n abcé")], ids=lambda t: t.kind)
def test_every_kind_of_tokenizer_is_one_of_the_library(tokenizer):
    """The same ids and the same text back."""
    library = tokenizers.Tokenizer.from_str(json.dumps(library_json(tokenizer)))
    text = "ab c\n éa" if tokenizer.kind == "char" else "héllo\n  wörld \U0001f600"
    assert library.encode(text).ids == tokenizer.encode(text).tolist()
    assert library.decode(library.encode(text).ids) == text
    assert library.get_vocab_size() == tokenizer.vocab_size
    if tokenizer.eos_id is not None:
        assert library.token_to_id("<|endoftext|>") == tokenizer.eos_id


def test_a_model_that_no_family_holds_leaves_nothing(tmp_path):
    cfg = dataclasses.replace(GPT, mlp=Choice("relu2"))
    with pytest.raises(UserError, match=r"model\.mlp\.name='relu2'"):
        export_huggingface(cfg, random_params(cfg, 0.3), ByteTokenizer(), tmp_path / "out", SILENT)
    assert not list(tmp_path.iterdir())


def test_a_target_in_use_and_an_unknown_dtype_are_refused(tmp_path):
    params = random_params(GPT, 0.3)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="exists and is not empty"):
        export_huggingface(GPT, params, ByteTokenizer(), tmp_path, SILENT)
    with pytest.raises(UserError, match="exists and is not empty"):
        export_huggingface(GPT, params, ByteTokenizer(), tmp_path / "file", SILENT)
    with pytest.raises(UserError, match="--dtype=float8 is unknown; weights are written as float32, bfloat16, float16"):
        export_huggingface(GPT, params, ByteTokenizer(), tmp_path / "out", SILENT, dtype="float8")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_disk_that_refuses_is_said(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gptjax.interop.safetensors.write", full)
    with pytest.raises(UserError, match=r"cannot be written .No space left on device"):
        export_huggingface(GPT, random_params(GPT, 0.3), ByteTokenizer(), tmp_path / "out", SILENT)
    assert not list(tmp_path.iterdir())
