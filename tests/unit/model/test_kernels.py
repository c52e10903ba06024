"""What attention promises beside the contract: queries that see nothing, scores in float32, work saved by chunks.

Shapes: B batch, T query position, S key position, H query heads, K key/value heads, C head channels.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax.model.kernels import attend, in_chunks


def test_a_query_that_sees_no_key_gets_the_mean_of_the_values():
    """And gradients that are finite, which a softmax over -inf alone has not."""
    q_BTHC, k_BSKC, v_BSKC = np.random.default_rng(0).standard_normal((3, 1, 4, 1, 2), np.float32)
    blind_BTS = jnp.zeros((1, 4, 4), bool)

    @jax.jit
    def run(*qkv):
        y_BTHC, vjp = jax.vjp(lambda *qkv: attend(*qkv, blind_BTS), *qkv)
        return y_BTHC, vjp(jnp.ones_like(y_BTHC))

    y_BTHC, grads = run(q_BTHC, k_BSKC, v_BSKC)
    np.testing.assert_allclose(y_BTHC, np.broadcast_to(v_BSKC.mean(1, keepdims=True), y_BTHC.shape), rtol=1e-6)
    assert all(np.all(np.isfinite(grad)) for grad in grads)


def test_scores_of_bfloat16_are_float32():
    """200 and 200.5 are one number in bfloat16; told apart, their weights are 1 / (1 + sqrt e) and the rest."""
    q_BTHC = np.array([2, 2, 0, 0], jnp.bfloat16).reshape(1, 1, 1, 4)  # halved by the scale
    k_BSKC = np.array([[128, 72, 0, 0], [128, 72.5, 0, 0]], jnp.bfloat16).reshape(1, 2, 1, 4)
    v_BSKC = np.array([[0, 0, 0, 0], [1, 1, 1, 1]], jnp.bfloat16).reshape(1, 2, 1, 4)
    y_BTHC = jax.jit(attend)(q_BTHC, k_BSKC, v_BSKC, np.ones((1, 1, 2), bool))
    assert y_BTHC.dtype == jnp.bfloat16
    np.testing.assert_allclose(y_BTHC.astype(np.float32), 1 - 1 / (1 + np.exp(0.5)), rtol=2**-8)


@pytest.mark.parametrize("T", [8, 9])
def test_chunks_of_queries_change_nothing(T):
    """9 cannot be cut into 4 chunks and stays whole."""
    q_BTHC, k_BSKC, v_BSKC = np.random.default_rng(0).standard_normal((3, 2, T, 2, 4), np.float32)
    causal_BTS = np.tril(np.ones((1, T, T), bool))
    whole_BTHC = attend(q_BTHC, k_BSKC, v_BSKC, causal_BTS)
    np.testing.assert_allclose(in_chunks(attend, q_BTHC, k_BSKC, v_BSKC, causal_BTS), whole_BTHC, rtol=1e-5, atol=1e-6)


def test_chunks_leave_out_three_eighths_of_the_scores():
    """Counted by the largest work there is: with wide heads, elementwise operations are few beside the products."""
    qkv = np.zeros((3, 1, 64, 1, 4096), np.float32)
    causal_BTS = np.tril(np.ones((1, 64, 64), bool))

    def flops(num_chunks):
        lowered = jax.jit(lambda *qkv: in_chunks(attend, *qkv, causal_BTS, num_chunks)).lower(*qkv)
        return lowered.compile().cost_analysis()["flops"]

    np.testing.assert_allclose(flops(4) / flops(1), 5 / 8, rtol=0.02)
