"""Norms against autodiff of the plain formula, the dtypes of a projection, look-ups, dropout.

Shapes: B batch, T position, D model width.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax import registry
from gptjax.model.config import ModelConfig
from gptjax.model.layers import NORMS, Dropout, Embedding, Named, Projection, from_rank, layer_norm, rms_norm
from gptjax.registry import Choice

EPSILON = 0.5  # nearly the variance, so that a term in which it is forgotten shows

jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def plain_layer_norm(x_BTD, scale_D, bias_D=None):
    centred_BTD = x_BTD - x_BTD.mean(-1, keepdims=True)
    y_BTD = centred_BTD / jnp.sqrt((centred_BTD**2).mean(-1, keepdims=True) + EPSILON) * scale_D
    return y_BTD if bias_D is None else y_BTD + bias_D


def plain_rms_norm(x_BTD, scale_D):
    return x_BTD / jnp.sqrt((x_BTD**2).mean(-1, keepdims=True) + EPSILON) * scale_D


# The name of a case -> written out, plain, number of parameters.
NORM_CASES = {
    "layer_norm": (lambda x, scale, bias: layer_norm(x, scale, bias, EPSILON), plain_layer_norm, 2),
    "layer_norm_without_bias": (lambda x, scale: layer_norm(x, scale, None, EPSILON), plain_layer_norm, 1),
    "rms_norm": (lambda x, scale: rms_norm(x, scale, EPSILON), plain_rms_norm, 1),
}
norms = pytest.mark.parametrize("case", NORM_CASES)


def init(layer, x):
    variables = jit(layer.init)(jax.random.key(0), x)
    return jax.tree.map(lambda box: box.unbox(), variables["params"], is_leaf=lambda x: isinstance(x, Named))


def inputs(num_params):
    """Returns (x_BTD off centre, the parameters) and a cotangent."""
    random = np.random.default_rng(0)
    x_BTD, dy_BTD = random.standard_normal((2, 2, 3, 8), np.float32)
    return (x_BTD + 0.5, *random.standard_normal((num_params, 8), np.float32)), dy_BTD


@functools.partial(jit, static_argnums=0)
def pull_back(function, args, dy_BTD):
    y_BTD, vjp = jax.vjp(function, *args)
    return y_BTD, vjp(dy_BTD)


@norms
def test_written_out_gradients_equal_autodiff_of_the_formula(case):
    written, plain, num_params = NORM_CASES[case]
    args, dy_BTD = inputs(num_params)
    for actual, expected in zip(
        jax.tree.leaves(pull_back(written, args, dy_BTD)), jax.tree.leaves(pull_back(plain, args, dy_BTD)), strict=True
    ):
        assert actual.shape == expected.shape
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=2e-6)


@norms
def test_bfloat16_is_the_float32_result_rounded_once(case):
    """Values and the gradient of x keep the dtype of x, those of the parameters stay in float32."""
    written, _, num_params = NORM_CASES[case]
    (x_BTD, *params), dy_BTD = inputs(num_params)
    x_BTD, dy_BTD = x_BTD.astype(jnp.bfloat16), dy_BTD.astype(jnp.bfloat16)
    y_BTD, (dx_BTD, *grads) = pull_back(written, (x_BTD, *params), dy_BTD)
    exact = pull_back(written, (x_BTD.astype(np.float32), *params), dy_BTD.astype(np.float32))
    assert (y_BTD.dtype, dx_BTD.dtype) == (jnp.bfloat16, jnp.bfloat16)
    assert [grad.dtype for grad in grads] == [jnp.float32] * num_params
    for actual, expected in zip(jax.tree.leaves((y_BTD, (dx_BTD, *grads))), jax.tree.leaves(exact), strict=True):
        np.testing.assert_array_equal(actual, np.asarray(expected).astype(actual.dtype))


def test_layer_norm_survives_a_mean_far_from_zero():
    """All sums here are exact in float32; the difference of mean square and squared mean would lose every digit."""
    x_D = np.array([-2, -1.25, 0, 0.5, 0.75, 1, 1.5, 3], np.float32)
    scale_D = np.ones(8, np.float32)
    np.testing.assert_allclose(
        layer_norm(x_D + 4096, scale_D, None, 1e-5), layer_norm(x_D, scale_D, None, 1e-5), rtol=1e-6
    )


@pytest.mark.parametrize("name", NORMS)
def test_a_vector_without_variance_stays_finite(name):
    """And so do its gradients: what epsilon is for."""
    norm = registry.build(NORMS, Choice(name), "embed")
    x_BTD = np.zeros((1, 1, 8), np.float32)
    params = init(norm, x_BTD)
    y_BTD, grads = pull_back(
        lambda x, params: norm.apply({"params": params}, x), (x_BTD, params), np.arange(8, dtype=np.float32)[None, None]
    )
    assert np.all(np.asarray(y_BTD) == 0)
    assert all(np.all(np.isfinite(grad)) for grad in jax.tree.leaves(grads))
    assert np.any(np.asarray(grads[0]) != 0)


def test_a_projection_multiplies_in_the_compute_dtype_and_keeps_its_weights_in_float32():
    cfg = ModelConfig(dtype="bfloat16")
    layer = Projection(cfg, (3,), ("q_heads", "head_dim", "embed"), num_inputs=2)
    params = init(layer, np.zeros((2, 4), np.float32))
    assert {name: (x.shape, x.dtype.name) for name, x in params.items()} == {
        "kernel": ((2, 4, 3), "float32"),
        "bias": ((3,), "float32"),
    }
    # 1 + 2^-9 is 1 in bfloat16: both operands are rounded before they are multiplied.
    just_above_one = 1 + 2.0**-9
    params = {"kernel": np.full((2, 4, 3), just_above_one, np.float32), "bias": np.arange(3, dtype=np.float32)}
    y = jit(layer.apply)({"params": params}, np.full((5, 2, 4), just_above_one, np.float32))
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y, np.broadcast_to([8, 9, 10], (5, 3)))


def test_the_adapter_s_gradient_is_autodiff_s_and_has_a_derivative_along_directions():
    """The second is what estimates of the curvature take, forwards over backwards."""
    random = np.random.default_rng(0)
    x_BTR, kernel_RHC = random.standard_normal((2, 3, 4), np.float32), random.standard_normal((4, 5, 6), np.float32)

    def curved(product):
        gradient = jax.grad(lambda x, kernel: jnp.sum(jnp.tanh(product(x, kernel)) ** 2), (0, 1))
        return jit(lambda *inputs: jax.jvp(gradient, inputs, inputs))(x_BTR, kernel_RHC)

    first, second = (
        jax.make_jaxpr(jax.grad(lambda *inputs: jnp.sum(from_rank(*inputs)), 1))(x_BTR, kernel_RHC).eqns[-1].invars
    )
    assert (first.aval.shape, second.aval.shape) == (x_BTR.shape, (2, 3, 5, 6))  # what is copied is the narrow one
    plain = curved(functools.partial(jnp.tensordot, axes=1))
    for ours, theirs in zip(jax.tree.leaves(curved(from_rank)), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_an_id_outside_the_table_gives_nan():
    layer = Embedding(ModelConfig(d_model=8), 16, ("vocab", "embed"))
    params = init(layer, np.zeros((1, 1), int))
    x_BTD = np.asarray(layer.apply({"params": params}, np.array([[0, 15, 16, 50_000]])))
    np.testing.assert_array_equal(x_BTD[0, :2], np.asarray(params["embedding"])[[0, 15]])
    assert np.all(np.isnan(x_BTD[0, 2:]))


def drop(rate, key, x):
    rngs = {} if key is None else {"dropout": jax.random.key(key)}
    return np.asarray(jit(functools.partial(Dropout(rate).apply, {}))(x, rngs=rngs))


def test_dropout_zeroes_its_share_and_scales_up_the_rest():
    """Of 65,536 entries, 30 % are zeroed give or take 0.18 %; five times that is left."""
    x = np.ones(1 << 16, np.float32)
    y = drop(0.3, 0, x)
    np.testing.assert_allclose(np.unique(y), [0, 1 / 0.7], rtol=1e-6)
    assert abs(np.mean(y == 0) - 0.3) < 0.009


def test_dropout_is_off_without_a_key_and_at_rate_zero():
    x = np.arange(64, dtype=np.float32)
    np.testing.assert_array_equal(drop(0.5, None, x), x)
    np.testing.assert_array_equal(drop(0.0, 0, x), x)


def test_dropout_is_a_function_of_its_key():
    x = np.ones(64, np.float32)
    np.testing.assert_array_equal(drop(0.5, 0, x), drop(0.5, 0, x))
    assert np.any(drop(0.5, 0, x) != drop(0.5, 1, x))
