"""Kernels in few bits, by qwix: what is kept of them, and their product with activations (QLoRA, arXiv 2305.14314).

The only file that knows qwix. Groups of values along the last dim of the inputs share a scale, for each output.
"""

import math

import jax
import jax.numpy as jnp

from gptjax.types import Array, UserError

STORED = {"int8": jnp.int8, "int4": jnp.int4, "nf4": jnp.uint4}
"""What values are kept as; those of nf4 number the quantiles of a normal distribution."""
_GROUP = 64


def scale_shape(shape: tuple[int, ...], dim: int) -> tuple[int, ...]:
    """Returns the shape of a kernel's scales; groups of at most 64 values lie along `dim`."""
    return (*shape[:dim], shape[dim] // math.gcd(shape[dim], _GROUP), *shape[dim + 1 :])


def quantise(kernel: Array, kind: str, dim: int) -> dict[str, Array]:
    """Returns values and float32 scales, under the names by which a projection has them."""
    others = [other for other in range(kernel.ndim) if other != dim]
    qtype = kind if kind == "nf4" else STORED[kind]
    groups = {dim: math.gcd(kernel.shape[dim], _GROUP)}
    found = _library().quantize(kernel, qtype, channelwise_axes=others, tiled_axes=groups, scale_dtype=jnp.float32)
    return {"kernel": found.qvalue, "scale": found.scale}


def dequantise(values: Array, scale: Array, kind: str) -> Array:
    """Returns the kernel that values and scales stand for, in the dtype of the scales."""
    qwix = _library()
    # What was gathered by hand came in the compute dtype, which holds these numbers exactly.
    stored = qwix.QArray(values.astype(STORED[kind]), scale, qtype=kind if kind == "nf4" else STORED[kind])
    return qwix.dequantize(stored)


def unpacked(function, kind: str, *, in_loop: bool):
    """Turns (x, kernel) -> y into (x, values, scale) -> y; the gradient unpacks again rather than keep the kernel."""

    def product(x, values, scale):
        return function(x, dequantise(values, scale, kind))

    return jax.checkpoint(product, prevent_cse=not in_loop)


def _library():
    try:
        import qwix
    except ModuleNotFoundError:
        raise UserError("model.lora.base needs the qwix library: pip install 'gptjax[qlora]'") from None
    return qwix
