"""What is read from the folders of runs, whole and half-done, and the statistics over seeds."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from gptjax.sweep.results import differing_options, estimate, group, is_done, read_result, write_outcome
from tests.unit.sweep.ablation import make_runs, row, write_run


@pytest.fixture
def runs(tmp_path):
    return make_runs(tmp_path)


def test_an_interval_is_students():
    """For 1, 2, 3 the mean is 2 and its standard error 1/sqrt(3); with two degrees of freedom t has a closed form."""
    mean, half_width, count = estimate([1.0, 2.0, 3.0])
    assert (mean, count) == (2.0, 3)
    assert half_width == pytest.approx(0.95 / (2 * 0.975 * 0.025) ** 0.5 / 3**0.5, rel=1e-12)


def test_an_interval_holds_the_truth_as_often_as_it_says():
    """Of 4,000 samples of three, 95 % but for the noise of that many tries (three standard errors are 1 %)."""
    samples = np.random.default_rng(0).normal(size=(4000, 3))
    held = [abs(mean) <= half_width for mean, half_width, _ in map(estimate, samples.tolist())]
    assert abs(np.mean(held) - 0.95) < 0.0104


def test_one_seed_has_a_mean_and_no_interval_and_none_has_neither():
    assert estimate([2.0]) == (2.0, None, 1)
    assert estimate([]) is None


def test_arms_are_compared_by_pairs_of_the_same_seed(runs):
    """The pairs' differences are 0.1, 0.1, 0.1, however far seeds are apart; a seed that one arm lacks is left out."""
    for run, loss in zip(runs, [1.0, 2.0, 3.0, 1.1, 2.1, 3.1], strict=True):
        write_run(run, loss)
    baseline, arm = group([read_result(run) for run in reversed(runs)])[::-1]
    assert (baseline.name, arm.name) == ("model.norm=layernorm", "model.norm=rmsnorm")
    mean, half_width, count = arm.difference(baseline)
    assert (mean, half_width, count) == (pytest.approx(0.1), pytest.approx(0, abs=1e-12), 3)
    shutil.rmtree(runs[2].workdir)
    baseline, arm = group([read_result(run) for run in runs])
    assert arm.difference(baseline).count == 2
    assert arm.estimate(lambda result: result.last("loss")).count == 3


@pytest.mark.parametrize("text", ["", '{"num_par', "[]"])
def test_what_is_damaged_beside_a_run_hides_no_run(runs, text):
    """Facts and outcome are told as unknown: the rows say what the run has come to."""
    write_run(runs[0], 1.0)
    for name in ("facts.json", "outcome.json"):
        (runs[0].workdir / name).write_text(text)
    result = read_result(runs[0])
    assert (result.state, result.last("loss"), result.num_params) == ("finished", 1.0, None)


def test_a_run_that_was_killed_says_so(runs):
    write_run(runs[0], 2.0, until=30)
    write_outcome(runs[0], -9, "it said nothing")
    assert read_result(runs[0]).why == "at step 30 of 40: died of signal 9: it said nothing"


def test_states_tell_what_keeps_a_run_out_of_the_means(runs):
    finished, diverged, worse, failed, unfinished, _ = runs
    write_run(finished, 1.0)
    write_run(diverged, None)
    write_run(worse, 9.0)
    write_run(failed, 2.0, until=30)
    write_outcome(failed, 1, "MemoryError")
    write_run(unfinished, 2.0, until=20)
    results = [read_result(run) for run in runs]
    states = ["finished", "diverged", "diverged", "failed", "unfinished", "not started"]
    assert [result.state for result in results] == states
    reasons = ["", "not finite at step 40", "above the first training", "step 30 of 40: exit code 1: MemoryError"]
    for result, words in zip(results, [*reasons, "at step 20 of 40", "no row yet"], strict=True):
        assert words in result.why
    first, second = group(results)
    assert [len(first.finished), len(second.finished)] == [1, 0]
    assert second.estimate(lambda result: result.last("loss")) is None


def test_a_run_that_failed_before_its_first_row_is_a_failure(runs):
    runs[0].workdir.mkdir(parents=True)
    write_outcome(runs[0], 2, "error: no")
    assert read_result(runs[0]).state == "failed"


def test_a_run_of_another_config_is_none_of_ours(runs, tmp_path):
    write_run(runs[0], 1.0)
    plain = json.loads((runs[0].workdir / "config.json").read_text())
    plain["optim"]["peak_lr"] = 0.5
    (runs[0].workdir / "config.json").write_text(json.dumps(plain))
    result = read_result(runs[0])
    assert result.state == "another run"
    assert "optim.peak_lr: 0.5 there, 0.001 here" in result.why
    assert not is_done(runs[0])
    plain["data"]["path"] = "other.txt"
    (runs[0].workdir / "config.json").write_text(json.dumps(plain))
    assert "data.path: 'other.txt' there, None here" in read_result(runs[0]).why
    plain["optim"]["gone"] = 1
    (runs[0].workdir / "config.json").write_text(json.dumps(plain))
    assert "there is no option optim.gone" in read_result(runs[0]).why


def test_a_row_that_lacks_something_is_told_and_not_raised(runs):
    write_run(runs[0], 2.0)
    for torn, missing in (({"step": 3}, "loss, split, tokens_seen"), ({**LOSS, "split": "train"}, "step_seconds")):
        with open(runs[0].workdir / "metrics.jsonl", "a") as file:
            file.write(json.dumps(torn) + "\n")
        assert f"the row of step 3 has no {missing}" in read_result(runs[0]).why
        write_run(runs[0], 2.0)


LOSS = {"step": 3, "loss": 1.0, "tokens_seen": 300}


def test_a_row_that_is_being_written_is_not_there_yet(runs):
    write_run(runs[0], 2.0, until=20)
    with open(runs[0].workdir / "metrics.jsonl", "a") as file:
        file.write('{"step": 30, "sp')
    result = read_result(runs[0])
    assert (result.state, result.step) == ("unfinished", 20)


def test_a_run_that_gave_up_is_finished_and_done(runs):
    """Patience of one: nothing better at step 20 than at 10 is an end, before step 40."""
    cfg = runs[0].cfg
    evaluation = dataclasses.replace(cfg.evaluation, every=10, patience=1)
    run = dataclasses.replace(runs[0], cfg=dataclasses.replace(cfg, evaluation=evaluation))
    write_run(run, 2.0, until=20)
    assert (read_result(run).state, is_done(run)) == ("unfinished", False)
    with open(run.workdir / "metrics.jsonl", "a") as file:
        file.write(json.dumps(row(30, 3.0, "valid")) + "\n")
    assert (read_result(run).state, is_done(run)) == ("finished", True)


def test_done_is_evaluated_and_saved_or_saved_once(runs):
    """Between the last evaluation and its checkpoint a run may be killed; checkpoints may be removed to make room."""
    run = runs[0]
    assert not is_done(run)
    write_run(run, 1.0)
    assert is_done(run)
    (run.workdir / "checkpoints" / "20").mkdir(parents=True)
    assert not is_done(run)
    (run.workdir / "checkpoints" / "40").mkdir()
    assert is_done(run)


def test_curves_count_tokens_flops_and_the_time_of_steps(runs):
    """Rows hold the mean time of a step since the row before; an evaluation stands where its step is."""
    write_run(runs[0], 1.0)
    rows = [
        row(10, 4.0, step_seconds=0.5),
        row(20, 3.0, step_seconds=1.0),
        row(15, None, "valid"),
        row(20, 3.5, "valid"),
    ]
    (runs[0].workdir / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    result = read_result(runs[0])
    train, valid = result.curve("train"), result.curve("valid")
    assert train.seconds.tolist() == [5.0, 15.0]
    assert valid.seconds.tolist() == [10.0, 15.0]
    assert valid.tokens.tolist() == [1500, 2000]
    assert valid.flops.tolist() == [9e6, 12e6]
    assert np.isnan(valid.loss[0])
    assert result.seconds == 15.0


def test_what_differs_between_arms_is_found_in_the_resolved_configs(tmp_path):
    runs = make_runs(tmp_path, 'cross(grid({"model.positions.name": ["learned", "sinusoidal"]}), seeds(2))')
    differing = differing_options(group([read_result(run) for run in runs]))
    assert differing == {"model.positions.name": ["learned", "sinusoidal"], "model.positions.base": [None, 10000.0]}
