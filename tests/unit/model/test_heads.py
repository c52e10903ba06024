"""Logits: padding that never counts, float32 sums, and a tied head that owns nothing.

Shapes: B batch, T position, D model width, V vocabulary.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax import model
from gptjax.model.config import ModelConfig

CFG = ModelConfig(vocab_size=5, d_model=8, num_layers=1, num_heads=1, seq_len=4, vocab_multiple=1)
PADDED = dataclasses.replace(CFG, vocab_multiple=4)  # 8 rows
X_BTD = np.random.default_rng(0).standard_normal((2, 4, 8), np.float32)
TARGETS_BT = np.array([[0, 1, 2, 3], [4, 0, 1, 2]])

jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def params_of(tied, weights_VD):
    """The embedding is never read by an untied head."""
    head = {} if tied else {"head": {"kernel": weights_VD.T}}
    return {"tokens": {"embedding": weights_VD if tied else jnp.full_like(weights_VD, jnp.nan)}, **head}


def cross_entropy(cfg, tied, weights_VD):
    cfg = dataclasses.replace(cfg, tie_embeddings=tied)
    logprobs_BTV = jax.nn.log_softmax(model.unembed(cfg, params_of(tied, weights_VD), X_BTD))
    return -jnp.sum(jnp.take_along_axis(logprobs_BTV, TARGETS_BT[..., None], -1))


@pytest.mark.parametrize("tied", [True, False])
def test_padding_takes_no_probability_and_learns_nothing(tied):
    """However large its weights have become, loss and gradients are those of the vocabulary alone."""
    weights_VD = np.random.default_rng(1).standard_normal((5, 8), np.float32)
    padded_VD = np.concatenate([weights_VD, np.full((3, 8), 100, np.float32)])
    compiled = jit(jax.value_and_grad(cross_entropy, argnums=2), static_argnums=(0, 1))
    loss, grad_VD = compiled(CFG, tied, weights_VD)
    padded_loss, padded_grad_VD = compiled(PADDED, tied, padded_VD)
    np.testing.assert_allclose(padded_loss, loss, rtol=1e-6)
    padded_grad_VD = np.asarray(padded_grad_VD)
    np.testing.assert_allclose(padded_grad_VD[:5], grad_VD, rtol=1e-5, atol=1e-6)
    assert np.all(padded_grad_VD[5:] == 0)


@pytest.mark.parametrize(("tied", "shapes"), [(True, None), (False, {"kernel": (8, 8)})])
def test_a_tied_head_has_no_parameters_of_its_own(tied, shapes):
    cfg = dataclasses.replace(PADDED, tie_embeddings=tied)
    params = model.param_shapes(cfg)
    assert jax.tree.map(lambda x: x.shape, params.get("head")) == shapes


@pytest.mark.parametrize("tied", [True, False])
def test_bfloat16_logits_are_summed_in_float32(tied):
    """256 + 1 + ... + 1 (7 ones) stays 256 in bfloat16, whose numbers are 2 apart there."""
    cfg = dataclasses.replace(CFG, dtype="bfloat16", tie_embeddings=tied)
    params = params_of(tied, np.ones((5, 8), np.float32))
    logits_BTV = model.unembed(cfg, params, np.array([256, 1, 1, 1, 1, 1, 1, 1], jnp.bfloat16)[None, None])
    assert logits_BTV.dtype == jnp.float32
    np.testing.assert_array_equal(logits_BTV, np.full((1, 1, 5), 263))
