"""Labelled examples of a file: records with named values, and files of predictions in the format of the input.

A record knows file and line, so that who finds a label wrong can say where it stands.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptjax.data.lines import read_lines, write_lines
from gptjax.data.rows import FORMATS, TABLES, Column, Format, Row, flat
from gptjax.types import UserError

Columns = Mapping[str, Column | Sequence[Column]]
"""Name -> where its value stands. Several columns are the parts of one text, or several references."""


@dataclass(frozen=True)
class Layout:
    """What the records of a file share."""

    file: Path
    format: Format | None
    """None for files whose lines belong together."""
    header: Any
    """The first row, where it names the columns, else None."""
    columns: Mapping[str, tuple[Column, ...]]
    """Those of a table as numbers."""


@dataclass(frozen=True, slots=True)
class Record:
    """One example."""

    layout: Layout
    line: int
    content: Any
    """The whole row, as its format has it."""
    values: Mapping[str, tuple[str, ...]]

    @property
    def where(self) -> str:
        """FILE:LINE, to begin a message with."""
        return f"{self.layout.file}:{self.line}"

    @contextlib.contextmanager
    def named(self) -> Iterator[None]:
        """Puts FILE:LINE before the message of a mistake within, which knows the content alone."""
        try:
            yield
        except UserError as error:
            raise UserError(f"{self.where}: {error}") from None

    def text(self, name: str) -> str:
        """Returns a value as one text: its parts with spaces between them."""
        return " ".join(self.values[name])

    def texts(self, name: str, separator: str | None = None) -> list[str]:
        """Returns the parts of a value, cut at the separator where one is given: "4,27" is two labels, "" is none."""
        if separator is None:
            return list(self.values[name])
        parts = (part.strip() for value in self.values[name] for part in value.split(separator))
        return [part for part in parts if part]


# ---- reading


def read_records(path: str | Path, columns: Columns, *, header: bool | None = None) -> list[Record]:
    """Reads the examples of a .tsv, .csv, .jsonl or .txt file, each also as .gz.

    The columns of a table are numbers from 0 (-1 is the last), or names of its first row, which is a header where any
    column is given by name, or as `header` says. Those of .jsonl are keys, of .txt the parts in `rows.PARTS`. Raises
    UserError with file, line and cure for what is wrong with a line, and for a file without an example.
    """
    file = Path(path).expanduser()
    kind = Path(file.name.removesuffix(".gz")).suffix
    if kind not in FORMATS:
        raise UserError(f"{file}: no format goes with {kind!r}; call it {', '.join(FORMATS)}, each also with .gz")
    format, wanted = FORMATS[kind], {name: _several(column) for name, column in columns.items()}
    rows = format.rows(file)
    first = None
    if kind in TABLES:
        named = [column for group in wanted.values() for column in group if not _is_number(column)]
        header = bool(named) if header is None else header
        if named and not header:
            raise UserError(f"{file}: there is no header that could name a column {named[0]!r}; give its number from 0")
        first = next(rows, None) if header else None
        if first:
            wanted = {name: tuple(_number(c, first, file) for c in group) for name, group in wanted.items()}
        rows = _even(rows, file, first)
    layout = Layout(file, format, first.content if first else None, wanted)
    records = [_record(layout, format, row) for row in rows]
    if not records:
        raise UserError(f"{file} holds no example; give a file with some")
    return records


def _several(column: Column | Sequence[Column]) -> tuple[Column, ...]:
    return (column,) if isinstance(column, str | int) else tuple(column)


def _is_number(column: Column) -> bool:
    return isinstance(column, int) or column.removeprefix("-").isdecimal()


def _number(column: Column, header: Row, file: Path) -> int:
    """Returns which column of a table a name or a number stands for; a name goes before a number."""
    names = header.content
    if names.count(column) == 1:
        return names.index(column)
    if column not in names and _is_number(column) and -len(names) <= int(column) < len(names):
        return int(column) % len(names)
    count = "no column" if column not in names else "more than one column"
    raise UserError(f"{file}:{header.line}: there is {count} {column!r}; the columns are {', '.join(names)}")


def _even(rows: Iterator[Row], file: Path, first: Row | None) -> Iterator[Row]:
    """Passes rows on, all of them as wide as the first."""
    for row in rows:
        first = first or row
        width, right = len(row.content), len(first.content)
        if width != right:
            raise UserError(
                f"{file}:{row.line}: this line has {width} columns where line {first.line} has {right}; correct it"
            )
        yield row


def _record(layout: Layout, format: Format, row: Row) -> Record:
    where = f"{layout.file}:{row.line}"
    values = {
        name: tuple(text for column in group for text in format.texts(row.content, column, where))
        for name, group in layout.columns.items()
    }
    return Record(layout, row.line, row.content, values)


def read_aligned(files: Mapping[str, str | Path]) -> list[Record]:
    """Reads files whose lines belong together, {"source": "valid.en.gz", "target": "valid.de.gz"}: an example a line.

    Empty lines count. Raises UserError where one file has more lines than another, or all have none.
    """
    paths = {name: Path(path).expanduser() for name, path in files.items()}
    texts = {name: [line.text for line in read_lines(path)] for name, path in paths.items()}
    counts = {name: len(lines) for name, lines in texts.items()}
    if len(set(counts.values())) > 1:
        said = ", ".join(f"{paths[name]} has {count} lines" for name, count in counts.items())
        raise UserError(f"{said}; files of translations have a line for each line of the other")
    layout = Layout(next(iter(paths.values())), None, None, {name: (name,) for name in paths})
    if not min(counts.values()):
        raise UserError(f"{layout.file} holds no line; give files with some")
    rows = zip(*texts.values(), strict=True)
    return [
        Record(layout, number, row, {name: (text,) for name, text in zip(paths, row, strict=True)})
        for number, row in enumerate(rows, 1)
    ]


# ---- writing


def write_records(
    path: str | Path,
    records: Sequence[Record],
    predictions: Mapping[str, Sequence[str | Sequence[str]]],
    separator: str = ",",
) -> Path:
    """Writes records of one file with predictions in place of values, and returns the path, without .gz.

    `predictions` holds for each name a text a record, or a list of them (labels, parted in a cell). Where a
    name had several columns, the first takes it and the others are emptied. A name without column gets one of its own:
    the last of a table, a key of .jsonl. Of files whose lines belong together, the one that is predicted is written.
    """
    path, layout = Path(path).expanduser(), records[0].layout
    if os.path.realpath(path) == os.path.realpath(layout.file):
        raise UserError(f"{path} holds the examples, and predictions would replace them; write to another file")
    if layout.format is None:
        (texts,) = predictions.values()
        return write_lines(path, (flat(text if isinstance(text, str) else " ".join(text)) for text in texts))
    return write_lines(path, _lines(layout, layout.format, records, predictions, separator))


def _lines(
    layout: Layout,
    format: Format,
    records: Sequence[Record],
    predictions: Mapping[str, Sequence[str | Sequence[str]]],
    separator: str,
) -> Iterator[str]:
    if layout.header is not None:
        yield format.line([*layout.header, *(name for name in predictions if name not in layout.columns)])
    for number, record in enumerate(records):
        content = record.content
        for name, texts in predictions.items():
            column, *others = layout.columns[name] if name in layout.columns else (format.new(content, name),)
            content = format.put(content, column, texts[number], separator)
            for other in others:
                content = format.put(content, other, "")
        yield format.line(content)
