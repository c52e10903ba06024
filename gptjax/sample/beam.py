"""Beam search: of all texts that begin like the likeliest ones, those with the best scores.

A step looks at every continuation of a row's beams by a token. Of the best of them, those that end are finished texts,
if they are among as many as there are beams, and the best of the others are the next beams. A row ends where no beam
has a better score than the worst of its finished texts, once there are as many of these as beams; at its last token the
beams themselves are finished. That is the search of the `transformers` library with its defaults.

The score of a text is its log-probability divided by length ** length_penalty, the length in tokens with the one that
ends it, without the prompt (`transformers`' penalty; GNMT's, arXiv 1609.08144, adds 5 to the length and divides by 6).

Shapes: B row (one prompt each), W beam of a row, R = B x W, C candidate, L new token, V vocabulary, K rank in V.
"""

from collections.abc import Collection, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gptjax import model
from gptjax.model.config import ModelConfig
from gptjax.sample.config import SampleConfig
from gptjax.sample.prefill import all_of, bucket, context_start, pad, prefill
from gptjax.types import Array, Params

CHUNK = 16
"""Most tokens between two looks of the host, which asks whether all rows have ended and can then be interrupted."""


class Texts(NamedTuple):
    """Several texts of each row, without the prompt."""

    tokens_BWL: Array
    length_BW: Array
    """Number of tokens."""
    log_BW: Array
    """Log-probability of all of them together, given the prompt; -inf where there is no text."""

    @classmethod
    def none(cls, num_rows: int, num_texts: int, room: int) -> "Texts":
        """Returns places for that many texts a row, of at most `room` tokens each."""
        shape = (num_rows, num_texts)
        return cls(jnp.zeros((*shape, room), jnp.int32), jnp.zeros(shape, jnp.int32), jnp.full(shape, -jnp.inf))

    def score_BW(self, penalty: Array) -> Array:
        """Returns the scores."""
        # The power of a great penalty may be infinite.
        return jnp.where(self.log_BW > -jnp.inf, self.log_BW / jnp.maximum(self.length_BW, 1) ** penalty, -jnp.inf)

    def pick(self, at_BC: Array) -> "Texts":
        """Returns those at these places of each row, in their order."""
        tokens_BCL = jnp.take_along_axis(self.tokens_BWL, at_BC[..., None], axis=1)
        return Texts(tokens_BCL, *(jnp.take_along_axis(x_BW, at_BC, axis=1) for x_BW in self[1:]))

    def best(self, num_texts: int, penalty: Array) -> "Texts":
        """Returns so many of each row with the best scores, in their order."""
        return self.pick(jax.lax.top_k(self.score_BW(penalty), num_texts)[1])


class State(NamedTuple):
    """What a search carries from token to token."""

    cache: model.Cache | model.Memory
    """A row for each beam."""
    token_BW: Array
    """The last token of each beam, not yet in the cache."""
    position_B: Array
    """Its position in the context."""
    beams: Texts
    finished: Texts
    """The best so far, the best first."""
    done_B: Array
    """Which rows have ended."""


class Hypothesis(NamedTuple):
    """A finished text."""

    tokens: list[int]
    """Its new tokens, with the one that ends it."""
    log_probability: float
    score: float


@partial(jax.jit, static_argnames=("cfg", "num_beams", "length", "room"))
def start(
    cfg: ModelConfig, params: Params, tokens_BT: Array, length_B: Array, *, num_beams: int, length: int, room: int
) -> State:
    """Enters prompts into a cache of `length` slots, once each, and makes a beam of each, the others not living yet."""
    B = len(tokens_BT)
    entered = prefill(cfg, params, tokens_BT, length_B, length=length)
    texts = Texts.none(B, num_beams, room)
    return State(
        cache=entered.cache.take(jnp.repeat(jnp.arange(B), num_beams)),
        token_BW=jnp.repeat(entered.token_B[:, None], num_beams, axis=1),
        position_B=entered.position_B,
        beams=texts._replace(log_BW=texts.log_BW.at[:, 0].set(0)),
        finished=texts,
        done_B=jnp.zeros(B, bool),
    )


class Rules(NamedTuple):
    """The numbers of a search as arguments of its program, which other values do not compile again."""

    limit_B: Array
    """Most new tokens of each row."""
    penalty: Array
    ends_E: Array
    """Tokens that end a text."""
    vocab_size: Array
    """Ids from here on are no tokens of the tokenizer."""


@partial(jax.jit, static_argnames="cfg", donate_argnames="state")
def search(cfg: ModelConfig, params: Params, state: State, rules: Rules, chunk: Array) -> State:
    """Continues all beams by `chunk` tokens, or until all rows have ended; the new state takes the old one's place."""
    B, W = state.token_BW.shape
    penalty = rules.penalty

    def step(state: State) -> State:
        # A row that has ended runs on beside the others: no position is beyond the model's.
        position_R1 = jnp.minimum(jnp.repeat(state.position_B, W), state.cache.length - 1)[:, None]
        x_R1D, cache, _ = model.features(
            cfg, params, state.token_BW.reshape(-1, 1), positions_BT=position_R1, cache=state.cache
        )
        assert cache is not None
        parent_BC, token_BC, log_BC = extend(
            model.unembed(cfg, params, x_R1D)[:, 0], state.beams.log_BW, rules.vocab_size
        )
        grown = state.beams.pick(parent_BC)
        at_B11 = grown.length_BW[:, :1, None]
        tokens_BCL = jnp.where(jnp.arange(grown.tokens_BWL.shape[-1]) == at_B11, token_BC[..., None], grown.tokens_BWL)
        grown = Texts(tokens_BCL, grown.length_BW + 1, log_BC)
        full_B1 = grown.length_BW[:, :1] >= rules.limit_B[:, None]
        ends_BC = jnp.isin(token_BC, rules.ends_E) | full_B1
        ended = grown._replace(log_BW=jnp.where(ends_BC & (jnp.arange(ends_BC.shape[1]) < W), log_BC, -jnp.inf))
        both = jax.tree.map(lambda *x: jnp.concatenate(x, axis=1), state.finished, ended)
        finished = jax.tree.map(partial(_where_rows, state.done_B), state.finished, both.best(W, penalty))
        next_BW = jax.lax.top_k(jnp.where(ends_BC, -jnp.inf, log_BC), W)[1]
        beams = grown._replace(log_BW=jnp.where(ends_BC, -jnp.inf, log_BC)).pick(next_BW)
        hopeless_B = beams.score_BW(penalty)[:, 0] <= finished.score_BW(penalty)[:, -1]
        parent_BW = jnp.take_along_axis(parent_BC, next_BW, axis=1)
        return State(
            cache=cache.take((jnp.arange(B)[:, None] * W + parent_BW).reshape(-1)),
            token_BW=jnp.take_along_axis(token_BC, next_BW, axis=1),
            position_B=state.position_B + 1,
            beams=beams,
            finished=finished,
            done_B=state.done_B | full_B1[:, 0] | hopeless_B,
        )

    def go_on(carry: tuple[Array, State]) -> Array:
        count, state = carry
        return (count < chunk) & ~jnp.all(state.done_B)

    return jax.lax.while_loop(go_on, lambda carry: (carry[0] + 1, step(carry[1])), (0, state))[1]


def extend(logits_RV: Array, log_BW: Array, vocab_size: Array) -> tuple[Array, Array, Array]:
    """Returns of each row the 2 W likeliest texts of its W beams and one token: the beam, the token and log_BC.

    At most W of them are beams that have ended, with one token that ends texts; so W that go on are left.
    """
    B, W = log_BW.shape
    V = logits_RV.shape[1]
    logits_RV = jnp.where(jnp.arange(V) < vocab_size, logits_RV, -jnp.inf)
    # Of a beam, no more than 2 W tokens can be among the row's: the many are ranked once, as they are.
    best_RK, token_RK = jax.lax.top_k(logits_RV, min(2 * W, V))
    log_RK = best_RK - jax.nn.logsumexp(logits_RV, axis=-1, keepdims=True)
    log_BM = (log_BW.reshape(-1, 1) + log_RK).reshape(B, -1)
    log_BC, at_BC = jax.lax.top_k(log_BM, min(2 * W, log_BM.shape[1]))
    token_BC = jnp.take_along_axis(token_RK.reshape(B, -1), at_BC, axis=1)
    return at_BC // best_RK.shape[1], token_BC, log_BC


def _where_rows(mask_B, x_BW, y_BW):
    return jnp.where(mask_B.reshape(-1, *[1] * (x_BW.ndim - 1)), x_BW, y_BW)


def beam_search(
    cfg: ModelConfig,
    params: Params,
    prompts: Sequence[Sequence[int]],
    sample_cfg: SampleConfig,
    *,
    eos_id: int | Collection[int] | None = None,
    vocab_size: int | None = None,
    chunk: int = CHUNK,
) -> list[list[Hypothesis]]:
    """Returns of every prompt at most `num_beams` continuations, the best first; nothing is random.

    A text ends with `eos_id`, after `max_tokens`, or where its context is full. A prompt must hold a token at least; of
    one beyond the model's context its end counts. Only ids below `vocab_size` are tokens (None: all of the model's).
    """
    assert all(len(prompt) for prompt in prompts), "an empty prompt has no token to go on from"
    cfg = cfg.resolve()
    contexts = [list(prompt)[context_start(len(prompt), cfg.max_context) :] for prompt in prompts]
    longest = max(map(len, contexts))
    # The token after a full context is still drawn from it.
    limit_B = np.asarray([min(sample_cfg.max_tokens, cfg.max_context + 1 - len(row)) for row in contexts], np.int32)
    state = start(
        cfg,
        params,
        *pad(contexts, cfg.max_context),
        num_beams=sample_cfg.num_beams,
        length=min(bucket(longest + sample_cfg.max_tokens), cfg.max_context),
        room=bucket(int(limit_B.max())),
    )
    ends_E = np.asarray(sorted(all_of(eos_id)), np.int32)
    rules = Rules(limit_B, sample_cfg.length_penalty, ends_E, vocab_size or cfg.vocab_size)
    while not np.all(state.done_B):
        state = search(cfg, params, state, rules, chunk)
    return _hypotheses(state.finished, sample_cfg.length_penalty)


def _hypotheses(finished: Texts, penalty: float) -> list[list[Hypothesis]]:
    tokens_BWL, length_BW, log_BW, score_BW = jax.device_get((*finished, finished.score_BW(penalty)))
    return [
        [
            Hypothesis(tokens_BWL[b, w, : length_BW[b, w]].tolist(), float(log_BW[b, w]), float(score_BW[b, w]))
            for w in range(log_BW.shape[1])
            if log_BW[b, w] > -np.inf
        ]
        for b in range(len(log_BW))
    ]
