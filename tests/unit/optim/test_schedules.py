"""Learning-rate schedules: their ends, their shape and their warm-up."""

import numpy as np
import pytest

from gptjax.optim.config import OptimConfig
from gptjax.optim.optimizer import make_schedule
from gptjax.optim.schedules import SCHEDULES
from gptjax.registry import Choice


def curve(name, num_steps=100, warmup_steps=10, **kwargs):
    cfg = OptimConfig(peak_lr=2.0, num_steps=num_steps, warmup_steps=warmup_steps, schedule=Choice(name, kwargs))
    schedule = make_schedule(cfg)
    return np.array([float(schedule(step)) for step in range(num_steps + 1)])


@pytest.mark.parametrize("name", SCHEDULES)
def test_warm_up_is_linear_to_the_peak_and_nothing_exceeds_it(name):
    """After it rates fall or stay; only warm restarts rise again."""
    rates = curve(name)
    np.testing.assert_allclose(np.diff(rates[:11]), 2.0 / 11, rtol=1e-4)
    assert rates[0] > 0
    assert rates[10] == rates.max() == 2.0
    assert np.sum(np.diff(rates[10:]) > 1e-6) == {"cyclic": 3}.get(name, 0)


@pytest.mark.parametrize("name", SCHEDULES)
def test_no_warm_up_starts_at_the_peak(name):
    assert curve(name, warmup_steps=0)[0] == 2.0


def test_ends():
    np.testing.assert_allclose(curve("cosine", final_fraction=0.1)[-1], 0.2, rtol=1e-5)
    np.testing.assert_allclose(curve("linear")[-1], 0.0, atol=1e-6)
    assert curve("constant")[-1] == 2.0


def test_wsd_falls_only_at_the_end():
    rates = curve("wsd", decay_fraction=0.2)
    assert np.all(rates[10:83] == 2.0)
    assert rates[90] < 2.0
    np.testing.assert_allclose(rates[-1], 0.0, atol=1e-6)


def test_cosine_is_half_way_down_in_the_middle():
    np.testing.assert_allclose(curve("cosine", final_fraction=0.0)[55], 1.0, rtol=1e-5)


def test_inverse_sqrt_does_not_know_the_length_of_the_run():
    """Four times as far, half the rate; with timescale = warm-up it is the Transformer's 1 / sqrt(step)."""
    rates = curve("inverse_sqrt", timescale=10)
    np.testing.assert_allclose(rates[[20, 40, 90]], 2.0 * np.sqrt(10 / np.array([20, 40, 90])), rtol=1e-6)
    np.testing.assert_array_equal(rates[:51], curve("inverse_sqrt", num_steps=50, timescale=10))


def test_cycles_are_cosines_of_equal_length():
    """Where the length does not divide, lengths differ by one step; the last ends at the end of the run."""
    rates = curve("cyclic", num_cycles=3, final_fraction=0.1)
    np.testing.assert_array_equal(np.flatnonzero(rates == 2.0), [10, 40, 70])
    np.testing.assert_allclose(rates[10:40], curve("cosine", num_steps=40)[10:40], rtol=1e-6)
    np.testing.assert_allclose(rates[-1], 0.2, rtol=1e-6)
    assert np.array_equal(np.flatnonzero(curve("cyclic", num_steps=20, num_cycles=3) == 2.0), [10, 13, 17])
