"""Runs that several tests look at."""

import contextlib
import fcntl
import importlib
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gptjax import distributed, flags
from tests.integration.command_line import ROOT, SHORT, CommandLine


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    """A cache of prepared corpora and compiled programs, shared by the tests of a session."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def command_line(cache) -> CommandLine:
    """The command line of this checkout."""
    return CommandLine(cache)


@pytest.fixture
def entry_point(monkeypatch, capsys, cache) -> Callable[..., subprocess.CompletedProcess]:
    """Runs an entry point on one device within this process: most of the time of a mistake goes into starting another.

    Gives (module, *arguments) -> exit code and output; `command_line` is for all that starts to work.
    """
    monkeypatch.setattr(distributed, "start", lambda: 1)
    monkeypatch.setenv("GPTJAX_CACHE", str(cache))
    monkeypatch.chdir(ROOT)

    def run(module: str, *arguments: object) -> subprocess.CompletedProcess:
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        main = importlib.import_module(f"gptjax.{module}").main
        try:
            code = flags.exit_code(main, [str(argument) for argument in arguments])
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        return subprocess.CompletedProcess(arguments, code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def common(tmp_path_factory) -> Path:
    """A folder that all workers of a session have in common."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@contextlib.contextmanager
def making(path: Path) -> Iterator[bool]:
    """Says whether it is for this worker to make a path, for which the others wait."""
    done = path.with_suffix(".done")
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield not done.exists()
        done.touch()


@pytest.fixture(scope="session")
def text(common) -> Path:
    """A small text with some structure to learn."""
    path = common / "numbers.txt"
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    with making(path) as is_mine:
        if is_mine:
            path.write_text("".join(f"{i} is {' '.join(words[int(d)] for d in str(i))}.\n" for i in range(6000)))
    return path


@pytest.fixture(scope="session")
def finished(common, cache, text, tmp_path_factory) -> Path:
    """The workdir of an uninterrupted run of 40 steps: made once, copied for each worker, and so what it compiled."""
    made = common / "finished"
    with making(made) as is_mine:
        if is_mine:
            CommandLine(made / "cache").train(made / "run", f"--config.data.path={text}", *SHORT)
    shutil.copytree(made / "cache", cache, dirs_exist_ok=True)
    return shutil.copytree(made / "run", tmp_path_factory.mktemp("finished") / "run")
