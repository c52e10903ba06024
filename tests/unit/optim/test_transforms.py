"""Skipping of updates that are not finite, averages of parameters, factors."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gptjax.optim.transforms import average_params, scale_each, skip_nonfinite


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


def test_an_average_weighs_what_came_by_age_and_by_nothing_else():
    """The initial parameters have no weight; before the first update they are all there is."""
    tx = average_params(optax.sgd(0.5), 0.9)
    step = jax.jit(tx.update)
    params = {"w": jnp.array([4.0, -1.0])}
    state, seen = tx.init(params), []
    np.testing.assert_array_equal(state.average["w"], params["w"])
    for number in range(6):
        updates, state = step({"w": jnp.array([number, 1.0])}, state, params)
        params = optax.apply_updates(params, updates)
        seen.append(np.float64(params["w"]))
        weights = 0.9 ** np.arange(len(seen))[::-1]
        np.testing.assert_allclose(state.average["w"], weights @ np.array(seen) / weights.sum(), rtol=1e-5)


def test_an_average_changes_no_update_and_stands_still_while_updates_are_skipped():
    plain, tx = (skip_nonfinite(each) for each in (optax.adam(0.1), average_params(optax.adam(0.1), 0.5)))
    params = {"w": jnp.ones(3)}
    expected, _ = plain.update({"w": jnp.arange(3.0)}, plain.init(params), params, loss=1.0)
    updates, state = tx.update({"w": jnp.arange(3.0)}, tx.init(params), params, loss=1.0)
    assert jnp.array_equal(updates["w"], expected["w"])
    _, after = tx.update({"w": jnp.full(3, jnp.nan)}, state, params, loss=1.0)
    assert jnp.array_equal(after.inner.average["w"], state.inner.average["w"])
    assert int(after.inner.count) == int(state.inner.count) == 1


def test_the_average_of_half_precision_parameters_is_float32():
    params = {"w": jnp.ones(3, jnp.bfloat16)}
    state = average_params(optax.sgd(0.1), 0.5).init(params)
    assert state.average["w"].dtype == jnp.float32


def test_each_update_has_its_factor():
    updates, _ = scale_each({"a": 0.5, "b": 0.0}).update({"a": jnp.ones(2), "b": jnp.ones(2)}, optax.EmptyState())
    np.testing.assert_array_equal([updates["a"], updates["b"]], [[0.5, 0.5], [0.0, 0.0]])
