"""Initialisation and dropout over the stack: what each block draws for itself, and what stays the same.

Shapes: B batch, T position, D model width, N layers.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax import model, sharding
from gptjax.model.config import ModelConfig
from gptjax.registry import Choice
from gptjax.sharding import Layout, MeshConfig, make_mesh

CFG = ModelConfig(vocab_size=8, d_model=64, num_layers=2, num_heads=2, seq_len=8, tie_embeddings=False)

jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@functools.cache
def init(cfg):
    return jit(functools.partial(model.init_params, cfg))


def initialised(cfg=CFG, key=0):
    params = init(cfg)(jax.random.key(key))
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }


def test_every_matrix_starts_at_its_std():
    """What writes into the residual stream starts 1 / sqrt(2 N) = 1/2 smaller, one for each sub-layer; five sigma."""
    for path, x in initialised().items():
        if path.endswith(("kernel", "embedding")):
            writes = path in ("blocks/attention/output/kernel", "blocks/mlp/down/kernel")
            std = CFG.init_std / (2 if writes else 1)
            np.testing.assert_allclose(np.std(x), std, rtol=5 / np.sqrt(2 * x.size), err_msg=path)
            np.testing.assert_allclose(np.mean(x), 0, atol=5 * std / np.sqrt(x.size), err_msg=path)
        else:
            assert np.all(x == path.endswith("scale")), path


def test_no_two_blocks_and_no_two_matrices_start_alike():
    """A key used twice would give equal numbers; independent ones are hardly correlated (512 at least, five sigma)."""
    parts = []
    for path, x in initialised().items():
        if path.endswith(("kernel", "embedding")):
            parts += [part.ravel()[:512] for part in (x if path.startswith("blocks/") else x[None])]
    correlations = np.corrcoef(np.stack(parts)) - np.eye(len(parts))
    assert np.abs(correlations).max() < 5 / np.sqrt(512)


def test_initialisation_is_a_function_of_the_key_alone():
    """Not of how the loop over blocks is compiled, nor of the compute dtype: a checkpoint fits all."""
    again = initialised(dataclasses.replace(CFG, scan_layers=False, remat="full", dtype="bfloat16"))
    assert again.keys() == initialised().keys()
    for path, x in initialised().items():
        assert again[path].dtype == np.float32
        np.testing.assert_array_equal(again[path], x, err_msg=path)
    assert np.any(initialised(key=1)["tokens/embedding"] != initialised()["tokens/embedding"])


DROPPING = ModelConfig(
    vocab_size=8,
    d_model=256,
    num_layers=2,
    num_heads=2,
    seq_len=8,
    dropout=0.5,
    positions=Choice("none"),
    norm=Choice("rmsnorm"),
)


def powers_of_two():
    """Returns parameters by which the embedding gives 1 and the four sub-layers 2, 4, 8, 16, whatever they read."""
    params = model.param_shapes(DROPPING)
    params = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), params)
    params["final_norm"]["scale"] += 1
    params["tokens"]["embedding"] += 1
    params["blocks"]["attention"]["output"]["bias"] += np.array([[2], [8]], np.float32)
    params["blocks"]["mlp"]["down"]["bias"] += np.array([[4], [16]], np.float32)
    return params


def features(cfg, params, dropout_key):
    return model.features(cfg, params, jnp.zeros((2, 8), int), dropout_key=dropout_key)[0]


@functools.cache
def dropped(cfg):
    """Returns features and gradients under one dropout key."""

    def loss(params):
        x_BTD = features(cfg, params, jax.random.key(0))
        return jnp.sum(x_BTD * jnp.arange(256.0) / 256), x_BTD

    grads, x_BTD = jit(jax.grad(loss, has_aux=True))(powers_of_two())
    return np.asarray(x_BTD), grads


@pytest.mark.parametrize(("rules", "context", "init_std"), [("fsdp_manual", 1, 0.03), ("context", 2, 0.04)])
def test_shapes_are_whole_whatever_layout_they_are_asked_for_under(rules, context, init_std):
    """Each config is a new one, for the shapes of those that were seen are kept."""
    cfg = dataclasses.replace(CFG, init_std=init_std)
    with sharding.use(Layout(make_mesh(MeshConfig(context=context, rules=rules)), rules)):
        shapes = model.param_shapes(cfg)
    assert shapes == model.param_shapes(CFG)


def test_every_place_and_every_block_drops_for_itself():
    """The five draws (the embedding, two sub-layers in two blocks) fall in all 32 ways; shared ones could not.

    Of a token's 256 channels, 8 are to be expected for each way.
    """
    x_BTD, _ = dropped(DROPPING)
    assert max(len(np.unique(x_D)) for x_D in x_BTD.reshape(-1, 256)) == 32
    assert np.any(x_BTD[0, 0] != x_BTD[0, 1])
    assert np.any(x_BTD[0] != x_BTD[1])


def test_without_a_key_nothing_is_dropped():
    """Whatever the rate: evaluation and sampling give no key."""
    x_BTD = jit(features, static_argnums=(0, 2))(DROPPING, powers_of_two(), None)
    np.testing.assert_array_equal(x_BTD, np.broadcast_to(x_BTD[0, 0, 0], (2, 8, 256)))


def test_dropout_is_the_same_however_it_is_computed():
    """Unrolled blocks drop what the loop drops, and so does the backward pass that computes them again."""
    x_BTD, grads = dropped(DROPPING)
    other_BTD, other_grads = dropped(dataclasses.replace(DROPPING, scan_layers=False, remat="full"))
    np.testing.assert_allclose(other_BTD, x_BTD, rtol=1e-6)
    for actual, expected in zip(jax.tree.leaves(other_grads), jax.tree.leaves(grads), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
