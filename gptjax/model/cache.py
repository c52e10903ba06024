"""What is kept of tokens already seen, so that decoding costs one token's work a token.

Attention keeps keys and values, one slot a position, and decides which of them a query sees. Recurrent blocks keep a
state of fixed size. Owns how they are kept and written to.

Shapes: B batch, T query position, S slot, N layers, K key/value heads, C head channels, P part of a state, H its width.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gptjax.model.config import UNLIMITED, ModelConfig
from gptjax.types import Array

State = tuple[Array, ...]
"""The state of a recurrent layer: vectors in BH, float32."""


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

    def take(self, rows_B: Array) -> "Cache":
        """Returns the cache of these rows, in their order; any may stand several times."""
        return Cache(*(jnp.take(x_NBSKC, rows_B, axis=1) for x_NBSKC in self))


class Memory(NamedTuple):
    """The states of all recurrent layers, in float32: all that is left of the tokens, however many there were."""

    states_NPBH: Array

    @property
    def length(self) -> int:
        """Number of tokens that it can take."""
        return UNLIMITED

    def read(self, layer: Array) -> State:
        """Returns a layer's state."""
        return tuple(jax.lax.dynamic_index_in_dim(self.states_NPBH, layer, keepdims=False))

    def write(self, layer: Array, state: State) -> "Memory":
        """Returns the memory with another state of that layer."""
        return Memory(self.states_NPBH.at[layer].set(jnp.stack(state)))

    def take(self, rows_B: Array) -> "Memory":
        """Returns the memory of these rows, in their order; any may stand several times."""
        return Memory(jnp.take(self.states_NPBH, rows_B, axis=2))


def init_cache(cfg: ModelConfig, batch_size: int, length: int) -> Cache | Memory:
    """Returns an empty cache for `batch_size` rows of at most `length` tokens each (any number where recurrent).

    Raises UserError where tokens see those after them: what was kept of them would change.
    """
    cfg = cfg.resolve()
    cfg.refuse_both_ways()
    if cfg.num_states:
        width = cfg.block.kwargs["d_hidden"] or cfg.d_model
        return Memory(jnp.zeros((cfg.num_layers, cfg.num_states, batch_size, width), jnp.float32))
    shape = (cfg.num_layers, batch_size, length, cfg.num_kv_heads, cfg.d_head)
    return Cache(jnp.zeros(shape, cfg.dtype), jnp.zeros(shape, cfg.dtype))
