"""Rows of a file of examples, in each format: how they are read, what their columns are called, how they are written.

A format gives rows one at a time, finds the texts in a column of a row, puts others into their place, and makes a line
of it. Knows nothing of what the columns mean.
"""

import contextlib
import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from gptjax.data.lines import MAX_LINE_BYTES, read_lines
from gptjax.types import UserError

Column = int | str


class Row(NamedTuple):
    """A row and the line on which it begins: cells, a JSON object or a line, as its format has it."""

    line: int
    content: Any


class Format(Protocol):
    """What a format can do."""

    def rows(self, file: Path) -> Iterator[Row]:
        """Yields the rows of a file; empty ones are left out."""
        ...

    def texts(self, content: Any, column: Column, where: str) -> list[str]:
        """Returns the texts in a column of a row: one, or as many as a list holds."""
        ...

    def put(self, content: Any, column: Column, texts: str | Sequence[str], separator: str = ",") -> Any:
        """Returns the row with other texts in a column; several are a list, or parted by the separator."""
        ...

    def new(self, content: Any, name: str) -> Column:
        """Returns the column that a value gets whose name has none."""
        ...

    def line(self, content: Any) -> str:
        """Returns a row as a line of a file."""
        ...


def flat(text: str) -> str:
    """Returns a text without what ends a line or a cell: each run of them becomes a space."""
    return re.sub(r"[\t\r\n\0]+", " ", text)


class _Cells:
    """Columns of a table are numbered from 0, or from -1 backwards."""

    def texts(self, content: list[str], column: Column, where: str) -> list[str]:
        number = int(column)
        if not -len(content) <= number < len(content):
            raise UserError(f"{where}: there is no column {number}; this line has {len(content)}, counted from 0")
        return [content[number]]

    def put(self, content: list[str], column: Column, texts: str | Sequence[str], separator: str = ",") -> list[str]:
        text = texts if isinstance(texts, str) else separator.join(texts)
        number = int(column) + len(content) if int(column) < 0 else int(column)
        return [*content[:number], text, *content[number + 1 :]]

    def new(self, content: list[str], name: str) -> Column:
        return len(content)


class Tsv(_Cells):
    """Cells between tabs, without quotes; a tab or a line end in a text that is written becomes a space."""

    def rows(self, file: Path) -> Iterator[Row]:
        yield from (Row(number, text.split("\t")) for number, text in read_lines(file) if text)

    def line(self, content: list[str]) -> str:
        return "\t".join(flat(cell) for cell in content)


class Csv(_Cells):
    """Cells between commas, in quotes where they hold one or several lines (RFC 4180)."""

    def rows(self, file: Path) -> Iterator[Row]:
        started = 1
        reader = csv.reader((f"{text}\n" for _, text in read_lines(file)), strict=True)
        while True:
            try:
                with _field_limit(MAX_LINE_BYTES):
                    cells = next(reader, None)
            except csv.Error as error:
                raise UserError(f"{file}:{started}: this row is no CSV ({error}); is a quote missing?") from None
            if cells is None:
                return
            if cells:
                yield Row(started, cells)
            started = reader.line_num + 1

    def line(self, content: list[str]) -> str:
        return ",".join(_quoted(cell) for cell in content)


@contextlib.contextmanager
def _field_limit(limit: int) -> Iterator[None]:
    """Lets the csv module read long cells; it knows one limit for the whole process."""
    before = csv.field_size_limit(limit)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _quoted(cell: str) -> str:
    cell = re.sub(r"\r+\n", "\n", cell.replace("\0", " "))
    plain = cell and not re.search('[",\r\n\ufeff]', cell)
    return cell if plain else '"' + cell.replace('"', '""') + '"'


class Jsonl:
    """An object a line. Columns are keys; a dotted one leads into objects and, by number, into lists."""

    def rows(self, file: Path) -> Iterator[Row]:
        for number, text in read_lines(file):
            if text.strip():
                yield Row(number, _object(text, f"{file}:{number}"))

    def texts(self, content: dict, column: Column, where: str) -> list[str]:
        found = _member(content, str(column))
        if found is _MISSING:
            raise UserError(f"{where}: there is no field {column!r} in this row; its fields are {', '.join(content)}")
        items = found if isinstance(found, list) else [found]
        for item in items:
            if not isinstance(item, str | int | float):
                shown = json.dumps(found)[:60]
                raise UserError(f"{where}: field {column!r} holds {shown}, which is no text and no list of texts")
        return [item if isinstance(item, str) else json.dumps(item) for item in items]

    def put(self, content: dict, column: Column, texts: str | Sequence[str], separator: str = ",") -> dict:
        column = str(column)
        if _member(content, column) is _MISSING:
            return {**content, column: _like(None, texts)}
        return _placed(content, column, texts)

    def new(self, content: dict, name: str) -> Column:
        return name

    def line(self, content: dict) -> str:
        return json.dumps(content, ensure_ascii=False)


_MISSING = object()


def _object(text: str, where: str) -> dict:
    try:
        row = json.loads(text)
        if re.search(r"\\u[dD][89a-fA-F]", text):
            json.dumps(row, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: this line is no JSON ({error.msg} at column {error.colno}); correct it") from None
    except UnicodeEncodeError:
        raise UserError(f"{where}: half of a surrogate pair in this line is no text; correct it") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or brackets within brackets
        raise UserError(f"{where}: this line cannot be read as JSON ({error}); correct it") from None
    if not isinstance(row, dict):
        raise UserError(f'{where}: this line is no object with fields, such as {{"text": ...}}; correct it')
    return row


def _member(node: Any, path: str) -> Any:
    """Returns what a path leads to: a key that is the whole path, else its first part and from there the rest."""
    if isinstance(node, dict) and path in node:
        return node[path]
    key, dot, rest = path.partition(".")
    if isinstance(node, list) and key.isdecimal() and int(key) < len(node):
        inner = node[int(key)]
    elif dot and isinstance(node, dict) and key in node:
        inner = node[key]
    else:
        return _MISSING
    return _member(inner, rest) if dot else inner


def _placed(node: Any, path: str, texts: str | Sequence[str]) -> Any:
    """Returns a copy with other texts at a path that leads somewhere."""
    if isinstance(node, dict) and path in node:
        return {**node, path: _like(node[path], texts)}
    key, dot, rest = path.partition(".")
    inner = node[int(key)] if isinstance(node, list) else node[key]
    new = _placed(inner, rest, texts) if dot else _like(inner, texts)
    return [*node[: int(key)], new, *node[int(key) + 1 :]] if isinstance(node, list) else {**node, key: new}


def _like(old: Any, texts: str | Sequence[str]) -> Any:
    """Returns texts as JSON of the kind that they replace: in a list where that was one, numbers for numbers."""
    if isinstance(old, list) or not isinstance(texts, str):
        pattern = old[0] if isinstance(old, list) and old else old
        return [_like(pattern, text) for text in ([texts] if isinstance(texts, str) else texts)]
    if isinstance(old, int | float):
        with contextlib.suppress(ValueError):
            number = json.loads(texts)
            return number if isinstance(number, int | float) else texts
    return texts


class Txt:
    """A line is an example; its parts are `line`, and for a label before a text, `word`, `class` and `rest`."""

    def rows(self, file: Path) -> Iterator[Row]:
        yield from (Row(number, text) for number, text in read_lines(file) if text)

    def texts(self, content: str, column: Column, where: str) -> list[str]:
        if column not in PARTS:
            raise UserError(f"{where}: there is no part {column!r} of a line of text; its parts are {', '.join(PARTS)}")
        if column != "line" and " " not in content:
            raise UserError(f"{where}: this line is one word, where a label, a space and a text are expected")
        word, _, rest = content.partition(" ")
        return [{"line": content, "word": word, "class": word.partition(":")[0], "rest": rest}[str(column)]]

    def put(self, content: str, column: Column, texts: str | Sequence[str], separator: str = ",") -> str:
        text = flat(texts if isinstance(texts, str) else separator.join(texts))
        word, _, rest = content.partition(" ")
        return {"line": text, "rest": f"{word} {text}"}.get(str(column), f"{text} {rest}")

    def new(self, content: str, name: str) -> Column:
        return "line"

    def line(self, content: str) -> str:
        return content


PARTS = {
    "line": "the whole line",
    "word": "the first word",
    "class": "the first word up to its colon: HUM of HUM:ind",
    "rest": "what follows the first word",
}

TABLES = (".tsv", ".csv")
FORMATS: Mapping[str, Format] = {".tsv": Tsv(), ".csv": Csv(), ".jsonl": Jsonl(), ".txt": Txt()}
