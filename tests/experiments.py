"""Every experiment file of the repository, as the command line would load it."""

from pathlib import Path

from gptjax.config import ExperimentConfig
from gptjax.experiment_file import open_experiment

FOLDER = Path(__file__).parents[1] / "experiments"
NAMES = sorted(
    path.relative_to(FOLDER).with_suffix("").as_posix()
    for path in FOLDER.rglob("*.py")
    if "def get_config" in path.read_text(encoding="utf-8")
)


def load(name: str) -> ExperimentConfig:
    """Returns the config of an experiment file."""
    return open_experiment(str(FOLDER / f"{name}.py")).read()
