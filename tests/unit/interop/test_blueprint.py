"""Configs in both directions: what is read, what is refused in which words, and which family holds a model of ours."""

import dataclasses

import numpy as np
import pytest

from gptjax.interop.blueprint import read_config, write_config
from gptjax.interop.pretrained import Pretrained
from gptjax.model.config import ModelConfig
from gptjax.registry import Choice
from gptjax.types import UserError

LLAMA = {
    "model_type": "llama",
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
QWEN = {**LLAMA, "model_type": "qwen2"}
GPT2 = {"model_type": "gpt2", "vocab_size": 50, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}
ROPE = {"factor": 4.0, "original_max_position_embeddings": 16}
ROTARY = ModelConfig(
    vocab_size=50, d_model=16, positions=Choice("rotary"), norm=Choice("rmsnorm"), mlp=Choice("swiglu")
)


def read(fields, **changes):
    return read_config({**fields, **changes}, "config.json").cfg


def test_what_a_config_leaves_out_is_the_library_s_default():
    cfg = read(LLAMA)
    assert (cfg.num_kv_heads, cfg.d_head, cfg.tie_embeddings, cfg.use_bias, cfg.qkv_bias) == (4, 4, False, False, False)
    assert cfg.positions == Choice("rotary", {"base": 10_000.0})
    assert cfg.norm == Choice("rmsnorm", {"epsilon": 1e-6})
    assert read(GPT2).tie_embeddings
    assert read(GPT2).d_ff == 64
    assert read(QWEN).qkv_bias
    assert not read(QWEN).use_bias
    qwen3 = read(QWEN, model_type="qwen3")
    assert (qwen3.d_head, qwen3.attention) == (128, Choice("causal", {"qk_norm": True}))


@pytest.mark.parametrize("name", ["rope_scaling", "rope_parameters"])
def test_angles_are_read_by_their_old_and_new_names(name):
    scaling = {"rope_type": "llama3", **ROPE, "low_freq_factor": 1, "high_freq_factor": 4}
    theta = {"rope_theta": 500.0}
    fields = {name: scaling, **theta} if name == "rope_scaling" else {name: {**scaling, **theta}}
    expected = {"base": 500.0, "scaling": "llama3", "factor": 4.0, "trained_len": 16}
    assert read(LLAMA, **fields).positions == Choice("rotary", expected)


def test_the_oldest_name_of_a_scaling_is_known():
    assert read(LLAMA, rope_scaling={"type": "linear", "factor": 2}).positions.kwargs["factor"] == 2.0


@pytest.mark.parametrize(
    ("fields", "changes", "words"),
    [
        (LLAMA, {"model_type": "lama"}, ["model_type='lama'", "did you mean llama?"]),
        (LLAMA, {"model_type": None}, ["model_type=None", "gpt2, llama, qwen2, qwen3"]),
        (LLAMA, {"hidden_size": None}, ["hidden_size is missing", "a whole number"]),
        (LLAMA, {"hidden_size": "16"}, ["hidden_size='16'", "a whole number"]),
        (LLAMA, {"hidden_size": 10**12}, ["hidden_size=1000000000000", "16,777,216"]),
        (LLAMA, {"hidden_size": True}, ["hidden_size=True"]),
        (LLAMA, {"rms_norm_eps": 0}, ["rms_norm_eps=0", "above 0"]),
        (LLAMA, {"rms_norm_eps": 10**400}, ["rms_norm_eps=1000", "above 0"]),
        (LLAMA, {"hidden_act": "gelu"}, ["hidden_act='gelu'", "silu"]),
        (LLAMA, {"hidden_act": ["silu"]}, ["hidden_act=['silu']", "silu"]),
        (LLAMA, {"tie_word_embeddings": "yes"}, ["tie_word_embeddings='yes'", "true or false"]),
        (LLAMA, {"attention_bias": True, "mlp_bias": True}, []),
        (LLAMA, {"attention_bias": True}, ["attention_bias=True", "mlp_bias"]),
        (LLAMA, {"mlp_bias": True}, ["attention_bias=False", "mlp_bias"]),
        (QWEN, {"num_attention_heads": 3, "head_dim": 5}, ["rotary", "d_head=5"]),
        (LLAMA, {"num_attention_heads": 3, "head_dim": 6}, ["num_attention_heads=3 does not divide hidden_size=16"]),
        (LLAMA, {"quantization_config": {"bits": 4}}, ["quantization_config", "float32, bfloat16 or float16"]),
        (
            LLAMA,
            {"rope_scaling": {"rope_type": "dynamic", **ROPE}},
            ["rope_scaling.rope_type='dynamic'", "llama3, yarn"],
        ),
        (LLAMA, {"rope_scaling": {"rope_type": "linear"}}, ["rope_scaling.factor is missing"]),
        (LLAMA, {"rope_scaling": 4}, ["rope_scaling=4"]),
        (LLAMA, {"rope_scaling": {"rope_type": "yarn", **ROPE, "beta_fast": 16}}, ["rope_scaling.beta_fast=16"]),
        (LLAMA, {"rope_scaling": {"rope_type": "yarn", **ROPE, "mscale": 1.0}}, ["rope_scaling.mscale=1.0"]),
        (
            LLAMA,
            {"rope_scaling": {"rope_type": "llama3", **ROPE, "low_freq_factor": 2, "high_freq_factor": 4}},
            ["rope_scaling.low_freq_factor=2"],
        ),
        (LLAMA, {"rope_parameters": {"full_attention": {"rope_theta": 1.0}}}, ["rope_parameters.full_attention"]),
        (LLAMA, {"partial_rotary_factor": 0.5}, ["partial_rotary_factor=0.5"]),
        (QWEN, {"use_sliding_window": True}, ["use_sliding_window=True"]),
        (QWEN, {"layer_types": ["full_attention", "sliding_attention"]}, ["layer_types", "full_attention"]),
        (QWEN, {"layer_types": ["full_attention", "full_attention"]}, []),
        (GPT2, {"activation_function": "gelu"}, ["activation_function='gelu'", "gelu_new"]),
        (GPT2, {"scale_attn_by_inverse_layer_idx": True}, ["scale_attn_by_inverse_layer_idx=True"]),
        (GPT2, {"n_head": 3}, ["n_head=3 does not divide n_embd=16"]),
    ],
)
def test_what_cannot_be_held_is_named_with_what_can(fields, changes, words):
    if not words:
        read(fields, **changes)
        return
    with pytest.raises(UserError) as error:
        read(fields, **changes)
    for word in ["config.json", *words]:
        assert word in str(error.value)


def test_all_problems_are_told_at_once():
    with pytest.raises(UserError, match=r"(?s)\(2 problems\).*hidden_act.*|.*rope_theta"):
        read(LLAMA, hidden_act="gelu", rope_theta=-1)


# ---- which family holds what


@pytest.mark.parametrize(
    ("cfg", "kind"),
    [
        (ModelConfig(vocab_size=50), "gpt2"),
        (ModelConfig(vocab_size=50, use_bias=False, mlp=Choice("relu"), tie_embeddings=False, d_ff=10), "gpt2"),
        (ModelConfig(vocab_size=50, qkv_bias=False, norm=Choice("layernorm", {"use_bias": False})), "gpt2"),
        (ROTARY, "llama"),
        (dataclasses.replace(ROTARY, use_bias=False, num_kv_heads=2, mlp=Choice("geglu")), "llama"),
        (dataclasses.replace(ROTARY, attention_scale=0.5, dropout=0.1, dtype="bfloat16", vocab_multiple=7), "llama"),
        (dataclasses.replace(ROTARY, positions=Choice("rotary", {"scaling": "llama3", "factor": 4.0})), "llama"),
        (dataclasses.replace(ROTARY, positions=Choice("rotary", {"factor": 4.0, "trained_len": 3})), "llama"),
        (dataclasses.replace(ROTARY, use_bias=False, qkv_bias=True), "qwen2"),
        (dataclasses.replace(ROTARY, use_bias=False, attention=Choice("causal", {"qk_norm": True}), d_head=6), "qwen3"),
    ],
)
def test_the_family_that_holds_a_model(cfg, kind):
    """What is written reads as the same model, but for biases that are zeros in a family which always has some."""
    assert cfg.validate() == []
    blueprint, fields = write_config(cfg)
    assert (blueprint.model_type, fields["model_type"]) == (kind, kind)
    assert read_config(fields, "out").cfg == blueprint.cfg
    assert fields["vocab_size"] == 50


@pytest.mark.parametrize(
    ("cfg", "words"),
    [
        (ModelConfig(vocab_size=50, mlp=Choice("relu2")), "gpt2 is nearest, and has no model.mlp.name='relu2'"),
        (ModelConfig(vocab_size=50, block=Choice("lstm")), "model.block.name='lstm'"),
        (dataclasses.replace(ROTARY, num_heads=3, d_head=6), "num_attention_heads=3 does not divide hidden_size=16"),
        (ModelConfig(vocab_size=50, logit_scale=0.5), "gpt2 is nearest, and has no model.logit_scale=0.5"),
        (ModelConfig(vocab_size=50, mup_base_width=8), "model.mup_base_width=8"),
        (ModelConfig(vocab_size=50, attention=Choice("causal", {"window": 3})), "model.attention.window=3"),
        (dataclasses.replace(ROTARY, positions=Choice("rotary", {"fraction": 0.5})), "model.positions.fraction=0.5"),
        (dataclasses.replace(ROTARY, norm_placement="sandwich"), "llama is nearest, and has no model.norm_placement"),
    ],
)
def test_options_that_no_family_has_are_named(cfg, words):
    with pytest.raises(UserError, match="no family that transformers loads can hold this model") as error:
        write_config(cfg)
    assert words in str(error.value)


# ---- names and shapes


class Listing(Pretrained):
    """A model of which there are names and shapes alone."""

    source = "there"
    config = LLAMA

    def __init__(self, shapes):
        self._shapes = shapes

    def names(self):
        return frozenset(self._shapes)

    def shape(self, name):
        return self._shapes[name]

    def read(self, name):
        return np.zeros(self._shapes[name], np.float32)

    def tokenizer(self):
        raise NotImplementedError


BLUEPRINT = read_config(LLAMA, "there")
SHAPES = {name: tensor.shape(BLUEPRINT.cfg) for name, tensor, _ in BLUEPRINT.named()}


def test_tensors_that_hold_nothing_learned_are_passed_over():
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": (2,)}
    assert BLUEPRINT.check(Listing({**SHAPES, **extra})) == ""
    tied = read_config({**LLAMA, "tie_word_embeddings": True}, "there")
    assert tied.check(Listing(SHAPES)) == ""


def test_a_base_model_without_prefix_is_known():
    tied = read_config({**LLAMA, "tie_word_embeddings": True}, "there")
    bare = {name.removeprefix("model."): shape for name, shape in SHAPES.items() if name != "lm_head.weight"}
    assert tied.check(Listing(bare)) == "model."


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model.norm.weight": None}, ["there lacks model.norm.weight"]),
        ({"lm_head.weight": None}, ["there lacks lm_head.weight"]),
        ({"model.layers.0.mlp.gate.weight": (3, 3)}, ["beside those of llama", "model.layers.0.mlp.gate.weight"]),
        ({"model.norm.weight": (15,)}, ["there has model.norm.weight of shape [15] instead of [16]"]),
        ({name: None for name in SHAPES if ".layers.1." in name}, ["there has 12 tensors", "2 layers"]),
    ],
)
def test_tensors_that_are_not_the_model_s_are_named(change, words):
    shapes = {name: shape for name, shape in {**SHAPES, **change}.items() if shape is not None}
    with pytest.raises(UserError) as error:
        BLUEPRINT.check(Listing(shapes))
    for word in words:
        assert word in str(error.value)
