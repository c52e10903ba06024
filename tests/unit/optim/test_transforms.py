"""Skipping of updates that are not finite."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gptjax.optim.transforms import skip_nonfinite


@pytest.mark.parametrize(
    ("grad", "loss"), [(jnp.nan, 1.0), (jnp.inf, 1.0), (1.0, jnp.nan), (3e38, 1.0)], ids=["nan", "inf", "loss", "norm"]
)
def test_a_bad_step_changes_nothing_and_is_counted(grad, loss):
    tx = skip_nonfinite(optax.adam(0.1))
    params = {"w": jnp.ones(3)}
    state = tx.init(params)
    _, state = tx.update({"w": jnp.ones(3)}, state, params, loss=1.0)
    updates, after = tx.update({"w": jnp.full(3, grad)}, state, params, loss=loss)
    assert np.all(updates["w"] == 0)
    assert (int(after.consecutive), int(after.total)) == (1, 1)
    assert jnp.array_equal(state.inner[0].mu["w"], after.inner[0].mu["w"])
    assert int(after.inner[0].count) == int(state.inner[0].count)


def test_a_good_step_ends_the_row_and_updates_as_without_it():
    plain, tx = optax.adam(0.1), skip_nonfinite(optax.adam(0.1))
    params, grads = {"w": jnp.ones(3)}, {"w": jnp.arange(3.0)}
    state = tx.init(params)
    for _ in range(2):
        _, state = tx.update({"w": jnp.full(3, jnp.nan)}, state, params, loss=1.0)
    assert int(state.consecutive) == 2
    updates, state = tx.update(grads, state, params, loss=1.0)
    expected, _ = plain.update(grads, plain.init(params), params)
    assert jnp.array_equal(updates["w"], expected["w"])
    assert (int(state.consecutive), int(state.total)) == (0, 2)
