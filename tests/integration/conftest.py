"""Runs that several tests look at."""

import importlib
import signal
import subprocess
from collections.abc import Callable
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
def text(tmp_path_factory) -> Path:
    """A small text with some structure to learn."""
    path = tmp_path_factory.mktemp("text") / "numbers.txt"
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    path.write_text("".join(f"{i} is {' '.join(words[int(d)] for d in str(i))}.\n" for i in range(6000)))
    return path


@pytest.fixture(scope="session")
def finished(command_line, text, tmp_path_factory) -> Path:
    """The workdir of an uninterrupted run of 40 steps."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    command_line.train(workdir, f"--config.data.path={text}", *SHORT)
    return workdir
