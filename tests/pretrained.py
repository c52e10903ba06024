"""Tiny models of every family, as `transformers` writes them: reviewed files in tests/golden/pretrained.

Their weights are random in every entry. `make` writes them anew, where transformers and torch are installed; the rest
needs neither.
"""

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from gptjax.data import bpe

GOLDEN = Path(__file__).parent / "golden" / "pretrained"
VOCAB_SIZE = 300
SEQ_LEN = 64
TEMPLATE = "{{ messages }}"
NUM_SHOWN = 4
"""Positions at the end of the row whose logits are kept."""

_SIZES: dict[str, Any] = dict(
    vocab_size=VOCAB_SIZE,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=SEQ_LEN,
)
_HEADS: dict[str, Any] = {**_SIZES, "head_dim": 8}
_LINEAR = dict(rope_theta=1e4, rope_type="linear", factor=2.0)
_YARN = dict(rope_theta=1e3, rope_type="yarn", factor=4.0, original_max_position_embeddings=16)
_LLAMA3 = dict(
    rope_theta=100.0,
    rope_type="llama3",
    factor=4.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=32,
)
_UNUSUAL = dict(attention_bias=True, mlp_bias=True, tie_word_embeddings=True, hidden_act="gelu_pytorch_tanh")
MODELS = {
    "gpt2": ("GPT2", dict(vocab_size=VOCAB_SIZE, n_embd=16, n_layer=2, n_head=2, n_positions=SEQ_LEN), "float32"),
    "llama": ("Llama", {**_HEADS, "rms_norm_eps": 1e-5}, "float32"),
    "llama3": ("Llama", {**_HEADS, **_UNUSUAL, "rope_parameters": _LLAMA3}, "float32"),
    "llama_linear": ("Llama", {**_HEADS, "rope_parameters": _LINEAR}, "float16"),
    "qwen2": ("Qwen2", {**_SIZES, "rope_parameters": _YARN}, "bfloat16"),
    "qwen3": ("Qwen3", {**_HEADS, "tie_word_embeddings": True}, "float32"),
}
"""Class of the config in transformers, its fields, and what the weights are stored as."""

TOKENS_T = np.random.default_rng(3).integers(0, VOCAB_SIZE, 48)


@functools.cache
def tokenizer() -> bpe.BPETokenizer:
    """The tokenizer of them all: smaller than the models' vocabulary, as Qwen's is."""
    texts = ["the cat sat on the mat and the dog sat on the log; " * 4, "héllo wörld"]
    return bpe.train(texts, 280, ("<|endoftext|>",))


def make(name: str) -> None:
    """Writes config.json, model.safetensors and logits.npy of one model."""
    import torch
    import transformers

    kind, fields, dtype = MODELS[name]
    torch.manual_seed(sum(map(ord, name)))
    cfg = getattr(transformers, f"{kind}Config")(**fields, initializer_range=0.1)
    model = transformers.AutoModelForCausalLM.from_config(cfg)
    with torch.no_grad():
        for path, param in model.named_parameters():
            is_scale = "norm" in path or ("ln_" in path and path.endswith("weight"))
            noise = torch.randn_like(param)
            param.copy_(1 + 0.2 * noise if is_scale else 0.3 * noise)
    folder = GOLDEN / name
    shutil.rmtree(folder, ignore_errors=True)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    np.save(folder / "logits.npy", logits(folder, TOKENS_T)[-NUM_SHOWN:])
    (folder / "generation_config.json").unlink(missing_ok=True)


def logits(folder: Path, tokens_T: np.ndarray) -> np.ndarray:
    """Returns what transformers computes in float32 of a folder."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(torch.tensor(tokens_T)[None]).logits[0].numpy()


def folder_of(name: str, target: Path) -> Path:
    """Returns a folder as transformers writes it: the reviewed files and the tokenizer."""
    shutil.copytree(GOLDEN / name, target)
    (target / "tokenizer.json").write_text(json.dumps(tokenizer().settings()["tokenizer"]))
    said = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>", "chat_template": TEMPLATE}
    (target / "tokenizer_config.json").write_text(json.dumps(said))
    return target


def angles() -> dict[str, dict[str, Any]]:
    """Returns how transformers stretches the angles of 32 pairs, and the size of what it turns, by our names."""
    import transformers
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    found = {}
    for name, kind in (("linear", "linear"), ("yarn_by_index", "yarn"), ("llama3", "llama3")):
        rope = {**_LLAMA3, "rope_type": kind, "rope_theta": 1e4, "factor": 8.0}
        rope["original_max_position_embeddings"] = 1024
        cfg = transformers.LlamaConfig(head_dim=64, max_position_embeddings=8192, rope_parameters=rope)
        angles_R, size = ROPE_INIT_FUNCTIONS[kind](cfg, None)
        found[name] = {"angles": angles_R.tolist(), "size": size}
    return found
