"""How a token knows where it stands. A scheme adds vectors to the embeddings, turns queries and keys, or adds to their
products by distance: computed once a model.

Knows nothing of attention's masks: order and distance are its concern only as numbers.

Shapes: B batch, T position, D model width, H heads (of queries or of keys), C head channels, R pairs of channels that
are turned, L distance from query to key.
"""

import math
from typing import ClassVar, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from gptjax import manual
from gptjax.model.config import ModelConfig
from gptjax.model.layers import Embedding, named
from gptjax.types import Array


class Encoding(NamedTuple):
    """What a scheme contributes; a field that it does not use is None. Computed once and shared by all blocks."""

    added_BTD: Array | None = None
    """Added to the token embeddings."""
    cos_BTR: Array | None = None
    """Cosines of the angles by which channel pairs are turned, float32."""
    sin_BTR: Array | None = None
    """Sines of the same."""
    bias_HL: Array | None = None
    """Added to the scores of each head by the distance of the key, float32; the last also for all that are farther."""

    def rotate(self, x_BTHC: Array) -> Array:
        """Turns queries or keys in float32 and returns the dtype of x; the identity for schemes without angles."""
        if self.cos_BTR is None or self.sin_BTR is None:
            return x_BTHC
        cos_BT1R, sin_BT1R = self.cos_BTR[:, :, None], self.sin_BTR[:, :, None]
        R = cos_BT1R.shape[-1]
        still_BTHC = x_BTHC[..., 2 * R :]
        a_BTHR, b_BTHR = jnp.split(x_BTHC[..., : 2 * R].astype(cos_BT1R.dtype), 2, axis=-1)
        turned = [a_BTHR * cos_BT1R - b_BTHR * sin_BT1R, b_BTHR * cos_BT1R + a_BTHR * sin_BT1R]
        return jnp.concatenate([*(x.astype(x_BTHC.dtype) for x in turned), still_BTHC], axis=-1)


class Positions(nn.Module):
    """A scheme: positions_BT -> Encoding."""

    cfg: ModelConfig

    adds_to_scores: ClassVar[bool] = False
    """Whether it biases scores, which plain XLA alone can do."""


class Learned(Positions):
    """A learned vector for each of seq_len positions (GPT-1 to 3), initialised like the token embedding."""

    @nn.compact
    def __call__(self, positions_BT) -> Encoding:
        """Looks the vectors up; a position beyond seq_len gives NaN."""
        # The rows are not named "embed": they are few, and a table split over fsdp would be gathered to be added.
        return Encoding(added_BTD=Embedding(self.cfg, self.cfg.seq_len, (None, "embed"), name="table")(positions_BT))


class Sinusoidal(Positions):
    """PE(p, 2i) = sin(p / base^(2i/D)), PE(p, 2i+1) = cos of the same (Vaswani et al. 2017, section 3.5)."""

    base: float = 10000.0

    @nn.compact
    def __call__(self, positions_BT) -> Encoding:
        """Computes the vectors for any position."""
        D = self.cfg.d_model
        angles_BTR = positions_BT[..., None] * self.base ** (-jnp.arange(0, D, 2) / D)
        pairs_BTR2 = jnp.stack([jnp.sin(angles_BTR), jnp.cos(angles_BTR)], axis=-1)
        return Encoding(added_BTD=pairs_BTR2.reshape(*positions_BT.shape, -1)[..., :D])


class Rotary(Positions):
    """Turns the channel pair (i, i + R) by p / base^(i/R), so that scores depend on distances (arXiv 2104.09864).

    The pairing of halves is GPT-NeoX's and Llama's; it is the paper's up to a permutation of channels. `fraction` of
    the channels are turned, the first ones (GPT-NeoX-20B, arXiv 2204.06745). `scaling` stretches a model of sequences
    of `trained_len` to `factor` times as many positions: see SCALINGS.
    """

    base: float = 10000.0
    fraction: float = 1.0
    scaling: str = "none"
    factor: float = 1.0
    trained_len: int | None = None

    @nn.compact
    def __call__(self, positions_BT) -> Encoding:
        """Computes the angles in float32 for any position."""
        cfg = self.cfg.resolve()
        assert cfg.d_head is not None
        R = int(cfg.d_head * self.fraction) // 2
        scaling = SCALINGS[self.scaling]
        frequency_R, size = scaling(self.base, R, self.factor, self.trained_len or cfg.seq_len / self.factor)
        angles_BTR = positions_BT[..., None] * jnp.asarray(frequency_R, jnp.float32)
        return Encoding(cos_BTR=jnp.cos(angles_BTR) * size, sin_BTR=jnp.sin(angles_BTR) * size)


def _frequencies(base, R):
    return base ** (-np.arange(R) / R)


def unscaled(base: float, R: int, factor: float, trained_len: float) -> tuple[np.ndarray, float]:
    """Turns as trained."""
    return _frequencies(base, R), 1.0


def linear(base: float, R: int, factor: float, trained_len: float) -> tuple[np.ndarray, float]:
    """Position interpolation: all angles are divided by the factor (Chen et al. 2023, arXiv 2306.15595)."""
    return _frequencies(base, R) / factor, 1.0


def ntk(base: float, R: int, factor: float, trained_len: float) -> tuple[np.ndarray, float]:
    """A larger base divides the slowest angle by the factor and leaves the fastest (arXiv 2309.00071, section 3.1)."""
    return _frequencies(base * factor ** (R / max(1, R - 1)), R), 1.0


def yarn(base: float, R: int, factor: float, trained_len: float) -> tuple[np.ndarray, float]:
    """Divides the angles of pairs that turn less than once within trained_len, and leaves those of 32 turns and more.

    Those between are mixed, and scores grow by (0.1 ln factor + 1)^2 (Peng et al. 2023, arXiv 2309.00071).
    """
    frequency_R = _frequencies(base, R)
    turns_R = trained_len * frequency_R / (2 * np.pi)
    kept_R = np.clip((turns_R - 1) / (32 - 1), 0, 1)
    return frequency_R * (kept_R + (1 - kept_R) / factor), 0.1 * math.log(factor) + 1


def yarn_by_index(base: float, R: int, factor: float, trained_len: float) -> tuple[np.ndarray, float]:
    """YaRN as its authors' code has it, and released models with it: those between are mixed by their index.

    The indices of the pairs that turn 32 times and once are rounded outwards.
    """
    fast, slow = (R * math.log(trained_len / (turns * 2 * math.pi)) / math.log(base) for turns in (32, 1))
    first, last = max(math.floor(fast), 0), min(math.ceil(slow), 2 * R - 1)
    kept_R = 1 - np.clip((np.arange(R) - first) / max(last - first, 1e-3), 0, 1)
    return _frequencies(base, R) * (kept_R + (1 - kept_R) / factor), 0.1 * math.log(factor) + 1


def llama3(base: float, R: int, factor: float, trained_len: float) -> tuple[np.ndarray, float]:
    """Divides the angles of pairs that turn less than once within trained_len, and leaves those of 4 turns and more.

    Those between are mixed by their turns (Llama 3.1, arXiv 2407.21783).
    """
    frequency_R = _frequencies(base, R)
    kept_R = np.clip((trained_len * frequency_R / (2 * np.pi) - 1) / (4 - 1), 0, 1)
    return frequency_R * (kept_R + (1 - kept_R) / factor), 1.0


SCALINGS = {
    "none": unscaled,
    "linear": linear,
    "ntk": ntk,
    "yarn": yarn,
    "yarn_by_index": yarn_by_index,
    "llama3": llama3,
}
"""How angles are stretched: (base, R, factor, trained_len) -> angle of each pair by position, size of the turned."""


class ALiBi(Positions):
    """Takes a slope times the distance from each score, another slope in each head (Press et al. 2021, 2108.12409)."""

    adds_to_scores = True

    @nn.compact
    def __call__(self, positions_BT) -> Encoding:
        """Slopes are 2^(-8i/H); of a number of heads that is no power of two, some between them."""
        H = self.cfg.num_heads
        power = 2 ** math.floor(math.log2(H))
        slopes = [2 ** (-8 * (i + 1) / power) for i in range(power)]
        slopes += [2 ** (-4 * (i + 1) / power) for i in range(0, 2 * power, 2)][: H - power]
        return Encoding(bias_HL=-jnp.asarray(slopes)[:, None] * jnp.arange(self.cfg.seq_len, dtype=jnp.float32))


class T5(Positions):
    """A learned number for each head and bucket of distances (Raffel et al. 2019, arXiv 1910.10683).

    Half of the buckets are distances of their own, the others grow with the logarithm up to max_distance. T5 adds it
    to scores that are not divided by sqrt C, and shares it between blocks as we do.
    """

    adds_to_scores = True
    num_buckets: int = 32
    max_distance: int = 128

    @nn.compact
    def __call__(self, positions_BT) -> Encoding:
        """Looks the numbers up for every distance within seq_len."""
        names, shape = (None, "q_heads"), (self.num_buckets, self.cfg.num_heads)
        table = self.param("embedding", named(nn.initializers.normal(self.cfg.init_std), names), shape)
        table = manual.gather(table, names, "float32")
        exact = self.num_buckets // 2
        distance_L = np.arange(self.cfg.seq_len)
        far_L = np.log(np.maximum(distance_L, 1) / exact) / math.log(self.max_distance / exact)
        bucket_L = np.where(distance_L < exact, distance_L, exact + (far_L * (self.num_buckets - exact)).astype(int))
        return Encoding(bias_HL=table[np.minimum(bucket_L, self.num_buckets - 1)].T)


class NoPositions(Positions):
    """Nothing: the causal mask alone tells positions apart (Haviv et al. 2022, arXiv 2203.16634)."""

    @nn.compact
    def __call__(self, positions_BT) -> Encoding:
        """Returns the empty encoding."""
        return Encoding()


POSITIONS = {
    "learned": Learned,
    "sinusoidal": Sinusoidal,
    "rotary": Rotary,
    "alibi": ALiBi,
    "t5": T5,
    "none": NoPositions,
}
