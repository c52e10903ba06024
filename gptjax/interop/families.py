"""The families of models that others publish: their fields of config.json and their tensors, each in both directions.

Declarations, read and written by others; `tensors.py` says what the letters of their dims mean.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from gptjax.interop.fields import Fields
from gptjax.interop.tensors import Tensor
from gptjax.model.config import ModelConfig
from gptjax.registry import Choice


@dataclasses.dataclass(frozen=True)
class Family:
    """How the models of one model_type are written down."""

    architecture: str
    """The class of `transformers` that generates text."""
    read: Callable[[Fields], ModelConfig]
    write: Callable[[ModelConfig], dict[str, Any]]
    tensors: tuple[Tensor, ...]
    """All that a model may have; those of parameters that a config does not make are left out."""
    base: str
    """What stands before the names of all tensors but the head's; files of a body without a head leave it out."""
    ignored: str
    """Tensors (a regular expression) that hold nothing learned: masks, and angles, that old files carry."""
    zeros: frozenset[str] = frozenset()
    """Options that are on in every model of the family; where they are off here, zeros are written."""


# ---- Llama and its descendants

_ACTIVATIONS = {"silu": "swiglu", "gelu_pytorch_tanh": "geglu", "gelu_new": "geglu", "gelu_fast": "geglu"}
_ROPE = ("rope_theta", "rope_type", "type", "factor", "original_max_position_embeddings", "partial_rotary_factor")
_ROPE += ("low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow", "truncate", "finetuned")
_ROPE += ("attention_factor", "mscale", "mscale_all_dim")
_SCALINGS = {"default": "none", "linear": "linear", "llama3": "llama3", "yarn": "yarn_by_index"}


def _body(fields: Fields, heads: int) -> dict[str, Any]:
    """Returns what Llama and Qwen have in common."""
    fields.only("quantization_config", why="its tensors are quantised; take the model in float32, bfloat16 or float16")
    width = fields.size("hidden_size")
    return dict(
        vocab_size=fields.size("vocab_size"),
        d_model=width,
        num_layers=fields.size("num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=fields.size("num_key_value_heads", heads),
        d_head=fields.size("head_dim", max(1, width // heads)),
        d_ff=fields.size("intermediate_size"),
        seq_len=fields.size("max_position_embeddings"),
        positions=_read_rotary(fields),
        norm=Choice("rmsnorm", {"epsilon": fields.number("rms_norm_eps", 1e-6)}),
        mlp=Choice(fields.choice("hidden_act", _ACTIVATIONS, "silu")),
        tie_embeddings=fields.flag("tie_word_embeddings", False),
        init_std=fields.number("initializer_range", 0.02),
    )


def _read_rotary(fields: Fields) -> Choice:
    """Reads rope_parameters, or rope_theta and rope_scaling as they were called before."""
    rope = fields.group("rope_parameters" if "rope_parameters" in fields else "rope_scaling")
    base = (rope if "rope_theta" in rope else fields).number("rope_theta", 10_000.0)
    kind = rope.choice("rope_type" if "rope_type" in rope else "type", _SCALINGS, "default")
    rope.known(*_ROPE)
    for group in (rope, fields):
        group.only("partial_rotary_factor", 1, why="all channels are turned in this family")
    if kind == "none":
        return Choice("rotary", {"base": base})
    factor = rope.number("factor")
    if kind == "linear":
        return Choice("rotary", {"base": base, "scaling": kind, "factor": factor})
    trained = rope.size("original_max_position_embeddings", fields.size("max_position_embeddings"))
    if kind == "llama3":
        rope.only("low_freq_factor", 1, why="pairs that turn less than once are stretched, as in Llama 3")
        rope.only("high_freq_factor", 4, why="pairs that turn four times are not stretched, as in Llama 3")
    else:
        rope.only("beta_fast", 32, why="pairs that turn 32 times are not stretched")
        rope.only("beta_slow", 1, why="pairs that turn less than once are stretched")
        rope.only("truncate", True, why="the bounds between them are rounded")
        for name in ("attention_factor", "mscale", "mscale_all_dim"):
            rope.only(name, why="scores grow by (0.1 ln factor + 1)^2; leave it out")
    return Choice("rotary", {"base": base, "scaling": kind, "factor": factor, "trained_len": trained})


def _read_llama(fields: Fields) -> ModelConfig:
    heads = fields.size("num_attention_heads")
    biases = fields.flag("attention_bias", False)
    if (width := fields.size("hidden_size", heads)) % heads:
        fields.problems.append(f"num_attention_heads={heads} does not divide hidden_size={width}")
    if fields.flag("mlp_bias", False) != biases:
        fields.problems.append(f"attention_bias={biases} is not mlp_bias: both have biases here, or none has")
    return ModelConfig(**_body(fields, heads), use_bias=biases)


def _read_qwen2(fields: Fields) -> ModelConfig:
    _refuse_windows(fields)
    return ModelConfig(**_body(fields, fields.size("num_attention_heads")), use_bias=False, qkv_bias=True)


def _read_qwen3(fields: Fields) -> ModelConfig:
    _refuse_windows(fields)
    fields.only("attention_bias", False, why="Qwen3 as published has no biases")
    body = _body(fields, fields.size("num_attention_heads"))
    if "head_dim" not in fields:
        body["d_head"] = 128
    return ModelConfig(**body, attention=Choice("causal", {"qk_norm": True}), use_bias=False)


def _refuse_windows(fields: Fields) -> None:
    fields.only("use_sliding_window", False, why="layers differ in what they see; the released models have false")
    if "sliding_attention" in (kinds := fields.items("layer_types")):
        fields.problems.append(f"layer_types={kinds!s:.80} is not supported; valid: full_attention in every layer")


def _write_llama(cfg: ModelConfig) -> dict[str, Any]:
    gates = {"geglu": "gelu_pytorch_tanh"}
    return {
        "vocab_size": cfg.vocab_size,
        "hidden_size": cfg.d_model,
        "num_hidden_layers": cfg.num_layers,
        "num_attention_heads": cfg.num_heads,
        "num_key_value_heads": cfg.num_kv_heads,
        "head_dim": cfg.d_head,
        "intermediate_size": cfg.d_ff,
        "max_position_embeddings": cfg.seq_len,
        "rms_norm_eps": cfg.norm.kwargs.get("epsilon", 1e-5),
        "hidden_act": gates.get(cfg.mlp.name, "silu"),
        "tie_word_embeddings": cfg.tie_embeddings,
        "initializer_range": cfg.init_std,
        "attention_bias": cfg.use_bias,
        "mlp_bias": cfg.use_bias,
        **_write_rotary(cfg),
    }


def _write_rotary(cfg: ModelConfig) -> dict[str, Any]:
    options = dict(cfg.positions.kwargs)
    theta, scaling = options.get("base", 10_000.0), options.get("scaling", "none")
    kind = next((name for name, ours in _SCALINGS.items() if ours == scaling), "default")
    rope = {"rope_type": kind}
    if kind != "default":
        rope["factor"] = options["factor"]
    if kind in ("llama3", "yarn"):
        rope["original_max_position_embeddings"] = options["trained_len"]
    if kind == "llama3":
        rope |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    return {"rope_theta": theta, "rope_scaling": None if kind == "default" else rope}


def _write_qwen(cfg: ModelConfig) -> dict[str, Any]:
    fields = {name: value for name, value in _write_llama(cfg).items() if name not in ("attention_bias", "mlp_bias")}
    return {**fields, "use_sliding_window": False}


_LAYER = "model.layers.{}"


def _linear(name: str, dims: str, path: str, own: str) -> tuple[Tensor, Tensor]:
    """Returns a matrix (out, in) of a layer and its bias."""
    out, _ = dims.split()
    weight = Tensor(f"{_LAYER}.{name}.weight", dims, (f"blocks/{path}/kernel",), own)
    return weight, Tensor(f"{_LAYER}.{name}.bias", out, (f"blocks/{path}/bias",), out)


_LLAMA = (
    Tensor("model.embed_tokens.weight", "V D", ("tokens/embedding",), "VD"),
    Tensor(f"{_LAYER}.input_layernorm.weight", "D", ("blocks/attention_norm/scale",), "D"),
    *_linear("self_attn.q_proj", "HC D", "attention/query", "DHC"),
    *_linear("self_attn.k_proj", "KC D", "attention/key", "DKC"),
    *_linear("self_attn.v_proj", "KC D", "attention/value", "DKC"),
    *_linear("self_attn.o_proj", "D HC", "attention/output", "HCD"),
    Tensor(f"{_LAYER}.self_attn.q_norm.weight", "C", ("blocks/attention/query_norm/scale",), "C"),
    Tensor(f"{_LAYER}.self_attn.k_norm.weight", "C", ("blocks/attention/key_norm/scale",), "C"),
    Tensor(f"{_LAYER}.post_attention_layernorm.weight", "D", ("blocks/mlp_norm/scale",), "D"),
    *_linear("mlp.gate_proj", "F D", "mlp/gate", "DF"),
    *_linear("mlp.up_proj", "F D", "mlp/up", "DF"),
    *_linear("mlp.down_proj", "D F", "mlp/down", "FD"),
    Tensor("model.norm.weight", "D", ("final_norm/scale",), "D"),
    Tensor("lm_head.weight", "V D", ("head/kernel",), "DV"),
)

# ---- GPT-2

_GELUS = {"gelu_new": "gelu", "gelu_pytorch_tanh": "gelu", "gelu_fast": "gelu", "relu": "relu"}


def _read_gpt2(fields: Fields) -> ModelConfig:
    width, heads = fields.size("n_embd"), fields.size("n_head")
    fields.only("scale_attn_weights", True, why="scores are always divided by the root of the head's width")
    fields.only("scale_attn_by_inverse_layer_idx", False, why="scores are not divided by the number of the layer")
    fields.only("add_cross_attention", False, why="there is no encoder to attend to")
    if width % heads:
        fields.problems.append(f"n_head={heads} does not divide n_embd={width}")
    return ModelConfig(
        vocab_size=fields.size("vocab_size"),
        d_model=width,
        num_layers=fields.size("n_layer"),
        num_heads=heads,
        d_ff=fields.size("n_inner", 4 * width),
        seq_len=fields.size("n_positions" if "n_positions" in fields else "n_ctx"),
        norm=Choice("layernorm", {"epsilon": fields.number("layer_norm_epsilon", 1e-5)}),
        mlp=Choice(fields.choice("activation_function", _GELUS, "gelu_new")),
        tie_embeddings=fields.flag("tie_word_embeddings", True),
        init_std=fields.number("initializer_range", 0.02),
    )


def _write_gpt2(cfg: ModelConfig) -> dict[str, Any]:
    return {
        "vocab_size": cfg.vocab_size,
        "n_embd": cfg.d_model,
        "n_layer": cfg.num_layers,
        "n_head": cfg.num_heads,
        "n_inner": cfg.d_ff,
        "n_positions": cfg.seq_len,
        "layer_norm_epsilon": cfg.norm.kwargs.get("epsilon", 1e-5),
        "activation_function": {"relu": "relu"}.get(cfg.mlp.name, "gelu_new"),
        "tie_word_embeddings": cfg.tie_embeddings,
        "initializer_range": cfg.init_std,
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), cfg.dropout),
    }


def _conv(name: str, dims: str, paths: tuple[str, ...], own: str) -> tuple[Tensor, Tensor]:
    """Returns a matrix (in, out) of a layer and its bias."""
    _, out = dims.split()
    weight = Tensor(f"transformer.h.{{}}.{name}.weight", dims, tuple(f"blocks/{path}/kernel" for path in paths), own)
    bias = tuple(f"blocks/{path}/bias" for path in paths)
    return weight, Tensor(f"transformer.h.{{}}.{name}.bias", out, bias, out)


def _norm(name: str, path: str) -> tuple[Tensor, Tensor]:
    return (
        Tensor(f"transformer.{name}.weight", "D", (f"{path}/scale",), "D"),
        Tensor(f"transformer.{name}.bias", "D", (f"{path}/bias",), "D"),
    )


_GPT2 = (
    Tensor("transformer.wte.weight", "V D", ("tokens/embedding",), "VD"),
    Tensor("transformer.wpe.weight", "T D", ("positions/table/embedding",), "TD"),
    *_norm("h.{}.ln_1", "blocks/attention_norm"),
    *_conv("attn.c_attn", "D HC", ("attention/query", "attention/key", "attention/value"), "DHC"),
    *_conv("attn.c_proj", "HC D", ("attention/output",), "HCD"),
    *_norm("h.{}.ln_2", "blocks/mlp_norm"),
    *_conv("mlp.c_fc", "D F", ("mlp/up",), "DF"),
    *_conv("mlp.c_proj", "F D", ("mlp/down",), "FD"),
    *_norm("ln_f", "final_norm"),
    Tensor("lm_head.weight", "V D", ("head/kernel",), "DV"),
)

_ANGLES = r".*rotary_emb\.inv_freq"
FAMILIES = {
    "llama": Family("LlamaForCausalLM", _read_llama, _write_llama, _LLAMA, "model.", _ANGLES),
    "qwen2": Family("Qwen2ForCausalLM", _read_qwen2, _write_qwen, _LLAMA, "model.", _ANGLES),
    "qwen3": Family("Qwen3ForCausalLM", _read_qwen3, _write_qwen, _LLAMA, "model.", _ANGLES),
    "gpt2": Family(
        "GPT2LMHeadModel",
        _read_gpt2,
        _write_gpt2,
        _GPT2,
        "transformer.",
        r".*\.attn\.(masked_)?bias",
        frozenset({"use_bias", "qkv_bias", "norm.use_bias"}),
    ),
}
