"""Batches of global arrays from numbered rows, read ahead in threads. Knows devices and order; cuts no rows itself.

The sequence at place i is a pure function of the seed and i, and row r of the batch at cursor c is sequence c + r on
any fleet: a process reads just the rows that its devices hold, and the cursor, one integer, is all the state there is,
from which the size of the batch follows too.
"""

import sys
from collections.abc import Callable, Iterator, Sequence

import grain
import jax
import numpy as np
from jax.sharding import NamedSharding

from gptjax.data.config import DataConfig
from gptjax.data.mixture import order
from gptjax.data.sequences import Rows
from gptjax.sharding import local_rows
from gptjax.types import Batch


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


def train_batches(
    cfg: DataConfig, sources: Sequence[Rows], seq_len: int, seed: int, sharding: NamedSharding, cursor: int
) -> Batches:
    """Returns the endless batches of some rows, mixed by weight, from a cursor (in sequences) on."""
    counts = [len(source) for source in sources]
    places = order(counts, [source.weight for source in sources], seed)
    firsts = np.cumsum([0, *counts])
    rows = {size: local_rows(sharding, (size, seq_len)) for size in cfg.batch_sizes}

    def read(index: int) -> Batch:
        first, size = cfg.batch_at(cursor, index)
        numbers_R = np.array([places[first + int(row)] for row in rows[size]])
        source_R = np.searchsorted(firsts, numbers_R, side="right") - 1
        found = np.unique(source_R)
        parts = [sources[s].read(numbers_R[source_R == s] - firsts[s]) for s in found]
        local = parts[0]
        if len(parts) > 1:
            back_R = np.argsort(np.argsort(source_R, kind="stable"), kind="stable")
            local = jax.tree.map(lambda *xs: np.concatenate(xs)[back_R], *parts)
        return _to_global(local, rows[size], size, sharding)

    return Batches(cfg, read, cursor, sys.maxsize // cfg.batch_size)


def evaluation_batches(
    cfg: DataConfig, source: Rows, seq_len: int, batch_size: int, sharding: NamedSharding
) -> Batches:
    """Returns rows in order, once; the last batch is padded."""
    rows = local_rows(sharding, (batch_size, seq_len))

    def read(index: int) -> Batch:
        return _to_global(source.read(index * batch_size + rows), rows, batch_size, sharding)

    return Batches(cfg, read, 0, -(-len(source) // batch_size))


def _to_global(local: Batch, rows: np.ndarray, batch_size: int, sharding: NamedSharding) -> Batch:
    """Makes one global array of the rows that each process has read."""

    def one(x_BT: np.ndarray) -> jax.Array:
        shape = (batch_size, *x_BT.shape[1:])

        def part(index: tuple[slice, ...]) -> np.ndarray:
            start, stop, _ = index[0].indices(batch_size)
            low = int(np.searchsorted(rows, start))
            return x_BT[(slice(low, low + stop - start), *index[1:])]

        return jax.make_array_from_callback(shape, sharding, part, dtype=x_BT.dtype)

    return jax.tree.map(one, local)
