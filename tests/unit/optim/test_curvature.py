"""The Hessian's diagonal, estimated by products with random signs."""

import jax
import jax.numpy as jnp
import numpy as np

from gptjax.optim.curvature import hutchinson

PARAMS = {"a": jnp.array([0.5, -1.0, 2.0]), "b": jnp.array([[1.0, 3.0]])}
CURVES = {"a": jnp.array([1.0, 2.0, 3.0]), "b": jnp.array([[0.5, -4.0]])}


def estimate(gradient_at, count):
    tx = hutchinson()
    return tx.update(PARAMS, jnp.int32(count), PARAMS, gradient_at=gradient_at, loss=1.0)


def test_a_diagonal_hessian_is_found_exactly():
    diagonal, count = estimate(lambda params: jax.tree.map(jnp.multiply, CURVES, params), 0)
    jax.tree.map(np.testing.assert_array_equal, diagonal, CURVES)
    assert int(count) == 1


def test_what_is_off_the_diagonal_averages_out():
    """By other signs each time, which the number of estimates decides, and nothing else."""
    hessian = jnp.array([[2.0, 1.0, 0.5], [1.0, 3.0, -1.0], [0.5, -1.0, 4.0]])

    def gradient_at(params):
        return {"a": hessian @ params["a"], "b": params["b"]}

    estimates = np.array([estimate(gradient_at, count)[0]["a"] for count in range(200)])
    assert len(np.unique(estimates, axis=0)) == 4  # signs and their opposites give the same
    np.testing.assert_allclose(estimates.mean(0), [2.0, 3.0, 4.0], atol=0.3)
    np.testing.assert_array_equal(estimate(gradient_at, 7)[0]["a"], estimates[7])
