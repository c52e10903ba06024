"""Self-attention. Owns projections, masks and the mixing of positions; knows nothing of data or losses.

Shapes: B batch, T query position, S key position, D model width, H query heads, K key/value heads, G = H / K queries
per key/value head, C head channels, L distance of a key.
"""

from collections.abc import Callable
from typing import ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from gptjax import registry, sharding
from gptjax.model import kernels
from gptjax.model.cache import Cache
from gptjax.model.config import ModelConfig
from gptjax.model.layers import NORMS, Projection, RMSNorm, Vector
from gptjax.model.positions import POSITIONS, Encoding
from gptjax.model.visible import Visible
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
    over their channels before they turn, with the epsilon of `norm`, which bounds the scores (arXiv 2010.04245);
    `soft_cap` bounds them by a tanh (Gemma 2, arXiv 2408.00118); `sink` gives each head a learned score that takes
    weight and gives nothing (gpt-oss, arXiv 2508.10925), so that a head may look at nothing.

    A variant is a subclass that overrides `mask_BTS` (which keys are seen) or `mix` (what is done with them); plain XLA
    runs it on every platform.
    """

    both_ways: ClassVar[bool] = False
    """Whether a query sees as far ahead as behind; the table's entry has to say so too where it is a function."""

    cfg: ModelConfig
    window: int | None = None
    qk_norm: bool = False
    soft_cap: float | None = None
    sink: bool = False

    @nn.compact
    def __call__(self, x_BTD, context: Context, cache: Cache | None):
        """Mixes positions. Returns y_BTD in the compute dtype and the cache with this call's tokens (None: none)."""
        cfg = self.cfg
        assert self.both_ways == cfg.both_ways, f"say both_ways={self.both_ways} on {cfg.attention.name!r} as well"
        q_BTHC = self._project(x_BTD, "query", cfg.num_heads, "q_heads")
        k_BTKC = self._project(x_BTD, "key", cfg.num_kv_heads, "kv_heads")
        v_BTKC = self._project(x_BTD, "value", cfg.num_kv_heads, "kv_heads")
        if self.qk_norm:
            epsilon = registry.resolve(NORMS, cfg.norm).kwargs.get("epsilon", RMSNorm.epsilon)
            q_BTHC = RMSNorm("head_dim", epsilon, name="query_norm")(q_BTHC)
            k_BTKC = RMSNorm("head_dim", epsilon, name="key_norm")(k_BTKC)
        q_BTHC, k_BSKC, v_BSKC = context.encoding.rotate(q_BTHC), context.encoding.rotate(k_BTKC), v_BTKC
        if (stretch := cfg.score_scale * q_BTHC.shape[-1] ** 0.5) != 1:
            q_BTHC = q_BTHC * stretch  # kernels divide by the root
        by_head = self.by_head(context)
        if cache is not None:
            cache, k_BSKC, v_BSKC = cache.write(context.layer, k_BSKC, v_BSKC, context.slots_BT(cache))

        def mix(window):
            if cache is not None:
                visible = Visible.slots(context.positions_BT, cache.length, window)
                return self.mix(q_BTHC, k_BSKC, v_BSKC, visible, **by_head)
            kernel = self._kernel(q_BTHC.shape[1], by_head)
            return kernels.mix(kernel, q_BTHC, k_BSKC, v_BSKC, context.segment_ids_BT, window, by_head)

        y_BTHC = self.at_depth(mix, context.layer)
        y_BTHC = constrain(y_BTHC, "act_batch", "act_seq", "act_q_heads", None)
        names = ("q_heads", "head_dim", "embed")
        project = Projection(cfg, (cfg.d_model,), names, num_inputs=2, depth=2 * cfg.num_layers, name="output")
        return project(self.after(y_BTHC, context)), cache

    def at_depth(self, mix: Callable, layer):
        """Calls (window) -> y_BTHC with the window that the block of this index has."""
        return mix(self.window)

    def by_head(self, context: Context) -> dict[str, Array]:
        """Returns what `mix` takes besides, by name; the first dim of each array is the heads."""
        found = {}
        if context.encoding.bias_HL is not None:
            found["bias_HL"] = context.encoding.bias_HL
        if self.sink:
            found["sink_H"] = Vector((self.cfg.num_heads,), ("q_heads",), name="sink")()
        return found

    def mask_BTS(self, visible: Visible):
        """Returns which keys each query sees."""
        return visible.mask_BTS(both_ways=self.both_ways)

    def mix(self, q_BTHC, k_BSKC, v_BSKC, visible: Visible, *, bias_HL=None, sink_H=None):
        """Returns each query's mixture of the values, y_BTHC."""
        bias_BHTS = None
        if bias_HL is not None:
            distances_BTS = jnp.minimum(visible.distances_BTS(), bias_HL.shape[1] - 1)
            bias_BHTS = jnp.moveaxis(bias_HL[:, distances_BTS], 0, 1)
        return kernels.attend(q_BTHC, k_BSKC, v_BSKC, self.mask_BTS(visible), bias_BHTS, sink_H, self.soft_cap)

    def after(self, y_BTHC, context: Context):
        """Returns what the output projection reads."""
        return y_BTHC

    def obstacle(self) -> str | None:
        """Returns why a kernel cannot stand in for `mask_BTS` and `mix`; None where it can."""
        own, standard = type(self), SelfAttention
        if self.both_ways or own.mask_BTS is not standard.mask_BTS or own.mix is not standard.mix:
            return f"attention {self.cfg.attention.name!r} is plain XLA"
        if self.soft_cap is not None or self.sink:
            return "soft_cap and sink are plain XLA"
        if registry.lookup(POSITIONS, self.cfg.positions.name).adds_to_scores:
            return f"positions {self.cfg.positions.name!r} add to the scores, which is plain XLA"
        return None

    def _kernel(self, length: int, by_head) -> Callable:
        obstacle, length = self.obstacle(), kernels.positions_per_device(length)
        assert obstacle or not by_head, f"a kernel would leave out {', '.join(by_head)}: say so in obstacle()"
        chosen, _ = kernels.choose(self.cfg, sharding.platform(), length, obstacle)
        return kernels.KERNELS[chosen] if obstacle is None else self._plain

    def _plain(self, q_BTHC, k_BSKC, v_BSKC, visible: Visible, **by_head):
        def mix(*arguments):
            return self.mix(*arguments, **by_head)

        if visible.in_order and not self.both_ways:
            return kernels.in_chunks(mix, q_BTHC, k_BSKC, v_BSKC, visible)
        return mix(q_BTHC, k_BSKC, v_BSKC, visible)

    def _project(self, x_BTD, name, num_heads, heads):
        cfg, names = self.cfg, ("embed", heads, "head_dim")
        y_BTHC = Projection(cfg, (num_heads, cfg.d_head), names, use_bias=cfg.qkv_bias, name=name)(x_BTD)
        return constrain(y_BTHC, "act_batch", "act_seq", f"act_{heads}", None)


class Bidirectional(SelfAttention):
    """Sees what follows too, and with a `window` as far ahead as behind (Dukic and Snajder 2024, arXiv 2401.14556).

    A model of it reads and does not write. It may start from a causal one's parameters, and soon learns to look ahead.
    """

    both_ways = True


class Alternating(SelfAttention):
    """Local and global blocks in turn, by a pattern of L and G that repeats over the depth (arXiv 2408.00118).

    An L sees a window, a G all that came before.
    """

    window: int | None = 128
    pattern: str = "LG"

    def at_depth(self, mix: Callable, layer):
        """Chooses by the letter that stands at the block's place in the pattern."""
        is_global_N = jnp.array([letter == "G" for letter in self.pattern])
        return jax.lax.cond(is_global_N[layer % len(self.pattern)], lambda: mix(None), lambda: mix(self.window))


def gpt3(cfg: ModelConfig, *, window: int = 256, qk_norm: bool = False, name: str | None = None) -> Alternating:
    """Dense and locally banded blocks in turn, as in GPT-3 (arXiv 2005.14165); the paper does not say how wide."""
    return Alternating(cfg, window=window, qk_norm=qk_norm, pattern="GL", name=name)


class Differential(SelfAttention):
    """The difference of two softmaxes, each of one half of a head's channels (Ye et al. 2024, arXiv 2410.05258).

    The second is weighed by a learned lambda, which starts larger in deeper blocks; each head's output is normalised.
    """

    def by_head(self, context: Context) -> dict[str, Array]:
        """Adds lambda, the same for all heads of a block."""
        assert self.cfg.d_head is not None
        C = self.cfg.d_head // 2
        q_2C, k_2C = (
            jnp.stack([Vector((C,), ("head_dim",), 0.1, name=f"lambda_{what}_{half}")() for half in (1, 2)])
            for what in ("query", "key")
        )
        first, second = jnp.exp(jnp.sum(q_2C * k_2C, axis=-1))
        weight = first - second + self._start(context)
        return {**super().by_head(context), "lambda_H": jnp.broadcast_to(weight, (self.cfg.num_heads,))}

    def mix(self, q_BTHC, k_BSKC, v_BSKC, visible: Visible, *, lambda_H, **by_head):
        """Mixes the values twice and subtracts."""
        once_BTHC, again_BTHC = (
            SelfAttention.mix(self, self._half(q_BTHC, half), self._half(k_BSKC, half), v_BSKC, visible, **by_head)
            for half in (0, 1)
        )
        return once_BTHC - lambda_H[:, None].astype(again_BTHC.dtype) * again_BTHC

    def after(self, y_BTHC, context: Context):
        """Normalises each head, and gives it back the size that the difference took from it."""
        y_BTHC = RMSNorm("head_dim", name="head_norm")(y_BTHC)
        return y_BTHC * (1 - self._start(context)).astype(y_BTHC.dtype)

    @staticmethod
    def _start(context: Context):
        return 0.8 - 0.6 * jnp.exp(-0.3 * context.layer)

    @staticmethod
    def _half(x_BTHC, half):
        """Returns every second pair of the channels that positions turn together: i and i + C / 2."""
        B, T, H, C = x_BTHC.shape
        return x_BTHC.reshape(B, T, H, 2, C // 4, 2)[..., half].reshape(B, T, H, C // 2)


ATTENTIONS = {
    "causal": SelfAttention,
    "bidirectional": Bidirectional,
    "alternating": Alternating,
    "gpt3": gpt3,
    "differential": Differential,
}


def kernel(cfg: ModelConfig, platform: str, length: int) -> tuple[str, str]:
    """Returns what attention runs on for `length` positions a device on a platform, and the reason in words."""
    attention = registry.build(ATTENTIONS, cfg.attention, cfg.resolve())
    return kernels.choose(cfg, platform, length, attention.obstacle())
