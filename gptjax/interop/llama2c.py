"""llama2.c's files: a version-0 model and its tok*.bin. Every length is checked against the file before it is used."""

import math
import struct
from functools import cached_property
from pathlib import Path

import numpy as np

from gptjax.data.bpe import BPETokenizer
from gptjax.data.scored_bpe import scored_bpe
from gptjax.data.tokenizer import Tokenizer
from gptjax.interop.pretrained import Pretrained
from gptjax.interop.rotary import halves
from gptjax.types import UserError

HEADER = struct.Struct("<7i")
FIELDS = ("dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "seq_len")
MAGIC = 0x616B3432
"""How the files of later versions begin."""
ANGLES = "freq_cis"
"""Cosines and sines of the rotary angles, which are computed anew."""
SPECIAL = ("<unk>", "<s>", "</s>")
"""The first three tokens; llama2.c's files have line ends around the names of two of them."""


class Llama2CModel(Pretrained):
    """A model of llama2.c: header, then float32 tensors, each kind for all layers at once."""

    def __init__(self, path: Path, tokenizer_path: Path | None = None):
        """Reads the header; raises UserError where the file's length is not what it says."""
        self.source = str(path)
        self._path, self._tokenizer_path = Path(path), tokenizer_path
        size = _size(self._path)
        if size < HEADER.size:
            raise UserError(f"{path} has {size} bytes and is no model of llama2.c; get it again")
        with self._path.open("rb") as file:
            numbers = HEADER.unpack(file.read(HEADER.size))
        if numbers[0] == MAGIC:
            raise UserError(f"{path} is of llama2.c's version {numbers[1]}; export it as version 0")
        dim, hidden, layers, heads, kv_heads, vocab, seq_len = numbers
        positive = min(dim, hidden, layers, heads, kv_heads, abs(vocab), seq_len) > 0
        if not positive or dim % (2 * heads) or heads % kv_heads:
            said = ", ".join(f"{name}={number}" for name, number in zip(FIELDS, numbers, strict=True))
            raise UserError(f"{path} is no model of llama2.c: its header says {said}; get it again")
        self._heads = {"q": heads, "k": kv_heads}
        self.config = {
            "model_type": "llama",
            "vocab_size": abs(vocab),
            "hidden_size": dim,
            "intermediate_size": hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "max_position_embeddings": seq_len,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "tie_word_embeddings": vocab > 0,
        }
        kinds = _kinds(*numbers)
        expected = HEADER.size + 4 * sum(copies * math.prod(shape) for _, copies, shape in kinds)
        if expected != size:  # before anything is as large as the header says
            raise UserError(f"{path} has {size:,} bytes where its header says {expected:,}; get it again")
        self._places: dict[str, tuple[int, tuple[int, ...]]] = {}
        offset = HEADER.size
        for name, copies, shape in kinds:
            for copy in range(copies):
                self._places[name.format(copy)] = offset, shape
                offset += 4 * math.prod(shape)

    def names(self) -> frozenset[str]:
        """Returns the names of all tensors."""
        return frozenset(self._places) - {ANGLES}

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns the shape of a tensor."""
        return self._places[name][1]

    def read(self, name: str) -> np.ndarray:
        """Returns a tensor."""
        offset, shape = self._places[name]
        x = np.fromfile(self._path, "<f4", math.prod(shape), offset=offset).reshape(shape)
        for letter, heads in self._heads.items():
            if name.endswith(f"self_attn.{letter}_proj.weight"):
                return halves(x, heads)
        return x

    def tokenizer(self) -> Tokenizer:
        """Returns the tokenizer; raises UserError where its file is missing or damaged."""
        return self._tokenizer

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        if self._tokenizer_path is None:
            raise UserError(f"{self.source} needs llama2.c's tokenizer beside it, such as tok512.bin")
        return read_tokenizer(Path(self._tokenizer_path), self.config["vocab_size"])


def _kinds(
    dim: int, hidden: int, layers: int, heads: int, kv_heads: int, vocab: int, seq_len: int
) -> list[tuple[str, int, tuple[int, ...]]]:
    """Returns name, number of layers that have it, and shape of each tensor, in the order of the file."""
    kv_dim = kv_heads * (dim // heads)
    inside = (
        ("input_layernorm", (dim,)),
        ("self_attn.q_proj", (dim, dim)),
        ("self_attn.k_proj", (kv_dim, dim)),
        ("self_attn.v_proj", (kv_dim, dim)),
        ("self_attn.o_proj", (dim, dim)),
        ("post_attention_layernorm", (dim,)),
        ("mlp.gate_proj", (hidden, dim)),
        ("mlp.down_proj", (dim, hidden)),
        ("mlp.up_proj", (hidden, dim)),
    )
    return [
        ("model.embed_tokens.weight", 1, (abs(vocab), dim)),
        *((f"model.layers.{{}}.{name}.weight", layers, shape) for name, shape in inside),
        ("model.norm.weight", 1, (dim,)),
        (ANGLES, 1, (seq_len, dim // heads)),
        *([] if vocab > 0 else [("lm_head.weight", 1, (-vocab, dim))]),
    ]


def read_tokenizer(path: Path, vocab_size: int) -> BPETokenizer:
    """Reads a tok*.bin of so many tokens; raises UserError where it has fewer or more, or is damaged.

    Texts begin and end with <s>: llama2.c stops there, and its models were trained on texts one after another with it
    between them.
    """
    size = _size(path)
    if size < 4 + 8 * vocab_size:
        raise UserError(f"{path} has {size:,} bytes, too few for {vocab_size:,} tokens; take the model's own tokenizer")
    data = path.read_bytes()
    tokens, scores, offset = [], [], 4
    for i in range(vocab_size):
        if offset + 8 > size:
            raise UserError(f"{path} ends before token {i} of {vocab_size}; take the model's own tokenizer")
        score, length = struct.unpack_from("<fi", data, offset)
        offset += 8
        if not 0 <= length <= size - offset or score != score:
            raise UserError(f"{path}: token {i} has length {length} and score {score}; get it again")
        try:
            tokens.append(data[offset : offset + length].decode())
        except UnicodeDecodeError:
            raise UserError(f"{path}: token {i} is no UTF-8; get it again") from None
        scores.append(score)
        offset += length
    if offset != size:
        raise UserError(f"{path} has more than the model's {vocab_size:,} tokens; take the model's own tokenizer")
    if [token.strip("\n") for token in tokens[: len(SPECIAL)]] != [*SPECIAL]:
        raise UserError(f"{path} begins with {tokens[:3]} and not with {', '.join(SPECIAL)}; get it again")
    tokens[: len(SPECIAL)] = SPECIAL
    try:
        library = scored_bpe(tokens, scores, special=SPECIAL, unknown=SPECIAL[0], space=" ")
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return BPETokenizer(library, eos="<s>", bos="<s>")


def _size(path: Path) -> int:
    if not path.is_file():
        raise UserError(f"{path} is no file; correct the path")
    return path.stat().st_size
