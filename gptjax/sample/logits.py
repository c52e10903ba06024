"""From logits to one token a row: pure functions in float32, in the order in which `draw` applies them.

Repetition penalty, then temperature, then the filters top-k, top-p and min-p, each on what the one before has left.

Shapes: B row, V vocabulary; in the filters V runs over ranks, the likeliest token first.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gptjax.sample.config import SampleConfig
from gptjax.types import Array


class Rules(NamedTuple):
    """The numbers of a SampleConfig as arguments of a compiled program, which other values do not compile again.

    A filter that is None is no part of the program.
    """

    vocab_size: Array
    """Ids from here on are no tokens of the tokenizer."""
    temperature: Array
    repetition_penalty: Array
    top_k: Array | None
    top_p: Array | None
    min_p: Array | None

    @classmethod
    def of(cls, cfg: SampleConfig, vocab_size: int) -> "Rules":
        """Picks the numbers out of a config."""
        return cls(vocab_size, cfg.temperature, cfg.repetition_penalty, cfg.top_k, cfg.top_p, cfg.min_p)


def penalize_repetition(logits_BV: Array, seen_BV: Array, penalty: Array) -> Array:
    """Lowers the logits of seen tokens: positive ones are divided by the penalty (CTRL, arXiv 1909.05858).

    Negative ones are multiplied, since dividing them would make a repetition likelier.
    """
    lowered_BV = jnp.where(logits_BV > 0, logits_BV / penalty, logits_BV * penalty)
    return jnp.where(seen_BV, lowered_BV, logits_BV)


def apply_temperature(logits_BV: Array, temperature: Array) -> Array:
    """Divides by the temperature; its limit 0 leaves the likeliest token alone, of equal ones that with the least id.

    The result's maximum is 0 in each row.
    """
    best_BV = jnp.arange(logits_BV.shape[-1]) == jnp.argmax(logits_BV, axis=-1, keepdims=True)
    # With the maximum at 0, no temperature is so small that the quotient overflows upwards.
    shifted_BV = logits_BV - jnp.max(logits_BV, axis=-1, keepdims=True)
    divisor = jnp.where(temperature > 0, temperature, 1)
    return jnp.where(temperature > 0, shifted_BV / divisor, jnp.where(best_BV, 0, -jnp.inf))


def top_k(ranked_BV: Array, k: Array) -> Array:
    """Keeps the k likeliest tokens (Fan et al. 2018, arXiv 1805.04833)."""
    return jnp.where(jnp.arange(ranked_BV.shape[-1]) < k, ranked_BV, -jnp.inf)


def top_p(ranked_BV: Array, p: Array) -> Array:
    """Keeps the nucleus: the fewest likeliest tokens with a mass of p or more (arXiv 1904.09751)."""
    mass_BV = jax.nn.softmax(ranked_BV, axis=-1)
    above_BV = jnp.cumsum(mass_BV, axis=-1) - mass_BV  # exactly 0 for the likeliest, which thus always stays
    return jnp.where(above_BV < p, ranked_BV, -jnp.inf)


def min_p(ranked_BV: Array, p: Array) -> Array:
    """Keeps tokens with at least p times the likeliest one's probability (arXiv 2407.01082)."""
    return jnp.where(ranked_BV >= ranked_BV[:, :1] + jnp.log(p), ranked_BV, -jnp.inf)


def draw(logits_BV: Array, seen_BV: Array, keys_B: Array, rules: Rules) -> Array:
    """Draws token_B by the rules, each row with its own key; seen_BV marks the tokens in its context."""
    is_token_V = jnp.arange(logits_BV.shape[-1]) < rules.vocab_size
    logits_BV = jnp.where(is_token_V, logits_BV.astype(jnp.float32), -jnp.inf)
    logits_BV = penalize_repetition(logits_BV, seen_BV, rules.repetition_penalty)
    logits_BV = apply_temperature(logits_BV, rules.temperature)
    filters = [(top_k, rules.top_k), (top_p, rules.top_p), (min_p, rules.min_p)]
    if all(value is None for _, value in filters):
        return jax.vmap(jax.random.categorical)(keys_B, logits_BV)
    ids_BV = jnp.argsort(logits_BV, axis=-1, descending=True, stable=True)
    ranked_BV = jnp.take_along_axis(logits_BV, ids_BV, axis=-1)
    for keep, value in filters:
        if value is not None:
            ranked_BV = keep(ranked_BV, value)
    rank_B = jax.vmap(jax.random.categorical)(keys_B, ranked_BV)
    return jnp.take_along_axis(ids_BV, rank_B[:, None], axis=-1)[:, 0]
