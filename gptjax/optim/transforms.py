"""Gradient transformations that Optax lacks, or that it has in another form."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gptjax.optim.masks import take
from gptjax.types import Params


class SkipState(NamedTuple):
    """The wrapped optimiser's state and how many updates were skipped: in a row until now, and in all (int32)."""

    inner: Any
    consecutive: jax.Array
    total: jax.Array


def skip_nonfinite(inner: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Leaves parameters and state alone where the loss or the gradient norm is not finite, and counts it.

    `optax.apply_if_finite` applies the bad update once its limit is reached; here the caller stops the run instead.
    Update takes `loss` as an extra argument, and others for the wrapped one. A skipped update does not advance the
    schedule.
    """

    def init(params):
        return SkipState(inner.init(params), jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))

    inner = optax.with_extra_args_support(inner)

    def update(grads, state, params=None, *, loss, **extra):
        finite = jnp.isfinite(loss) & jnp.isfinite(optax.tree.norm(grads))

        def apply():
            return inner.update(grads, state.inner, params, **extra)

        def skip():
            return jax.tree.map(jnp.zeros_like, grads), state.inner

        updates, inner_state = jax.lax.cond(finite, apply, skip)
        skipped = 1 - finite.astype(jnp.int32)
        return updates, SkipState(inner_state, (state.consecutive + 1) * skipped, state.total + skipped)

    return optax.GradientTransformationExtraArgs(init, update)


class AverageState(NamedTuple):
    """The wrapped optimiser's state, the averaged parameters (float32) and the number of updates (int32)."""

    inner: Any
    average: Params
    count: jax.Array


def average_params(inner: optax.GradientTransformation, decay: float) -> optax.GradientTransformationExtraArgs:
    """Keeps the exponential average of the parameters as they are after each update, without bias at any time.

    The weights are those of a bias-corrected average from zero, (1 - decay) decay^age over their sum, so the initial
    parameters have none; but corrected is what is kept, and reading it takes no division. `optax.ema` averages updates.
    """

    def init(params):
        # A copy, so that parameters and state can both be donated.
        average = jax.tree.map(lambda p: jnp.array(p, jnp.float32, copy=True), params)
        return AverageState(inner.init(params), average, jnp.zeros((), jnp.int32))

    inner = optax.with_extra_args_support(inner)

    def update(grads, state, params=None, **extra):
        updates, inner_state = inner.update(grads, state.inner, params, **extra)
        count = optax.safe_increment(state.count)
        rate = (1 - decay) / (1 - jnp.float32(decay) ** count)
        after = optax.apply_updates(params, updates)
        average = jax.tree.map(lambda mean, p: mean + rate * (p - mean), state.average, after)
        return updates, AverageState(inner_state, average, count)

    return optax.GradientTransformationExtraArgs(init, update)


def on_part(inner: optax.GradientTransformation, part: Params) -> optax.GradientTransformationExtraArgs:
    """Lets a transformation see a part of the parameters alone: gradients, state and updates are of that part."""
    inner = optax.with_extra_args_support(inner)

    def init(params):
        return inner.init(take(params, part))

    def update(grads, state, params=None, **extra):
        return inner.update(grads, state, take(params, part), **extra)

    return optax.GradientTransformationExtraArgs(init, update)


def scale_each(factors: Any) -> optax.GradientTransformation:
    """Multiplies the update of each parameter by its factor, a number or an array, out of a tree like theirs."""
    return optax.stateless(lambda updates, _: jax.tree.map(lambda u, factor: u * factor, updates, factors))
