"""Parameters with named dims, and the layers that every part of a block is made of.

Owns initialisation, the cast of float32 weights at the matrix product, and the norms with their analytic gradients.
Knows nothing of attention, of the stack of blocks or of meshes.

Shapes: B batch, T position, D model width (in the norms: the last dim, whatever it is), V vocabulary.
"""

import math
from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from gptjax import manual
from gptjax.model import quantised
from gptjax.model.config import ModelConfig
from gptjax.types import Array

Names = tuple[str | None, ...]


class Named(struct.PyTreeNode, nn.meta.AxisMetadata):
    """A parameter and the logical names of its dims, as long as it is being initialised; never seen outside model/."""

    value: Array
    names: Names = struct.field(pytree_node=False)

    def unbox(self) -> Array:
        """Returns the bare parameter."""
        return self.value

    def replace_boxed(self, val: Array) -> "Named":
        """Returns another parameter under the same names."""
        return self.replace(value=val)

    def add_axis(self, index: int, params: dict) -> "Named":
        """Names the dim that a scan over blocks adds."""
        return self.replace(names=(*self.names[:index], params[nn.PARTITION_NAME], *self.names[index:]))

    def remove_axis(self, index: int, params: dict) -> "Named":
        """Takes the name of the scanned dim away again."""
        return self.replace(names=(*self.names[:index], *self.names[index + 1 :]))


def named(initializer: Callable, names: Names) -> Callable:
    """Wraps an initializer so that its float32 parameter carries the logical names of its dims."""
    return lambda key, shape: Named(initializer(key, shape, jnp.float32), names)


class Projection(nn.Module):
    """A linear map of the last `num_inputs` dims to new ones: x_BTD -> y_BTHC, say. The result has the compute dtype.

    Where `cfg.lora` says so, the product of two narrow kernels is added to its kernel, without being formed.
    `depth` is the number of sub-layers whose results add up in the residual stream where this one writes into it: the
    weights start 1 / sqrt(depth) smaller, so that the stream's variance does not grow with depth (GPT-2, Radford et
    al. 2019, section 2.3). `use_bias` None is the config's.
    """

    cfg: ModelConfig
    features: tuple[int, ...]
    names: Names
    num_inputs: int = 1
    depth: int = 1
    use_bias: bool | None = None

    @nn.compact
    def __call__(self, x):
        """Multiplies, then adds the adapter's part and the bias where there are any."""
        dims = x.shape[-self.num_inputs :]
        dtype = jnp.dtype(self.cfg.dtype)
        adapted = self.cfg.lora.adapts("/".join(self.path))
        if adapted and self.cfg.lora.base != "float32":
            y = self._quantised(x, dims, dtype)
        else:
            initializer = nn.initializers.normal(self.cfg.hidden_std / math.sqrt(self.depth))
            kernel = self.param("kernel", named(initializer, self.names), (*dims, *self.features))
            y = _multiply(x, kernel, self.num_inputs, dtype)
        if adapted:
            y = y + self._adapter(x, dims, dtype)
        if self.cfg.use_bias if self.use_bias is None else self.use_bias:
            bias = self.param("bias", named(nn.initializers.zeros, self.names[self.num_inputs :]), self.features)
            y = y + bias.astype(dtype)
        return y

    def _quantised(self, x, dims, dtype):
        """Returns x W from what is kept of W. It starts from a checkpoint: the values that stand here are zeros."""
        kind, shape, dim = self.cfg.lora.base, (*dims, *self.features), self.num_inputs - 1
        names = (*self.names[:dim], None, *self.names[dim + 1 :])

        def zeros(key, shape):
            return Named(jnp.zeros(shape, quantised.STORED[kind]), self.names)

        values = self.param("kernel", zeros, shape)
        scale = self.param("scale", named(nn.initializers.ones, names), quantised.scale_shape(shape, dim))
        multiply = partial(_multiply, num_inputs=self.num_inputs, dtype=dtype)
        return quantised.unpacked(multiply, kind, in_loop=self.cfg.scan_layers)(x, values, scale)

    def _adapter(self, x, dims, dtype):
        """Returns (alpha / rank) (x A) B: 0 at first, since B is; A starts with variance 1 / (3 inputs), as PEFT's."""
        lora, inputs, outputs = self.cfg.lora, self.names[: self.num_inputs], self.names[self.num_inputs :]
        initializer = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform", tuple(range(self.num_inputs)))
        a = Kernel((*dims, lora.rank), (*inputs, None), initializer, name="lora_a")()
        b = Kernel((lora.rank, *self.features), (None, *outputs), nn.initializers.zeros, name="lora_b")()
        narrow = _multiply(Dropout(lora.dropout, name="lora_dropout")(x), a, self.num_inputs, dtype)
        return from_rank(narrow * (lora.alpha / lora.rank), b.astype(dtype))


def _multiply(x, kernel, num_inputs, dtype):
    """Contracts the last dims of x with the first of the kernel, both in `dtype`."""
    contract = (tuple(range(x.ndim - num_inputs, x.ndim)), tuple(range(num_inputs)))
    return jax.lax.dot_general(x.astype(dtype), kernel.astype(dtype), (contract, ((), ())))


@jax.custom_vjp
def from_rank(x: Array, kernel: Array) -> Array:
    """Contracts the last dim of x, an adapter's rank, with the first of the kernel.

    Its gradient is written out, hence there is no forward-mode derivative of its own. The kernel's is x^T dy, where
    autodiff writes (dy^T x)^T: XLA copies the first factor on CPUs, and dy is much wider than x. What dy comes from in
    a feed-forward is even computed again on the way, by columns, which is slow.
    """
    return _from_rank_forward(x, kernel)[0]


def _from_rank_forward(x, kernel):
    return jnp.tensordot(x, kernel, 1), (x, kernel)


def _from_rank_backward(kept, dy):
    x, kernel = kept
    dims, outputs = tuple(range(x.ndim - 1)), tuple(range(1, kernel.ndim))
    dx = jnp.tensordot(dy, kernel, (tuple(range(x.ndim - 1, dy.ndim)), outputs))
    return dx, jnp.tensordot(x, dy, (dims, dims))


from_rank.defvjp(_from_rank_forward, _from_rank_backward)


class Embedding(nn.Module):
    """A table of learned vectors, one row an id: ids_BT -> x_BTD in float32."""

    cfg: ModelConfig
    num_rows: int
    names: Names

    @nn.compact
    def __call__(self, ids_BT):
        """Looks the rows up; an id beyond the table gives NaN, so that a wrong tokenizer does not pass unseen."""
        shape = (self.num_rows, manual.local_size(self.cfg.d_model, self.names[1]))
        table_VD = self.param("embedding", named(nn.initializers.normal(self.cfg.init_std), self.names), shape)
        return manual.lookup(table_VD, ids_BT, self.cfg.dtype)


class Kernel(nn.Module):
    """Matrices under a name of their own, for products that are no Projection: () -> x of the given shape, float32."""

    shape: tuple[int, ...]
    names: Names
    initializer: Callable

    @nn.compact
    def __call__(self):
        """Returns the matrices."""
        return self.param("kernel", named(self.initializer, self.names), self.shape)


class Vector(nn.Module):
    """Learned numbers that nothing is multiplied by on their way in: () -> x of the given shape, in float32."""

    shape: tuple[int, ...]
    names: Names
    init_std: float = 0.0

    @nn.compact
    def __call__(self):
        """Returns the numbers."""
        return self.param("bias", named(nn.initializers.normal(self.init_std), self.names), self.shape)


class Dropout(nn.Module):
    """Zeroes entries with probability `rate` and scales up the others (Srivastava et al. 2014); off without a key."""

    rate: float

    @nn.compact
    def __call__(self, x):
        """Returns x itself where the rate is 0 or no `dropout` key was given."""
        if self.rate == 0 or not self.has_rng("dropout"):
            return x
        keep = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.rate, x.shape)
        return jnp.where(keep, x / (1 - self.rate), 0)


class LayerNorm(nn.Module):
    """(x - mean) / sqrt(variance + epsilon) with a learned scale and bias (Ba et al. 2016, arXiv 1607.06450)."""

    dim_name: str | None
    use_bias: bool = True
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x_BTD):
        """Normalises the last dim in float32 and returns the dtype of x."""
        scale_D = self.param("scale", named(nn.initializers.ones, (self.dim_name,)), x_BTD.shape[-1:])
        if not self.use_bias:
            return layer_norm(x_BTD, scale_D, None, self.epsilon)
        bias_D = self.param("bias", named(nn.initializers.zeros, (self.dim_name,)), x_BTD.shape[-1:])
        return layer_norm(x_BTD, scale_D, bias_D, self.epsilon)


class RMSNorm(nn.Module):
    """x / sqrt(mean square + epsilon) with a learned scale (Zhang and Sennrich 2019, arXiv 1910.07467)."""

    dim_name: str | None
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x_BTD):
        """Normalises the last dim in float32 and returns the dtype of x."""
        scale_D = self.param("scale", named(nn.initializers.ones, (self.dim_name,)), x_BTD.shape[-1:])
        return rms_norm(x_BTD, scale_D, self.epsilon)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(x_BTD: Array, scale_D: Array, bias_D: Array | None, epsilon: float) -> Array:
    """Normalises the last dim to mean 0 and variance 1 in float32 or wider, then scales and shifts; the dtype of x.

    Its gradient is written out, since autodiff's takes twice as many passes over the activations; hence there is no
    forward-mode derivative. With n the normalised x and g = dy * scale: dx = (g - mean(g) - n mean(g n)) / std.
    """
    return _layer_norm_forward(x_BTD, scale_D, bias_D, epsilon)[0]


def _layer_norm_forward(x_BTD, scale_D, bias_D, epsilon):
    wide_BTD = widen(x_BTD)
    mean_BT1 = jnp.mean(wide_BTD, axis=-1, keepdims=True)
    inverse_BT1 = jax.lax.rsqrt(jnp.mean(jnp.square(wide_BTD - mean_BT1), axis=-1, keepdims=True) + epsilon)
    y_BTD = (wide_BTD - mean_BT1) * inverse_BT1 * scale_D
    if bias_D is not None:
        y_BTD = y_BTD + bias_D
    return y_BTD.astype(x_BTD.dtype), (x_BTD, mean_BT1, inverse_BT1, scale_D, bias_D)


def _layer_norm_backward(epsilon, kept, dy_BTD):
    x_BTD, mean_BT1, inverse_BT1, scale_D, bias_D = kept
    dy_BTD = widen(dy_BTD)
    normal_BTD = (widen(x_BTD) - mean_BT1) * inverse_BT1
    g_BTD = dy_BTD * scale_D
    along_BT1 = jnp.mean(g_BTD * normal_BTD, axis=-1, keepdims=True)
    dx_BTD = inverse_BT1 * (g_BTD - jnp.mean(g_BTD, axis=-1, keepdims=True) - normal_BTD * along_BT1)
    dbias_D = None if bias_D is None else _sum_to_last(dy_BTD).astype(bias_D.dtype)
    return dx_BTD.astype(x_BTD.dtype), _sum_to_last(dy_BTD * normal_BTD).astype(scale_D.dtype), dbias_D


layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def rms_norm(x_BTD: Array, scale_D: Array, epsilon: float) -> Array:
    """Normalises the last dim to mean square 1 in float32 or wider, then scales; the dtype of x.

    The gradient is written out as in `layer_norm`: dx = (g - n mean(g n)) / rms.
    """
    return _rms_norm_forward(x_BTD, scale_D, epsilon)[0]


def _rms_norm_forward(x_BTD, scale_D, epsilon):
    wide_BTD = widen(x_BTD)
    inverse_BT1 = jax.lax.rsqrt(jnp.mean(jnp.square(wide_BTD), axis=-1, keepdims=True) + epsilon)
    return (wide_BTD * inverse_BT1 * scale_D).astype(x_BTD.dtype), (x_BTD, inverse_BT1, scale_D)


def _rms_norm_backward(epsilon, kept, dy_BTD):
    x_BTD, inverse_BT1, scale_D = kept
    dy_BTD = widen(dy_BTD)
    normal_BTD = widen(x_BTD) * inverse_BT1
    g_BTD = dy_BTD * scale_D
    dx_BTD = inverse_BT1 * (g_BTD - normal_BTD * jnp.mean(g_BTD * normal_BTD, axis=-1, keepdims=True))
    return dx_BTD.astype(x_BTD.dtype), _sum_to_last(dy_BTD * normal_BTD).astype(scale_D.dtype)


rms_norm.defvjp(_rms_norm_forward, _rms_norm_backward)


def widen(x: Array) -> Array:
    """Returns x in float32 or wider."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _sum_to_last(x_BTD):
    return jnp.sum(x_BTD, axis=tuple(range(x_BTD.ndim - 1)))


NORMS = {
    "layernorm": LayerNorm,
    "rmsnorm": RMSNorm,
}
