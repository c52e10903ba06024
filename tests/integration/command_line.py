"""The real command line, as a user types it: processes with one CPU device, a cache of their own and no network."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
SMALL = ("--config.model.d_model=64", "--config.data.batch_size=16", "--config.evaluation.num_windows=64")
SHORT = ("--config.optim.num_steps=40", "--config.optim.warmup_steps=5", "--config.evaluation.every=20", *SMALL)


class CommandLine:
    """Runs `python -m gptjax.main` and its siblings from the root of the repository."""

    def __init__(self, cache: Path):
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("GPTJAX_", "XLA_FLAGS"))},
            "JAX_PLATFORMS": "cpu",
            "GPTJAX_CACHE": str(cache),
            "COLUMNS": "200",
        }

    def start(self, module: str, *arguments: object, **environment: str) -> subprocess.Popen:
        """Starts a process whose output can be read."""
        return subprocess.Popen(
            [sys.executable, "-m", f"gptjax.{module}", *map(str, arguments)],
            cwd=ROOT,
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
