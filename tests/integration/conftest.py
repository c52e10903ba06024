"""Runs that several tests look at."""

from pathlib import Path

import pytest

from tests.integration.command_line import SHORT, CommandLine


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    """A cache of prepared corpora and compiled programs, shared by the tests of a session."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def command_line(cache) -> CommandLine:
    """The command line of this checkout."""
    return CommandLine(cache)


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
