"""The diagonal of the Hessian, estimated, for rules that divide by it."""

import jax
import jax.numpy as jnp
import optax

from gptjax.types import stream_key


def hutchinson() -> optax.GradientTransformationExtraArgs:
    """Estimates the diagonal as s * (H s) for random signs s (Hutchinson 1989).

    Update takes `gradient_at`, the gradient of the batch's loss as a function of the parameters. Optax's own keeps a
    key in its state; here signs follow from the number of estimates so far, which is all the state there is.
    """

    def init(params):
        del params
        return jnp.zeros((), jnp.int32)

    def update(grads, count, params, *, gradient_at, **_):
        signs = optax.tree.random_like(stream_key(0, "curvature", count), params, jax.random.rademacher)
        _, products = jax.jvp(gradient_at, (params,), (signs,))
        return jax.tree.map(jnp.multiply, signs, products), count + 1

    return optax.GradientTransformationExtraArgs(init, update)
