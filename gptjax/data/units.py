"""Units of text turned into tokens, by one process or many. Knows no jax, so that workers start fast.

Units are cut by the text alone and come back in their order, so that the number of workers changes no result. The
process that asks reads the text and gets the tokens; no more than one unit a worker is under way.
"""

import collections
import contextlib
import itertools
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
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
    """Which of them end their document."""
    continues: bool = False
    """Whether the first goes on with a document that began in the unit before."""


def units(pieces: Iterable[Piece]) -> Iterator[Unit]:
    """Gathers pieces into units of about UNIT_CHARS."""
    unit, num_chars = Unit([], []), 0
    for text, ends in pieces:
        unit.texts.append(text)
        unit.ends.append(ends)
        num_chars += len(text)
        if num_chars >= UNIT_CHARS:
            yield unit
            unit, num_chars = Unit([], [], continues=not ends), 0
    if unit.texts:
        yield unit


def tokenize(tokenizer: Tokenizer, unit: Unit) -> Tokens:
    """Turns a unit into tokens, with those that begin and end a text (where there are any) around each document.

    Where both are the same token, one stands between two documents.
    """
    eos = np.array([] if tokenizer.eos_id is None else [tokenizer.eos_id], np.int32)
    bos = np.array([] if tokenizer.bos_id in (None, tokenizer.eos_id) else [tokenizer.bos_id], np.int32)
    dtype = token_dtype(tokenizer.vocab_size)
    stretches = []
    starts = [not unit.continues, *unit.ends]
    for text, ids, start, end in zip(unit.texts, tokenizer.encode_many(unit.texts), starts, unit.ends, strict=False):
        if not start and tokenizer.prefix:
            ids = tokenizer.encode(text, continued=True)
        stretches.append(np.concatenate([*([bos] if start else []), ids, *([eos] if end else [])]))
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
        yield lambda units, first: (tokenize(tokenizer, unit) for unit in itertools.islice(units, first, None))
        return
    with contextlib.ExitStack() as stack:
        with _without_interrupts():
            team = [stack.enter_context(contextlib.closing(_Worker(folder))) for _ in range(workers)]
        yield lambda units, first: _in_turn(team, itertools.islice(units, first, None))


class _Worker:
    """A process that tokenises one unit at a time; Python's own pools hang where a process of theirs is killed."""

    def __init__(self, folder: Path):
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(folder, theirs), daemon=True)
        self._process.start()
        theirs.close()  # the pipe is to end with the process

    def hand(self, unit: Unit) -> None:
        """Gives the worker a unit; the tokens of the one before have to be taken first."""
        with self._told():
            self._pipe.send(unit)

    def take(self) -> Tokens:
        """Waits for the tokens of its unit; raises the UserError that the worker met."""
        with self._told():
            tokens = self._pipe.recv()
        if isinstance(tokens, UserError):
            raise tokens
        return tokens

    def close(self) -> None:
        """Ends the process, whatever it is doing."""
        self._process.kill()
        self._process.join()
        self._pipe.close()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, ConnectionError):
            raise UserError(
                "a worker process was killed, perhaps for want of memory; run it again with fewer --workers"
            ) from None


def _in_turn(team: Sequence[_Worker], units: Iterable[Unit]) -> Iterator[Tokens]:
    """Hands units out to each worker in turn; a worker has its next unit before the tokens of its last are used."""
    idle, busy = collections.deque(team), collections.deque[_Worker]()
    for unit in units:
        if idle:
            busy.append(idle.popleft())
            busy[-1].hand(unit)
            continue
        worker = busy.popleft()
        tokens = worker.take()
        worker.hand(unit)
        busy.append(worker)
        yield tokens
    yield from (worker.take() for worker in busy)


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Ctrl-C reaches every process of a terminal; workers that are started in here leave it to their parent."""
    resource_tracker.ensure_running()  # started with the first worker, it would let interrupts through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(folder: Path, pipe: Connection) -> None:
    """What a worker does, until the other end of the pipe is closed or gone."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    with contextlib.suppress(EOFError, ConnectionError):
        tokenizer = load_tokenizer(folder)
        while True:
            unit = pipe.recv()
            try:
                tokens = tokenize(tokenizer, unit)
            except UserError as error:
                tokens = error
            pipe.send(tokens)
