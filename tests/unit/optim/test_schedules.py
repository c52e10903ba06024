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
    rates = curve(name)
    np.testing.assert_allclose(np.diff(rates[:11]), 2.0 / 11, rtol=1e-4)
    assert rates[0] > 0
    assert rates[10] == rates.max() == 2.0
    assert np.all(np.diff(rates[10:]) <= 1e-6)


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
