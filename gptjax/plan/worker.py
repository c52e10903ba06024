"""Forecasts made in a process of its own, which a compiler that crashes may take with it. Prints nothing."""

import contextlib
import multiprocessing
import os
import tempfile
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from gptjax.config import ExperimentConfig
from gptjax.plan.forecast import Forecast, forecast
from gptjax.plan.topology import open_fleet, start_no_chip
from gptjax.types import UserError


class CompilerCrashError(Exception):
    """The process in which the compiler ran has ended; the message is the last thing that it said."""


class Worker:
    """Makes one forecast after another for a fleet, in a process that is started anew where it died."""

    def __init__(self, topology: str, slices: int, source: str):
        self._fleet = topology, slices, source
        self._folder = tempfile.TemporaryDirectory()
        self._log = Path(self._folder.name) / "log"
        self._log.touch()  # a process may die before it says anything
        self._process: BaseProcess | None = None

    def forecast(self, cfg: ExperimentConfig) -> Forecast:
        """Returns what `gptjax.plan.forecast` does; raises UserError as that does, and CompilerCrashError."""
        if self._process is None:
            self._process = self._start()
        try:
            self._pipe.send(cfg)
            answer = self._pipe.recv()
        except (EOFError, ConnectionError):
            self.close()
            raise CompilerCrashError(_last_words(self._log)) from None
        if isinstance(answer, UserError):
            raise answer
        return answer

    def close(self) -> None:
        """Ends the process, whatever it is doing."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
            self._process = None

    def _start(self) -> BaseProcess:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, self._log, *self._fleet), daemon=True)
        process.start()
        theirs.close()  # the pipe is to end with the process
        return process


def _last_words(log: Path) -> str:
    """Returns what a compiler that crashed said of it, or the last line there is."""
    lines = log.read_text(errors="replace").splitlines() or ["it was killed, perhaps for want of memory"]
    return next((line for line in lines if "Check failed" in line), lines[-1])[:200]


def _serve(pipe: Connection, log: Path, topology: str, slices: int, source: str) -> None:
    """What the process does, until the other end of the pipe is closed or gone."""
    os.dup2(os.open(log, os.O_WRONLY | os.O_TRUNC), 2)  # crashes fill several screens
    with contextlib.suppress(EOFError, ConnectionError):
        start_no_chip()
        fleet = open_fleet(topology, slices)
        while True:
            cfg = pipe.recv()
            try:
                answer = forecast(cfg, fleet, source)
            except UserError as error:
                answer = error
            pipe.send(answer)
