"""SOAP against its definition in NumPy (arXiv 2409.11321, algorithm 3), and what its bases are.

Shapes: N stacked matrices, I inputs, O outputs, H heads, C channels.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gptjax.optim.matrices import Matrix
from gptjax.optim.soap import scale_by_soap

B1, B2, EPS = 0.9, 0.8, 1e-8


def run(grads, matrix, max_dim=100, refresh_every=2):
    """Returns the updates for a row of gradients, and the last state."""
    tx = scale_by_soap(
        {"w": matrix}, b1=B1, b2=B2, eps=EPS, refresh_every=refresh_every, max_dim=max_dim, mu_dtype=None
    )
    update = jax.jit(tx.update)
    state, updates = tx.init({"w": grads[0]}), []
    for g in grads:
        direction, state = update({"w": g}, state)
        updates.append(np.asarray(direction["w"]))
    return updates, state


def gradients(shape, count=7):
    """Of a few large directions and many small ones, as real ones are: their eigenvalues lie apart."""
    random = np.random.default_rng(0)
    spread = np.geomspace(1, 8, shape[-1])
    return [np.float32(random.standard_normal(shape) * spread) for _ in range(count)]


def definition(grads, left=True, right=True):
    """SOAP of one matrix in float64; the first gradient only makes the bases, as in the authors' code."""
    first = grads[0].astype(np.float64)
    L, R = first @ first.T, first.T @ first
    QL = np.linalg.eigh(L)[1] if left else np.eye(len(L))
    QR = np.linalg.eigh(R)[1] if right else np.eye(len(R))
    M, V, updates = 0.0, 0.0, [np.zeros_like(first)]
    for t, g in enumerate(grads[1:], start=1):
        G = g.astype(np.float64)
        M = B1 * M + (1 - B1) * G
        V = B2 * V + (1 - B2) * (QL.T @ G @ QR) ** 2
        N = (QL.T @ M @ QR / (1 - B1**t)) / (np.sqrt(V / (1 - B2**t)) + EPS)
        updates.append(QL @ N @ QR.T)
        L, R = B2 * L + (1 - B2) * G @ G.T, B2 * R + (1 - B2) * G.T @ G
        if t % 2 == 0:
            QL = np.linalg.qr(L @ QL)[0] if left else QL
            QR = np.linalg.qr(R @ QR)[0] if right else QR
    return updates


@pytest.mark.parametrize(("max_dim", "left", "right"), [(100, True, True), (4, True, False), (3, False, False)])
def test_it_is_its_definition_on_both_sides_on_one_and_on_none(max_dim, left, right):
    """On none it is Adam. The sign of an eigenvector does not matter: it is turned with and turned back with."""
    grads = gradients((4, 5))
    updates, _ = run(grads, Matrix(0, 1), max_dim)
    for update, expected in zip(updates, definition(grads, left, right), strict=True):
        np.testing.assert_allclose(update, expected, rtol=2e-3, atol=2e-3)
    assert not updates[0].any()


def test_heads_and_channels_are_one_side_and_each_layer_is_its_own():
    """A stack of projections moves as each of them would alone, flattened."""
    grads = gradients((2, 6, 2, 2))
    stacked, state = run(grads, Matrix(1, 2))
    for layer in range(2):
        alone, _ = run([g[layer].reshape(6, 4) for g in grads], Matrix(0, 1))
        for together, single in zip(stacked, alone, strict=True):
            np.testing.assert_allclose(together[layer].reshape(6, 4), single, rtol=1e-3, atol=1e-3)
    assert [x["w"].shape for x in state.bases] == [(2, 6, 6), (2, 2, 2, 4)]


def test_bases_stay_orthogonal_and_come_to_the_eigenvectors():
    """Under gradients of one covariance, one step of power iteration at a time is enough."""
    covariance = np.diag(np.geomspace(1, 1000, 5))
    random = np.random.default_rng(1)
    grads = [np.float32(random.standard_normal((5, 400)).T @ np.sqrt(covariance)).T for _ in range(20)]
    _, state = run(grads, Matrix(0, 1), refresh_every=1)
    basis = np.asarray(state.bases[0]["w"])
    np.testing.assert_allclose(basis.T @ basis, np.eye(5), atol=1e-5)
    turned = basis.T @ np.asarray(state.grams[0]["w"]) @ basis
    scale = np.sqrt(np.outer(np.diag(turned), np.diag(turned)))
    np.testing.assert_allclose(turned / scale, np.eye(5), atol=0.02)


def test_what_is_no_matrix_takes_adams_step_one_update_later():
    grads = gradients((6,))
    updates, state = run(grads, None)
    adam = optax.scale_by_adam(B1, B2, EPS)
    expected, adam_state = [np.zeros(6)], adam.init(jnp.zeros(6))
    for g in grads[1:]:
        direction, adam_state = adam.update(g, adam_state)
        expected.append(direction)
    np.testing.assert_allclose(updates, expected, rtol=1e-5, atol=1e-6)
    assert jax.tree.leaves((state.grams, state.bases)) == []
