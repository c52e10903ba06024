"""Says where a run is stuck: the stacks of all threads, when no step is done for long. Never ends a run."""

import contextlib
import faulthandler
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import jax


class Watchdog:
    """Watches the loop from a thread of its own while it is entered; a step tells it no more than that it is done."""

    def __init__(self, seconds: float | None, directory: Path, step: int):
        """Watches a loop that has done `step` steps; with None for `seconds` it sleeps."""
        self._seconds = seconds
        self._file = directory / f"stacks-{jax.process_index()}.txt"
        self._step = step
        self._since: float | None = None  # when that step was done; None while paused, and once the stacks are out
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def step(self, step: int) -> None:
        """Notes that a step is done."""
        self._step, self._since = step, time.monotonic()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Looks away while it is entered: an evaluation or a checkpoint takes the time that it takes."""
        self._since = None
        yield
        self._since = time.monotonic()

    def __enter__(self) -> "Watchdog":
        if self._seconds is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._seconds is not None:
            self._thread.join()

    def _watch(self) -> None:
        assert self._seconds is not None
        while not self._ended.wait(self._seconds / 8):
            since, step = self._since, self._step
            if since is not None and time.monotonic() - since > self._seconds:
                self._since = None  # once a step
                self._dump(step)

    def _dump(self, step: int) -> None:
        line = (
            f"warning: process {jax.process_index()} has done no step for {self._seconds:g} s, since step {step}; "
            f"the stacks of its threads (kept in {self._file}; where processes wait for one that waits for none, "
            f"look at that one):"
        )
        self._write(sys.stderr, line)
        with open(self._file, "a", encoding="utf-8") as file:
            self._write(file, line)

    @staticmethod
    def _write(stream: TextIO, line: str) -> None:
        print(line, file=stream, flush=True)
        faulthandler.dump_traceback(stream)
