"""Runs the runs of a sweep in processes of this machine, some at a time, and ends them with itself."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from gptjax.sweep.hparams import write_hparams
from gptjax.sweep.progress import Board, Line
from gptjax.sweep.results import OUTCOME, how, is_done, write_outcome
from gptjax.sweep.runs import Run
from gptjax.train.progress import duration
from gptjax.train.signals import StopRequest
from gptjax.train.workdir import Workdir, writing

STDOUT, STDERR = "stdout.txt", "stderr.txt"
_POLL_SECONDS = 0.1
_SHOW_SECONDS = 1.0
# It leads the workers' process group and ends the group when its standard input closes, which the kernel sees to
# however this process ends; so does launch/local.py.
_GUARD = f"import os, sys; sys.stdin.read(); os.killpg(0, {signal.SIGKILL:d})"


class Worker:
    """A run that has a process; what it says goes to files in its folder."""

    def __init__(self, run: Run, group: int):
        self.run = run
        self._started = time.monotonic()
        with writing(run.workdir):
            run.workdir.mkdir(parents=True, exist_ok=True)
            (run.workdir / OUTCOME).unlink(missing_ok=True)
            with open(run.workdir / STDOUT, "wb") as out, open(run.workdir / STDERR, "wb") as err:
                self.process = subprocess.Popen(
                    [sys.executable, "-m", "gptjax.main", *run.flags],
                    process_group=group,  # not the terminal's: its Ctrl-C would reach it twice
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                )

    @property
    def seconds(self) -> float:
        """Time since it was started."""
        return time.monotonic() - self._started

    @property
    def last_words(self) -> str:
        """The end of standard error, from the last line that is not indented on: an error and its details."""
        lines = [line for line in _tail(self.run.workdir / STDERR).split("\n") if line.strip()]
        first = max((i for i, line in enumerate(lines) if not line[0].isspace()), default=0)
        return " ".join(line.strip() for line in lines[first:]) or "it said nothing"

    @property
    def line(self) -> Line:
        """How far the run is, by the last whole row that it wrote."""
        step, loss = 0, None
        for text in _tail(Workdir(self.run.workdir).metrics).split("\n")[-8:-1]:
            with contextlib.suppress(ValueError, KeyError, TypeError):  # the first may be the end of a row
                row = json.loads(text)
                step, loss = row["step"], row["loss"]
        return Line(self.run.name, step, self.run.cfg.optim.num_steps, loss, self.seconds)


class Execution:
    """Runs that wait, work, and have ended well or not."""

    def __init__(self, runs: Sequence[Run], parallel: int, board: Board):
        self._num_runs = len(runs)
        self._waiting = [run for run in runs if not is_done(run)]
        self._working: list[Worker] = []
        self._failed: list[Run] = []
        self._num_done = len(runs) - len(self._waiting)
        self._parallel = parallel
        self._board = board
        self._shown = 0.0

    def run(self) -> int:
        """Runs what is not done and returns 0, 1 where runs failed, or 130 or 143 after a signal.

        A signal is passed on once; the workers save, and the same command goes on. A second one ends all at once.
        """
        if self._num_done:
            self._board.say(f"{self._num_done} of {self._num_runs} runs are done already")
        with StopRequest() as stop, _process_group() as group, self._board.live():
            told = False
            while self._working or (self._waiting and not stop.requested):
                if stop.signal_number is None:
                    self._start(group)
                elif not told:
                    self._pass_on(stop.signal_number)
                    told = True
                for worker in [worker for worker in self._working if worker.process.poll() is not None]:
                    self._end(worker, stop.signal_number)
                self._show()
                time.sleep(_POLL_SECONDS)
        if self._failed:
            self._board.say(f"{len(self._failed)} of {self._num_runs} runs failed; what each said is in {STDERR} in")
            for run in self._failed:
                self._board.say(f"  {run.workdir}")
        if stop.requested:
            left = len(self._waiting)
            self._board.say(f"stopped with {left} of {self._num_runs} runs to do; run the same command to go on")
            return stop.exit_code
        return 1 if self._failed else 0

    def _start(self, group: int) -> None:
        while self._waiting and len(self._working) < self._parallel:
            run = self._waiting.pop(0)
            self._board.say(f"start     {run.name}")
            write_hparams(run)
            self._working.append(Worker(run, group))

    def _pass_on(self, number: int) -> None:
        self._board.say(f"stopping: {len(self._working)} runs save and end")
        for worker in self._working:
            worker.process.send_signal(number)

    def _end(self, worker: Worker, passed_on: int | None) -> None:
        self._working.remove(worker)
        code, run, took = worker.process.returncode, worker.run, duration(worker.seconds)
        if code == 0:
            self._num_done += 1
            self._board.say(f"done      {run.name}  {took}  ({self._num_done} of {self._num_runs})")
        elif passed_on is not None and code in (128 + passed_on, -passed_on):
            self._waiting.append(run)
            self._board.say(f"stopped   {run.name}  {took}")
        else:
            self._failed.append(run)
            write_outcome(run, code, worker.last_words)
            self._board.say(f"FAILED    {run.name}  {took}  {how(code)}: {worker.last_words}")

    def _show(self) -> None:
        if self._working and self._board.is_live and time.monotonic() - self._shown > _SHOW_SECONDS:
            self._shown = time.monotonic()
            done = f"{self._num_done} of {self._num_runs} done"
            rest = f"{done}, {len(self._failed)} failed, {len(self._waiting)} waiting"
            self._board.update([worker.line for worker in self._working], rest)


@contextlib.contextmanager
def _process_group() -> Iterator[int]:
    guard = subprocess.Popen([sys.executable, "-c", _GUARD], stdin=subprocess.PIPE, process_group=0)
    try:
        yield guard.pid
    finally:
        guard.communicate()  # closes its input: what the workers have left behind ends here


def _tail(path: Path, size: int = 8192) -> str:
    if not path.exists():
        return ""
    with open(path, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - size))
        return file.read().decode(errors="replace")
