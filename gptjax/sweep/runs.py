"""The runs of a sweep: their names, folders and commands, all checked before the first one starts.

Overrides go through the machinery of flags: what a run gets here is what its command line gives it.
"""

import dataclasses
import hashlib
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gptjax import config
from gptjax.config import ExperimentConfig
from gptjax.experiment_file import Changes, ExperimentFile, open_experiment
from gptjax.types import UserError

SEED = "seed"
_MAX_NAME = 120  # file systems take 255 bytes; some room for what stands beside it


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run of a sweep."""

    name: str
    arm: str
    """The name without the seed: runs of one arm are repetitions of each other."""
    overrides: Mapping[str, Any]
    cfg: ExperimentConfig
    workdir: Path
    flags: tuple[str, ...]
    """The arguments of gptjax.main."""

    @property
    def command(self) -> str:
        """The command line that starts or continues the run, as a shell reads it."""
        return shlex.join(["python", "-m", "gptjax.main", *self.flags])


def load_runs(path: str, changes: Changes, folder: Path) -> list[Run]:
    """Returns the runs of an ablation file, in its order, with `changes` made in all of them.

    Raises one UserError that names every unknown option, wrong value and name that two runs share.
    """
    file = open_experiment(path)
    problems: dict[str, None] = {}  # in order, each once: most mistakes are made in many runs
    runs: dict[str, Run] = {}
    for number, given in enumerate(file.sweep()):
        if not isinstance(given, Mapping):
            problems[f"sweep() gives {given!r} as run {number}; a run is a mapping such as {{'seed': 1}}"] = None
            continue
        values = config.flatten(given)
        own = [(option, as_text(value)) for option, value in values.items()]
        for option in sorted(values.keys() & {option for option, _ in changes}):
            problems[f"--config.{option} is what the sweep varies; leave it out, or change {path}"] = None
        try:
            cfg = _checked(file, [*changes, *own])
        except UserError as error:
            problems[str(error)] = None
            continue
        name, arm = run_name(values), run_name({o: value for o, value in values.items() if o != SEED})
        flags = (f"--config={path}", f"--workdir={folder / name}", *(f"--config.{o}={v}" for o, v in [*changes, *own]))
        run = Run(name, arm, values, cfg, folder / name, flags)
        other = runs.setdefault(name.casefold(), run)  # some file systems do not tell A from a
        if other is not run:
            problems[f"two runs are named {name}: {dict(other.overrides)} and {dict(values)}; leave one out"] = None
    if problems:
        raise UserError.join(f"the sweep of {path} does not fit", list(problems))
    if not runs:
        raise UserError(f"sweep() of {path} gives no runs; see experiments/ablations/positions.py")
    return list(runs.values())


def _checked(file: ExperimentFile, changes: Changes) -> ExperimentConfig:
    cfg = file.read(changes)
    wrong = config.own_problems(cfg)  # the devices are not known here: they are those of each run
    if wrong:
        raise UserError("\n  ".join(wrong))
    return cfg


def run_name(values: Mapping[str, Any]) -> str:
    """Returns a name made of the overrides alone, such as "model.positions=rotary,seed=1", fit for a folder.

    It does not depend on the other runs: a sweep that grows finds the runs that it has done.
    """
    words = [f"{option.removesuffix('.name')}={as_text(value)}" for option, value in values.items()]
    name = re.sub(r"[^\w.,=+-]", "_", ",".join(words), flags=re.ASCII) or "base"
    if len(name) > _MAX_NAME:
        name = f"{name[: _MAX_NAME - 9]}-{hashlib.sha256(','.join(words).encode()).hexdigest()[:8]}"
    return name


def as_text(value: Any) -> str:
    """Returns a value as a flag gives it."""
    return repr(list(value)) if isinstance(value, list | tuple) else str(value)
