"""The collectives of a loss that is written for one device: how weights come together and what is summed over devices.

Under the rules in `sharding.MANUAL` the loss and its gradient run inside `jax.shard_map`: a device sees its own part of
every array, and what crosses devices stands here. Under all other rules XLA places the collectives, and each function
here is the identity. By hand, a weight's gradient is scattered as it is summed (a reduce-scatter) and a weight is never
kept whole between the passes, whatever XLA makes of the other rules.

Shapes: B batch, T position, D model width, V vocabulary.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gptjax import sharding
from gptjax.sharding import Layout
from gptjax.types import Array, Params

Names = tuple[str | None, ...]


def layout() -> Layout | None:
    """Returns the layout in use where it is one by hand, else None."""
    current = sharding.in_use()
    return current if current is not None and current.is_manual else None


def per_device(function: Callable, layout: Layout, in_names: Any, out_names: Any) -> Callable:
    """Runs a function on each device's parts of its arguments; the function itself where XLA does the splitting.

    The names are trees of tuples of logical names, one a dim, for arguments and results; () is a replicated array.
    """
    if not layout.is_manual or layout.mesh.size == 1:
        return function

    def specs(names):
        return jax.tree.map(layout.spec, names, is_leaf=_is_names)

    # The check that results are equal where they are said to be knows no Pallas kernels.
    return jax.shard_map(
        function, mesh=layout.mesh, in_specs=specs(in_names), out_specs=specs(out_names), check_vma=False
    )


def _is_names(x: Any) -> bool:
    return isinstance(x, tuple) and all(name is None or isinstance(name, str) for name in x)


def gather(params: Params, names: Params, dtype: str) -> Params:
    """Returns whole weights for their device's parts, matrices in `dtype`; gradients come back summed and scattered."""
    current = layout()
    if current is None:
        return params

    def one(x, dims: Names):
        places = tuple((dim, current.axes(name)) for dim, name in enumerate(dims) if name and current.axes(name))
        wide = x.dtype if x.ndim < 2 else dtype  # vectors add to what is computed in float32, and weigh nothing
        return _gather(x, places, _others(current, places), wide)

    return jax.tree.map(one, params, names)


def _others(layout: Layout, places: Sequence[tuple[int, tuple[str, ...]]]) -> tuple[str, ...]:
    """Returns the axes over which devices hold different data and the same part of a weight."""
    data = (*layout.axes("act_batch"), *layout.axes("act_seq"))
    return tuple(axis for axis in data if axis not in {axis for _, axes in places for axis in axes})


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _gather(x, places, others, dtype):
    return _gather_forward(x, places, others, dtype)[0]


def _gather_forward(x, places, others, dtype):
    y = x.astype(dtype)
    for dim, axes in places:
        y = jax.lax.all_gather(y, axes, axis=dim, tiled=True)
    return y, jnp.zeros((), x.dtype)


def _gather_backward(places, others, dtype, kept, dy):
    for dim, axes in places:
        dy = jax.lax.psum_scatter(dy, axes, scatter_dimension=dim, tiled=True)
    return ((jax.lax.psum(dy, others) if others else dy).astype(kept.dtype),)


_gather.defvjp(_gather_forward, _gather_backward)


def lookup(table_VD: Array, ids_BT: Array, dtype: str) -> Array:
    """Returns the rows of a table whose channels may be split over devices by the name `embed`, in the table's dtype.

    By hand, each device looks up its channels for all the tokens of the group, and then they are exchanged in `dtype`:
    so the activations of a batch cross the network and not the table.
    """
    current = layout()
    axes = () if current is None else current.axes("embed")
    if current is None:
        return jnp.take(table_VD, ids_BT, axis=0)
    table_VD = _gather(table_VD, (), _others(current, [(1, axes)]), table_VD.dtype)
    if not axes:
        return jnp.take(table_VD, ids_BT, axis=0)
    x_BTD = jnp.take(table_VD, jax.lax.all_gather(ids_BT, axes, axis=0, tiled=True), axis=0).astype(dtype)
    return jax.lax.all_to_all(x_BTD, axes, split_axis=0, concat_axis=2, tiled=True).astype(table_VD.dtype)


def local_size(size: int, name: str | None) -> int:
    """Returns the size of a dim on one device: by hand its part, else all of it."""
    current = layout()
    return size if current is None or name is None else size // current.parts(name)


def total(x: Any) -> Any:
    """Sums metrics over the devices that hold different data."""
    current = layout()
    if current is None:
        return x
    return jax.lax.psum(x, (*current.axes("act_batch"), *current.axes("act_seq")))


def row_total(x: Any) -> Any:
    """Sums over the devices that hold the parts of the same rows."""
    current = layout()
    axes = () if current is None else current.axes("act_seq")
    return jax.lax.psum(x, axes) if axes else x


def own_key(key: Array) -> Array:
    """Returns another random key on each device that holds different data: by hand, devices draw each for itself."""
    current = layout()
    if current is None:
        return key
    return jax.random.fold_in(key, jax.lax.axis_index((*current.axes("act_batch"), *current.axes("act_seq"))))
