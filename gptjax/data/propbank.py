"""Files of semantic roles: a word a line, and for each predicate a column of brackets, (ARG0* and *), as in CoNLL-2005.

Columns between tabs: index, word, part of speech, lemma of a predicate or -, its roleset or -, then one column for each
predicate of the sentence, in their order. Lines that begin with # and blank lines part sentences.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gptjax.data.conll import Block, Span, blocks, refuse_source
from gptjax.data.lines import Line, write_lines
from gptjax.types import UserError

WORD, TAG, LEMMA, ROLESET, FIRST = 1, 2, 3, 4, 5
"""The columns; those of roles begin at FIRST."""
VERB = ("V", "C-V")
"""Labels of the predicate's own words, which are given, not predicted."""
_CELL = re.compile(r"((?:\([^()*\s]+)*)\*(\)*)")


@dataclass(frozen=True)
class Proposition:
    """A predicate of a sentence with its roles."""

    predicate: int
    """Which word it is, from 0."""
    lemma: str
    roleset: str
    roles: tuple[Span, ...]
    """In the order in which they begin; an outer one before those within it."""
    verb: tuple[Span, ...]
    """The predicate's own words: V, and C-V for those apart from it (give .. up)."""


@dataclass(frozen=True)
class Sentence:
    """Words with propositions, and the lines that they came from."""

    words: tuple[str, ...]
    tags: tuple[str, ...]
    """Parts of speech."""
    propositions: tuple[Proposition, ...]
    file: Path
    before: tuple[str, ...]
    lines: tuple[Line, ...]
    after: tuple[str, ...]

    def where(self, word: int = 0) -> str:
        """Returns FILE:LINE of a word, to begin a message with."""
        return f"{self.file}:{self.lines[word].number}"


def read_propbank(path: str | Path) -> list[Sentence]:
    """Reads the sentences of a file of roles, which may be packed as .gz; some have no predicate.

    Raises UserError with file, line and cure for a line with another number of columns than the sentence's predicates
    ask for, for a cell that is no bracket, and for brackets that do not close.
    """
    file = Path(path).expanduser()
    *found, last = blocks(file, lambda text: text.startswith("#"))
    if last.lines:
        return [_sentence(block, file, () if block is last else ("",)) for block in (*found, last)]
    return [_sentence(block, file, last.before if block is found[-1] else ("",)) for block in found]


def _sentence(block: Block, file: Path, after: tuple[str, ...]) -> Sentence:
    rows = [line.text.split("\t") for line in block.lines]
    wheres = [f"{file}:{line.number}" for line in block.lines]
    for row, where in zip(rows, wheres, strict=True):
        if len(row) < FIRST:
            raise UserError(
                f"{where}: this line has {len(row)} columns between tabs; index, word, part of speech, lemma and "
                f"roleset are {FIRST}, and roles follow"
            )
    predicates = [number for number, row in enumerate(rows) if row[ROLESET] != "-"]
    for row, where in zip(rows, wheres, strict=True):
        if len(row) != FIRST + len(predicates):
            raise UserError(
                f"{where}: this line has {len(row)} columns; with {len(predicates)} predicates in this sentence it "
                f"needs {FIRST + len(predicates)}"
            )
    propositions = []
    for column, predicate in enumerate(predicates, FIRST):
        spans = _spans([row[column] for row in rows], wheres)
        propositions.append(
            Proposition(
                predicate,
                rows[predicate][LEMMA],
                rows[predicate][ROLESET],
                tuple(span for span in spans if span.label not in VERB),
                tuple(span for span in spans if span.label in VERB),
            )
        )
    words, tags = (tuple(row[column] for row in rows) for column in (WORD, TAG))
    return Sentence(words, tags, tuple(propositions), file, block.before, block.lines, after)


def _spans(column: Sequence[str], wheres: Sequence[str]) -> list[Span]:
    """Reads a column of brackets."""
    spans: list[Span] = []
    opened: list[int] = []
    for number, (cell, where) in enumerate(zip(column, wheres, strict=True)):
        if cell == "*":  # nearly all are
            continue
        match = _CELL.fullmatch(cell)
        if not match:
            raise UserError(f"{where}: {cell!r} is no cell of roles; *, (ARG0*, *) and (ARG0*) are some")
        for label in match[1].split("(")[1:]:
            opened.append(len(spans))
            spans.append(Span(number, number, label))
        for _ in match[2]:
            if not opened:
                raise UserError(f"{where}: {cell!r} closes a bracket that nothing opens; correct the column")
            closed = opened.pop()
            spans[closed] = spans[closed]._replace(end=number + 1)
    if opened:
        span = spans[opened[-1]]
        raise UserError(f"{wheres[span.start]}: ({span.label}* is not closed until the sentence ends; add a )")
    return spans


def write_propbank(path: str | Path, sentences: Sequence[Sentence], roles: Sequence[Sequence[Sequence[Span]]]) -> Path:
    """Writes sentences of one file with other roles for each of their predicates, in the same columns.

    Words, predicates and their own brackets (V) stay. Spans may lie within each other and must not cross. Returns the
    path, without .gz.
    """
    path = Path(path).expanduser()
    refuse_source(path, sentences[0].file)
    return write_lines(path, _written(sentences, roles))


def _written(sentences: Sequence[Sentence], roles: Sequence[Sequence[Sequence[Span]]]) -> Iterator[str]:
    for sentence, others in zip(sentences, roles, strict=True):
        yield from sentence.before
        columns = [
            _cells([*_verb(proposition, spans), *spans], len(sentence.words))
            for proposition, spans in zip(sentence.propositions, others, strict=True)
        ]
        for number, line in enumerate(sentence.lines):
            yield "\t".join([*line.text.split("\t")[:FIRST], *(column[number] for column in columns)])
    yield from sentences[-1].after


def _verb(proposition: Proposition, roles: Sequence[Span]) -> list[Span]:
    """Returns the predicate's own spans; one that a role crosses gives way, and V itself shrinks to a word."""
    kept = [verb for verb in proposition.verb if not any(_cross(verb, role) for role in roles)]
    if len(kept) == len(proposition.verb):
        return kept
    word = Span(proposition.predicate, proposition.predicate + 1, "V")
    return kept if any(verb.label == "V" for verb in kept) else [word, *kept]


def _cross(one: Span, other: Span) -> bool:
    return one.start < other.start < one.end < other.end or other.start < one.start < other.end < one.end


def _cells(spans: Sequence[Span], num_words: int) -> list[str]:
    """Writes a column of brackets."""
    opening, closing = [""] * num_words, [0] * num_words
    for span in sorted(spans, key=lambda span: (span.start, -span.end)):
        opening[span.start] += f"({span.label}"
        closing[span.end - 1] += 1
    return [f"{opened}*{')' * closed}" for opened, closed in zip(opening, closing, strict=True)]
