"""Byte-pair encoding through the `tokenizers` library: learned here, or read from files of GPT-2 and its descendants.

Learned tokenizers are byte-level (Radford et al. 2019, section 2.2): no text is unknown, and every text comes back.
"""

import json
import logging
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from gptjax.data.tokenizer import Tokenizer, utf8
from gptjax.types import UserError

END_TOKENS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>")
"""What models call the end of a document; the first that a tokenizer has as a special token is its eos."""

FILES = (("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt"))
"""Vocabulary and merges as GPT-2 and its descendants name them."""

ALPHABET = 256
"""One token a byte, before the special ones."""

MOST = 1 << 22
"""The largest vocabulary to train: more than anybody uses, and a refusal rather than a machine out of memory."""


def _byte_of_letter() -> dict[str, int]:
    """Returns which byte each letter of byte-level tokens stands for.

    Printable bytes of Latin-1 stand for themselves, the others follow from U+0100 on (GPT-2's encoder).
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + n): byte for n, byte in enumerate(others)}


class BPETokenizer(Tokenizer):
    """A tokenizer of the library, by its own JSON."""

    kind = "bpe"

    def __init__(self, library: tokenizers.Tokenizer):
        """Takes a tokenizer of the library; what the text says never becomes a special token."""
        library.encode_special_tokens = True
        library.no_padding()
        library.no_truncation()
        self._library = library
        self._special = {i: token for i, token in library.get_added_tokens_decoder().items() if token.special}
        self.vocab_size = max(library.get_vocab().values(), default=-1) + 1
        names = {token.content: i for i, token in self._special.items()}
        self.eos_id = next((names[name] for name in END_TOKENS if name in names), None)

    def encode_many(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Returns the ids of each text; the library uses all cores where there are several texts."""
        try:
            encodings = self._library.encode_batch_fast(list(texts), add_special_tokens=False)
        except TypeError:  # what the library says of a text that has no UTF-8
            for text in texts:
                utf8(text)
            raise
        return [np.array(encoding.ids, np.int32) for encoding in encodings]

    @cached_property
    def pieces(self) -> Sequence[bytes] | None:
        """The bytes of each token of a byte-level tokenizer; None for others, such as those that mark spaces."""
        if not isinstance(self._library.decoder, decoders.ByteLevel):
            return None
        byte_of = _byte_of_letter()
        added = self._library.get_added_tokens_decoder()
        pieces = [b""] * self.vocab_size
        for token, i in self._library.get_vocab().items():
            if i in self._special:
                continue
            pieces[i] = token.encode() if i in added else bytes(byte_of[letter] for letter in token)
        return pieces

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Returns the text of some ids; where tokens have no bytes of their own, as the library says."""
        if self.pieces is not None:
            return super().decode(ids)
        return self._library.decode([int(i) for i in ids], skip_special_tokens=True)

    def settings(self) -> dict[str, Any]:
        """Returns the library's own description."""
        return {"tokenizer": json.loads(self._library.to_str())}

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> "BPETokenizer":
        """Makes it from the library's description."""
        return cls(_from_json(json.dumps(settings["tokenizer"]), "the saved tokenizer"))


def train(texts: Iterable[str], vocab_size: int, special_tokens: Sequence[str]) -> BPETokenizer:
    """Learns merges from texts until there are vocab_size tokens, special ones first; the same texts give the same."""
    least = ALPHABET + len(special_tokens)
    if vocab_size < least:
        raise UserError(
            f"vocab_size={vocab_size} of the bpe tokenizer is less than {least} (256 bytes and {len(special_tokens)} "
            f"special tokens); choose more, or the byte tokenizer"
        )
    if vocab_size > MOST:
        raise UserError(f"vocab_size={vocab_size} of the bpe tokenizer is more than {MOST:,}; 32,768 is usual")
    library = _byte_level(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(special_tokens),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    library.train_from_iterator(texts, trainer)
    tokenizer = BPETokenizer(library)
    if tokenizer.vocab_size < vocab_size:
        logging.getLogger("gptjax").warning(
            "the text has no more than %d tokens to learn, of the %d asked for", tokenizer.vocab_size, vocab_size
        )
    return tokenizer


def read(path: Path, special_tokens: Sequence[str]) -> BPETokenizer:
    """Reads a tokenizer.json, or a folder that holds one or GPT-2's two files; raises UserError for anything else.

    Vocabulary and merges alone do not say which tokens are special: those in `special_tokens` that they hold.
    """
    if path.is_file() and path.suffix == ".json":
        return BPETokenizer(_from_json(path.read_text(encoding="utf-8"), str(path)))
    if (path / "tokenizer.json").is_file():
        return read(path / "tokenizer.json", special_tokens)
    for vocab, merges in FILES:
        if (path / vocab).is_file() and (path / merges).is_file():
            return _read_two_files(path / vocab, path / merges, special_tokens)
    if not path.exists():
        raise UserError(
            f"the tokenizer {path} does not exist; correct data.tokenizer.path, or leave it out to train one"
        )
    names = ", ".join(["tokenizer.json", *(" and ".join(pair) for pair in FILES)])
    raise UserError(f"{path} holds no tokenizer; it should be or hold one of: {names}")


def _read_two_files(vocab_path: Path, merges_path: Path, special_tokens: Sequence[str]) -> BPETokenizer:
    try:
        vocab = json.loads(vocab_path.read_text(encoding="utf-8"))
        lines = merges_path.read_text(encoding="utf-8").split("\n")
        merges = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
        library = _byte_level(models.BPE(vocab=vocab, merges=merges))
    except Exception as error:  # noqa: BLE001 - the library raises no narrower class
        raise UserError(
            f"{vocab_path} and {merges_path.name} are no byte-pair encoding ({error}); get them again"
        ) from None
    library.add_special_tokens([token for token in special_tokens if token in vocab])
    return BPETokenizer(library)


def _byte_level(model: models.BPE) -> tokenizers.Tokenizer:
    library = tokenizers.Tokenizer(model)
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    return library


def _from_json(text: str, source: str) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # noqa: BLE001 - the library raises no narrower class
        raise UserError(f"{source} is no tokenizer of the `tokenizers` library ({error}); get it again") from None
