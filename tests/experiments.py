"""Every experiment file of the repository, as the command line would load it."""

from pathlib import Path

from gptjax import config, overrides
from gptjax.config import ExperimentConfig

FOLDER = Path(__file__).parents[1] / "experiments"
NAMES = sorted(
    path.relative_to(FOLDER).with_suffix("").as_posix()
    for path in FOLDER.rglob("*.py")
    if "def get_config" in path.read_text(encoding="utf-8")
)


def load(name: str) -> ExperimentConfig:
    """Returns the config of an experiment file."""
    path = str(FOLDER / f"{name}.py")
    return config.from_config_dict(overrides.load_experiment(path), path)
