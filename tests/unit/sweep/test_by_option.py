"""The loss by a number that is varied: which arms make a line, and which number is best."""

import pytest

from gptjax.sweep import plots
from gptjax.sweep.by_option import lines
from gptjax.sweep.report import write_report
from gptjax.sweep.results import group, read_result
from tests.unit.sweep.ablation import make_runs, write_run

SWEEP = """cross(
    grid({"model.norm.name": ["layernorm", "rmsnorm"], "optim.peak_lr": [4e-3, 1e-3, 2e-3], "model.use_bias": [True]}),
    seeds(2),
)"""
LOSSES = {("layernorm", 1e-3): 3.0, ("layernorm", 2e-3): 2.0, ("layernorm", 4e-3): 2.5}
LOSSES |= {("rmsnorm", 1e-3): 3.0, ("rmsnorm", 2e-3): 2.6, ("rmsnorm", 4e-3): 2.5}


@pytest.fixture
def runs(tmp_path):
    runs = make_runs(tmp_path, SWEEP)
    for run in runs:
        loss = LOSSES[run.cfg.model.norm.name, run.cfg.optim.peak_lr]
        write_run(run, loss + 0.1 * run.cfg.seed)
    return runs


def arms(runs):
    return group([read_result(run) for run in runs])


def test_arms_that_differ_in_one_number_are_a_line_in_its_order(runs):
    found = lines(arms(runs))
    assert list(found) == ["optim.peak_lr"]
    layernorm, rmsnorm = found["optim.peak_lr"]
    assert layernorm.setting == "model.norm=layernorm,model.use_bias=True"
    assert list(layernorm.points) == [1e-3, 2e-3, 4e-3]
    assert layernorm.points[2e-3].mean == pytest.approx(2.05)
    assert [(line.best, line.is_open) for line in (layernorm, rmsnorm)] == [(2e-3, False), (4e-3, True)]


def test_two_numbers_are_no_line_and_what_did_not_finish_is_no_point(runs):
    for run in runs:
        if run.cfg.optim.peak_lr == 4e-3:
            write_run(run, None)
    assert lines(arms(runs)) == {}


def test_the_page_shows_the_best_number_of_each_setting(runs):
    page, markdown = (path.read_text("utf-8") for path in write_report("norms.py", runs, runs[0].workdir.parent))
    assert "| setting | best optim.peak_lr | 0.001 | 0.002 | 0.004 |" in markdown
    assert "| model.norm=layernorm,model.use_bias=True | 0.002 | 3.050 ± 0.635 |" in markdown
    assert "| model.norm=rmsnorm,model.use_bias=True | 0.004, the end of those tried |" in markdown
    figure = plots.loss_by_option("optim.peak_lr", lines(arms(runs))["optim.peak_lr"])
    assert figure in page
    assert ">0.002<" in figure
