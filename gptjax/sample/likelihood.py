"""How likely a model finds tokens, in batches of similar lengths and few shapes. Token ids in, numbers out.

Shapes: B row, T position, S scored position, D model width, V vocabulary.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gptjax import model
from gptjax.data.sequences import scored_windows
from gptjax.model.config import ModelConfig
from gptjax.sample.batches import batches
from gptjax.sample.prefill import bucket, pad
from gptjax.types import Array, Params


class Likelihood(NamedTuple):
    """What a model thinks of the scored tokens of a row."""

    logprob: float
    """Their log-probability, in nats."""
    is_greedy: bool
    """Whether each is the likeliest, so that greedy search would write them."""


def likelihoods(
    cfg: ModelConfig,
    params: Params,
    rows: Sequence[Sequence[int]],
    starts: Sequence[int],
    *,
    batch_size: int = 16,
    progress: Callable[[Sequence[list[int]]], Iterable[list[int]]] = iter,
) -> list[Likelihood]:
    """Returns of each row the likelihood of its tokens from `start` (at least 1) on, given those before them.

    They see as many of the tokens before them as the model has room for; beyond that, `scored_windows` cuts.
    `progress` passes batches on, and may show how they go by.
    """
    cfg = cfg.resolve()
    parts = [(r, *window) for r in range(len(rows)) for window in scored_windows(rows[r], starts[r], cfg.seq_len)]
    logprobs, is_greedy = [0.0] * len(rows), [True] * len(rows)
    for numbers in progress(list(batches([len(tokens) for _, tokens, _ in parts], batch_size))):
        inputs_BT, length_B = pad([parts[i][1][:-1] for i in numbers], cfg.seq_len)
        count_B = np.array([parts[i][2] for i in numbers])
        targets_BS = np.zeros((len(numbers), min(bucket(count_B.max()), inputs_BT.shape[1])), np.int32)
        for i, count, targets_S in zip(numbers, count_B, targets_BS, strict=True):
            targets_S[-count:] = parts[i][1][-count:]
        scores = jax.device_get(_score(cfg, params, inputs_BT, length_B, targets_BS, count_B))
        for i, (logprob, greedy) in dict(zip(numbers, zip(*scores, strict=True), strict=True)).items():
            r = parts[i][0]
            logprobs[r] += float(logprob)
            is_greedy[r] &= bool(greedy)
    return list(map(Likelihood, logprobs, is_greedy))


@partial(jax.jit, static_argnames="cfg")
def _score(
    cfg: ModelConfig, params: Params, inputs_BT: Array, length_B: Array, targets_BS: Array, count_B: Array
) -> tuple[Array, Array]:
    """Returns the log-probability of the last count_B targets of each row, and whether all of them are the likeliest.

    The last target follows from the row's input number length_B - 1; inputs are padded on the right, targets on the
    left.
    """
    T, S = inputs_BT.shape[1], targets_BS.shape[1]
    segment_ids_BT = (jnp.arange(T) < length_B[:, None]).astype(jnp.int32)
    x_BTD, _, _ = model.features(cfg, params, inputs_BT, segment_ids_BT=segment_ids_BT)
    place_BS = jnp.maximum(length_B[:, None] - S + jnp.arange(S), 0)
    x_BSD = jnp.take_along_axis(x_BTD, place_BS[..., None], axis=1)

    def of_row(row: tuple[Array, Array]) -> tuple[Array, Array]:
        x_SD, targets_S = row
        logits_SV = model.unembed(cfg, params, x_SD[None])[0]
        logprob_S = jnp.take_along_axis(jax.nn.log_softmax(logits_SV), targets_S[:, None], axis=1)[:, 0]
        return logprob_S, jnp.argmax(logits_SV, axis=-1) == targets_S

    # The logits of all rows at a time would be most of the memory.
    logprob_BS, is_likeliest_BS = jax.lax.map(of_row, (x_BSD, targets_BS))
    is_scored_BS = jnp.arange(S) >= S - count_B[:, None]
    return jnp.sum(logprob_BS, axis=1, where=is_scored_BS), jnp.all(is_likeliest_BS, axis=1, where=is_scored_BS)
