"""Which parameters are matrices, and how their dims fall into inputs and outputs: read from the dims' logical names."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax

from gptjax.types import Array, Params

STACKED = ("layers", "experts")
"""Leading dims with these names number matrices; each is one of its own."""


@dataclasses.dataclass(frozen=True)
class Matrix:
    """A parameter's dims: those before `first` number matrices, then come the inputs, and from `split` on the outputs.

    An attention projection of dims (layers, embed, q_heads, head_dim) is, per layer, embed x (q_heads head_dim).
    """

    first: int
    split: int

    def flat(self, x: Array) -> Array:
        """Returns the matrices as such: one dim that numbers them, one of inputs and one of outputs."""
        return x.reshape(-1, *self.sides(x.shape))

    def sides(self, shape: Sequence[int]) -> tuple[int, int]:
        """Returns the numbers of inputs and of outputs."""
        return math.prod(shape[self.first : self.split]), math.prod(shape[self.split :])


def matrix_of(names: Sequence[str | None]) -> Matrix | None:
    """Returns the matrix that dims of these names form; None for vectors and for what has more than two sides."""
    first = next((dim for dim, name in enumerate(names) if name not in STACKED), len(names))
    # Channels belong to the heads before them: together they are one side.
    starts = [dim for dim in range(first, len(names)) if dim == first or names[dim] != "head_dim"]
    return Matrix(first, starts[1]) if len(starts) == 2 else None


def matrices(params: Params, names: Any) -> Any:
    """Returns the matrix that each parameter is, or None, in the parameters' tree."""
    return jax.tree.map(lambda _, dims: matrix_of(dims), params, names)
