"""Causal self-attention. Owns projections, masks and the mixing of positions; knows nothing of data or losses.

Shapes: B batch, T query position, S key position, D model width, H query heads, K key/value heads, G = H / K queries
per key/value head, C head channels.
"""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from gptjax.model import kernels
from gptjax.model.cache import Cache
from gptjax.model.config import ModelConfig
from gptjax.model.kernels import Visible
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

    def slots_BT(self, cache: Cache) -> Array:
        """Returns the slot that each token is written to; padding goes past the end, where it is dropped."""
        if self.segment_ids_BT is None:
            return self.positions_BT
        return jnp.where(self.segment_ids_BT > 0, self.positions_BT, cache.length)


class SelfAttention(nn.Module):
    """Grouped-query attention over a causal, segment-aware window (Ainslie et al. 2023, arXiv 2305.13245).

    `window` limits a query to that many keys, itself included (arXiv 2004.05150); `qk_norm` normalises queries and keys
    over their channels before they turn (arXiv 2010.04245), which bounds the scores. A variant is a subclass that
    overrides `mask_BTS` (which keys are seen) or `mix` (what is done with them); plain XLA runs it on every platform.
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
        if cache is not None:
            y_BTHC = self._plain(q_BTHC, k_BSKC, v_BSKC, Visible.slots(context.positions_BT, cache.length, self.window))
        else:
            kernel = None if self._is_standard else self._plain
            y_BTHC = kernels.mix(cfg, q_BTHC, k_BSKC, v_BSKC, context.segment_ids_BT, self.window, kernel)
        y_BTHC = constrain(y_BTHC, "act_batch", "act_seq", "act_q_heads", None)
        names = ("q_heads", "head_dim", "embed")
        project = Projection(cfg, (cfg.d_model,), names, num_inputs=2, depth=2 * cfg.num_layers, name="output")
        return project(y_BTHC), cache

    def mask_BTS(self, visible: Visible):
        """Returns which keys each query sees."""
        return visible.mask_BTS()

    def mix(self, q_BTHC, k_BSKC, v_BSKC, mask_BTS):
        """Returns each query's mixture of the values."""
        return kernels.attend(q_BTHC, k_BSKC, v_BSKC, mask_BTS)

    def _plain(self, q_BTHC, k_BSKC, v_BSKC, visible: Visible):
        mix = kernels.in_chunks if visible.in_order else lambda mix, *arrays: mix(*arrays)
        return mix(self.mix, q_BTHC, k_BSKC, v_BSKC, self.mask_BTS(visible))

    @property
    def _is_standard(self) -> bool:
        """Whether a kernel can stand in for `mask_BTS` and `mix`."""
        own, standard = type(self), SelfAttention
        return own.mask_BTS is standard.mask_BTS and own.mix is standard.mix

    def _project(self, x_BTD, name, num_heads, heads):
        y_BTHC = Projection(self.cfg, (num_heads, self.cfg.d_head), ("embed", heads, "head_dim"), name=name)(x_BTD)
        return constrain(y_BTHC, "act_batch", "act_seq", f"act_{heads}", None)


ATTENTIONS = {
    "causal": SelfAttention,
}
