"""Every experiment file of the repository, as the command line would load it."""

import inspect
import os
from pathlib import Path

import pytest

from gptjax.config import ExperimentConfig
from gptjax.experiment_file import open_experiment

FOLDER = Path(__file__).parents[1] / "experiments"
NAMES = sorted(
    path.relative_to(FOLDER).with_suffix("").as_posix()
    for path in FOLDER.rglob("*.py")
    if "def get_config" in path.read_text(encoding="utf-8")
)


def load(name: str) -> ExperimentConfig:
    """Returns the config of an experiment file; skips the test where it needs data that is not there."""
    file = open_experiment(str(FOLDER / f"{name}.py"))
    if "corpora.examples" in inspect.getsource(file.module) and "GPTJAX_DATA" not in os.environ:
        pytest.skip(f"{name} needs data; set GPTJAX_DATA to its folder")
    return file.read()
