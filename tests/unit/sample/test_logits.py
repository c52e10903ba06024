"""The rules of choosing a token, each against its definition in plain NumPy.

Shapes: B row, V vocabulary.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptjax.sample import logits as rules
from gptjax.sample.config import SampleConfig
from gptjax.sample.logits import Rules, draw

# Multiples of 1/4, so that equal logits, and masses that fall short of p by a rounding error, are as common as can be.
# All rows have one length: each new one would compile everything again.
values = st.lists(st.integers(-20, 20).map(lambda n: n / 4), min_size=8, max_size=8)
quick = settings(max_examples=40, deadline=None)


def keep(rule, row, value):
    """Returns which tokens a filter keeps of a row that is sorted already, and checks that those keep their logits."""
    before_V = np.sort(np.asarray(row, np.float32))[::-1]
    after_V = np.asarray(rule(jnp.asarray(before_V)[None], value))[0]
    kept_V = np.isfinite(after_V)
    np.testing.assert_array_equal(after_V[kept_V], before_V[kept_V])
    return kept_V.tolist(), before_V


compiled_draw = jax.jit(draw)


def softmax(x_V):
    weights_V = np.exp(x_V.astype(np.float64) - x_V.max())
    return weights_V / weights_V.sum()


def drawn(logits_V, num_draws=1, seen=(), vocab_size=None, **options):
    """Draws from one row of logits, each time with another key."""
    logits_BV = jnp.broadcast_to(jnp.asarray(logits_V, jnp.float32), (num_draws, len(logits_V)))
    seen_BV = jnp.zeros(logits_BV.shape, bool).at[:, jnp.asarray(seen, int)].set(True)
    keys_B = jax.random.split(jax.random.key(0), num_draws)
    return np.asarray(
        compiled_draw(logits_BV, seen_BV, keys_B, Rules.of(SampleConfig(**options), vocab_size or len(logits_V)))
    )


@quick
@given(values, st.integers(1, 10))
def test_top_k_keeps_k_tokens(row, k):
    kept_V, _ = keep(rules.top_k, row, k)
    assert kept_V == [rank < k for rank in range(len(row))]


@quick
@given(values, st.sampled_from([0.01, 0.3, 0.71, 0.95]))
def test_top_p_keeps_the_smallest_set_with_that_mass(row, p):
    kept_V, sorted_V = keep(rules.top_p, row, p)
    mass_V = np.cumsum(softmax(sorted_V))
    count = sum(kept_V)
    assert kept_V == [rank < count for rank in range(len(row))]
    assert count == 1 or mass_V[count - 2] < p + 1e-5, "one token less would do"
    assert count == len(row) or mass_V[count - 1] > p - 1e-5, "the mass is short"


@quick
@given(values)
def test_top_p_of_one_keeps_everything_that_counts(row):
    kept_V, sorted_V = keep(rules.top_p, row, 1.0)
    assert softmax(sorted_V)[kept_V].sum() == pytest.approx(1, abs=1e-5)


@quick
@given(values, st.sampled_from([0.06, 0.3, 1.0]))
def test_min_p_compares_with_the_likeliest(row, p):
    kept_V, sorted_V = keep(rules.min_p, row, p)
    assert kept_V == (softmax(sorted_V) >= p * softmax(sorted_V)[0] * (1 - 1e-6)).tolist()


@quick
@given(values, st.sampled_from([0.5, 1.0, 1.3]), st.data())
def test_repetition_penalty_moves_seen_tokens_alone(row, penalty, data):
    seen_V = np.array(data.draw(st.lists(st.booleans(), min_size=len(row), max_size=len(row))))
    expected = [x if not seen else x / penalty if x > 0 else x * penalty for x, seen in zip(row, seen_V, strict=True)]
    result_BV = rules.penalize_repetition(jnp.asarray(row)[None], jnp.asarray(seen_V)[None], penalty)
    np.testing.assert_allclose(result_BV[0], expected, rtol=1e-6)


@quick
@given(values, st.sampled_from([0.3, 1.0, 2.5]))
def test_temperature_divides(row, temperature):
    result_V = np.asarray(rules.apply_temperature(jnp.asarray(row)[None], temperature))[0]
    np.testing.assert_allclose(softmax(result_V), softmax(np.asarray(row) / temperature), rtol=1e-4, atol=1e-7)


@quick
@given(values, st.sampled_from([0.0, 1e-30]))
def test_temperature_zero_and_nearly_zero_are_finite_at_the_likeliest(row, temperature):
    result_V = np.asarray(rules.apply_temperature(jnp.asarray(row)[None], temperature))[0]
    assert not np.isnan(result_V).any()
    assert result_V[np.argmax(row)] == 0
    assert (np.isfinite(result_V).sum() == 1) or temperature > 0


@quick
@given(values)
def test_greedy_takes_the_first_of_the_likeliest_whatever_the_filters(row):
    """Ties are common here: the values are coarse."""
    best = int(np.argmax(row))
    for options in ({"temperature": 0.0}, {"top_k": 1}, {"temperature": 0.0, "top_k": 3, "top_p": 0.9, "min_p": 0.5}):
        assert drawn(row, 4, **options).tolist() == [best] * 4


def test_filters_work_on_what_the_one_before_left():
    """Of 0.4, 0.3, 0.2, 0.1, top-k 2 leaves 4/7 and 3/7, of which a nucleus of 0.5 is the first alone."""
    logits_V = np.log([0.3, 0.4, 0.1, 0.2])
    assert set(drawn(logits_V, 200, top_p=0.5)) == {0, 1}
    assert set(drawn(logits_V, 200, top_k=2, top_p=0.5)) == {1}
    assert set(drawn(logits_V, 500, min_p=0.6)) == {0, 1}
    assert set(drawn(logits_V, 500, top_k=3)) == {0, 1, 3}


def test_a_seen_token_can_lose_its_lead():
    assert drawn([2.0, 1.9], temperature=0.0) == 0
    assert drawn([2.0, 1.9], seen=[0], temperature=0.0, repetition_penalty=1.2) == 1


@pytest.mark.parametrize(
    ("options", "probabilities"),
    [
        ({}, [0.1, 0.2, 0.3, 0.4]),
        ({"temperature": 0.5}, [1 / 30, 4 / 30, 9 / 30, 16 / 30]),
        ({"top_k": 3}, [0, 2 / 9, 3 / 9, 4 / 9]),
        ({"top_p": 0.65}, [0, 0, 3 / 7, 4 / 7]),
        ({"min_p": 0.4}, [0, 2 / 9, 3 / 9, 4 / 9]),
    ],
)
def test_tokens_come_as_often_as_their_probability_says(options, probabilities):
    """Pearson's chi-square over 4,000 draws with a fixed seed; 16.3 is exceeded by chance once in a thousand."""
    counts = np.bincount(drawn(np.log([0.1, 0.2, 0.3, 0.4]), 4000, **options), minlength=4)
    expected = 4000 * np.asarray(probabilities)
    possible = expected > 0
    assert counts[~possible].sum() == 0
    assert ((counts - expected)[possible] ** 2 / expected[possible]).sum() < 16.3


def test_what_is_no_token_is_never_drawn():
    """Neither the columns that pad the model's vocabulary nor those beyond the tokenizer's."""
    logits_V = np.array([0.0, 1.0, np.finfo(np.float32).min, 9.0])
    for options in ({}, {"temperature": 50.0}, {"top_k": 4}, {"repetition_penalty": 3.0, "top_p": 1.0}):
        assert set(drawn(logits_V, 100, seen=[1, 2], vocab_size=3, **options)) == {0, 1}


def test_other_numbers_compile_nothing():
    compiled = jax.jit(lambda *args: draw(*args))
    args = jnp.zeros((1, 4)), jnp.zeros((1, 4), bool), jax.random.split(jax.random.key(0), 1)
    for k, temperature in ((1, 0.0), (3, 0.7), (4, 1.0)):
        compiled(*args, Rules.of(SampleConfig(top_k=k, top_p=k / 4, temperature=temperature), k))
    assert compiled._cache_size() == 1
