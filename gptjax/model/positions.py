"""How a token knows where it stands. A scheme adds vectors to the embeddings or turns queries and keys, once a model.

Knows nothing of attention's masks: order and distance are its concern only as numbers.

Shapes: B batch, T position, D model width, H heads (of queries or of keys), C head channels, R = C / 2.
"""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from gptjax.model.config import ModelConfig
from gptjax.model.layers import Embedding
from gptjax.types import Array


class Encoding(NamedTuple):
    """What a scheme contributes; a field that it does not use is None. Computed once and shared by all blocks."""

    added_BTD: Array | None = None
    """Added to the token embeddings."""
    cos_BTR: Array | None = None
    """Cosines of the angles by which channel pairs are turned, float32."""
    sin_BTR: Array | None = None
    """Sines of the same."""

    def rotate(self, x_BTHC: Array) -> Array:
        """Turns queries or keys in float32 and returns the dtype of x; the identity for schemes without angles."""
        if self.cos_BTR is None or self.sin_BTR is None:
            return x_BTHC
        cos_BT1R, sin_BT1R = self.cos_BTR[:, :, None], self.sin_BTR[:, :, None]
        a_BTHR, b_BTHR = jnp.split(x_BTHC.astype(cos_BT1R.dtype), 2, axis=-1)
        turned_BTHC = [a_BTHR * cos_BT1R - b_BTHR * sin_BT1R, b_BTHR * cos_BT1R + a_BTHR * sin_BT1R]
        return jnp.concatenate(turned_BTHC, axis=-1).astype(x_BTHC.dtype)


class Learned(nn.Module):
    """A learned vector for each of seq_len positions (GPT-1 to 3), initialised like the token embedding."""

    cfg: ModelConfig

    @nn.compact
    def __call__(self, positions_BT) -> Encoding:
        """Looks the vectors up; a position beyond seq_len gives NaN."""
        # The rows are not named "embed": they are few, and a table split over fsdp would be gathered to be added.
        return Encoding(added_BTD=Embedding(self.cfg, self.cfg.seq_len, (None, "embed"), name="table")(positions_BT))


class Sinusoidal(nn.Module):
    """PE(p, 2i) = sin(p / base^(2i/D)), PE(p, 2i+1) = cos of the same (Vaswani et al. 2017, section 3.5)."""

    cfg: ModelConfig
    base: float = 10000.0

    @nn.compact
    def __call__(self, positions_BT) -> Encoding:
        """Computes the vectors for any position."""
        D = self.cfg.d_model
        angles_BTR = positions_BT[..., None] * self.base ** (-jnp.arange(0, D, 2) / D)
        pairs_BTR2 = jnp.stack([jnp.sin(angles_BTR), jnp.cos(angles_BTR)], axis=-1)
        return Encoding(added_BTD=pairs_BTR2.reshape(*positions_BT.shape, -1)[..., :D])


class Rotary(nn.Module):
    """Turns the channel pair (i, i + R) by p / base^(i/R), so that scores depend on distances (arXiv 2104.09864).

    The pairing of halves is GPT-NeoX's and Llama's; it is the paper's up to a permutation of channels.
    """

    cfg: ModelConfig
    base: float = 10000.0

    @nn.compact
    def __call__(self, positions_BT) -> Encoding:
        """Computes the angles in float32 for any position."""
        d_head = self.cfg.resolve().d_head
        assert d_head is not None
        R = d_head // 2
        angles_BTR = positions_BT[..., None] * self.base ** (-jnp.arange(R) / R)
        return Encoding(cos_BTR=jnp.cos(angles_BTR), sin_BTR=jnp.sin(angles_BTR))


class NoPositions(nn.Module):
    """Nothing: the causal mask alone tells positions apart (Haviv et al. 2022, arXiv 2203.16634)."""

    cfg: ModelConfig

    @nn.compact
    def __call__(self, positions_BT) -> Encoding:
        """Returns the empty encoding."""
        return Encoding()


POSITIONS = {
    "learned": Learned,
    "sinusoidal": Sinusoidal,
    "rotary": Rotary,
    "none": NoPositions,
}
