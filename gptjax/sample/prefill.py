"""Enters prompts into a cache, in one pass, except for their last tokens, which the first decoding step reads.

Shapes: B row (one prompt each), T position, V vocabulary.
"""

from collections.abc import Collection, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gptjax import model
from gptjax.model.config import ModelConfig
from gptjax.types import Array, Params

BUCKET = 64
"""Padded lengths are multiples of it, so that prompts of similar length share a compiled program."""


class State(NamedTuple):
    """What decoding carries from token to token."""

    cache: model.Cache | model.Memory
    token_B: Array
    """The last token of each row, not yet in the cache."""
    position_B: Array
    """Its position in the context."""
    seen_BV: Array
    """Which tokens the context holds."""


@partial(jax.jit, static_argnames=("cfg", "length"))
def prefill(cfg: ModelConfig, params: Params, tokens_BT: Array, length_B: Array, *, length: int) -> State:
    """Enters prompts, padded on the right, of length_B tokens (at least 1) each into a cache of `length` slots."""
    B, T = tokens_BT.shape
    place_T, last_B1 = jnp.arange(T), length_B[:, None] - 1
    cache = model.init_cache(cfg, B, length)
    segment_ids_BT = (place_T < last_B1).astype(jnp.int32)
    _, cache, _ = model.features(cfg, params, tokens_BT, segment_ids_BT=segment_ids_BT, cache=cache)
    assert cache is not None
    seen_BV = jnp.zeros((B, cfg.padded_vocab_size), bool)
    seen_BV = seen_BV.at[jnp.arange(B)[:, None], tokens_BT].max(place_T <= last_B1)
    return State(cache, jnp.take_along_axis(tokens_BT, last_B1, axis=1)[:, 0], last_B1[:, 0], seen_BV)


def context_start(length: int, seq_len: int) -> int:
    """Returns the place at which the context of a sequence's next token starts; it moves by half contexts."""
    stride = max(seq_len // 2, 1)
    return max(0, -(-(length - seq_len) // stride) * stride)


def bucket(length: int) -> int:
    """Returns the padded length for that many tokens."""
    return -(-length // BUCKET) * BUCKET


def pad(contexts: Sequence[Sequence[int]], seq_len: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns tokens_BT, padded with zeros to a bucket's length or seq_len, and length_B."""
    lengths = [len(context) for context in contexts]
    tokens_BT = np.zeros((len(contexts), min(bucket(max(lengths)), seq_len)), np.int32)
    for row, context in zip(tokens_BT, contexts, strict=True):
        row[: len(context)] = context
    return tokens_BT, np.asarray(lengths, np.int32)


def all_of(eos_id: int | Collection[int] | None) -> frozenset[int]:
    """Returns the tokens that end a text: none, one or several."""
    return frozenset(eos_id) if isinstance(eos_id, Collection) else frozenset(() if eos_id is None else (eos_id,))
