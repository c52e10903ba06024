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
from gptjax.sweep.results import OUTCOME, is_done, write_outcome
from gptjax.sweep.runs import Run
from gptjax.train.progress import duration
from gptjax.train.signals import StopRequest
from gptjax.train.workdir import Workdir, writing

STDOUT, STDERR = "stdout.txt", "stderr.txt"
_POLL_SECONDS = 0.1
_UPDATE_SECONDS = 1.0
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
            with contextlib.suppress(ValueError):  # the first may be the end of a row
                row = json.loads(text)
                step, loss = row["step"], row["loss"]
        return Line(self.run.name, step, self.run.cfg.optim.num_steps, loss, self.seconds)


def execute(runs: Sequence[Run], parallel: int, board: Board) -> int:
    """Runs what is not done, `parallel` at a time, and returns 0, 1 where runs failed, or 130 or 143 after a signal.

    A signal is passed on once; the workers save, and the same command goes on. A second one ends all at once.
    """
    waiting = [run for run in runs if not is_done(run)]
    if done := len(runs) - len(waiting):
        board.say(f"{done} of {len(runs)} runs are done already")
    failed: list[Run] = []
    working: list[Worker] = []
    told, updated = False, 0.0
    with StopRequest() as stop, _process_group() as group, board.live():
        while working or (waiting and not stop.requested):
            while waiting and len(working) < parallel and not stop.requested:
                run = waiting.pop(0)
                board.say(f"start     {run.name}")
                write_hparams(run)
                working.append(Worker(run, group))
            if stop.signal_number is not None and not told:
                board.say(f"stopping: {len(working)} runs save and end")
                for worker in working:
                    worker.process.send_signal(stop.signal_number)
                told = True
            for worker in [worker for worker in working if worker.process.poll() is not None]:
                working.remove(worker)
                code = worker.process.returncode
                took = duration(worker.seconds)
                if code == 0:
                    done += 1
                    board.say(f"done      {worker.run.name}  {took}  ({done} of {len(runs)})")
                elif stop.requested:
                    waiting.append(worker.run)
                    board.say(f"stopped   {worker.run.name}  {took}")
                else:
                    failed.append(worker.run)
                    write_outcome(worker.run, code, worker.last_words)
                    how = f"exit code {code}" if code > 0 else f"died of signal {-code}"
                    board.say(f"FAILED    {worker.run.name}  {took}  {how}: {worker.last_words}")
            if working and board.is_live and time.monotonic() - updated > _UPDATE_SECONDS:
                updated = time.monotonic()
                rest = f"{done} of {len(runs)} done, {len(failed)} failed, {len(waiting)} waiting"
                board.update([worker.line for worker in working], rest)
            time.sleep(_POLL_SECONDS)
    if failed:
        board.say(f"{len(failed)} of {len(runs)} runs failed; all that each said is in its folder, in {STDERR}:")
        for run in failed:
            board.say(f"  {run.workdir}")
    if stop.requested:
        board.say(f"stopped with {len(waiting)} of {len(runs)} runs to do; run the same command to go on")
        return stop.exit_code
    return 1 if failed else 0


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
