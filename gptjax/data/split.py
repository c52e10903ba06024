"""Which text trains and which validates: whole files where there are several, characters where there is one."""

import concurrent.futures
import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from gptjax.data.text import PACKED, Piece, Tally, is_rows, pieces, reading

SPLITS = ("train", "valid")


def split_files(files: Sequence[Path], valid_fraction: float) -> dict[str, list[Path]]:
    """Deals several files out, by the SHA-256 of each one's path relative to the root that they share.

    A file validates where its hash, read as a fraction of 1, is less than `valid_fraction`; each side gets at least
    one. Both lists are sorted by that path, so that neither depends on where the files lie.
    """
    assert len(files) > 1
    root = os.path.commonpath([file.parent for file in files])
    names = {file: file.relative_to(root).as_posix() for file in files}
    fractions = {file: _fraction(name) for file, name in names.items()}
    valid = {file for file in files if fractions[file] < valid_fraction}
    valid = valid or {min(files, key=lambda file: fractions[file])}
    if len(valid) == len(files):
        valid -= {max(files, key=lambda file: fractions[file])}
    ordered = sorted(files, key=lambda file: names[file])
    return {"train": [file for file in ordered if file not in valid], "valid": [f for f in ordered if f in valid]}


def _fraction(name: str) -> float:
    return int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:8], "big") / 2**64


@dataclasses.dataclass(frozen=True)
class Text:
    """Files of text and how they are split."""

    label: str
    """What messages call it: a path as the user wrote it, or the name of a source."""
    files: Sequence[Path]
    """Absolute paths, at least one."""
    valid_fraction: float
    """Part that validates: of one file's characters, or of several files."""
    field: str = "text"
    """Where the text stands in a row of .jsonl or .parquet."""
    weight: float = 1.0
    """Its share in a mixture, relative to the other weights."""

    @functools.cached_property
    def size_on_disk(self) -> int:
        """Bytes of all files."""
        with reading(self.label):
            return sum(file.stat().st_size for file in self.files)

    @property
    def is_packed(self) -> bool:
        """Whether the text is larger than its files."""
        return any(file.suffix in PACKED for file in self.files)

    @functools.cached_property
    def splits(self) -> dict[str, list[Path]]:
        """The files of each split; one file is in both."""
        if len(self.files) == 1:
            return {split: list(self.files) for split in SPLITS}
        return split_files(self.files, self.valid_fraction)

    @functools.cached_property
    def num_train_chars(self) -> int:
        """Where a single file is cut, in characters from its start; reads the whole file, once."""
        num_chars = sum(len(piece.text) for piece in pieces(self.files[0], self.field, Tally()))
        return int(num_chars * (1 - self.valid_fraction))

    @functools.cached_property
    def identity(self) -> str:
        """SHA-256 of content and split, whatever the files are called and wherever they lie."""
        with concurrent.futures.ThreadPoolExecutor() as threads:
            digests = dict(zip(self.files, threads.map(_digest, self.files), strict=True))
        content = {split: [digests[file] for file in files] for split, files in self.splits.items()}
        cut = self.valid_fraction if len(self.files) == 1 else None
        rows = self.field if any(map(is_rows, self.files)) else None
        return hashlib.sha256(json.dumps([content, cut, rows]).encode()).hexdigest()

    def pieces(self, split: str, tally: Tally) -> Iterator[Piece]:
        """Yields the documents of a split, in pieces; a document that a single file is cut in becomes two."""
        if len(self.files) > 1:
            for file in self.splits[split]:
                yield from pieces(file, self.field, tally)
            return
        start, stop = (0, self.num_train_chars) if split == "train" else (self.num_train_chars, None)
        yield from _clip(pieces(self.files[0], self.field, tally), start, stop)

    def texts(self, *splits: str) -> Iterator[str]:
        """Yields the pieces' texts, as a tokenizer is trained on them."""
        for split in splits:
            yield from (piece.text for piece in self.pieces(split, Tally()))


def _clip(stream: Iterator[Piece], start: int, stop: int | None) -> Iterator[Piece]:
    """Yields what lies between two positions, counted in characters."""
    position = 0
    for text, ends in stream:
        low, high = max(start - position, 0), len(text) if stop is None else min(stop - position, len(text))
        position += len(text)
        if low < high:
            yield Piece(text[low:high], ends or position - len(text) + high == stop)
        if stop is not None and position >= stop:
            return


def _digest(file: Path) -> str:
    with reading(file), open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
