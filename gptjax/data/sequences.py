"""The rows that batches are made of, by number: windows of a token stream, or labelled examples packed side by side.

NumPy alone; knows no devices, no order and no task.

Shapes: B batch, R rows asked for, T position.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from gptjax.data.packing import PACKINGS, num_windows
from gptjax.data.shards import TokenStream
from gptjax.data.sources import Corpus
from gptjax.types import Batch, UserError

LabelArrays = Mapping[str, tuple[tuple[int, ...], str]]
"""What `Batch.labels` holds of each position: by name, further dims and the dtype."""


class Rows(Protocol):
    """Random access to rows of one length, all with the same arrays in `labels`."""

    @property
    def label(self) -> str:
        """What messages call them."""
        ...

    @property
    def weight(self) -> float:
        """How often they are taken, beside others."""
        ...

    def __len__(self) -> int: ...

    def read(self, numbers_R: np.ndarray) -> Batch:
        """Returns rows by number; one from len on is padding."""
        ...


@dataclasses.dataclass(frozen=True)
class Windows:
    """A part of a token stream, cut into windows one after the other."""

    label: str
    weight: float
    stream: TokenStream
    start: int
    count: int
    seq_len: int
    packing: str

    def __len__(self) -> int:
        return self.count

    def read(self, numbers_R: np.ndarray) -> Batch:
        """Cuts the windows as data.packing says."""
        starts_R = np.where(numbers_R < self.count, self.start + numbers_R * self.seq_len, len(self.stream))
        return PACKINGS[self.packing](self.stream, starts_R.tolist(), self.seq_len)


def training_windows(corpus: Corpus, packing: str, seq_len: int) -> list[Windows]:
    """Returns the whole windows of each text of a corpus; raises UserError where a text holds none."""
    stream = corpus.split("train")
    found = []
    for label, weight, (start, stop) in zip(corpus.labels, corpus.weights, stream.parts, strict=True):
        count = num_windows(stop - start, seq_len)
        if count == 0:
            raise UserError(
                f"{label} holds {stop - start:,} training tokens, too few for one sequence of model.seq_len={seq_len} "
                f"and its last target; lower model.seq_len or add text"
            )
        found.append(Windows(label, weight, stream, start, count, seq_len, packing))
    return found


def validation_windows(corpus: Corpus, packing: str, seq_len: int, limit: int | None = None) -> Windows:
    """Returns the validation split: every token but the first is a target once (but at borders of documents).

    The last window is padded. `limit` takes only the first so many windows.
    """
    stream = corpus.split("valid")
    if len(stream) < 2:
        raise UserError(
            f"{stream.label} holds {len(stream)} validation tokens, and one has to predict another; add text"
        )
    count = num_windows(len(stream), seq_len, partial=True)
    return Windows(stream.label, 1.0, stream, 0, min(count, limit or count), seq_len, packing)


class Segment(NamedTuple):
    """An example as it stands in a row; all arrays have its length."""

    tokens_T: np.ndarray
    targets_T: np.ndarray
    loss_mask_T: np.ndarray
    labels: Mapping[str, np.ndarray] = {}


class Place(NamedTuple):
    """Where a segment stands."""

    row: int
    start: int
    stop: int


class Packed:
    """Segments side by side in rows: each is seen by itself alone, and the next opens a row where it does not fit."""

    def __init__(
        self,
        label: str,
        weight: float,
        segments: Sequence[Segment],
        seq_len: int,
        label_arrays: LabelArrays,
        together: int = 1,
    ):
        """Takes segments of at most seq_len tokens; of every `together` of them none is parted from the others."""
        self.label, self.weight = label, weight
        self.segments, self._seq_len, self._label_arrays = segments, seq_len, label_arrays
        self._together = together
        self.places: list[Place] = []
        """Where each segment stands."""
        self._first = [0]  # of each row, the segment that it starts with
        row, start = 0, 0
        for number in range(0, len(segments), together):
            lengths = [len(segment.tokens_T) for segment in segments[number : number + together]]
            assert 0 < min(lengths) <= sum(lengths) <= seq_len, (label, lengths)
            if start + sum(lengths) > seq_len:
                row, start = row + 1, 0
                self._first.append(number)
            for length in lengths:
                self.places.append(Place(row, start, start + length))
                start += length
        self._first.append(len(segments))

    def __len__(self) -> int:
        return len(self._first) - 1

    def labelled(self, name: str, arrays: Sequence[np.ndarray]) -> "Packed":
        """Returns the same rows with other labels of a name, an array a segment."""
        segments = [s._replace(labels={**s.labels, name: x}) for s, x in zip(self.segments, arrays, strict=True)]
        return Packed(self.label, self.weight, segments, self._seq_len, self._label_arrays, self._together)

    def read(self, numbers_R: np.ndarray) -> Batch:
        """Copies the segments into rows of zeros."""
        shape = (len(numbers_R), self._seq_len)
        tokens_BT, targets_BT, segment_ids_BT, positions_BT = (np.zeros(shape, np.int32) for _ in range(4))
        loss_mask_BT = np.zeros(shape, np.float32)
        labels = {name: np.zeros((*shape, *dims), dtype) for name, (dims, dtype) in self._label_arrays.items()}
        for r, number in enumerate(numbers_R.tolist()):
            if number >= len(self):
                continue
            for k in range(self._first[number], self._first[number + 1]):
                segment, (_, start, stop) = self.segments[k], self.places[k]
                tokens_BT[r, start:stop] = segment.tokens_T
                targets_BT[r, start:stop] = segment.targets_T
                loss_mask_BT[r, start:stop] = segment.loss_mask_T
                segment_ids_BT[r, start:stop] = k - self._first[number] + 1
                positions_BT[r, start:stop] = np.arange(stop - start)
                for name, array in labels.items():
                    array[r, start:stop] = segment.labels[name]
        return Batch(tokens_BT, targets_BT, loss_mask_BT, segment_ids_BT, positions_BT, labels)


@dataclasses.dataclass(frozen=True)
class OfTask:
    """Rows of one task among several: they say so at each position, and have the arrays of the others too."""

    rows: Rows
    number: int
    weight: float
    label_arrays: LabelArrays

    @property
    def label(self) -> str:
        """What messages call them."""
        return self.rows.label

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, numbers_R: np.ndarray) -> Batch:
        """Adds `task`, this one's number, and zeros for what the others have."""
        batch = self.rows.read(numbers_R)
        shape = batch.tokens_BT.shape
        others = {name: np.zeros((*shape, *dims), dtype) for name, (dims, dtype) in self.label_arrays.items()}
        return batch._replace(labels={**others, **batch.labels, "task": np.full(shape, self.number, np.int32)})


def scored_windows(tokens: Sequence[int], start: int, seq_len: int) -> Iterator[tuple[Sequence[int], int]]:
    """Cuts a row into windows of at most seq_len + 1 tokens, each with the number of tokens at its end that it scores.

    Every token from `start` on is scored once; a window begins as early as it can.
    """
    assert start >= 1, "the first token has nothing that it could follow from"
    for at in range(start, len(tokens), seq_len):
        end = min(at + seq_len, len(tokens))
        yield tokens[max(0, end - seq_len - 1) : end], end - at
