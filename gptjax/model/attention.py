"""Causal self-attention. Owns projections, masks and the mixing of positions; knows nothing of data or losses.

Shapes: B batch, T query position, S key position, D model width, H query heads, K key/value heads, G = H / K queries
per key/value head, C head channels.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from gptjax.model.cache import Cache
from gptjax.model.config import ModelConfig
from gptjax.model.layers import Projection, RMSNorm
from gptjax.model.positions import Encoding
from gptjax.sharding import constrain
from gptjax.types import Array


class Context(NamedTuple):
    """What attention has to know of a sequence besides its activations."""

    positions_BT: Array
    """Position of each token within its segment."""
    segment_ids_BT: Array | None
    """Segment of each token, 0 for padding; None where every row is one segment."""
    encoding: Encoding
    """The position scheme's part."""
    layer: Array
    """Index of the block, for patterns over depth."""

    def mask_BTS(self, cache: Cache | None, window: int | None) -> Array:
        """Returns which keys a query sees: no later ones, none of other segments, and the `window` nearest at most.

        Without a cache, keys are this call's tokens, in order; with one they are its slots, in order of position.
        """
        same = None
        if cache is None:
            T = self.positions_BT.shape[1]
            distance_BTS = (jnp.arange(T)[:, None] - jnp.arange(T)[None, :])[None]
            if self.segment_ids_BT is not None:
                same = self.segment_ids_BT[:, :, None] == self.segment_ids_BT[:, None, :]
        else:
            distance_BTS = self.positions_BT[:, :, None] - jnp.arange(cache.length)
        mask_BTS = distance_BTS >= 0
        if window is not None:
            mask_BTS &= distance_BTS < window
        return mask_BTS if same is None else mask_BTS & same

    def slots_BT(self, cache: Cache) -> Array:
        """Returns the slot that each token is written to; padding goes past the end, where it is dropped."""
        if self.segment_ids_BT is None:
            return self.positions_BT
        return jnp.where(self.segment_ids_BT > 0, self.positions_BT, cache.length)


class SelfAttention(nn.Module):
    """Grouped-query attention over a causal, segment-aware window (Ainslie et al. 2023, arXiv 2305.13245).

    `window` limits a query to that many keys, itself included (arXiv 2004.05150); `qk_norm` normalises queries and keys
    over their channels before they turn (arXiv 2010.04245), which bounds the scores. A variant is a subclass that
    overrides `mask_BTS` (which keys are seen) or `mix` (what is done with them).
    """

    cfg: ModelConfig
    window: int | None = None
    qk_norm: bool = False

    @nn.compact
    def __call__(self, x_BTD, context: Context, cache: Cache | None):
        """Mixes positions. Returns y_BTD in the compute dtype and the cache with this call's tokens (None: none)."""
        cfg = self.cfg
        q_BTHC = self._project(x_BTD, "query", cfg.num_heads, "q_heads")
        k_BTKC = self._project(x_BTD, "key", cfg.num_kv_heads, "kv_heads")
        v_BTKC = self._project(x_BTD, "value", cfg.num_kv_heads, "kv_heads")
        if self.qk_norm:
            q_BTHC = RMSNorm("head_dim", name="query_norm")(q_BTHC)
            k_BTKC = RMSNorm("head_dim", name="key_norm")(k_BTKC)
        q_BTHC, k_BSKC, v_BSKC = context.encoding.rotate(q_BTHC), context.encoding.rotate(k_BTKC), v_BTKC
        if cache is not None:
            cache, k_BSKC, v_BSKC = cache.write(context.layer, k_BSKC, v_BSKC, context.slots_BT(cache))
        mask_BTS = self.mask_BTS(context, cache)
        if cache is None:
            y_BTHC = in_chunks(self.mix, q_BTHC, k_BSKC, v_BSKC, mask_BTS)
        else:
            y_BTHC = self.mix(q_BTHC, k_BSKC, v_BSKC, mask_BTS)
        y_BTHC = constrain(y_BTHC, "act_batch", "act_seq", "act_q_heads", None)
        names = ("q_heads", "head_dim", "embed")
        project = Projection(cfg, (cfg.d_model,), names, num_inputs=2, depth=2 * cfg.num_layers, name="output")
        return project(y_BTHC), cache

    def mask_BTS(self, context: Context, cache: Cache | None):
        """Returns which keys each query sees."""
        return context.mask_BTS(cache, self.window)

    def mix(self, q_BTHC, k_BSKC, v_BSKC, mask_BTS):
        """Returns each query's mixture of the values."""
        return attend(q_BTHC, k_BSKC, v_BSKC, mask_BTS)

    def _project(self, x_BTD, name, num_heads, heads):
        y_BTHC = Projection(self.cfg, (num_heads, self.cfg.d_head), ("embed", heads, "head_dim"), name=name)(x_BTD)
        return constrain(y_BTHC, "act_batch", "act_seq", f"act_{heads}", None)


def in_chunks(
    mix: Callable, q_BTHC: Array, k_BSKC: Array, v_BSKC: Array, mask_BTS: Array, num_chunks: int = 4
) -> Array:
    """Mixes the queries in equal chunks, each with the keys up to its end; keys are the queries' own tokens, in order.

    So scores that a causal mask hides from a whole chunk are never computed: 3/8 of all, with 4 chunks. Where T cannot
    be cut it is one chunk, with the same result.
    """
    T = q_BTHC.shape[1]
    if T % num_chunks:
        return mix(q_BTHC, k_BSKC, v_BSKC, mask_BTS)
    size = T // num_chunks
    ends = range(size, T + 1, size)
    return jnp.concatenate(
        [mix(q_BTHC[:, e - size : e], k_BSKC[:, :e], v_BSKC[:, :e], mask_BTS[:, e - size : e, :e]) for e in ends],
        axis=1,
    )


def attend(q_BTHC: Array, k_BSKC: Array, v_BSKC: Array, mask_BTS: Array) -> Array:
    """Softmax attention, scores and weights in float32; H is a multiple of K. Returns y_BTHC in the dtype of v.

    A query that sees no key at all gets the mean of the values rather than NaN.
    """
    B, T, H, C = q_BTHC.shape
    K = k_BSKC.shape[2]
    G = H // K
    # Heads before positions, and the queries of a group in one matrix: plain batched products, which CPUs need.
    q_BKMC = (q_BTHC * C**-0.5).reshape(B, T, K, G, C).transpose(0, 2, 3, 1, 4).reshape(B, K, G * T, C)
    k_BKSC, v_BKSC = k_BSKC.swapaxes(1, 2), v_BSKC.swapaxes(1, 2)
    dtype = jnp.promote_types(q_BTHC.dtype, jnp.float32)
    scores_BKMS = jnp.einsum("BKMC,BKSC->BKMS", q_BKMC, k_BKSC, preferred_element_type=dtype)
    # Added, not selected: the gradient then passes the mask by.
    bias_BTS = jnp.where(mask_BTS, 0, jnp.finfo(dtype).min / 2).astype(dtype)
    scores_BKGTS = scores_BKMS.reshape(B, K, G, T, -1) + bias_BTS[:, None, None]
    weights_BKMS = jax.nn.softmax(scores_BKGTS, axis=-1).astype(v_BSKC.dtype).reshape(scores_BKMS.shape)
    y_BKMC = jnp.einsum("BKMS,BKSC->BKMC", weights_BKMS, v_BKSC)
    return y_BKMC.reshape(B, K, G, T, C).transpose(0, 3, 1, 2, 4).reshape(B, T, H, C)


ATTENTIONS = {
    "causal": SelfAttention,
}
