"""Which bytes a token of the `tokenizers` library stands for, read from its decoder, and what goes before a text.

Byte-level tokenizers write each byte as a letter. SentencePiece's write text as it is, spaces perhaps by a mark, bytes
of unknown characters as <0x0A>, and begin every text with a space.
"""

import json
import re
from collections.abc import Callable
from typing import Any

import tokenizers

BYTE = re.compile(r"<0x([0-9A-F]{2})>")
"""How SentencePiece writes a token that is one byte."""

_STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}


def byte_of_letter() -> dict[str, int]:
    """Returns which byte each letter of byte-level tokens stands for.

    Printable bytes of Latin-1 stand for themselves, the others follow from U+0100 on (GPT-2's encoder).
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + n): byte for n, byte in enumerate(others)}


def _steps(library: tokenizers.Tokenizer) -> list[dict[str, Any]]:
    if library.decoder is None:
        return []
    decoder = json.loads(library.decoder.__getstate__())
    return decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]


def spelling_of(library: tokenizers.Tokenizer) -> Callable[[str], bytes] | None:
    """Returns what gives the bytes of a token by its name; None where they depend on its neighbours."""
    steps = _steps(library)
    if [step["type"] for step in steps] == ["ByteLevel"]:
        byte_of = byte_of_letter()

        def letters(token: str) -> bytes:
            # Fillers of a vocabulary, such as <dummy 7>, are no letters; to the library they are text.
            return bytes(map(byte_of.__getitem__, token)) if byte_of.keys() >= set(token) else token.encode()

        return letters
    if {"type": "ByteFallback"} not in steps:
        return None
    mark = " "
    for step in steps:
        if step["type"] == "Replace" and step["content"] == " " and "String" in step["pattern"]:
            mark = step["pattern"]["String"]
        elif step not in ({"type": "ByteFallback"}, {"type": "Fuse"}, _STRIP):
            return None

    def spelling(token: str) -> bytes:
        byte = BYTE.fullmatch(token)
        return token.replace(mark, " ").encode() if byte is None else bytes([int(byte[1], 16)])

    return spelling


def strips_a_space(library: tokenizers.Tokenizer) -> bool:
    """Returns whether decoding takes a space from the beginning of a text."""
    return _STRIP in _steps(library)


def begins_once(library: tokenizers.Tokenizer) -> bool:
    """Returns whether the first characters of a text alone get a space in front, and none behind a special token."""
    if library.pre_tokenizer is None:
        return False
    splitter = json.loads(library.pre_tokenizer.__getstate__())
    steps = splitter["pretokenizers"] if splitter["type"] == "Sequence" else [splitter]
    return any(step["type"] == "Metaspace" and step["prepend_scheme"] == "first" for step in steps)


def without_prefix(part: dict[str, Any] | None) -> dict[str, Any] | None:
    """Returns a normalizer or pre-tokenizer, as the library describes it, that puts nothing before a text."""
    if part is None or part["type"] == "Prepend":
        return None
    if part["type"] == "Sequence":
        (name,) = part.keys() - {"type"}
        return {**part, name: [kept for step in part[name] if (kept := without_prefix(step)) is not None]}
    changes = {"Metaspace": {"prepend_scheme": "never"}, "ByteLevel": {"add_prefix_space": False}}
    return part | changes.get(part["type"], {})
