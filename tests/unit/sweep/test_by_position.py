"""The loss by position: what is compared, and where an arm stops improving."""

import re

import pytest

from gptjax.sweep import plots
from gptjax.sweep.by_position import profiles
from gptjax.sweep.report import position_table, write_report
from gptjax.sweep.results import group, read_result
from tests.unit.sweep.ablation import make_runs, write_run

ENDS = (1, 2, 4, 8)


def write(run, *losses):
    write_run(run, 2.0, **{f"loss_by_position/{end}": loss for end, loss in zip(ENDS, losses, strict=False)})


@pytest.fixture
def runs(tmp_path):
    """The first arm goes on falling, as far as the end; the second falls until 2, and rises in the end."""
    runs = make_runs(tmp_path)
    for run, shift in zip(runs, [0.0, 0.1, -0.1] * 2, strict=True):
        if run.cfg.model.norm.name == "layernorm":
            write(run, 4.0 + shift, 3.0 + shift, 2.5 + shift, 2.4 + shift)
        else:
            write(run, 4.0 + shift, 3.5 + shift, 3.45, 3.6)
    return runs


def test_an_arm_improves_until_nothing_is_lower_by_two_per_cent(runs):
    found = profiles(group([read_result(run) for run in runs]))
    layernorm, rmsnorm = found.values()
    assert (layernorm.ends, layernorm.settled, rmsnorm.settled) == (list(ENDS), 8, 2)


def test_differences_are_by_pairs_of_a_seed(runs):
    _, rmsnorm = profiles(group([read_result(run) for run in runs])).values()
    means = [difference.mean for difference in rmsnorm.differences]
    assert means == pytest.approx([0.0, 0.5, 0.95, 1.2])
    assert rmsnorm.differences[1].half_width == pytest.approx(0, abs=1e-6)
    assert rmsnorm.losses[1].half_width > 0.1


def test_an_arm_that_falls_to_the_end_of_its_own_context_has_not_stopped(tmp_path):
    first, *others = make_runs(tmp_path, 'cross([{}, {"model.seq_len": 4}], seeds(2))')
    for run in (first, *others):
        write(run, *(4.0, 3.0, 2.0, 1.0)[: 3 if run.cfg.model.seq_len == 4 else 4])
    arms = group([read_result(run) for run in (first, *others)])
    _, shorter = position_table(arms, profiles(arms)).rows
    assert (shorter[:2], shorter[-1]) == (["model.seq_len=4", "not before 4"], "-")


def test_the_page_has_a_table_and_a_figure_of_it(runs):
    page, markdown = (path.read_text("utf-8") for path in write_report("norms.py", runs, runs[0].workdir.parent))
    assert "| arm | stops improving | below 1 | below 2 | below 4 | below 8 |" in markdown
    assert "| model.norm=rmsnorm | at 2 | 4.000 ± 0.248 | 3.500 ± 0.248 |" in markdown
    assert "| model.norm=layernorm | not before 8 | 4.000 ± 0.248 |" in markdown
    arms = group([read_result(run) for run in runs])
    figure = plots.loss_by_position(arms, profiles(arms))
    assert figure in page
    assert {plots.style(0)[0], plots.style(1)[0]} <= set(re.findall(r"stroke: (#\w{6})", figure))


def test_without_such_losses_there_is_no_such_section(runs, tmp_path):
    for run in runs:
        write_run(run, 2.0)
    for path in write_report("norms.py", runs, runs[0].workdir.parent):
        assert "Loss by position" not in path.read_text("utf-8")
