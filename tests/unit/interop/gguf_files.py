"""Tiny GGUF files, written by the `gguf` library."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

Q = gguf.GGMLQuantizationType


class TinyFile:
    """A file that can be filled with more than what a model needs, or less."""

    def __init__(self, path: Path, architecture: str = "llama"):
        self.path = path
        self.writer = gguf.GGUFWriter(path, architecture)
        self._random = np.random.default_rng(0)
        self.written: dict[str, np.ndarray] = {}

    def values(self, values: Mapping[str, Any]) -> "TinyFile":
        """Adds metadata; lists keep the type of their first element."""
        for key, value in values.items():
            if isinstance(value, bool):
                self.writer.add_bool(key, value)
            elif isinstance(value, int):
                self.writer.add_uint32(key, value)
            elif isinstance(value, float):
                self.writer.add_float32(key, value)
            elif isinstance(value, str):
                self.writer.add_string(key, value)
            else:
                self.writer.add_array(key, value)
        return self

    def tensor(self, name: str, *shape: int, kind: Q = Q.F32, value: np.ndarray | None = None) -> "TinyFile":
        """Adds a random tensor, or a given one; what it is unpacked to is kept."""
        x = self._random.normal(size=shape).astype(np.float32) if value is None else value
        packed = x if kind == Q.F32 else gguf.quants.quantize(x, kind)
        self.written[name] = np.asarray(gguf.quants.dequantize(packed, kind))
        self.writer.add_tensor(name, packed, raw_dtype=kind)
        return self

    def close(self) -> Path:
        """Writes it."""
        self.writer.write_header_to_file()
        self.writer.write_kv_data_to_file()
        self.writer.write_tensors_to_file()
        self.writer.close()
        return self.path


BYTE_LEVEL = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": ["<|end|>", "<|start|>", *"abcdeĠ19", "ab", "Ġab"],
    "tokenizer.ggml.token_type": [3, 3, *[1] * 10],
    "tokenizer.ggml.merges": ["a b", "Ġ ab"],
    "tokenizer.ggml.eos_token_id": 0,
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.add_bos_token": False,
    "tokenizer.chat_template": "{% for m in messages %}<|start|>{{ m.content }}<|end|>{% endfor %}",
}
SCORED = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "▁", "a", "b", "▁a", "ab"],
    "tokenizer.ggml.scores": [0.0] * 259 + [-5.0, -4.0, -3.0, -2.0, -1.0],
    "tokenizer.ggml.token_type": [2, 3, 3, *[6] * 256, *[1] * 5],
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
}
WIDTH, HEADS, KV_HEADS, HIDDEN = 32, 4, 2, 64


def llama(
    path: Path, architecture: str = "llama", *, kind: Q = Q.F32, tokenizer: Mapping[str, Any] = BYTE_LEVEL, **more: Any
) -> TinyFile:
    """Returns an open file of a model of one block, of the Llama or a Qwen family."""
    file = TinyFile(path, architecture)
    sizes = {
        "block_count": 1,
        "context_length": 64,
        "embedding_length": WIDTH,
        "feed_forward_length": HIDDEN,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KV_HEADS,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.freq_base": 5000.0,
    }
    file.values({f"{architecture}.{key}": value for key, value in {**sizes, **more}.items()}).values(tokenizer)
    head = WIDTH // HEADS
    file.tensor("token_embd.weight", len(tokenizer["tokenizer.ggml.tokens"]) if tokenizer else 12, WIDTH, kind=kind)
    file.tensor("output_norm.weight", WIDTH)
    for name, *shape in (
        ("attn_norm", WIDTH),
        ("attn_q", WIDTH, WIDTH),
        ("attn_k", KV_HEADS * head, WIDTH),
        ("attn_v", KV_HEADS * head, WIDTH),
        ("attn_output", WIDTH, WIDTH),
        ("ffn_norm", WIDTH),
        ("ffn_gate", HIDDEN, WIDTH),
        ("ffn_up", HIDDEN, WIDTH),
        ("ffn_down", WIDTH, HIDDEN),
    ):
        file.tensor(f"blk.0.{name}.weight", *shape, kind=kind if len(shape) == 2 else Q.F32)
    if architecture == "qwen2":
        for letter, rows in (("q", WIDTH), ("k", KV_HEADS * head), ("v", KV_HEADS * head)):
            file.tensor(f"blk.0.attn_{letter}.bias", rows)
    if architecture == "qwen3":
        for letter in "qk":
            file.tensor(f"blk.0.attn_{letter}_norm.weight", head)
    return file


def gpt2(path: Path) -> TinyFile:
    """Returns an open file of a GPT-2 of one block."""
    file = TinyFile(path, "gpt2")
    sizes = {"block_count": 1, "context_length": 16, "embedding_length": WIDTH, "attention.head_count": HEADS}
    file.values({f"gpt2.{key}": value for key, value in sizes.items()})
    file.values({"gpt2.feed_forward_length": HIDDEN, "gpt2.attention.layer_norm_epsilon": 1e-5}).values(BYTE_LEVEL)
    file.tensor("token_embd.weight", 12, WIDTH).tensor("position_embd.weight", 16, WIDTH)
    for name, *shape in (
        ("output_norm", WIDTH),
        ("blk.0.attn_norm", WIDTH),
        ("blk.0.attn_qkv", 3 * WIDTH, WIDTH),
        ("blk.0.attn_output", WIDTH, WIDTH),
        ("blk.0.ffn_norm", WIDTH),
        ("blk.0.ffn_up", HIDDEN, WIDTH),
        ("blk.0.ffn_down", WIDTH, HIDDEN),
    ):
        file.tensor(f"{name}.weight", *shape).tensor(f"{name}.bias", shape[0])
    return file
