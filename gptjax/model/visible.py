"""Which keys the queries of a device see: order, window and segments. Knows nothing of scores.

Shapes: B batch, T query position, S key position.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gptjax import zigzag
from gptjax.types import Array


class Visible(NamedTuple):
    """Which keys a query sees: of its own segment those up to itself, or the `window` nearest of them."""

    places: Array
    """Place of each query in its row: T numbers for all rows, or B x T."""
    num_keys: int
    """Keys are the places 0 .. S - 1 of the row."""
    window: int | None
    query_segments_BT: Array | None = None
    """Segment of each query; None where every row is one segment."""
    key_segments_BS: Array | None = None
    """Segment of each key."""
    shard: Array | None = None
    """Which part of the row, in zig-zag order, the queries are; None where the row is whole."""
    in_order: bool = False
    """Whether the queries are the tokens that the keys are, in order."""

    @classmethod
    def whole(cls, segment_ids_BT: Array | None, length: int, window: int | None) -> "Visible":
        """Queries and keys are the same whole rows."""
        return cls(jnp.arange(length), length, window, segment_ids_BT, segment_ids_BT, in_order=True)

    @classmethod
    def part(cls, segments: tuple[Array | None, Array | None], shard: Array, length: int, parts: int, window):
        """Queries are one device's part of the rows, keys all of them; `segments` are those of queries and keys."""
        places_S, size = jnp.asarray(zigzag.order(length, parts)), length // parts
        return cls(jax.lax.dynamic_slice_in_dim(places_S, shard * size, size), length, window, *segments, shard)

    @classmethod
    def slots(cls, positions_BT: Array, length: int, window: int | None) -> "Visible":
        """Keys are the slots of a cache, in order of position."""
        return cls(positions_BT, length, window)

    def mask_BTS(self, first_key: int | Array = 0, num_keys: int | None = None, *, both_ways: bool = False) -> Array:
        """Returns the mask over all keys, or over some from the first on; B is 1 where rows do not differ.

        `both_ways` lets a query see as far ahead as behind.
        """
        num_keys = num_keys or self.num_keys
        distance = self.places[..., :, None] - (first_key + jnp.arange(num_keys))
        distance = jnp.abs(distance) if both_ways else distance
        mask = distance >= 0
        if self.window is not None:
            mask &= distance < self.window
        mask_BTS = mask.reshape(-1, *mask.shape[-2:])
        if self.query_segments_BT is None or self.key_segments_BS is None:
            return mask_BTS
        keys_BS = jax.lax.dynamic_slice_in_dim(self.key_segments_BS, first_key, num_keys, 1)
        return mask_BTS & (self.query_segments_BT[:, :, None] == keys_BS[:, None])

    def distances_BTS(self) -> Array:
        """Returns how far behind its query each key lies, 0 where it lies ahead; B is 1 where rows do not differ."""
        distances = self.places[..., :, None] - jnp.arange(self.num_keys)
        return jnp.maximum(distances, 0).reshape(-1, *distances.shape[-2:])

    def cut(self, start: int, stop: int) -> "Visible":
        """Returns the same for the queries from start to stop, in order, and the keys before stop."""
        queries, keys = self.query_segments_BT, self.key_segments_BS
        return self._replace(
            places=self.places[start:stop],
            num_keys=stop,
            query_segments_BT=None if queries is None else queries[:, start:stop],
            key_segments_BS=None if keys is None else keys[:, :stop],
            in_order=False,
        )
