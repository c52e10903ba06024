"""Text into token ids and back: bytes, characters, or byte-pair encoding (bpe.py). Knows nothing of files of text.

A token stands for a piece of UTF-8, so that lengths, decoding and streaming are the same for every kind. Special tokens
stand for no text: `encode` never gives one, whatever the text says, and `decode` leaves them out.
"""

import codecs
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from gptjax.types import UserError

END_OF_TEXT = "<|endoftext|>"
CONFIG = "tokenizer_config.json"

Texts = Callable[[], Iterable[str]]
"""Gives the texts of a corpus from the start each time it is called."""


class Tokenizer(ABC):
    """Ids 0 .. vocab_size - 1; `eos_id` ends a document and is None where there is no such token."""

    kind: ClassVar[str]
    vocab_size: int
    eos_id: int | None
    bos_id: int | None = None
    """The token that texts begin with, in training and so in prompts; None where there is none."""
    begins_anew: bool = True
    """Whether text behind a special token, within a conversation, is encoded as the beginning of a text is."""
    chat_template: str | None = None
    """How conversations are written, in Jinja, as `transformers` keeps it; None where nobody has said."""

    @abstractmethod
    def encode_many(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Returns the ids of each text, int32."""

    def encode(self, text: str, *, continued: bool = False) -> np.ndarray:
        """Returns the ids of a text, int32; one that is `continued` gets no space in front, where texts get one."""
        return self.encode_many([text])[0]

    @property
    def begin(self) -> list[int]:
        """What texts begin with: a token, or nothing."""
        return [] if self.bos_id is None else [self.bos_id]

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """The ids of special tokens, by the names that templates call them."""
        return {}

    @property
    @abstractmethod
    def pieces(self) -> Sequence[bytes] | None:
        """The bytes that each token stands for, none for special ones; None where that depends on its neighbours."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Returns what `from_settings` of the same kind needs to make it again, as JSON."""

    @classmethod
    @abstractmethod
    def from_settings(cls, settings: dict[str, Any]) -> "Tokenizer":
        """Makes a tokenizer from what `settings` returned."""

    @property
    def prefix(self) -> bytes:
        """What `encode` puts before a text, and the first piece therefore has too much: nothing, or a space."""
        return b""

    def decode(self, ids: Sequence[int] | np.ndarray, *, continued: bool = False) -> str:
        """Returns the text of some ids; bytes that are no UTF-8 become U+FFFD.

        Ids that begin a text lose the prefix; those that are `continued` from others, as an answer is, keep it.
        """
        assert self.pieces is not None
        text = b"".join([self.pieces[int(i)] for i in ids])
        return (text if continued else text.removeprefix(self.prefix)).decode("utf-8", errors="replace")

    def stream(self, *, continued: bool = False) -> "StreamDecoder":
        """Returns a decoder that takes ids one at a time; `continued` is as in `decode`."""
        return StreamDecoder(self, continued)

    def token_bytes(self) -> np.ndarray | None:
        """Returns how many bytes of UTF-8 each token stands for (special ones 0), int32; None where unknown."""
        return None if self.pieces is None else np.array([len(piece) for piece in self.pieces], np.int32)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of everything that decides what it does."""
        return hashlib.sha256(self._document().encode()).hexdigest()

    def save(self, directory: Path) -> None:
        """Writes the tokenizer into a folder, which is made."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / CONFIG).write_text(self._document(), encoding="utf-8")

    def _document(self) -> str:
        return json.dumps({"kind": self.kind, **self.settings()}, ensure_ascii=False, sort_keys=True)


class StreamDecoder:
    """Turns ids into text as they come; the pieces together are `decode` of all ids.

    A character whose last byte has not come yet is held back.
    """

    def __init__(self, tokenizer: Tokenizer, continued: bool = False):
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._prefix = b"" if continued else tokenizer.prefix
        self._ids: list[int] = []
        self._shown = ""

    def push(self, token: int) -> str:
        """Returns the text that this token completes."""
        if self._tokenizer.pieces is not None:
            piece = self._tokenizer.pieces[token]
            if piece and self._prefix:  # the first that stands for text
                piece, self._prefix = piece.removeprefix(self._prefix), b""
            return self._decoder.decode(piece)
        self._ids.append(token)
        whole = self._tokenizer.decode(self._ids)
        return "" if whole.endswith("\ufffd") else self._show(whole)

    def finish(self) -> str:
        """Returns what was held back."""
        if self._tokenizer.pieces is not None:
            return self._decoder.decode(b"", final=True)
        return self._show(self._tokenizer.decode(self._ids))

    def _show(self, whole: str) -> str:
        new, self._shown = whole[len(self._shown) :], whole
        return new


_BYTES = (*(bytes([i]) for i in range(256)), b"")


class ByteTokenizer(Tokenizer):
    """The 256 bytes of UTF-8 and an end-of-text token: no training, no unknown text, long sequences."""

    kind = "byte"
    vocab_size = 257
    eos_id = 256

    @property
    def pieces(self) -> Sequence[bytes]:
        """Each byte."""
        return _BYTES

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """The end of a text, by GPT-2's name for it."""
        return {END_OF_TEXT: 256}

    def encode_many(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Returns the bytes of each text."""
        return [np.frombuffer(utf8(text), np.uint8).astype(np.int32) for text in texts]

    def settings(self) -> dict[str, Any]:
        """Returns nothing: there is only one."""
        return {}

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> "ByteTokenizer":
        """Makes it."""
        return cls()


class CharTokenizer(Tokenizer):
    """A token a character, in order of code point, and nothing else."""

    kind = "char"
    eos_id = None

    def __init__(self, characters: str):
        """Takes the distinct characters in order."""
        assert list(characters) == sorted(set(characters))
        self.characters = characters
        self.vocab_size = len(characters)
        self._codes = np.array([ord(c) for c in characters], np.uint32)
        self._pieces = tuple(utf8(c) for c in characters)

    @property
    def pieces(self) -> Sequence[bytes]:
        """The UTF-8 of each character."""
        return self._pieces

    def encode_many(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Returns the place of each character; raises UserError for one that was not in the text it was made from."""
        return [self._encode(text) for text in texts]

    def _encode(self, text: str) -> np.ndarray:
        codes = np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), np.uint32)
        ids = np.minimum(np.searchsorted(self._codes, codes), self.vocab_size - 1)
        unknown = codes[self._codes[ids] != codes] if self.vocab_size else codes
        if len(unknown):
            raise UserError(
                f"the character {chr(unknown[0])!r} (U+{unknown[0]:04X}) is not among the tokenizer's "
                f"{self.vocab_size}; leave it out, or train with the byte or bpe tokenizer"
            )
        return ids.astype(np.int32)

    def settings(self) -> dict[str, Any]:
        """Returns the characters."""
        return {"characters": self.characters}

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> "CharTokenizer":
        """Makes it from its characters."""
        return cls(settings["characters"])


def utf8(text: str) -> bytes:
    """Returns the UTF-8 of a text; raises UserError for half of a surrogate pair, which has none."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{text[error.start]!r} is half of a surrogate pair and no character; remove it") from None


def byte(train_texts: Texts, all_texts: Texts) -> Tokenizer:
    """Bytes of UTF-8."""
    return ByteTokenizer()


def char(train_texts: Texts, all_texts: Texts) -> Tokenizer:
    """Every character of the corpus, those of the validation split too: they could not be encoded otherwise."""
    characters: set[str] = set()
    for text in all_texts():
        characters.update(text)
    return CharTokenizer("".join(sorted(characters)))


def bpe(
    train_texts: Texts,
    all_texts: Texts,
    *,
    vocab_size: int = 4096,
    path: str | None = None,
    special_tokens: tuple[str, ...] = (END_OF_TEXT,),
) -> Tokenizer:
    """Byte-pair encoding (arXiv 1508.07909): read from `path`, or learned from the training text."""
    from gptjax.data.bpe import read, train  # the library is loaded only where it is used

    return read(Path(path), special_tokens) if path is not None else train(train_texts(), vocab_size, special_tokens)


def saved(train_texts: Texts, all_texts: Texts, *, path: str | None = None) -> Tokenizer:
    """The tokenizer in a folder: that of a run, of an imported model or of prepared text."""
    if path is None:
        raise UserError("'saved' needs a path; set data.tokenizer.path to the tokenizer/ of a run or imported model")
    folders = (Path(path).expanduser(), Path(path).expanduser() / "tokenizer")
    return load_tokenizer(next((folder for folder in folders if (folder / CONFIG).is_file()), folders[0]))


TOKENIZERS = {
    "byte": byte,
    "char": char,
    "bpe": bpe,
    "saved": saved,
}


def load_tokenizer(directory: Path) -> Tokenizer:
    """Returns the tokenizer that `save` wrote into a folder; raises UserError where there is none or it is damaged."""
    path = Path(directory) / CONFIG
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        return _kind(settings.pop("kind"), path).from_settings(settings)
    except FileNotFoundError:
        raise UserError(f"{directory} holds no tokenizer ({CONFIG}); prepare or train again") from None
    except UserError:
        raise
    except (OSError, ValueError, KeyError, AttributeError, TypeError, AssertionError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}: {error}); prepare or train again") from None


def _kind(kind: str, path: Path) -> type[Tokenizer]:
    if kind == "bpe":
        from gptjax.data.bpe import BPETokenizer

        return BPETokenizer
    kinds = {"byte": ByteTokenizer, "char": CharTokenizer}
    if kind not in kinds:
        raise UserError(f"{path} is of an unknown kind {kind!r}; prepare or train again")
    return kinds[kind]
