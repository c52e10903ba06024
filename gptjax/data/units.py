"""Units of text turned into tokens, by one process or many. Knows no jax, so that workers start fast.

Units are cut by the text alone and come back in their order, so that the number of workers changes no result. The
process that asks reads the text and gets the tokens; no more than two units a worker are under way.
"""

import collections
import concurrent.futures
import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gptjax.data.shards import Tokens, token_dtype
from gptjax.data.text import Piece
from gptjax.data.tokenizer import Tokenizer, load_tokenizer
from gptjax.types import UserError

UNIT_CHARS = 1 << 20
"""Text that is handed out at a time, in characters (and a piece at most)."""


class Unit(NamedTuple):
    """Pieces of documents that are tokenised at a time."""

    texts: list[str]
    ends: list[bool]


def units(pieces: Iterable[Piece]) -> Iterator[Unit]:
    """Gathers pieces into units of about UNIT_CHARS."""
    unit, num_chars = Unit([], []), 0
    for text, ends in pieces:
        unit.texts.append(text)
        unit.ends.append(ends)
        num_chars += len(text)
        if num_chars >= UNIT_CHARS:
            yield unit
            unit, num_chars = Unit([], []), 0
    if unit.texts:
        yield unit


def tokenize(tokenizer: Tokenizer, unit: Unit) -> Tokens:
    """Turns a unit into tokens, with the end-of-text token (where there is one) behind each document."""
    eos = np.array([] if tokenizer.eos_id is None else [tokenizer.eos_id], np.int32)
    dtype = token_dtype(tokenizer.vocab_size)
    stretches = []
    for ids, ends in zip(tokenizer.encode_many(unit.texts), unit.ends, strict=True):
        stretches.append(np.concatenate([ids, eos]) if ends else ids)
    stops = np.cumsum([len(ids) for ids in stretches])[unit.ends]
    return Tokens(
        np.concatenate(stretches).astype(dtype),
        np.unique(stops[stops > 0]),
        {
            "documents": sum(unit.ends),
            "characters": sum(map(len, unit.texts)),
            "bytes": sum(len(text.encode()) for text in unit.texts),
        },
    )


@contextlib.contextmanager
def tokenized(
    folder: Path, tokenizer: Tokenizer, workers: int
) -> Iterator[Callable[[Iterable[Unit], int], Iterator[Tokens]]]:
    """Gives a function (units, first) that yields the tokens of the units from number `first` on, in order."""
    if workers < 2:
        yield lambda units, first: (tokenize(tokenizer, unit) for index, unit in enumerate(units) if index >= first)
        return
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(
        workers, context, initializer=_start_worker, initargs=(folder, context.Barrier(workers))
    )

    def tokens_of(units: Iterable[Unit], first: int) -> Iterator[Tokens]:
        waiting: collections.deque[concurrent.futures.Future] = collections.deque()
        for index, unit in enumerate(units):
            if index < first:
                continue
            if len(waiting) == 2 * workers:  # bounds the memory
                yield waiting.popleft().result()
            waiting.append(_submit(pool, unit))
        while waiting:
            yield waiting.popleft().result()

    try:
        with _without_interrupts():
            # Started together: a pool that starts a process while another one dies may fail in any way, or hang.
            started = [pool.submit(_nothing) for _ in range(workers)]
        concurrent.futures.wait(started)
        yield tokens_of
    except BrokenProcessPool:
        raise UserError(
            "a worker process was killed, perhaps for want of memory; run it again with fewer --workers"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Ctrl-C reaches every process of a terminal; workers that are started in here leave it to their parent."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _submit(pool: concurrent.futures.Executor, unit: Unit) -> concurrent.futures.Future:
    try:
        return pool.submit(_work, unit)
    except OSError as error:  # its pipes are closed, but it does not call itself broken yet
        raise BrokenProcessPool(str(error)) from error


_worker: dict[str, Tokenizer] = {}


def _start_worker(folder: Path, all_started: threading.Barrier) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    parent = multiprocessing.parent_process()
    assert parent is not None
    # An idle worker would outlive a parent that was killed.
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
    _worker["tokenizer"] = load_tokenizer(folder)
    all_started.wait()


def _nothing() -> None:
    """What a worker is given to be started."""


def _work(unit: Unit) -> Tokens:
    return tokenize(_worker["tokenizer"], unit)
