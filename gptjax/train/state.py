"""The training state: arrays only. Everything else that a run needs is a function of its config and the step."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gptjax.optim.optimizer import evaluation_params, state_shardings
from gptjax.sharding import Layout, shardings
from gptjax.types import Params


class TrainState(NamedTuple):
    """The number of batches consumed (int32), the parameters (float32) and the optimiser's state."""

    step: jax.Array
    params: Params
    opt_state: Any

    @property
    def evaluation_params(self) -> Params:
        """What is evaluated and sampled from: an average where the optimiser keeps one, else `params` itself."""
        return evaluation_params(self.opt_state, self.params)


def abstract_state(params: Params, names: Any, tx: optax.GradientTransformation, layout: Layout) -> TrainState:
    """Returns the state as shapes with shardings: the optimiser's state lies as the parameters that it belongs to.

    `params` holds the shapes of the parameters, `names` the logical names of their dims.
    """
    opt_state = jax.eval_shape(tx.init, params)
    param_shardings = shardings(layout, names, params)
    opt_shardings = state_shardings(opt_state, params, param_shardings, layout.replicated)

    def placed(leaf, sharding):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return TrainState(
        jax.ShapeDtypeStruct((), jnp.int32, sharding=layout.replicated),
        jax.tree.map(placed, params, param_shardings),
        jax.tree.map(placed, opt_state, opt_shardings),
    )


def create_state(init_params, tx: optax.GradientTransformation, key: jax.Array, abstract: TrainState) -> TrainState:
    """Initialises the state where `abstract` says, each device its part."""

    def create(key):
        params = init_params(key)
        return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params))

    return jax.jit(create, out_shardings=jax.tree.map(lambda leaf: leaf.sharding, abstract))(key)


def with_params(tx: optax.GradientTransformation, params: Params, abstract: TrainState) -> TrainState:
    """Starts a new state from given parameters."""

    def create(params):
        return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params))

    return jax.jit(create, out_shardings=jax.tree.map(lambda leaf: leaf.sharding, abstract))(params)
