"""The folder of a run: its lock, its names and the files that are written whole or not at all."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gptjax.types import UserError


class Workdir:
    """Where a run keeps everything; held by one process at a time."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.config = self.path / "config.json"
        self.facts = self.path / "facts.json"
        self.metrics = self.path / "metrics.jsonl"
        self.log = self.path / "log.txt"
        self.checkpoints = self.path / "checkpoints"
        self.samples = self.path / "samples"
        self.tokenizer = self.path / "tokenizer"
        self._lock = None

    def acquire(self) -> None:
        """Creates the folder and locks it; raises UserError where another process holds it.

        The kernel drops the lock when its process dies, however it dies: no stale lock is left to remove.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.samples.mkdir(exist_ok=True)
            self._lock = open(self.path / ".lock", "a+")  # noqa: SIM115 - held until release()
        except OSError as error:
            raise UserError(
                f"workdir {self.path} cannot be written ({error.strerror}); choose another with --workdir=DIR"
            ) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.seek(0)
            holder = self._lock.read().strip() or "unknown"
            self._lock.close()
            raise UserError(
                f"workdir {self.path} is in use by process {holder}; wait for it, or choose another with --workdir=DIR"
            ) from None
        self._lock.truncate(0)
        self._lock.write(str(os.getpid()))
        self._lock.flush()

    def release(self) -> None:
        """Lets the next process in."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def write_config(self, config: dict[str, Any]) -> None:
        """Writes config.json, atomically."""
        write_atomically(self.config, json.dumps(config, indent=2) + "\n")

    def write_facts(self, facts: dict[str, Any]) -> None:
        """Writes facts.json, atomically: what follows from the config and the text, such as FLOPs a step."""
        write_atomically(self.facts, json.dumps(facts, indent=2) + "\n")

    def read_config(self) -> dict[str, Any]:
        """Returns what config.json holds; raises UserError where there is none or it is damaged."""
        if not self.path.is_dir():
            raise UserError(f"there is no workdir {self.path}; train one first, or correct --workdir=DIR")
        try:
            config = json.loads(self.config.read_text(encoding="utf-8"))
            if not isinstance(config, dict):
                raise ValueError("it holds no object")
            return config
        except FileNotFoundError:
            raise UserError(f"{self.path} is no workdir: it has no config.json; correct --workdir=DIR") from None
        except ValueError as error:
            raise UserError(f"{self.config} is damaged ({error}); restore it, or train again") from None


def write_atomically(path: Path, text: str) -> None:
    """Writes a file so that a reader sees the old text or the new, never a part."""
    temporary = path.with_name(f"{path.name}.tmp")
    with writing(path):
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what a full or forbidden disk raises into a UserError that names the file."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror or error}); make room, or give permission, and run the same "
            f"command again: it goes on from the last checkpoint"
        ) from error
