"""CoNLL files: a word a line with its tag in a column, blank lines between sentences; predictions in the same columns.

What stands between sentences (comments, -DOCSTART- lines, a blank line that holds a tab) is kept, so that a file that
is written differs from the one that was read in its tags alone.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from gptjax.data.lines import Line, read_lines, write_lines
from gptjax.types import UserError

SEPARATORS = {"\t": "(\t)", " ": "( +)"}
"""Between columns stands a tab, or a run of spaces."""


class Span(NamedTuple):
    """A labelled run of words, from start up to but without end."""

    start: int
    end: int
    label: str


@dataclass(frozen=True)
class Block:
    """The lines of a sentence, and those before it; at the end of a file there may be lines without a sentence."""

    before: tuple[str, ...]
    lines: tuple[Line, ...]


def blocks(file: Path, is_aside: Callable[[str], bool]) -> Iterator[Block]:
    """Yields the sentences of a file; blank lines part them, and lines that are aside belong to none.

    Raises UserError where there is no sentence at all.
    """
    before: list[str] = []
    lines: list[Line] = []
    any_sentence = False
    for line in read_lines(file):
        blank = not line.text.strip(" \t")
        if blank and lines:
            yield Block(tuple(before), tuple(lines))
            before, lines, any_sentence = [], [], True
        if blank or is_aside(line.text):
            before.append(line.text)
        else:
            lines.append(line)
    if not (any_sentence or lines):
        raise UserError(f"{file} holds no sentence; give a file with a word a line and blank lines between sentences")
    if before or lines:
        yield Block(tuple(before), tuple(lines))


@dataclass(frozen=True)
class Layout:
    """What the sentences of a file share."""

    file: Path
    separator: str
    tag: int | None
    """The column of tags, from 0; None where there are none yet."""


@dataclass(frozen=True)
class Sentence:
    """Words with their tags, and the lines that they came from."""

    words: tuple[str, ...]
    tags: tuple[str, ...]
    """Empty where the file has no column of tags."""
    layout: Layout
    before: tuple[str, ...]
    lines: tuple[Line, ...]
    after: tuple[str, ...]
    """What follows where no other sentence does: for the last one of the file what stands there, else a blank line."""

    def where(self, word: int = 0) -> str:
        """Returns FILE:LINE of a word, to begin a message with."""
        return f"{self.layout.file}:{self.lines[word].number}"


def read_conll(
    path: str | Path, *, word: int = 0, tag: int | None = -1, separator: str | None = None
) -> list[Sentence]:
    """Reads the sentences of a CoNLL file, which may be packed as .gz.

    `word` and `tag` are columns from 0, or from -1 backwards; without a tag the file holds words alone. The separator,
    a tab or spaces, is that of the first line, unless given. Where words are not in the first column, as in files whose
    lines begin with an index, lines that begin with # are comments. Raises UserError with file, line and cure, above
    all for a line with another number of columns than the first.
    """
    file = Path(path).expanduser()
    aside = re.compile("-DOCSTART-" if word == 0 else "-DOCSTART-|#")
    *found, last = blocks(file, lambda text: aside.match(text) is not None)
    if last.lines:
        found, after = [*found, last], ()
    else:
        after = last.before
    first = found[0].lines[0]
    if separator is not None and separator not in SEPARATORS:
        raise UserError(f"separator={separator!r} is no tab and no space; leave it out, and the first line tells")
    separator = separator or ("\t" if "\t" in first.text else " ")
    width = len(cells(first.text, separator))
    for column in (word, tag):
        if column is not None and not -width <= column < width:
            between = "tabs" if separator == "\t" else "spaces"
            raise UserError(
                f"{file}:{first.number}: there is no column {column}; this line has {width} between {between}, from 0"
            )
    layout = Layout(file, separator, None if tag is None else tag % width)
    return [
        _sentence(block, layout, word, (width, first.number), after if block is found[-1] else ("",)) for block in found
    ]


def _sentence(block: Block, layout: Layout, word: int, right: tuple[int, int], after: tuple[str, ...]) -> Sentence:
    words, tags = [], []
    for line in block.lines:
        row = cells(line.text, layout.separator)
        width, first = right
        if len(row) != width:
            raise UserError(
                f"{layout.file}:{line.number}: this line has {len(row)} columns where line {first} has {width}; "
                f"correct it, or leave a blank line where a sentence ends"
            )
        words.append(row[word])
        if layout.tag is not None:
            tags.append(row[layout.tag])
    return Sentence(tuple(words), tuple(tags), layout, block.before, block.lines, after)


def cells(text: str, separator: str) -> list[str]:
    """Returns the columns of a line."""
    return _parts(text, separator)[::2]


def _parts(text: str, separator: str) -> list[str]:
    """Returns the columns of a line, and between them what separates them."""
    return re.split(SEPARATORS[separator], text.strip(" ") if separator == " " else text)


def write_conll(path: str | Path, sentences: Sequence[Sentence], tags: Sequence[Sequence[str]]) -> Path:
    """Writes sentences of one file with other tags, column for column; where there were none, they come last.

    Returns the path, without .gz.
    """
    path, layout = Path(path).expanduser(), sentences[0].layout
    refuse_source(path, layout.file)
    return write_lines(path, _written(sentences, tags))


def _written(sentences: Sequence[Sentence], tags: Sequence[Sequence[str]]) -> Iterator[str]:
    for sentence, others in zip(sentences, tags, strict=True):
        yield from sentence.before
        separator, column = sentence.layout.separator, sentence.layout.tag
        for line, tag in zip(sentence.lines, others, strict=True):
            parts = _parts(line.text, separator)
            if column is None:
                parts += [separator, tag]
            else:
                parts[2 * column] = tag
            yield "".join(parts)
    yield from sentences[-1].after


def refuse_source(path: Path, source: Path) -> None:
    """Raises UserError where predictions would take the place of the examples themselves."""
    if os.path.realpath(path) == os.path.realpath(source):
        raise UserError(f"{path} holds the examples, and predictions would replace them; write to another file")
