"""Kernels in few bits: how near they are, what a gradient keeps, and that adapters beside them are merged."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax import model
from gptjax.model import lora, quantised
from gptjax.model.config import LoRAConfig, ModelConfig
from gptjax.types import UserError
from tests.params import random_params

pytest.importorskip("qwix", reason="qwix is not installed: pip install 'gptjax[qlora]'")

WHOLE = ModelConfig(
    vocab_size=32, d_model=128, num_layers=2, num_heads=2, d_ff=96, seq_len=8, use_bias=False,
    lora=LoRAConfig(rank=2, targets="blocks/(attention/output|mlp/up)"),
)  # fmt: skip
ERRORS = {"int8": 0.01, "int4": 0.15, "nf4": 0.12}
"""Most of the mean size of normal numbers that may be lost, where 64 share a scale."""
kinds = pytest.mark.parametrize("kind", quantised.STORED)


def kept(kind):
    cfg = dataclasses.replace(WHOLE, lora=dataclasses.replace(WHOLE.lora, base=kind))
    return cfg, lora.quantise(cfg, random_params(WHOLE, 0.1))


@kinds
def test_what_comes_back_is_near(kind):
    """Along the inputs' last dim, in each of the layers, groups of at most 64 share a scale."""
    kernel = np.random.default_rng(0).standard_normal((2, 3, 128, 8), np.float32)
    found = quantised.quantise(jnp.asarray(kernel), kind, 2)
    assert (found["kernel"].shape, found["kernel"].dtype) == (kernel.shape, quantised.STORED[kind])
    assert found["scale"].shape == quantised.scale_shape(kernel.shape, 2) == (2, 3, 2, 8)
    error = np.abs(quantised.dequantise(found["kernel"], found["scale"], kind) - kernel).mean() / np.abs(kernel).mean()
    assert 0 < error < ERRORS[kind]
    assert quantised.scale_shape((5, 96), 1) == (5, 3)


@kinds
def test_a_quantised_model_has_the_declared_parameters(kind):
    cfg, params = kept(kind)
    shapes = model.param_shapes(cfg)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), params) == jax.tree.map(lambda x: (x.shape, x.dtype), shapes)
    names = model.logical_axes(cfg)["blocks"]["attention"]["output"]
    assert names["kernel"] == ("layers", "q_heads", "head_dim", "embed")
    assert names["scale"] == ("layers", "q_heads", None, "embed")
    assert "scale" not in params["blocks"]["mlp"]["down"]


@pytest.mark.parametrize("scan_layers", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_it_computes_what_its_merged_model_does(scan_layers):
    """Forward, and in the gradient of the adapters."""
    cfg, params = kept("nf4")
    cfg = dataclasses.replace(cfg, scan_layers=scan_layers)
    plain, merged = lora.merge(cfg, params)
    assert plain.lora == LoRAConfig()
    assert jax.tree.structure(merged) == jax.tree.structure(model.param_shapes(plain))
    tokens_BT = np.random.default_rng(0).integers(0, 32, (2, 8))
    base, adapters = lora.split(params)
    whole = lora.join(lora.merge(cfg, lora.join(base, jax.tree.map(jnp.zeros_like, adapters)))[1], adapters)

    @functools.partial(jax.jit, static_argnums=0)
    def run(cfg, adapters, base):
        def loss(adapters):
            logits_BTV = model.apply(cfg, lora.join(base, adapters), tokens_BT)[0]
            return jnp.sum(jnp.sin(logits_BTV[..., :32])), logits_BTV

        return jax.value_and_grad(loss, has_aux=True)(adapters)

    (_, logits_BTV), grads = run(cfg, adapters, base)
    (_, expected_BTV), expected = run(
        dataclasses.replace(WHOLE, scan_layers=scan_layers), adapters, lora.split(whole)[0]
    )
    np.testing.assert_allclose(logits_BTV, expected_BTV, rtol=1e-4, atol=1e-4)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4), grads, expected)


def test_a_library_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "qwix", None)
    with pytest.raises(UserError, match=r"needs the qwix library: pip install 'gptjax\[qlora\]'"):
        quantised.quantise(jnp.ones((4, 4)), "int8", 0)
