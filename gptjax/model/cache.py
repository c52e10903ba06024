"""Keys and values of tokens already seen, one slot a position, so that decoding costs one token's work a token.

Owns the slots and what is written to them; attention decides which of them a query sees.

Shapes: B batch, T query position, S slot, N layers, K key/value heads, C head channels.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gptjax.model.config import ModelConfig
from gptjax.types import Array


class Cache(NamedTuple):
    """The keys and values of all layers, in the compute dtype; slot s of a row holds the row's token at position s."""

    keys_NBSKC: Array
    values_NBSKC: Array

    @property
    def length(self) -> int:
        """Number of slots."""
        return self.keys_NBSKC.shape[2]

    def write(self, layer: Array, k_BTKC: Array, v_BTKC: Array, slots_BT: Array) -> tuple["Cache", Array, Array]:
        """Returns the cache with T tokens written to their slots, and that layer's k_BSKC and v_BSKC.

        A slot of `length` or more drops its token. All layers are one array, which a loop over layers updates in place.
        """
        row_B1 = jnp.arange(k_BTKC.shape[0])[:, None]
        k_NBSKC = self.keys_NBSKC.at[layer, row_B1, slots_BT].set(k_BTKC, mode="drop")
        v_NBSKC = self.values_NBSKC.at[layer, row_B1, slots_BT].set(v_BTKC, mode="drop")
        layer_of = lambda x: jax.lax.dynamic_index_in_dim(x, layer, keepdims=False)  # noqa: E731
        return Cache(k_NBSKC, v_NBSKC), layer_of(k_NBSKC), layer_of(v_NBSKC)


def init_cache(cfg: ModelConfig, batch_size: int, length: int) -> Cache:
    """Returns an empty cache for `batch_size` rows of at most `length` tokens each."""
    cfg = cfg.resolve()
    shape = (cfg.num_layers, batch_size, length, cfg.num_kv_heads, cfg.d_head)
    return Cache(jnp.zeros(shape, cfg.dtype), jnp.zeros(shape, cfg.dtype))
