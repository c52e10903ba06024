"""Activations by their formulas, read off a layer of one channel whose weights are 1.

Shapes: B batch, T position, D model width.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax import registry
from gptjax.model.config import ModelConfig
from gptjax.model.mlp import MLPS
from gptjax.registry import Choice

KEEP_ALL = jax.checkpoint_policies.everything_saveable
GRID = np.linspace(-6, 6, 97)  # steps of 1/8, exact in bfloat16

FORMULAS = {
    "relu": lambda x: np.maximum(0, x),
    "relu2": lambda x: np.maximum(0, x) ** 2,
    "gelu": lambda x: gelu(x),
    "swiglu": lambda x: x / (1 + np.exp(-x)) * (x / 2),  # up's weight is 1/2: it is not the gate's
    "geglu": lambda x: gelu(x) * (x / 2),
}
GATED = ("swiglu", "geglu")


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def run(name, dtype):
    cfg = ModelConfig(d_model=1, d_ff=1, num_layers=3, use_bias=False, dtype=dtype)
    weights = {"gate": 1.0, "up": 0.5, "down": 1.0} if name in GATED else {"up": 1.0, "down": 1.0}
    params = {name: {"kernel": jnp.full((1, 1), weight)} for name, weight in weights.items()}
    layer = registry.build(MLPS, Choice(name), cfg, name=None)
    return layer.apply({"params": params}, jnp.asarray(GRID, dtype)[None, :, None])[0][0, :, 0]


@pytest.mark.parametrize("name", FORMULAS)
def test_activation_is_its_formula(name):
    """GELU in the tanh form, which differs from the exact one by up to 5e-4."""
    np.testing.assert_allclose(run(name, "float32"), FORMULAS[name](GRID), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("name", FORMULAS)
def test_activation_in_a_bfloat16_model_is_as_exact(name):
    """It is rounded when done, by 2^-8 at most; worked in bfloat16, the left tail would lose all digits."""
    y_T = run(name, "bfloat16")
    assert y_T.dtype == jnp.bfloat16
    np.testing.assert_allclose(y_T.astype(np.float32), FORMULAS[name](GRID), rtol=2**-8, atol=2e-6)


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("wrap", [lambda f: f, lambda f: jax.checkpoint(f, policy=KEEP_ALL)], ids=["plain", "remat"])
def test_the_gradient_keeps_what_is_bent_and_nothing_in_float32(name, wrap):
    """Whatever a policy around it would keep: the widened activations and the product with the last weights."""
    cfg = ModelConfig(d_model=8, d_ff=16, use_bias=False, dtype="bfloat16")
    layer = registry.build(MLPS, Choice(name), cfg, name=None)
    x_BTD = jnp.ones((2, 4, 8), jnp.bfloat16)
    params = layer.init(jax.random.key(0), x_BTD)
    kept = jax.tree.leaves(jax.vjp(wrap(lambda *args: layer.apply(*args)[0]), params, x_BTD)[1])
    widened = [leaf.dtype for leaf in kept if leaf.shape == (2, 4, 16)]
    assert widened == [jnp.bfloat16] * (3 if name in GATED else 2)
