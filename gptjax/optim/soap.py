"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner (Vyas et al. 2024, arXiv 2409.11321).

The decompositions are not split: each device gathers a side's matrix and decomposes all of it, one layer after the
other. On CPUs a call for a stack of matrices shares it out to XLA's threads, holds one and waits for the others: where
such calls hold all threads, they wait for ever, as two did on two cores, or one on each of eight virtual devices.

Shapes: N stacked matrices, I inputs, O outputs, S either, J and P inputs and outputs in the eigenbases.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gptjax.optim.matrices import Matrix
from gptjax.types import Array, Params

_einsum = functools.partial(jnp.einsum, precision="highest")  # bfloat16 products would leave no orthogonal basis


class SoapState(NamedTuple):
    """Moments, and of both sides of each matrix the averaged products G G^T, G^T G and their eigenvectors.

    The second moment is that of the rotated gradient. What belongs to a side has the side's own dims and then all of
    them as one, so that it lies on devices as the parameter does. A side without a basis has masks.
    """

    count: Array
    mu: Params
    nu: Params
    grams: tuple[Params, Params]
    bases: tuple[Params, Params]


def scale_by_soap(
    matrices: Any, *, b1: float, b2: float, eps: float, refresh_every: int, max_dim: int, mu_dtype: str | None
) -> optax.GradientTransformation:
    """Rotates matrices into their eigenbases, takes Adam's step there and rotates back; the rest takes Adam's as it is.

    The first update only finds the bases, as in the authors' code, and moves nothing. They are refreshed every
    `refresh_every` updates, by a step of power iteration and a QR decomposition. A side of more than `max_dim` keeps
    its own basis (one-sided SOAP). `matrices` is a tree of what matrix each parameter is, or None.
    """

    def side_shape(x: Array, matrix: Matrix | None, side: int) -> tuple[int, ...] | None:
        if matrix is None:
            return None
        dims = (x.shape[matrix.first : matrix.split], x.shape[matrix.split :])[side]
        size = math.prod(dims)
        return (*x.shape[: matrix.first], *dims, size) if size <= max_dim else None

    def init(params):
        def zeros(x, matrix, *, side):
            shape = side_shape(x, matrix, side)
            return optax.MaskedNode() if shape is None else jnp.zeros(shape, jnp.float32)

        def both():
            left, right = (jax.tree.map(functools.partial(zeros, side=side), params, matrices) for side in (0, 1))
            return left, right

        mu = optax.tree.zeros_like(params, dtype=mu_dtype)
        return SoapState(jnp.zeros((), jnp.int32), mu, optax.tree.zeros_like(params), both(), both())

    def update(grads, state, params=None):
        del params
        treedef = jax.tree.structure(grads)
        columns = (grads, state.mu, state.nu, *state.grams, *state.bases, matrices)
        rows = list(zip(*map(treedef.flatten_up_to, columns), strict=True))

        def go_on(turn):
            return [_go_on(*row, count=state.count, b1=b1, b2=b2, eps=eps, turn=turn) for row in rows]

        # One branch for all parameters: what devices exchange in several at once would not come in one order.
        branches = (lambda: [_begin(*row) for row in rows], lambda: go_on(False), lambda: go_on(True))
        which = jnp.where(state.count == 0, 0, jnp.where(state.count % refresh_every == 0, 2, 1))
        new = zip(*jax.lax.switch(which, branches), strict=True)
        updates, mu, nu, *sides = (jax.tree.unflatten(treedef, column) for column in new)
        return updates, SoapState(state.count + 1, mu, nu, (sides[0], sides[1]), (sides[2], sides[3]))

    return optax.GradientTransformation(init, update)


def _begin(g, mu, nu, left, right, left_basis, right_basis, matrix):
    """Finds the eigenvectors of the first gradient's products; the update is zero."""
    del left_basis, right_basis
    grams = _grams(g, matrix, (left, right))
    bases = jax.tree.map(
        lambda gram: jax.lax.map(lambda x_SS: jnp.linalg.eigh(x_SS)[1], _square(gram)).reshape(gram.shape), grams
    )
    return jnp.zeros_like(g), mu, nu, *grams, *bases


def _go_on(g, mu, nu, left, right, left_basis, right_basis, matrix, *, count, b1, b2, eps, turn):
    """Takes Adam's step in the bases that stand, averages the products and, where asked, turns the bases."""
    bases = (left_basis, right_basis)
    momentum = b1 * mu.astype(g.dtype) + (1 - b1) * g
    nu = b2 * nu + (1 - b2) * jnp.square(_rotate(g, matrix, bases))
    mean = _rotate(momentum, matrix, bases) / (1 - b1**count)
    update = _rotate(mean / (jnp.sqrt(nu / (1 - b2**count)) + eps), matrix, bases, back=True)
    grams = jax.tree.map(lambda old, new: b2 * old + (1 - b2) * new, (left, right), _grams(g, matrix, (left, right)))
    if turn:
        bases = jax.tree.map(_power_iteration, grams, bases)
    return update, momentum.astype(mu.dtype), nu, *grams, *bases


def _power_iteration(gram, basis):
    """Turns a basis one step nearer to the eigenvectors, in the shape in which the state keeps it."""
    turned_NSS = _einsum("nij,njk->nik", _square(gram), _square(basis))
    return jax.lax.map(lambda x_SS: jnp.linalg.qr(x_SS)[0], turned_NSS).reshape(basis.shape)


def _square(x):
    """Returns what the state keeps of a side as x_NSS."""
    return x.reshape(-1, x.shape[-1], x.shape[-1])


def _grams(g, matrix, like):
    """Returns the products G G^T and G^T G in the shape of `like`; what is masked there stays so."""
    if matrix is None:
        return like
    g_NIO = matrix.flat(g)
    products = ("nio,njo->nij", "nio,nip->nop")
    return tuple(
        old if isinstance(old, optax.MaskedNode) else _einsum(product, g_NIO, g_NIO).reshape(old.shape)
        for product, old in zip(products, like, strict=True)
    )


def _rotate(x, matrix, bases, *, back=False):
    """Returns Q_L^T X Q_R, or Q_L X Q_R^T to get back, in the shape of x."""
    if matrix is None:
        return x
    left, right = bases
    y = matrix.flat(x)
    if not isinstance(left, optax.MaskedNode):
        y = _einsum("nij,njo->nio" if back else "nij,nio->njo", _square(left), y)
    if not isinstance(right, optax.MaskedNode):
        y = _einsum("nop,nip->nio" if back else "nop,nio->nip", _square(right), y)
    return y.reshape(x.shape)
