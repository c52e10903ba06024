"""The tokenizer in the metadata of a GGUF file: byte-level BPE (model gpt2), or SentencePiece's with scores (llama).

Beginnings of texts (`bos`) are those that llama.cpp gives to prompts: where tokenizer.ggml.add_bos_token says so, and
with SentencePiece where nothing is said.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import tokenizers
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers

from gptjax.data.bpe import BPETokenizer, byte_level
from gptjax.data.scored_bpe import scored_bpe
from gptjax.registry import did_you_mean
from gptjax.types import UserError

_UNKNOWN, _CONTROL, _USER = 2, 3, 4
"""Kinds of tokens: what is not known, special ones, and text that is never split."""

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PATTERNS = {
    "default": None,
    "gpt-2": None,
    "smollm": "digits",
    "llama-bpe": _LLAMA3,
    "qwen2": _LLAMA3.replace("{1,3}", ""),
}
"""How text is split before merges, by tokenizer.ggml.pre: GPT-2's pattern (None), after single digits, or another."""


def tokenizer_of(metadata: Mapping[str, Any], source: str) -> BPETokenizer:
    """Returns the tokenizer; raises UserError where it is missing, damaged or of a kind that is not known."""
    return _Reader(metadata, source).tokenizer()


class _Reader:
    """Reads typed values of one file's metadata."""

    def __init__(self, metadata: Mapping[str, Any], source: str):
        self._metadata, self._source = metadata, source
        self.tokens = self._strings("tokens")
        kinds = self._numbers("token_type") if self._has("token_type") else np.ones(len(self.tokens), int)
        self._kinds = kinds.tolist()
        if len(kinds) != len(self.tokens):
            raise self._error(f"has {len(self.tokens)} tokens of {len(kinds)} kinds")

    def tokenizer(self) -> BPETokenizer:
        """Returns the tokenizer with its special tokens and chat template."""
        model = self._string("ggml.model")
        if model == "gpt2":
            library, adds_bos = self._byte_level(), False
        elif model == "llama":
            library, adds_bos = self._scored(), True
        else:
            raise self._error(f"has a tokenizer of the model {model!r}, of which none can be read but gpt2 and llama")
        library.add_tokens([AddedToken(token, normalized=False) for token in self._of_kind(_USER)])
        bos, eos, template = self._special("bos"), self._special("eos"), None
        if self._has("add_bos_token"):
            adds_bos = bool(self._value("ggml.add_bos_token", bool))
        library.add_special_tokens([name for name in (bos, eos) if name is not None])
        if "tokenizer.chat_template" in self._metadata:
            template = self._string("chat_template")
            if not adds_bos and bos is not None and "bos_token" in template:  # it says itself what texts begin with
                template = f"{{%- set bos_token = {bos!r} -%}}{template}"
        return BPETokenizer(library, eos=eos, bos=bos if adds_bos else None, chat_template=template)

    def _byte_level(self) -> tokenizers.Tokenizer:
        pre = self._string("ggml.pre") if self._has("pre") else "default"
        if pre not in PATTERNS:
            raise self._error(f"splits text in the manner of {pre!r}; {did_you_mean(pre, PATTERNS)}")
        vocab = self._vocab()
        merges = [tuple(merge.split(" ")) for merge in self._strings("merges")]
        try:
            library = byte_level(models.BPE(vocab=vocab, merges=merges, ignore_merges=pre == "llama-bpe"))
        except Exception as error:  # noqa: BLE001 - the library raises no narrower class
            raise self._error(f"has a tokenizer that is no byte-pair encoding ({error})") from None
        if PATTERNS[pre] == "digits":
            library.pre_tokenizer = pre_tokenizers.Sequence(
                [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
            )
        elif (pattern := PATTERNS[pre]) is not None:
            library.pre_tokenizer = pre_tokenizers.Sequence(
                [
                    pre_tokenizers.Split(Regex(pattern), "isolated"),
                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
                ]
            )
        if pre == "qwen2":
            library.normalizer = normalizers.NFC()
        library.add_special_tokens(self._of_kind(_CONTROL))
        return library

    def _scored(self) -> tokenizers.Tokenizer:
        prefix = bool(self._value("ggml.add_space_prefix", bool)) if self._has("add_space_prefix") else True
        scores = self._numbers("scores").tolist()
        if len(scores) != len(self.tokens):
            raise self._error(f"has {len(self.tokens)} tokens and {len(scores)} scores")
        unknown = self._of_kind(_UNKNOWN)
        special = [*unknown, *self._of_kind(_CONTROL)]
        return scored_bpe(self.tokens, scores, special=special, unknown=unknown[0] if unknown else None, prefix=prefix)

    def _vocab(self) -> dict[str, int]:
        vocab = {token: i for i, token in enumerate(self.tokens)}
        if len(vocab) < len(self.tokens):
            raise self._error("has a token twice")
        return vocab

    def _of_kind(self, kind: int) -> list[str]:
        return [token for token, its in zip(self.tokens, self._kinds, strict=True) if its == kind]

    def _special(self, name: str) -> str | None:
        """Returns the token that is the beginning or the end of a text."""
        if not self._has(f"{name}_token_id"):
            return None
        i = self._value(f"ggml.{name}_token_id", int)
        if not 0 <= i < len(self.tokens):
            raise self._error(f"says {name}_token_id={i} of {len(self.tokens)} tokens")
        return self.tokens[i]

    def _has(self, key: str) -> bool:
        return f"tokenizer.ggml.{key}" in self._metadata

    def _value(self, key: str, kind: type) -> Any:
        name = f"tokenizer.{key}"
        if name not in self._metadata:
            raise self._error(f"does not say {name}")
        if not isinstance(value := self._metadata[name], kind):
            raise self._error(f"says {name}={value!r:.80}, which is no {kind.__name__}")
        return value

    def _string(self, key: str) -> str:
        return self._value(key, str)

    def _strings(self, key: str) -> list[str]:
        return self._value(f"ggml.{key}", list)

    def _numbers(self, key: str) -> np.ndarray:
        return self._value(f"ggml.{key}", np.ndarray)

    def _error(self, problem: str) -> UserError:
        return UserError(f"{self._source} {problem}; convert the model anew")
