"""Models in GGUF files, the form of llama.cpp: its names and metadata as Hugging Face has them.

Shapes are the same in both, but for GPT-2's matrices, which Hugging Face keeps transposed. Llama's queries and keys
have their rotary pairs as adjacent channels and come back as halves; Qwen's are halves in the file.
"""

import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from gptjax.data.tokenizer import Tokenizer
from gptjax.interop.gguf_file import GGUFFile
from gptjax.interop.gguf_tokenizer import tokenizer_of
from gptjax.interop.pretrained import Pretrained
from gptjax.interop.rotary import halves
from gptjax.registry import did_you_mean
from gptjax.types import UserError

LLAMA = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "blk.N.attn_norm": "model.layers.N.input_layernorm",
    "blk.N.attn_q": "model.layers.N.self_attn.q_proj",
    "blk.N.attn_k": "model.layers.N.self_attn.k_proj",
    "blk.N.attn_v": "model.layers.N.self_attn.v_proj",
    "blk.N.attn_output": "model.layers.N.self_attn.o_proj",
    "blk.N.attn_q_norm": "model.layers.N.self_attn.q_norm",
    "blk.N.attn_k_norm": "model.layers.N.self_attn.k_norm",
    "blk.N.ffn_norm": "model.layers.N.post_attention_layernorm",
    "blk.N.ffn_gate": "model.layers.N.mlp.gate_proj",
    "blk.N.ffn_up": "model.layers.N.mlp.up_proj",
    "blk.N.ffn_down": "model.layers.N.mlp.down_proj",
}
GPT2 = {
    "token_embd": "transformer.wte",
    "position_embd": "transformer.wpe",
    "output_norm": "transformer.ln_f",
    "output": "lm_head",
    "blk.N.attn_norm": "transformer.h.N.ln_1",
    "blk.N.attn_qkv": "transformer.h.N.attn.c_attn",
    "blk.N.attn_output": "transformer.h.N.attn.c_proj",
    "blk.N.ffn_norm": "transformer.h.N.ln_2",
    "blk.N.ffn_up": "transformer.h.N.mlp.c_fc",
    "blk.N.ffn_down": "transformer.h.N.mlp.c_proj",
}
NAMES = {"llama": LLAMA, "qwen2": LLAMA, "qwen3": LLAMA, "gpt2": GPT2}
"""Names of tensors by architecture, without .weight and .bias; N is the number of a block."""
FREQUENCIES = "rope_freqs.weight"
"""By what Llama 3 divides its rotary frequencies."""
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""With what every published model of Llama 3 stretched them; files hold only what comes of it."""


class GGUFModel(Pretrained):
    """A model of an architecture in NAMES."""

    def __init__(self, path: Path):
        """Opens the file; raises UserError where it is damaged, or of another architecture."""
        self.source = str(path)
        self._file = GGUFFile(Path(path))
        self._architecture = self._value("general.architecture", str)
        if self._architecture not in NAMES:
            raise UserError(
                f"{path} is of the architecture {self._architecture!r}; {did_you_mean(self._architecture, NAMES)}"
            )
        if (count := self._value("split.count", int, 1)) > 1:
            raise UserError(f"{path} is one part of {count}; join them (gguf-split --merge)")
        self._names = self._hugging_face_names()
        self.config: Mapping[str, Any] = self._gpt2() if self._architecture == "gpt2" else self._llama()
        self._check_heads()

    def names(self) -> frozenset[str]:
        """Returns the names of all tensors."""
        return frozenset(self._names)

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns the shape of a tensor."""
        shape = self._file.tensors[self._names[name]].shape
        return shape[::-1] if self._is_transposed(name) else shape

    def read(self, name: str) -> np.ndarray:
        """Returns a tensor."""
        x = self._file.read(self._names[name])
        if self._architecture == "llama" and (found := re.search(r"\.attn_([qk])\.", self._names[name])):
            heads = self.config["num_attention_heads" if found[1] == "q" else "num_key_value_heads"]
            return halves(x, heads)
        return x.T if self._is_transposed(name) else x

    def tokenizer(self) -> Tokenizer:
        """Returns the tokenizer; raises UserError where the file holds none, or one of an unknown kind."""
        return self._tokenizer

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return tokenizer_of(self._file.metadata, self.source)

    def _is_transposed(self, name: str) -> bool:
        return self._architecture == "gpt2" and ".c_" in name

    def _value(self, key: str, kind: type, default: Any = None) -> Any:
        """Returns a value of the metadata; raises UserError where it is missing or of another type."""
        if key not in self._file.metadata:
            if default is None:
                raise UserError(f"{self.source} does not say {key}; convert the model anew")
            return default
        value = self._file.metadata[key]
        if isinstance(value, np.ndarray) and value.size and (value == value[0]).all():  # one number for all blocks
            value = value[0].item()
        if not isinstance(value, (int, float) if kind is float else kind) or isinstance(value, bool):
            raise UserError(
                f"{self.source} says {key}={value!r:.80}, which is no {kind.__name__}; convert the model anew"
            )
        return value

    def _size(self, key: str, default: int | None = None) -> int:
        """Returns a number of the architecture, at least 1."""
        value = self._value(f"{self._architecture}.{key}", int, default)
        if value < 1:
            raise UserError(f"{self.source} says {self._architecture}.{key}={value}; convert the model anew")
        return value

    def _number(self, key: str, default: float | None = None) -> float:
        """Returns a number of the architecture: the shortest decimal of the float32 that the file holds."""
        return float(str(np.float32(self._value(f"{self._architecture}.{key}", float, default))))

    def _hugging_face_names(self) -> dict[str, str]:
        """Returns the file's names by Hugging Face's; raises UserError for a tensor that no model here has."""
        table, names, unknown = NAMES[self._architecture], {}, []
        for name in self._file.tensors:
            stem, _, kind = name.rpartition(".")
            found = re.fullmatch(r"blk\.(\d+)\.(\w+)", stem)
            stem = f"blk.N.{found[2]}" if found else stem
            if stem in table and kind in ("weight", "bias"):
                names[f"{table[stem].replace('N', found[1]) if found else table[stem]}.{kind}"] = name
            elif name != FREQUENCIES:
                unknown.append(name)
        if unknown:
            raise UserError(
                f"{self.source} has tensors that no {self._architecture} model here has: {', '.join(unknown[:4])}"
                f"{' ...' if len(unknown) > 4 else ''}; only dense models can be read"
            )
        return names

    def _embedding(self, name: str) -> tuple[int, int]:
        if name not in self._names or len(shape := self.shape(name)) != 2:
            raise UserError(f"{self.source} has no matrix {name}; convert the model anew")
        return shape

    def _llama(self) -> dict[str, Any]:
        vocab_size, width = self._embedding("model.embed_tokens.weight")
        heads = self._size("attention.head_count")
        head_dim = self._size("attention.key_length", max(1, width // heads))
        rotated = self._size("rope.dimension_count", head_dim)
        if rotated != head_dim:
            raise UserError(f"{self.source} rotates {rotated} of {head_dim} channels of a head; only all can be read")
        return {
            "model_type": self._architecture,
            "vocab_size": vocab_size,
            "hidden_size": width,
            "intermediate_size": self._size("feed_forward_length"),
            "num_hidden_layers": self._num_blocks(),
            "num_attention_heads": heads,
            "num_key_value_heads": self._size("attention.head_count_kv", heads),
            "head_dim": head_dim,
            "max_position_embeddings": self._size("context_length"),
            "rms_norm_eps": self._number("attention.layer_norm_rms_epsilon"),
            "rope_theta": self._number("rope.freq_base", 10000.0),
            "rope_scaling": self._rope_scaling(head_dim),
            "attention_bias": "model.layers.0.self_attn.q_proj.bias" in self._names,
            "mlp_bias": "model.layers.0.mlp.up_proj.bias" in self._names,
            "tie_word_embeddings": self._is_tied("model.embed_tokens.weight"),
        }

    def _gpt2(self) -> dict[str, Any]:
        vocab_size, width = self._embedding("transformer.wte.weight")
        return {
            "model_type": "gpt2",
            "vocab_size": vocab_size,
            "n_embd": width,
            "n_layer": self._num_blocks(),
            "n_head": self._size("attention.head_count"),
            "n_inner": self._size("feed_forward_length", 4 * width),
            "n_positions": self._embedding("transformer.wpe.weight")[0],
            "layer_norm_epsilon": self._number("attention.layer_norm_epsilon"),
            "activation_function": "gelu_new",
            "tie_word_embeddings": self._is_tied("transformer.wte.weight"),
        }

    def _check_heads(self) -> None:
        """Raises UserError where queries and keys are not of the heads that the metadata says."""
        for letter, field in (("q", "num_attention_heads"), ("k", "num_key_value_heads")):
            for name in self._names:
                if re.search(rf"\.self_attn\.{letter}_proj\.", name):
                    rows, expected = self.shape(name)[0], self.config[field] * self.config["head_dim"]
                    if rows != expected or self.config["head_dim"] % 2:
                        raise UserError(
                            f"{self.source}: {self._names[name]} has {rows} rows where {self.config[field]} heads of "
                            f"{self.config['head_dim']} have {expected}; convert the model anew"
                        )

    def _num_blocks(self) -> int:
        said = self._size("block_count")
        found = {name.split(".")[1] for name in self._names.values() if name.startswith("blk.")}
        if found != set(map(str, range(min(said, len(found) + 1)))):
            raise UserError(f"{self.source} has {len(found)} blocks and says {said}; get it again")
        return said

    def _is_tied(self, embedding: str) -> bool:
        """Returns whether the output projection is the embedding, and forgets a copy of it."""
        head = "lm_head.weight"
        if head in self._names and self._file.same_bytes(self._names[head], self._names[embedding]):
            del self._names[head]
        return head not in self._names

    def _rope_scaling(self, head_dim: int) -> dict[str, Any] | None:
        """Returns how rotary angles are stretched, as config.json says it."""
        kind = self._value(f"{self._architecture}.rope.scaling.type", str, "none")
        if FREQUENCIES in self._file.tensors:
            return self._llama3_scaling(head_dim)
        if kind == "none":
            return None
        scaling = {"rope_type": kind, "factor": self._number("rope.scaling.factor", 1.0)}
        if kind == "yarn":
            scaling["original_max_position_embeddings"] = self._size("rope.scaling.original_context_length")
        return scaling

    def _llama3_scaling(self, head_dim: int) -> dict[str, Any]:
        """Returns Llama 3's scaling, found by its results; raises UserError where they come of another."""
        divisors = self._file.read(FREQUENCIES).ravel()
        factor, theta = float(divisors.max()), self._number("rope.freq_base", 10000.0)
        wavelengths = 2 * np.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
        low, high, context = LLAMA3.values()
        smooth = np.clip((context / wavelengths - low) / (high - low), 0, 1)
        expected = 1 / ((1 - smooth) / factor + smooth)
        if divisors.shape != expected.shape or not np.allclose(divisors, expected, rtol=1e-3):
            raise UserError(f"{self.source}: {FREQUENCIES} are not of Llama 3's scaling; convert from its safetensors")
        return {"rope_type": "llama3", "factor": factor, **LLAMA3}
