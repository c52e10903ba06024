"""What every ablation file owes: runs that fit the schema, and a note of how to run it."""

import pytest

from gptjax.model.positions import POSITIONS
from gptjax.sweep.runs import load_runs
from tests import experiments

FOLDER = experiments.FOLDER / "ablations"
every = pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)


@every
def test_its_runs_fit_and_there_is_something_to_compare(path, tmp_path):
    with experiments.skipped_without_data():
        runs = load_runs(str(path), [], tmp_path)
    assert len({run.arm for run in runs}) > 1


@every
def test_its_note_names_the_sweep(path):
    assert f"python -m gptjax.sweep --config=experiments/ablations/{path.name}" in path.read_text(encoding="utf-8")


def test_positions_has_all_of_the_table_with_three_seeds_each(tmp_path):
    runs = load_runs(str(FOLDER / "positions.py"), [], tmp_path)
    plain = [run for run in runs if run.cfg.model.embedding_scale == 1]
    assert [(run.cfg.model.positions.name, run.cfg.seed) for run in plain] == [
        (n, s) for n in POSITIONS for s in range(3)
    ]
