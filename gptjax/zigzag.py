"""The order of a long row's positions over devices: each holds a piece from the front and its mirror from the back.

A query looks back only, so devices that hold plain neighbouring pieces would have more to do the later their piece is.
With pieces i and 2n - 1 - i of 2n, all have the same (the order
is that of Llama 3's training, arXiv 2407.21783, section 3.3.2).
"""

from typing import Any

import jax.numpy as jnp
import numpy as np


def order(length: int, parts: int) -> np.ndarray:
    """Returns the place in the row of each position, device by device, int32; `length` divides by 2 x `parts`."""
    pieces = np.arange(length, dtype=np.int32).reshape(2 * parts, -1)
    return np.concatenate([pieces[[i, 2 * parts - 1 - i]].reshape(-1) for i in range(parts)])


def spread(x_BT: Any, parts: int) -> Any:
    """Puts the positions of rows into the order."""
    return x_BT if parts == 1 else jnp.take(x_BT, order(x_BT.shape[1], parts), axis=1)


def gathered(x_BT: Any, parts: int) -> Any:
    """Puts positions that are in the order back into that of the row; further dims may follow."""
    B, T = x_BT.shape[:2]
    pieces = x_BT.reshape(B, parts, 2, T // parts // 2, *x_BT.shape[2:])
    whole = jnp.concatenate([pieces[:, :, 0], pieces[:, ::-1, 1]], axis=1)
    return whole.reshape(x_BT.shape)
