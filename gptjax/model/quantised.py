"""Kernels in few bits, by qwix: what is kept of them, and their product with activations (QLoRA, arXiv 2305.14314).

The only file that knows qwix. Groups of values along the last dim of the inputs share a scale, for each output.
"""

import math

import jax
import jax.numpy as jnp

from gptjax.types import Array, UserError

STORED = {"int8": jnp.int8, "int4": jnp.int4, "nf4": jnp.int4}
"""What values are kept as; those of nf4 number the quantiles of a normal distribution, from -8 on."""
_GROUP = 64


def scale_shape(shape: tuple[int, ...], dim: int) -> tuple[int, ...]:
    """Returns the shape of a kernel's scales; groups of at most 64 values lie along `dim`."""
    return (*shape[:dim], shape[dim] // math.gcd(shape[dim], _GROUP), *shape[dim + 1 :])


def quantise(kernel: Array, kind: str, dim: int) -> dict[str, Array]:
    """Returns values and float32 scales, under the names by which a projection has them."""
    others = [other for other in range(kernel.ndim) if other != dim]
    groups = {dim: math.gcd(kernel.shape[dim], _GROUP)}
    found = _library().quantize(
        kernel, _qtype(kind), channelwise_axes=others, tiled_axes=groups, scale_dtype=jnp.float32
    )
    values = found.qvalue.astype(jnp.int8) - (8 if kind == "nf4" else 0)  # checkpoints know no uint4
    return {"kernel": values.astype(STORED[kind]), "scale": found.scale}


def dequantise(values: Array, scale: Array, kind: str) -> Array:
    """Returns the kernel that values and scales stand for, in the dtype of the scales."""
    qwix = _library()
    values = values.astype(jnp.int8)  # from int4, or from the compute dtype, in which kernels are gathered by hand
    if kind == "nf4":
        values = (values + 8).astype(jnp.uint4)
    return qwix.dequantize(qwix.QArray(values, scale, qtype=_qtype(kind)))


def _qtype(kind: str):
    """Returns qwix's name for it."""
    return kind if kind == "nf4" else STORED[kind]


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
