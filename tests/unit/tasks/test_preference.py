"""Losses of pairs against their definitions, and sums of answers that stand in one row.

Shapes: B batch, T position, P pairs.
"""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from gptjax.tasks.preference import LOSSES, sums_of_pairs

LOGP = np.array([[-4.0], [-6.0]])
REFERENCE = np.array([[-5.0], [-5.5]])
LENGTH = np.array([[2.0], [3.0]])


def loss(name, beta, margin=0.0, logp=LOGP):
    return float(LOSSES[name](jnp.asarray(logp), jnp.asarray(REFERENCE), jnp.asarray(LENGTH), beta, margin)[0])


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_dpo_compares_gains_over_the_reference():
    assert loss("dpo", 0.1) == pytest.approx(-math.log(sigmoid(0.1 * (1.0 - -0.5))), rel=1e-6)
    assert loss("dpo", 0.1, logp=REFERENCE) == pytest.approx(math.log(2), rel=1e-6)


def test_ipo_is_a_squared_distance_of_gains_a_token():
    assert loss("ipo", 0.1) == pytest.approx((1.0 / 2 - -0.5 / 3 - 1 / 0.2) ** 2, rel=1e-6)


def test_simpo_compares_means_with_a_margin():
    assert loss("simpo", 2.0, 0.5) == pytest.approx(-math.log(sigmoid(2 * (-2.0 - -2.0) - 0.5)), rel=1e-6)


def test_orpo_adds_the_ratio_of_odds_to_the_likelihood():
    chosen, rejected = math.exp(-4 / 2), math.exp(-6 / 2.5)
    length = np.array([[2.0], [2.5]])
    odds = math.log(chosen / (1 - chosen)) - math.log(rejected / (1 - rejected))
    found = float(LOSSES["orpo"](jnp.asarray(LOGP), None, jnp.asarray(length), 0.1, 0.0)[0])
    assert found == pytest.approx(4 / 2 - 0.1 * math.log(sigmoid(odds)), rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_what_raises_the_chosen_answer_lowers_the_loss(name):
    beta = 2.0 if name == "simpo" else 0.1
    better, worse = (loss(name, beta, logp=LOGP + np.array([[d], [-d]])) for d in (0.2, -0.2))
    assert better < loss(name, beta) < worse


@pytest.mark.parametrize("T", [5, 6])
def test_answers_are_summed_by_pair(T):
    """Odd segments are chosen answers, even ones rejected; padding and pairs that are not there are nothing."""
    x_BT = np.arange(1.0, T + 1)[None]
    segments_BT = np.array([[1, 1, 2, 3, 4, 0][:T]])
    sums = np.asarray(sums_of_pairs(jnp.asarray(x_BT), jnp.asarray(segments_BT)))
    assert sums.shape[:2] == (2, 1)
    np.testing.assert_array_equal(sums[:, 0, :2], [[1 + 2, 4], [3, 5]])
    assert not sums[:, 0, 2:].any()
