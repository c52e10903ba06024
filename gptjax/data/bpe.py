"""Byte-pair encoding through the `tokenizers` library: learned here, or read from files of GPT-2 and its descendants.

Learned tokenizers are byte-level (Radford et al. 2019, section 2.2): no text is unknown, and every text comes back.
"""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from gptjax.data.spelling import begins_once, spelling_of, strips_a_space, without_prefix
from gptjax.data.tokenizer import Tokenizer, utf8
from gptjax.registry import did_you_mean
from gptjax.types import UserError

END_TOKENS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>")
"""What models call the end of a document; the first that a tokenizer has as a special token is its eos."""

FILES = (("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt"))
"""Vocabulary and merges as GPT-2 and its descendants name them."""

ALPHABET = 256
"""One token a byte, before the special ones."""

MOST = 1 << 22
"""The largest vocabulary to train: more than anybody uses, and a refusal rather than a machine out of memory."""


class BPETokenizer(Tokenizer):
    """A tokenizer of the library, by its own JSON, and what its model's files say of its special tokens."""

    kind = "bpe"

    def __init__(
        self,
        library: tokenizers.Tokenizer,
        *,
        eos: str | None = None,
        bos: str | None = None,
        chat_template: str | None = None,
    ):
        """Takes a tokenizer of the library; what the text says never becomes a special token.

        `eos` and `bos` are the special tokens that end and begin a text; without `eos` it is the first of END_TOKENS.
        """
        library.encode_special_tokens = True
        library.no_padding()
        library.no_truncation()
        self._library = library
        self._special = {i: token for i, token in library.get_added_tokens_decoder().items() if token.special}
        self.vocab_size = max(library.get_vocab().values(), default=-1) + 1
        for role, name in (("eos", eos), ("bos", bos)):
            if name is not None and name not in self.special_tokens:
                raise UserError(f"{role}={name!r} is no special token; {did_you_mean(name, self.special_tokens)}")
        self._named = {"eos": eos, "bos": bos, "chat_template": chat_template}
        guess = next((name for name in END_TOKENS if name in self.special_tokens), None)
        self.eos_id = None if (end := eos or guess) is None else self.special_tokens[end]
        self.bos_id = None if bos is None else self.special_tokens[bos]
        self.chat_template = chat_template
        self.begins_anew = not begins_once(library)

    def encode_many(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Returns the ids of each text; the library uses all cores where there are several texts."""
        return _encode(self._library, texts)

    def encode(self, text: str, *, continued: bool = False) -> np.ndarray:
        """Returns the ids of a text; one that is `continued` gets none of what the library puts before texts."""
        return _encode(self._continuing if continued else self._library, [text])[0]

    @cached_property
    def _continuing(self) -> tokenizers.Tokenizer:
        """The library's tokenizer without what it puts before a text."""
        description = json.loads(self._library.to_str())
        whole = json.dumps(description)
        description["normalizer"] = without_prefix(description["normalizer"])
        description["pre_tokenizer"] = without_prefix(description["pre_tokenizer"])
        if json.dumps(description) == whole:
            return self._library
        library = _from_json(json.dumps(description), "the tokenizer")
        library.encode_special_tokens = True
        return library

    @cached_property
    def special_tokens(self) -> Mapping[str, int]:
        """The ids of special tokens, by their names."""
        return {token.content: i for i, token in self._special.items()}

    @cached_property
    def pieces(self) -> Sequence[bytes] | None:
        """The bytes of each token, where its decoder is byte-level or SentencePiece's; None for others."""
        spelling = spelling_of(self._library)
        if spelling is None:
            return None
        added = self._library.get_added_tokens_decoder()
        pieces = [b""] * self.vocab_size
        for token, i in self._library.get_vocab().items():
            if i not in self._special:
                pieces[i] = token.encode() if i in added else spelling(token)
        return pieces

    @cached_property
    def prefix(self) -> bytes:
        """The space that SentencePiece's decoder takes from the beginning of a text."""
        return b" " if strips_a_space(self._library) else b""

    def decode(self, ids: Sequence[int] | np.ndarray, *, continued: bool = False) -> str:
        """Returns the text of some ids; where tokens have no bytes of their own, as the library says."""
        if self.pieces is not None:
            return super().decode(ids, continued=continued)
        return self._library.decode([int(i) for i in ids], skip_special_tokens=True)

    def settings(self) -> dict[str, Any]:
        """Returns the library's own description, and of what is said of special tokens only what is set."""
        named = {name: value for name, value in self._named.items() if value is not None}
        return {"tokenizer": json.loads(self._library.to_str()), **named}

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> "BPETokenizer":
        """Makes it from what `settings` returned."""
        library = _from_json(json.dumps(settings["tokenizer"]), "the saved tokenizer")
        return cls(library, **{name: settings[name] for name in ("eos", "bos", "chat_template") if name in settings})


def _encode(library: tokenizers.Tokenizer, texts: Sequence[str]) -> list[np.ndarray]:
    try:
        encodings = library.encode_batch_fast(list(texts), add_special_tokens=False)
    except TypeError:  # what the library says of a text that has no UTF-8
        for text in texts:
            utf8(text)
        raise
    return [np.array(encoding.ids, np.int32) for encoding in encodings]


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
    library = byte_level(models.BPE())
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


def read(path: Path, special_tokens: Sequence[str], **named: str | None) -> BPETokenizer:
    """Reads a tokenizer.json, or a folder that holds one or GPT-2's two files; raises UserError for anything else.

    Vocabulary and merges alone do not say which tokens are special: those in `special_tokens` that they hold. `named`
    is what BPETokenizer takes besides: eos, bos and chat_template.
    """
    if path.is_file() and path.suffix == ".json":
        return BPETokenizer(_from_json(_read_text(path), str(path)), **named)
    if (path / "tokenizer.json").is_file():
        return read(path / "tokenizer.json", special_tokens, **named)
    for vocab, merges in FILES:
        if (path / vocab).is_file() and (path / merges).is_file():
            return BPETokenizer(_read_two_files(path / vocab, path / merges, special_tokens), **named)
    if not path.exists():
        raise UserError(
            f"the tokenizer {path} does not exist; correct data.tokenizer.path, or leave it out to train one"
        )
    names = ", ".join(["tokenizer.json", *(" and ".join(pair) for pair in FILES)])
    raise UserError(f"{path} holds no tokenizer; it should be or hold one of: {names}")


def _read_two_files(vocab_path: Path, merges_path: Path, special_tokens: Sequence[str]) -> tokenizers.Tokenizer:
    try:
        vocab = json.loads(vocab_path.read_text(encoding="utf-8"))
        lines = merges_path.read_text(encoding="utf-8").split("\n")
        merges = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
        library = byte_level(models.BPE(vocab=vocab, merges=merges))
    except Exception as error:  # noqa: BLE001 - the library raises no narrower class
        raise UserError(
            f"{vocab_path} and {merges_path.name} are no byte-pair encoding ({error}); get them again"
        ) from None
    library.add_special_tokens([token for token in special_tokens if token in vocab])
    return library


def byte_level(model: models.BPE) -> tokenizers.Tokenizer:
    """Returns a byte-level tokenizer with GPT-2's pattern."""
    library = tokenizers.Tokenizer(model)
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    return library


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no UTF-8 text ({error.reason} at byte {error.start}); get it again") from None


def _from_json(text: str, source: str) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # noqa: BLE001 - the library raises no narrower class
        raise UserError(f"{source} is no tokenizer of the `tokenizers` library ({error}); get it again") from None
