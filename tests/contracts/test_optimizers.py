"""What every optimiser in the table owes: masks, state that lies as the parameters, progress, a checkpoint."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax import model
from gptjax.model.config import ModelConfig
from gptjax.optim.config import OptimConfig
from gptjax.optim.optimizer import OPTIMIZERS, make_optimizer
from gptjax.registry import Choice
from gptjax.sharding import Layout, MeshConfig, make_mesh
from gptjax.train.checkpoint import Checkpoints
from gptjax.train.state import abstract_state, create_state

CFG = ModelConfig(vocab_size=32, d_model=16, num_layers=2, num_heads=2, seq_len=8)
INIT = functools.partial(model.init_params, CFG)
optimizers = pytest.mark.parametrize("name", OPTIMIZERS)


def make(name, **kwargs):
    cfg = OptimConfig(optimizer=Choice(name), schedule=Choice("constant"), warmup_steps=0, **kwargs)
    return make_optimizer(cfg, model.param_shapes(CFG))


@optimizers
def test_decay_reaches_the_matrices_and_nothing_else(name):
    """With zero gradients only decayed parameters move, and every one of them does."""
    params = jax.tree.map(jnp.ones_like, INIT(jax.random.key(0)))
    tx = make(name, weight_decay=0.5, peak_lr=0.1)
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params, loss=1.0)
    for path, update in jax.tree_util.tree_leaves_with_path(updates):
        moved = bool(jnp.all(update != 0))
        assert moved == (path[-1].key == "kernel"), path
        assert moved or bool(jnp.all(update == 0)), path


@optimizers
def test_state_lies_as_its_parameters(name):
    """Nothing as large as a sharded parameter is replicated."""
    layout = Layout(make_mesh(MeshConfig(fsdp=4, tensor=2)), "fsdp_tp")
    abstract = abstract_state(model.param_shapes(CFG), model.logical_axes(CFG), make(name), layout)
    state = create_state(INIT, make(name), jax.random.key(0), abstract)
    sharded = [leaf.shape for leaf in jax.tree.leaves(state.params) if not leaf.sharding.is_fully_replicated]
    assert sharded
    for leaf in jax.tree.leaves(state.opt_state):
        if leaf.shape in sharded:
            assert not leaf.sharding.is_fully_replicated, leaf.shape


@optimizers
def test_it_minimises(name):
    """Thirty steps on a quadratic bring every parameter nearer to its target."""
    params = INIT(jax.random.key(0))
    tx = make(name, weight_decay=0.0, peak_lr=0.02)
    target = jax.tree.map(lambda p: p + 0.5, params)

    def distance(params):
        return sum(jnp.sum((p - t) ** 2) for p, t in zip(jax.tree.leaves(params), jax.tree.leaves(target), strict=True))

    @jax.jit
    def step(params, state):
        loss, grads = jax.value_and_grad(distance)(params)
        updates, state = tx.update(grads, state, params, loss=loss)
        return jax.tree.map(jnp.add, params, updates), state

    before, state = distance(params), tx.init(params)
    for _ in range(30):
        params, state = step(params, state)
    assert distance(params) < 0.2 * before


@optimizers
def test_state_survives_a_checkpoint_onto_another_mesh(name, tmp_path):
    """Saved from eight devices as fsdp, restored as fsdp x tensor: equal to the bit."""
    tx = make(name)
    layouts = [Layout(make_mesh(MeshConfig()), "fsdp"), Layout(make_mesh(MeshConfig(tensor=2)), "fsdp_tp")]
    abstracts = [abstract_state(model.param_shapes(CFG), model.logical_axes(CFG), tx, layout) for layout in layouts]
    state = create_state(INIT, tx, jax.random.key(0), abstracts[0])
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state, 3, 24, {}, None)
    checkpoints.wait()
    restored, cursor = checkpoints.restore(3, abstracts[1])
    assert (int(restored.step), cursor) == (3, 24)
    for before, after, wanted in zip(
        jax.tree.leaves(state)[1:], jax.tree.leaves(restored)[1:], jax.tree.leaves(abstracts[1])[1:], strict=True
    ):
        np.testing.assert_array_equal(before, after)
        assert after.sharding == wanted.sharding
