"""Gradient transformations that Optax lacks."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class SkipState(NamedTuple):
    """The wrapped optimiser's state and how many updates were skipped: in a row until now, and in all (int32)."""

    inner: Any
    consecutive: jax.Array
    total: jax.Array


def skip_nonfinite(inner: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Leaves parameters and state alone where the loss or the gradient norm is not finite, and counts it.

    `optax.apply_if_finite` applies the bad update once its limit is reached; here the caller stops the run instead.
    Update takes `loss` as an extra argument. A skipped update does not advance the schedule.
    """

    def init(params):
        return SkipState(inner.init(params), jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))

    def update(grads, state, params=None, *, loss):
        finite = jnp.isfinite(loss) & jnp.isfinite(optax.tree.norm(grads))

        def apply():
            return inner.update(grads, state.inner, params)

        def skip():
            return jax.tree.map(jnp.zeros_like, grads), state.inner

        updates, inner_state = jax.lax.cond(finite, apply, skip)
        skipped = 1 - finite.astype(jnp.int32)
        return updates, SkipState(inner_state, (state.consecutive + 1) * skipped, state.total + skipped)

    return optax.GradientTransformationExtraArgs(init, update)
