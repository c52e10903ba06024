"""Likelihoods are those of the whole model, row by row, whatever the batches are; long rows are scored in windows."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptjax import model
from gptjax.data.sequences import scored_windows
from gptjax.model.config import ModelConfig
from gptjax.sample.likelihood import _score, likelihoods

CFG = ModelConfig(vocab_size=40, d_model=16, num_layers=2, num_heads=4, seq_len=96)
apply = jax.jit(model.apply, static_argnums=0)


@pytest.fixture(scope="module")
def params():
    return jax.tree.map(lambda x: 6 * x, model.init_params(CFG, jax.random.key(1)))


def logits(cfg, params, row):
    """What the model makes of a row, padded so that one program does for all."""
    inputs_T = jnp.zeros(cfg.seq_len, int).at[: len(row)].set(jnp.array(row))
    return apply(cfg, params, inputs_T[None])[0][0, : len(row)]


def alone(cfg, params, row, start):
    """The log-probability of a row's tokens from `start` on, by the whole model, and whether they are greedy."""
    logits_TV = logits(cfg, params, row[:-1])[start - 1 :]
    targets_T = np.array(row[start:])
    logprob_T = jax.nn.log_softmax(logits_TV)[np.arange(len(targets_T)), targets_T]
    return logprob_T.sum(), bool((logits_TV.argmax(-1) == targets_T).all())


def test_rows_are_scored_as_each_alone(params):
    """Of many lengths, with short and long ends scored, in batches that are not full; few programs are compiled."""
    random = np.random.default_rng(0)
    rows = [random.integers(0, 40, random.integers(2, 90)).tolist() for _ in range(11)]
    starts = [int(random.integers(1, len(row))) for row in rows]
    rows.append(greedy := rows[0][:3])
    starts.append(3)
    for _ in range(4):
        greedy.append(int(logits(CFG, params, greedy)[-1].argmax()))
    before = _score._cache_size()
    scores = likelihoods(CFG, params, rows, starts, batch_size=4)
    assert _score._cache_size() <= before + 3
    expected = [alone(CFG, params, row, start) for row, start in zip(rows, starts, strict=True)]
    np.testing.assert_allclose([s.logprob for s in scores], [logprob for logprob, _ in expected], rtol=1e-4, atol=1e-5)
    assert [s.is_greedy for s in scores] == [is_greedy for _, is_greedy in expected]
    assert scores[-1].is_greedy


def test_a_long_context_is_cut_from_the_left_and_nothing_is_certain(params):
    row = np.random.default_rng(1).integers(0, 40, 150).tolist()
    cut, nothing = likelihoods(CFG, params, [row, row], [140, 150])
    assert cut.logprob == pytest.approx(float(alone(CFG, params, row[-97:], 87)[0]), rel=1e-4)
    assert nothing == (0.0, True)


def test_what_is_longer_than_the_context_is_scored_in_windows(params):
    row = np.random.default_rng(2).integers(0, 40, 150).tolist()
    (whole,) = likelihoods(CFG, params, [row], [1])
    first, last = alone(CFG, params, row[:97], 1)[0], alone(CFG, params, row[-97:], 44)[0]
    assert whole.logprob == pytest.approx(float(first + last), rel=1e-4)


def test_progress_sees_the_batches(params):
    seen = []

    def progress(batches):
        seen.extend(batches)
        return batches

    likelihoods(CFG, params, [[1, 2]] * 5, [1] * 5, batch_size=2, progress=progress)
    assert sorted({i for batch in seen for i in batch}) == list(range(5))
    assert likelihoods(CFG, params, [], []) == []


@pytest.mark.slow
def test_few_bits_are_scored_too(params):
    row = np.random.default_rng(3).integers(0, 40, 30).tolist()
    cfg = dataclasses.replace(CFG, dtype="bfloat16")
    (score,) = likelihoods(cfg, params, [row], [20])
    assert score.logprob == pytest.approx(float(alone(cfg, params, row, 20)[0]), rel=0.02)


@given(st.integers(1, 60), st.integers(0, 60), st.integers(1, 20))
def test_windows_score_every_token_once_after_as_many_as_fit(start, count, seq_len):
    tokens = list(range(start + count))
    found = list(scored_windows(tokens, start, seq_len))
    assert [token for window, scored in found for token in window[-scored:]] == tokens[start:]
    for window, scored in found:
        assert 1 <= scored < len(window) == min(seq_len + 1, window[-1] + 1)
