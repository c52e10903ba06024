"""The state lies as its parameters do, on any mesh."""

import jax
import jax.numpy as jnp
import optax
import pytest

from gptjax.sharding import Layout, MeshConfig, make_mesh
from gptjax.train.state import abstract_state, create_state, with_params
from gptjax.types import UserError

NAMES = {"kernel": ("embed", "ff"), "scale": (None,)}


def init_params(key):
    return {"kernel": jax.random.normal(key, (16, 32)), "scale": jnp.ones(3)}


def layout():
    return Layout(make_mesh(MeshConfig(fsdp=4, tensor=2)), "fsdp_tp")


def abstract_of(tx, where):
    return abstract_state(jax.eval_shape(init_params, jax.random.key(0)), NAMES, tx, where)


def test_moments_lie_as_their_parameters():
    """Plain jit(tx.init) would replicate them on every device."""
    tx = optax.adamw(1e-3)
    abstract = abstract_of(tx, layout())
    state = create_state(init_params, tx, jax.random.key(0), abstract)
    adam = state.opt_state[0]
    for tree in (state.params, adam.mu, adam.nu):
        assert tree["kernel"].sharding.spec == jax.sharding.PartitionSpec("fsdp", "tensor")
        assert tree["kernel"].addressable_shards[0].data.shape == (4, 16)
        assert tree["scale"].sharding.is_fully_replicated
    assert int(state.step) == 0


def test_the_mesh_does_not_change_the_initial_parameters():
    tx = optax.sgd(1.0)
    one = Layout(make_mesh(MeshConfig(), jax.devices()[:1]), "dp")
    key = jax.random.key(3)
    states = [create_state(init_params, tx, key, abstract_of(tx, at)) for at in (one, layout())]
    assert jnp.array_equal(jax.device_get(states[0].params["kernel"]), jax.device_get(states[1].params["kernel"]))


def test_with_params_starts_at_step_0_with_a_fresh_optimiser():
    tx = optax.adamw(1e-3)
    abstract = abstract_of(tx, layout())
    params = create_state(init_params, tx, jax.random.key(1), abstract).params
    state = with_params(tx, params, abstract)
    assert int(state.step) == 0
    assert not state.opt_state[0].mu["kernel"].any()
    assert jnp.array_equal(state.params["kernel"], params["kernel"])


def test_a_dim_that_does_not_divide_is_named():
    def odd(key):
        return {"kernel": jnp.ones((15, 32)), "scale": jnp.ones(3)}

    with pytest.raises(UserError, match=r"kernel: dim 0 \(embed\) of size 15 .* fsdp of size 4"):
        abstract_state(jax.eval_shape(odd, jax.random.key(0)), NAMES, optax.sgd(1.0), layout())
