"""Files of text: finding them, and reading them in bounded memory as pieces of documents. Knows no tokens.

Plain text is one document a file; a row of .jsonl or .parquet is a document. Each but .parquet may be packed as .gz or
.zst. Text is UTF-8, and nothing of it is changed: no line ending, no byte order mark. Bytes that are no UTF-8 are
replaced by U+FFFD and counted.
"""

import codecs
import contextlib
import dataclasses
import glob
import gzip
import importlib
import io
import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gptjax.types import UserError

PIECE_CHARS = 1 << 17
"""Longest piece of a document, in characters: the memory of a reader, and the unit that a tokenizer sees."""
_READ_BYTES = 1 << 20
_ROWS = (".jsonl", ".parquet")
_COMPRESSED = (".gz", ".zst")
PACKED = (*_COMPRESSED, ".parquet")
"""Suffixes of files that are smaller than their text."""


class Piece(NamedTuple):
    """A part of a document."""

    text: str
    ends: bool
    """Whether the document ends here."""


@dataclasses.dataclass
class Tally:
    """What reading has come across."""

    replaced: dict[Path, int] = dataclasses.field(default_factory=dict)
    """Number of replaced bytes by file, where there are any."""

    def add(self, path: Path, num_bytes: int) -> None:
        """Counts replaced bytes of a file."""
        if num_bytes:
            self.replaced[path] = self.replaced.get(path, 0) + num_bytes


# ---- finding


def expand(patterns: Sequence[str]) -> list[Path]:
    """Returns the files that paths stand for, once each; a UserError begins with the path that stands for none.

    A path is a file, a glob (** for any depth) or a folder. A folder means all regular files below it but hidden ones
    and those that are plainly no text: no known suffix, and a zero byte among the first 8192.
    """
    files: dict[Path, Path] = {}
    for pattern in patterns:
        if not pattern:
            raise UserError("'' is empty; give a file, a folder or a glob")
        path = Path(pattern).expanduser()
        if path.is_dir():
            found = walk(path)
            if not found:
                raise UserError(f"{pattern!r} is a folder without a text file in it")
        elif path.is_file():
            found = [path]
        elif path.exists():
            raise UserError(f"{pattern!r} is neither a file nor a folder")
        elif glob.has_magic(pattern):
            found = [Path(name) for name in glob.glob(str(path), recursive=True) if os.path.isfile(name)]
            if not found:
                raise UserError(f"{pattern!r} matches no file; check the pattern (** matches folders at any depth)")
        else:
            raise UserError(f"{pattern!r} does not exist; give a file, a folder or a glob")
        files.update((Path(os.path.realpath(file)), Path(os.path.abspath(file))) for file in found)
    return [file for _, file in sorted(files.items())]


def walk(folder: Path) -> list[Path]:
    """Returns the text files below a folder."""
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        visible = (Path(parent, name) for name in sorted(names) if not name.startswith("."))
        found.extend(file for file in visible if file.is_file() and _is_text(file))
    return found


def _is_text(file: Path) -> bool:
    if file.suffix in (*_COMPRESSED, *_ROWS):
        return True
    with reading(file), open(file, "rb") as stream:
        return b"\0" not in stream.read(8192)


def is_rows(file: Path) -> bool:
    """Whether the documents of a file are rows, whose text stands in a named field."""
    return (file.with_suffix("") if file.suffix in _COMPRESSED else file).suffix in _ROWS


# ---- reading


def pieces(file: Path, field: str, tally: Tally) -> Iterator[Piece]:
    """Yields the documents of a file in pieces of PIECE_CHARS at most; empty documents are left out.

    A longer document is cut after the last line end that fits, or where none does, at the limit. Raises UserError for
    a file that cannot be read, and for a row without the field.
    """
    with reading(file):
        if file.suffix == ".parquet":
            documents = _parquet(file, field)
        elif is_rows(file):
            documents = _jsonl(file, field, tally)
        else:
            yield from _cut(_decoded(file, tally))
            return
        for document in documents:
            yield from _cut([document])


def _cut(texts: Iterable[str]) -> Iterator[Piece]:
    rest = ""
    for text in texts:
        rest += text
        start = 0
        while len(rest) - start > PIECE_CHARS:
            stop = rest.rfind("\n", start, start + PIECE_CHARS) + 1 or start + PIECE_CHARS
            yield Piece(rest[start:stop], ends=False)
            start = stop
        rest = rest[start:]
    if rest:
        yield Piece(rest, ends=True)


def _decoded(file: Path, tally: Tally) -> Iterator[str]:
    tail = b""
    for block in _blocks(file):
        data = tail + block
        text, used = _decode(data, file, tally, final=False)
        tail = data[used:]
        yield text
    yield _decode(tail, file, tally, final=True)[0]


def _decode(data: bytes, file: Path, tally: Tally, *, final: bool) -> tuple[str, int]:
    """Returns the text and how many bytes it took; the start of a character at the end waits unless `final`."""
    try:
        return codecs.utf_8_decode(data, "strict", final)
    except UnicodeDecodeError:
        text, used = codecs.utf_8_decode(data, "replace", final)
        valid, _ = codecs.utf_8_decode(data, "ignore", final)
        tally.add(file, used - len(valid.encode()))
        return text, used


def _jsonl(file: Path, field: str, tally: Tally) -> Iterator[str]:
    for number, line in enumerate(_lines(file), 1):
        text, _ = _decode(line, file, tally, final=True)
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except json.JSONDecodeError as error:
            raise UserError(f"{file}:{number}: this line is no JSON ({error.msg} at column {error.colno})") from None
        yield _whole(_member(row, field, f"{file}:{number}"), file, tally)


def _member(row: Any, field: str, where: str) -> str:
    if not isinstance(row, dict):
        raise UserError(f"{where}: this row is no object with fields; .jsonl needs lines such as {{{field!r}: ...}}")
    if field not in row:
        raise UserError(f"{where}: there is no field {field!r} in this row; its fields are {', '.join(sorted(row))}")
    if not isinstance(row[field], str):
        raise UserError(f"{where}: field {field!r} holds {json.dumps(row[field])[:60]}, which is no text")
    return row[field]


def _whole(text: str, file: Path, tally: Tally) -> str:
    """Replaces halves of surrogate pairs, which JSON may hold and UTF-8 may not."""
    if text.isascii():
        return text
    text, count = re.subn("[\ud800-\udfff]", "\ufffd", text)
    tally.add(file, 3 * count)
    return text


def _parquet(file: Path, field: str) -> Iterator[str]:
    optional("pyarrow", file)
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file) as table:
            schema = table.schema_arrow
            if field not in schema.names:
                raise UserError(f"{file}: there is no column {field!r}; its columns are {', '.join(schema.names)}")
            if not (pa.types.is_string(kind := schema.field(field).type) or pa.types.is_large_string(kind)):
                raise UserError(f"{file}: column {field!r} holds {kind}, which is no text")
            for batch in table.iter_batches(batch_size=1024, columns=[field]):
                yield from (text or "" for text in batch.column(0).to_pylist())
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise UserError(f"{file} is damaged, or no Parquet file ({error})") from None


def _lines(file: Path) -> Iterator[bytes]:
    tail = b""
    for block in _blocks(file):
        *lines, tail = (tail + block).split(b"\n")
        yield from lines
    if tail:
        yield tail


def _blocks(file: Path) -> Iterator[bytes]:
    """Yields the unpacked bytes of a file."""
    if file.suffix == ".zst":
        yield from _unpacked_zst(file)
        return
    with opened(file) as stream:
        while block := stream.read(_READ_BYTES):
            yield block


@contextlib.contextmanager
def opened(file: Path) -> Iterator[io.BufferedIOBase]:
    """Gives the unpacked bytes of a plain or a .gz file; damage that reading comes across is a UserError."""
    try:
        with gzip.open(file) if file.suffix == ".gz" else open(file, "rb") as stream:
            yield stream
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{file} is damaged, or no gzip file ({error})") from None


def _unpacked_zst(file: Path) -> Iterator[bytes]:
    optional("zstandard", file)
    import zstandard

    frame = None  # a file may hold several, one after the other
    try:
        with open(file, "rb") as stream:
            while block := stream.read(_READ_BYTES // 8):
                while block:
                    frame = frame or zstandard.ZstdDecompressor().decompressobj()
                    yield frame.decompress(block)
                    block = frame.unused_data
                    frame = None if frame.eof else frame
    except zstandard.ZstdError as error:
        raise UserError(f"{file} is damaged, or no Zstandard file ({error})") from None
    if frame is not None:
        raise UserError(f"{file} is damaged: it ends in the middle of a Zstandard frame")


def optional(module: str, file: Path) -> None:
    """Raises UserError where an optional library is not installed that a file needs."""
    try:
        importlib.import_module(module)
    except ModuleNotFoundError:
        raise UserError(f"{file} needs {module}, which is not installed; pip install 'gptjax[tasks]'") from None


@contextlib.contextmanager
def reading(file: Path | str) -> Iterator[None]:
    """Turns what the operating system has against a file into a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror or error})") from None
