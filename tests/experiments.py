"""Every experiment file of the repository, as the command line would load it."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from gptjax.config import ExperimentConfig
from gptjax.experiment_file import open_experiment
from gptjax.types import UserError

FOLDER = Path(__file__).parents[1] / "experiments"
NAMES = sorted(
    path.relative_to(FOLDER).with_suffix("").as_posix()
    for path in FOLDER.rglob("*.py")
    if "def get_config" in path.read_text(encoding="utf-8")
)


@contextlib.contextmanager
def skipped_without_data() -> Iterator[None]:
    """Skips the test where an experiment says that it needs data and GPTJAX_DATA is not set."""
    try:
        yield
    except UserError as error:
        if "GPTJAX_DATA" in os.environ or "GPTJAX_DATA is not set" not in str(error):
            raise
        pytest.skip(str(error))


def load(name: str) -> ExperimentConfig:
    """Returns the config of an experiment file; skips the test where it needs data that is not there."""
    with skipped_without_data():
        return open_experiment(str(FOLDER / f"{name}.py")).read()
