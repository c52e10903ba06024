"""Runs the planner as a user would; shared by the benchmarks that compare plans."""

import importlib.metadata
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

GIB = 2**30


def plan(experiment: str, topology: str, overrides: Mapping[str, object], *flags: str) -> dict:
    """Returns a plan's JSON and, as `process_seconds`, how long the whole command took; its table goes to stderr."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plan.json"
        command = [f"--config=experiments/{experiment}.py", f"--topology={topology}", f"--json={path}", *flags]
        command += [f"--config.{key}={value}" for key, value in overrides.items()]
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "gptjax.plan", *command], check=True, stdout=sys.stderr)
        return {**json.loads(path.read_text()), "process_seconds": time.perf_counter() - start}


def versions() -> str:
    """Returns what the figures depend on."""
    names = ("jax", "jaxlib", "libtpu", "jax-cuda13-plugin")
    return f"python {platform.python_version()}, " + ", ".join(f"{n} {importlib.metadata.version(n)}" for n in names)


def wires(found: Mapping) -> float:
    """Returns the GiB that a device and step moves between devices."""
    return sum(found["wire_bytes_per_chip"].values()) / GIB


def mesh(found: Mapping) -> str:
    """Returns a plan's mesh in words."""
    return " x ".join(f"{axis} {size}" for axis, size in found["mesh"].items() if size > 1) or "one device"
