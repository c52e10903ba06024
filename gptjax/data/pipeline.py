"""Batches of global arrays from token streams, read ahead in threads. Knows devices and order; cuts no rows itself.

The sequence at place i is a pure function of the seed and i, and row r of the batch at cursor c is sequence c + r on
any fleet: a process reads just the rows that its devices hold, and the cursor, one integer, is all the state there is,
from which the size of the batch follows too.
"""

import sys
from collections.abc import Callable, Iterator

import grain
import jax
import numpy as np
from jax.sharding import NamedSharding

from gptjax.data import packing
from gptjax.data.config import DataConfig
from gptjax.data.mixture import order
from gptjax.data.shards import TokenStream
from gptjax.data.sources import Corpus
from gptjax.sharding import local_rows
from gptjax.types import Batch, UserError


class Batches(Iterator[Batch]):
    """Batches from a cursor on; `close()` stops the threads that read ahead."""

    def __init__(self, cfg: DataConfig, read: Callable[[int], Batch], cursor: int, num_batches: int):
        """`read` makes the batch of a number, counted from the cursor; several threads call it at once."""
        source = _Source(read, num_batches)
        options = grain.ReadOptions(cfg.num_threads, max(cfg.prefetch, cfg.num_threads) if cfg.num_threads else 0)
        self._iterator = iter(grain.MapDataset.source(source).to_iter_dataset(options))
        self.cursor = cursor
        """Place of the next batch's first sequence."""

    def __next__(self) -> Batch:
        batch = next(self._iterator)
        self.cursor += batch.tokens_BT.shape[0]
        return batch

    def close(self) -> None:
        """Stops reading ahead."""
        self._iterator.close()


class _Source:
    """A sequence, as grain wants it, of what a function returns."""

    def __init__(self, get: Callable[[int], Batch], length: int):
        self._get, self._length = get, length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Batch:
        return self._get(index)


def num_sequences(corpus: Corpus, seq_len: int) -> list[int]:
    """Returns how many sequences each text of a corpus holds; raises UserError where one holds none."""
    stream = corpus.split("train")
    counts = [packing.num_windows(stop - start, seq_len) for start, stop in stream.parts]
    for part, (start, stop), count in zip(corpus.labels, stream.parts, counts, strict=True):
        if count == 0:
            raise UserError(
                f"{part} holds {stop - start:,} training tokens, too few for one sequence of model.seq_len={seq_len} "
                f"and its last target; lower model.seq_len or add text"
            )
    return counts


def train_batches(
    cfg: DataConfig, corpus: Corpus, seq_len: int, seed: int, sharding: NamedSharding, cursor: int
) -> Batches:
    """Returns the endless batches of the training split from a cursor (in sequences) on.

    Raises UserError where a text of the corpus holds no whole sequence.
    """
    stream = corpus.split("train")
    counts = num_sequences(corpus, seq_len)
    places = order(counts, corpus.weights, seed)
    firsts = np.cumsum([0, *counts])
    offsets = np.array([start for start, _ in stream.parts])
    rows = {size: local_rows(sharding, (size, seq_len)) for size in cfg.batch_sizes}

    def read(index: int) -> Batch:
        first, size = cfg.batch_at(cursor, index)
        numbers = np.array([places[first + int(row)] for row in rows[size]])
        part = np.searchsorted(firsts, numbers, side="right") - 1
        starts = offsets[part] + (numbers - firsts[part]) * seq_len
        local = packing.PACKINGS[cfg.packing](stream, starts.tolist(), seq_len)
        return _to_global(local, rows[size], size, sharding)

    return Batches(cfg, read, cursor, sys.maxsize // cfg.batch_size)


def evaluation_batches(
    cfg: DataConfig,
    stream: TokenStream,
    seq_len: int,
    batch_size: int,
    sharding: NamedSharding,
    num_windows: int | None = None,
) -> Batches:
    """Returns a split in order, once: every token but the first is a target once (but at borders of documents).

    The last window and the last batch are padded. `num_windows` takes only the first so many windows.
    """
    if len(stream) < 2:
        raise UserError(
            f"{stream.label} holds {len(stream)} validation tokens, and one has to predict another; add text"
        )
    count = packing.num_windows(len(stream), seq_len, partial=True)
    count = min(count, num_windows or count)
    rows = local_rows(sharding, (batch_size, seq_len))

    def read(index: int) -> Batch:
        places = (index * batch_size + row for row in rows.tolist())
        starts = [place * seq_len if place < count else len(stream) for place in places]
        local = packing.PACKINGS[cfg.packing](stream, starts, seq_len)
        return _to_global(local, rows, batch_size, sharding)

    return Batches(cfg, read, 0, -(-count // batch_size))


def _to_global(local: Batch, rows: np.ndarray, batch_size: int, sharding: NamedSharding) -> Batch:
    """Makes one global array of the rows that each process has read."""

    def one(x_BT: np.ndarray) -> jax.Array:
        shape = (batch_size, *x_BT.shape[1:])

        def part(index: tuple[slice, ...]) -> np.ndarray:
            start, stop, _ = index[0].indices(batch_size)
            low = int(np.searchsorted(rows, start))
            return x_BT[(slice(low, low + stop - start), *index[1:])]

        return jax.make_array_from_callback(shape, sharding, part, dtype=x_BT.dtype)

    return Batch(*map(one, local[:5]), labels={})
