"""Adapters in PEFT's files: what stands where, what is multiplied by what, and what is refused."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from gptjax import model
from gptjax.interop import peft, safetensors
from gptjax.interop.blueprint import read_config, write_config
from gptjax.interop.exports import _part
from gptjax.interop.huggingface import read_json
from gptjax.model import lora
from gptjax.model.config import LoRAConfig
from gptjax.types import UserError
from tests import pretrained
from tests.params import random_params

ADAPTED = {
    "llama": LoRAConfig(rank=2, alpha=6.0, targets="blocks/.*", dropout=0.25),
    "qwen3": LoRAConfig(rank=3, targets=".*/(query|value|down)"),
    "gpt2": LoRAConfig(rank=2, targets=".*/(query|value|output|up)"),
}
every = pytest.mark.parametrize("name", ADAPTED)


def adapted(name):
    plain = read_config(read_json(pretrained.GOLDEN / name / "config.json"), name).cfg
    cfg = dataclasses.replace(plain, lora=ADAPTED[name])
    return cfg, random_params(cfg, 0.3)


def tensors(folder):
    path = folder / peft.WEIGHTS
    return {name: safetensors.read_tensor(name, entry) for name, entry in safetensors.read_header(path).items()}


def weights(cfg, params):
    """Returns the weights of the plain model as transformers holds them."""
    blueprint, flat = write_config(cfg)[0], dict(peft.by_path(params))
    return {
        name: tensor.pack(cfg, {path: _part(cfg, flat[path], tensor, layer) for path in tensor.paths if path in flat})
        for name, tensor, layer in blueprint.named()
    }


@every
def test_what_is_written_is_what_merging_adds(tmp_path, name):
    """W + (alpha / r) B A of each module, by the config's patterns; (B A)^T where inputs stand first."""
    cfg, params = adapted(name)
    peft.export_adapters(cfg, params, tmp_path / "out")
    said, written = read_json(tmp_path / "out" / peft.CONFIG), tensors(tmp_path / "out")
    plain, merged = lora.merge(cfg, params)
    before, after = weights(plain, lora.split(params)[0]), weights(plain, merged)
    for weight, base in before.items():
        module = weight.removesuffix(".weight")
        a, b = (written.pop(f"base_model.model.{module}.lora_{letter}.weight", None) for letter in "AB")
        if a is None:
            np.testing.assert_array_equal(after[weight], base, err_msg=weight)
            continue
        assert any(module.endswith(f".{target}") for target in said["target_modules"])
        short = module.split(".", 3)[-1].replace(".", "\\.")
        alpha, rank = said["alpha_pattern"].get(short, said["lora_alpha"]), said["rank_pattern"].get(short, said["r"])
        assert a.shape[0] == b.shape[1] == rank
        delta = alpha / rank * (b @ a)
        expected = base + (delta.T if said["fan_in_fan_out"] else delta)
        np.testing.assert_allclose(after[weight], expected, atol=1e-5, err_msg=weight)
    assert written == {}


@every
def test_they_come_back_as_they_left(tmp_path, name):
    """GPT-2's queries and values too, which stand in one module with keys that have no adapter."""
    cfg, params = adapted(name)
    peft.export_adapters(cfg, params, tmp_path / "out")
    base, adapters = lora.split(params)
    again, joined = peft.beside(dataclasses.replace(cfg, lora=LoRAConfig()), base, tmp_path / "out")
    assert (again.lora.rank, again.lora.alpha, again.lora.dropout) == (cfg.lora.rank, cfg.lora.alpha, cfg.lora.dropout)
    assert jax.tree.structure(joined) == jax.tree.structure(model.param_shapes(again))
    jax.tree.map(np.testing.assert_array_equal, lora.split(joined)[1], adapters)


def rewrite(folder, **fields):
    said = read_json(folder / peft.CONFIG)
    (folder / peft.CONFIG).write_text(json.dumps({**said, **fields}))


def test_ranks_and_scales_of_their_own_become_one(tmp_path):
    """A module of rank 1 and another alpha is filled up with zeros, and its B takes the difference."""
    cfg, params = adapted("llama")
    narrow = dataclasses.replace(cfg, lora=LoRAConfig(rank=1, alpha=5.0, targets=".*/up"))
    peft.export_adapters(cfg, params, tmp_path / "all")
    peft.export_adapters(narrow, random_params(narrow, 0.3), tmp_path / "up")
    written = tensors(tmp_path / "all") | tensors(tmp_path / "up")
    shapes = {name: array.shape for name, array in written.items()}
    safetensors.write(tmp_path / "all" / peft.WEIGHTS, shapes, "F32", written.values())
    plain, base = lora.merge(narrow, random_params(narrow, 0.3))[0], lora.split(params)[0]

    def up():
        read, joined = peft.beside(plain, base, tmp_path / "all")
        _, merged = lora.merge(read, joined)
        return merged["blocks"]["mlp"]["up"]["kernel"] - base["blocks"]["mlp"]["up"]["kernel"]

    rewrite(tmp_path / "all", rank_pattern={"up_proj": 1}, alpha_pattern={r"mlp\.up_proj": 5.0})
    _, wide = lora.merge(narrow, lora.join(base, lora.split(random_params(narrow, 0.3))[1]))
    expected = wide["blocks"]["mlp"]["up"]["kernel"] - base["blocks"]["mlp"]["up"]["kernel"]
    np.testing.assert_allclose(up(), expected, atol=1e-5)
    rewrite(tmp_path / "all", rank_pattern={"up_proj": 1}, alpha_pattern={}, use_rslora=True)
    np.testing.assert_allclose(up(), expected * 6 / 5, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"peft_type": "IA3"}, "peft_type=IA3 is not supported; valid: LORA"),
        ({"use_dora": True}, "use_dora=True is not supported: weights are not normalised here"),
        ({"bias": "all"}, "bias=all is not supported"),
        ({"r": True}, "r=True is no number"),
        ({"r": 0}, "r=0 is no number between 1"),
        ({"r": 5}, "gives model.layers.0.self_attn.q_proj the rank 5, and its adapter has 2"),
        ({"lora_alpha": "x" * 99}, "lora_alpha=xxx"),
        ({"rank_pattern": [1]}, "rank_pattern=.* is no mapping"),
        ({"alpha_pattern": {"(a+)+$": 2}}, "is a pattern; only names of modules are read"),
    ],
)
def test_what_cannot_be_held_is_refused(tmp_path, fields, words):
    cfg, params = adapted("llama")
    peft.export_adapters(cfg, params, tmp_path / "out")
    rewrite(tmp_path / "out", **fields)
    with pytest.raises(UserError, match=words):
        peft.import_adapters(tmp_path / "out", dataclasses.replace(cfg, lora=LoRAConfig()))


def test_another_base_is_refused(tmp_path):
    """Of another family, of fewer layers, of another width."""
    cfg, params = adapted("llama")
    peft.export_adapters(cfg, params, tmp_path / "out")
    other, _ = adapted("gpt2")
    for base, words in (
        (other, r"'base_model.model.model.layers.0.mlp.down_proj.lora_A.weight' is no adapter .* gpt2 model"),
        (dataclasses.replace(cfg, num_layers=1), "is no adapter .* with 1 layers"),
        (dataclasses.replace(cfg, d_ff=20), r"have the shapes .*\(24, 2\)\] instead of .*\(20, 2\)\]"),
        (cfg, "has adapters already"),
    ):
        plain = base if base is cfg else dataclasses.replace(base, lora=LoRAConfig())
        with pytest.raises(UserError, match=words):
            peft.beside(plain, {}, tmp_path / "out")


def test_a_model_without_adapters_has_none_to_export(tmp_path):
    cfg, params = adapted("llama")
    with pytest.raises(UserError, match="has no adapters"):
        peft.export_adapters(dataclasses.replace(cfg, lora=LoRAConfig()), lora.split(params)[0], tmp_path / "out")


# ---- with PEFT


@pytest.mark.torch
@every
def test_peft_computes_the_same(tmp_path, name):
    """Ours beside the base in PEFT, and PEFT's own, drawn at random, beside ours: to 1e-4."""
    torch, library = (
        pytest.importorskip(package, reason=f"{package} is not installed") for package in ("torch", "peft")
    )
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    from gptjax.data.console import Console
    from gptjax.interop.huggingface import HuggingFaceModel
    from gptjax.interop.imports import load

    folder = pretrained.folder_of(name, tmp_path / "base")
    base = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    reader = HuggingFaceModel(folder)
    plain = read_config(reader.config, name)
    params = jax.device_get(load(plain, reader, Console(silent=True)))
    cfg, ours = adapted(name)
    ours = lora.join(params, lora.split(ours)[1])

    def theirs(model):
        with torch.no_grad():
            return model.eval()(torch.tensor(pretrained.TOKENS_T)[None]).logits[0].numpy()

    def logits(cfg, params):
        return model.apply(cfg, params, pretrained.TOKENS_T[None])[0][0, :, : pretrained.VOCAB_SIZE]

    peft.export_adapters(cfg, ours, tmp_path / "ours")
    beside = library.PeftModel.from_pretrained(base, tmp_path / "ours")
    np.testing.assert_allclose(theirs(beside), logits(cfg, ours), atol=1e-4, rtol=1e-4)

    settings = library.LoraConfig(
        r=3, lora_alpha=5, target_modules=read_json(tmp_path / "ours" / peft.CONFIG)["target_modules"]
    )
    fresh = library.get_peft_model(
        transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), settings
    )
    with torch.no_grad():
        for path, param in fresh.named_parameters():
            if "lora_" in path:
                param.normal_(0, 0.2)
    fresh.save_pretrained(tmp_path / "theirs")
    np.testing.assert_allclose(
        logits(*peft.beside(plain.cfg, params, tmp_path / "theirs")), theirs(fresh), atol=1e-4, rtol=1e-4
    )
