"""Lines of a file of examples, read strictly and written whole. Knows no columns and no labels.

Plain text for pre-training forgives what is broken (text.py); an example with a broken letter has a place and an owner.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from gptjax.data.text import opened, reading
from gptjax.types import UserError

MAX_LINE_BYTES = 1 << 24
"""A longer line is no example: it is some other file."""
MAX_RATIO = 50
"""Text packs to a third or a tenth; what unpacks to more than this, and more than a little, would fill the memory."""
_LITTLE = 1 << 20


class Line(NamedTuple):
    """A line without its end, and its number from 1."""

    number: int
    text: str


def read_lines(file: Path) -> Iterator[Line]:
    """Yields the lines of a UTF-8 file, plain or .gz, without line ends and the byte order mark.

    Raises UserError with file and line for bytes that are no UTF-8, for NUL and for a line beyond MAX_LINE_BYTES; with
    the file where it cannot be read, is damaged, or unpacks to more than MAX_RATIO times its size.
    """
    if not file.is_file():
        raise UserError(f"{file} {'is no file' if file.exists() else 'does not exist'}; give a file of examples")
    if file.suffix == ".gz":
        _check_ratio(file)
    with reading(file), opened(file) as stream:
        number = 0
        while raw := stream.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(raw) > MAX_LINE_BYTES:
                raise UserError(f"{file}:{number}: this line is longer than {MAX_LINE_BYTES:,} bytes; is it text?")
            text = _decoded(raw.rstrip(b"\r\n"), f"{file}:{number}")
            yield Line(number, text.removeprefix("\ufeff") if number == 1 else text)


def _check_ratio(file: Path) -> None:
    """Raises UserError for a bomb, before anything of it is kept."""
    with reading(file), opened(file) as stream:
        most, total = max(_LITTLE, MAX_RATIO * file.stat().st_size), 0
        while block := stream.read(_LITTLE):
            total += len(block)
            if total > most:
                raise UserError(f"{file} unpacks to more than {MAX_RATIO} times its size; unpack it if that is right")


def _decoded(raw: bytes, where: str) -> str:
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        byte, column = raw[error.start], error.start + 1
        raise UserError(
            f"{where}: byte {column} of this line, 0x{byte:02x}, is no UTF-8; save the file as UTF-8"
        ) from None
    if "\0" in text:
        raise UserError(f"{where}: there is a NUL byte in this line; give a text file, or take the byte out")
    return text


def write_lines(path: Path, lines: Iterable[str]) -> Path:
    """Writes a file whole or not at all, and returns its path: without .gz, since what is written is plain.

    Halves of surrogate pairs, which UTF-8 cannot hold, become question marks. Raises UserError where nothing can be
    written.
    """
    path = path.with_suffix("") if path.suffix == ".gz" else path
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "w", encoding="utf-8", errors="replace", newline="\n") as stream:
            for number, line in enumerate(lines):
                stream.write("\ufeff" * (number == 0 and line.startswith("\ufeff")))  # reading takes one away
                stream.write(f"{line}\n")
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror or error}); make room, or give permission"
        ) from None
    return path
