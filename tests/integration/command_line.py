"""The real command line, as a user types it: processes with one CPU device, a cache of their own and no network."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.xla_flags import compile_flags

ROOT = Path(__file__).parents[2]
# Compiling takes most of the time here: a level less for programs that several runs share, none for a few steps.
QUICKLY, PLAINLY = compile_flags(1), compile_flags(0)
SMALL = ("--config.model.d_model=64", "--config.data.batch_size=16", "--config.evaluation.num_windows=64")
SHORT = ("--config.optim.num_steps=40", "--config.optim.warmup_steps=5", "--config.evaluation.every=20", *SMALL)


class CommandLine:
    """Runs `python -m gptjax.main` and its siblings from the root of the repository."""

    def __init__(self, cache: Path):
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("GPTJAX_", "JAX_"))},
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": QUICKLY,
            "GPTJAX_CACHE": str(cache),
            "COLUMNS": "200",
        }

    def start(self, module: str, *arguments: object, cwd: Path = ROOT, **environment: str) -> subprocess.Popen:
        """Starts a process whose output can be read."""
        return self._start("-m", f"gptjax.{module}", *arguments, cwd=cwd, **environment)

    def launch(
        self, *arguments: object, processes: int, devices: int = 1, cwd: Path = ROOT, **environment: str
    ) -> subprocess.Popen:
        """Starts a job of several processes, by launch/local.py."""
        sizes = (f"--processes={processes}", f"--devices-per-process={devices}")
        return self._start(ROOT / "launch" / "local.py", *sizes, "--", *arguments, cwd=cwd, **environment)

    def _start(self, *command: object, cwd: Path, **environment: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, *map(str, command)],
            cwd=cwd,
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, module: str, *arguments: object, timeout: float = 240, **environment: str):
        """Runs a process to its end and returns its code and output."""
        process = self.start(module, *arguments, **environment)
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def train(self, workdir: Path, *arguments: object, experiment: str = "tiny", **environment: str):
        """Runs an experiment in a workdir and asserts that it ends well."""
        result = self.run(
            "main", f"--config=experiments/{experiment}.py", f"--workdir={workdir}", *arguments, **environment
        )
        assert result.returncode == 0, result.stderr
        return result


def rows(workdir: Path, split: str = "train") -> list[dict]:
    """Returns the rows of a split in metrics.jsonl."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["split"] == split]


def facts(workdir: Path, names: Sequence[str] = ("loss", "grad_norm", "learning_rate", "batch_checksum")) -> dict:
    """Returns what a run must repeat exactly: everything in its train rows but the speeds, by step."""
    return {row["step"]: tuple(row[name] for name in names) for row in rows(workdir)}


def wait_until(condition: Callable[[], bool], job: subprocess.Popen | None = None, seconds: float = 120) -> None:
    """Waits until a condition holds; fails after a time, or where the job ends before."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert job is None or job.poll() is None, job.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
