"""Intervals and differences: coverage, determinism, pairing, speed."""

import time

import numpy as np
import pytest

from gptjax.tasks.scores import Counts, bootstrap, draws, f1, ratio


def means(values):
    """Counts whose measure is the mean."""
    counts_EK = np.stack([values, np.ones(len(values))], axis=1)
    return Counts(counts_EK, lambda sums_K: {"mean": ratio(sums_K[..., 0], sums_K[..., 1])})


def test_draws_are_samples_of_the_same_size_and_follow_the_seed():
    once, again, other = (np.concatenate(list(draws(50, 20, seed))) for seed in (1, 1, 2))
    assert once.shape == (20, 50)
    assert (once.sum(1) == 50).all()
    assert (once == again).all()
    assert (once != other).any()


def test_draws_come_in_blocks_of_bounded_size(monkeypatch):
    whole = np.concatenate(list(draws(40, 30, 0)))
    monkeypatch.setattr("gptjax.tasks.scores._BLOCK_DRAWS", 100)
    blocks = list(draws(40, 30, 0))
    assert [len(block) for block in blocks] == [2] * 15
    assert (np.concatenate(blocks) == whole).all()


def test_intervals_are_those_of_the_normal_law_for_a_mean():
    values = np.random.default_rng(0).normal(size=2000)
    score = means(values).scores(num_resamples=2000)["mean"]
    half = 1.96 * values.std() / 2000**0.5
    assert score.value == pytest.approx(values.mean())
    assert score.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert score.high == pytest.approx(values.mean() + half, abs=0.1 * half)
    assert score.count == 2000
    narrow = means(values).scores(num_resamples=2000, level=0.5)["mean"]
    assert score.low < narrow.low < narrow.high < score.high


def test_about_so_many_intervals_hold_the_truth_as_they_say():
    rng = np.random.default_rng(0)
    held = 0
    for seed in range(200):
        score = means(rng.random(100) < 0.3).scores(num_resamples=200, seed=seed, level=0.9)["mean"]
        held += score.low <= 0.3 <= score.high
    assert 165 <= held <= 195


def test_pairs_make_a_small_difference_plain():
    """A system that is right where the other is, and once more in a hundred, is better beyond doubt."""
    rng = np.random.default_rng(0)
    worse = rng.random(1000) < 0.5
    better = worse | (rng.random(1000) < 0.02)
    difference = means(better).differences(means(worse))["mean"]
    assert difference.value == pytest.approx(better.mean() - worse.mean())
    assert 0 < difference.low < difference.value < difference.high
    assert means(better).scores()["mean"].low < means(worse).scores()["mean"].high  # apart, they overlap
    same = means(worse).differences(means(worse))["mean"]
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_two_systems_have_the_same_examples():
    with pytest.raises(AssertionError, match="same examples"):
        means(np.ones(3)).differences(means(np.ones(4)))


def test_any_statistic_of_the_draws_has_an_interval():
    values = np.arange(100.0)
    low, high = bootstrap(lambda weights_RE: {"max": (weights_RE > 0) @ values}, 100)["max"]
    assert 2500 < low < high < 3800


def test_ratios_without_a_denominator_are_zero():
    assert ratio(np.array(3.0), np.array(0.0)) == 0
    assert {name: float(value) for name, value in f1(0, 0, 0).items()} == {"precision": 0, "recall": 0, "f1": 0}
    assert {name: float(value) for name, value in f1(1, 2, 4).items()} == {
        "precision": 0.5,
        "recall": 0.25,
        "f1": 1 / 3,
    }


def test_a_thousand_samples_of_two_thousand_examples_take_about_a_second():
    counts = Counts(np.ones((2000, 100)), lambda sums_K: {"sum": sums_K.sum(-1)})
    started = time.process_time()
    counts.scores()
    assert time.process_time() - started < 5  # a second on a free core
