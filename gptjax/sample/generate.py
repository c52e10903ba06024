"""Continues token sequences with a cache, in compiled chunks, and shows them as text while they grow.

A token depends on the tokens in its context, the seed, its row's number and its place in the sequence alone: neither
the chunk size nor the other rows of a batch change it.

A context holds at most `seq_len` tokens. A longer text goes on with the latest half of them, entered anew. A recurrent
model has no such limit: its state goes on.

Shapes: B row (one prompt each), T position, V vocabulary.
"""

from collections.abc import Collection, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from gptjax import model
from gptjax.model.config import ModelConfig
from gptjax.sample.beam import beam_search
from gptjax.sample.config import SampleConfig
from gptjax.sample.logits import Rules, draw
from gptjax.sample.prefill import State, all_of, bucket, context_start, pad, prefill
from gptjax.types import Array, Params, stream_key

if TYPE_CHECKING:
    from gptjax.data.tokenizer import Tokenizer

CHUNK = 16
"""Tokens between two looks of the host: more would be fewer waits, but more surplus after the end of a text."""


@partial(jax.jit, static_argnames=("cfg", "chunk"), donate_argnames="state")
def decode(
    cfg: ModelConfig, params: Params, state: State, rules: Rules, keys_B: Array, start_B: Array, *, chunk: int
) -> tuple[State, Array]:
    """Continues each row by `chunk` tokens. Returns the new state, in the memory of the old one, and tokens_BT.

    `keys_B` are the rows' random keys; `start_B` is the place in the whole sequence at which a row's context starts.
    """

    def step(state: State, none: None) -> tuple[State, Array]:
        # A row that has ended runs on to the end of its chunk, at its last slot: no position is beyond the model's.
        position_B1 = jnp.minimum(state.position_B, state.cache.length - 1)[:, None]
        x_B1D, cache, _ = model.features(
            cfg, params, state.token_B[:, None], positions_BT=position_B1, cache=state.cache
        )
        assert cache is not None
        logits_BV = model.unembed(cfg, params, x_B1D)[:, 0]
        position_B = state.position_B + 1
        token_B = draw(logits_BV, state.seen_BV, jax.vmap(jax.random.fold_in)(keys_B, start_B + position_B), rules)
        seen_BV = state.seen_BV.at[jnp.arange(len(token_B)), token_B].set(True)
        return State(cache, token_B, position_B, seen_BV), token_B

    state, tokens_TB = jax.lax.scan(step, state, length=chunk)
    return state, tokens_TB.T


def generate(
    cfg: ModelConfig,
    params: Params,
    prompts: Sequence[Sequence[int]],
    sample_cfg: SampleConfig,
    seed: int,
    *,
    eos_id: int | Collection[int] | None = None,
    vocab_size: int | None = None,
    numbers: Sequence[int] | None = None,
    chunk: int = CHUNK,
) -> Iterator[list[list[int]]]:
    """Yields the next tokens of every row, at most `chunk` at a time, until all rows have ended; of beams all at once.

    A row ends with `eos_id` (one of several), which is yielded, or after `max_tokens`; from then on it yields empty
    lists. Only ids below `vocab_size` are drawn (None: all of the model's). A prompt must hold a token at least.
    `numbers` are the rows' numbers, 0, 1, ... by default.
    """
    assert prompts, "there is nothing to continue"
    assert all(len(prompt) for prompt in prompts), "an empty prompt has no token to go on from"
    if sample_cfg.num_beams > 1:
        found = beam_search(cfg, params, prompts, sample_cfg, eos_id=eos_id, vocab_size=vocab_size)
        yield [texts[0].tokens if texts else [] for texts in found]  # of a model whose logits are NaN there are none
        return
    cfg = cfg.resolve()
    ends = all_of(eos_id)
    rows = [list(map(int, prompt)) for prompt in prompts]
    missing = [sample_cfg.max_tokens] * len(rows)
    longest = max(map(len, rows))
    length = min(bucket(longest + sample_cfg.max_tokens), cfg.max_context)
    rules = Rules.of(sample_cfg, vocab_size or cfg.padded_vocab_size)
    numbers_B = np.arange(len(rows)) if numbers is None else np.asarray(numbers)
    keys_B = jax.vmap(partial(stream_key, seed, "sample"))(numbers_B)
    state, starts = None, [0] * len(rows)
    while any(missing):
        if state is None:
            starts = [context_start(len(row), cfg.max_context) for row in rows]
            contexts = [row[start:] for row, start in zip(rows, starts, strict=True)]
            state = prefill(cfg, params, *pad(contexts, cfg.max_context), length=length)
        state, tokens_BT = decode(cfg, params, state, rules, keys_B, np.asarray(starts, np.int32), chunk=chunk)
        news = []
        for r, tokens in enumerate(np.asarray(tokens_BT).tolist()):
            # The token after a full context is still drawn from it.
            room = starts[r] + cfg.max_context + 1 - len(rows[r])
            new = _until(ends, tokens[: max(0, min(missing[r], room))])
            rows[r] += new
            missing[r] = 0 if new and new[-1] in ends else missing[r] - len(new)
            news.append(new)
        yield news
        if any(missing[r] and len(row) > starts[r] + cfg.max_context for r, row in enumerate(rows)):
            state = None  # a context is full


def _until(ends: frozenset[int], tokens: list[int]) -> list[int]:
    return tokens[: next((n for n, token in enumerate(tokens, 1) if token in ends), len(tokens))]


class Text:
    """The text of a row while it grows; what is shown is never taken back."""

    def __init__(self, tokenizer: "Tokenizer", stop: Sequence[str], *, continued: bool = False):
        """Starts a text, or one that is `continued` from others."""
        self.done = False
        """Whether the text has ended."""
        self._decoder, self._stop = tokenizer.stream(continued=continued), stop
        self._text, self._shown = "", 0

    def push(self, tokens: Sequence[int]) -> str:
        """Takes tokens and returns what can be shown of them; no tokens mean that no more will come."""
        if self.done:
            return ""
        self.done = not tokens
        self._text += self._decoder.finish() if self.done else "".join(map(self._decoder.push, tokens))
        text = self._text
        # The string that is complete first ends the text, however many tokens are looked at together.
        found = [(at + len(stop), at) for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:
            self.done, text = True, text[: min(found)[1]]
        elif not self.done:
            text = text[: len(text) - max((_overlap(text, stop) for stop in self._stop), default=0)]
        shown, self._shown = self._shown, len(text)
        return text[shown:]


def _overlap(text: str, stop: str) -> int:
    """Returns how many characters at the end of the text may be the beginning of the stop string."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)


def stream_text(
    cfg: ModelConfig,
    params: Params,
    tokenizer: "Tokenizer",
    prompts: Sequence[str],
    sample_cfg: SampleConfig,
    seed: int,
    *,
    chunk: int = CHUNK,
) -> Iterator[list[str]]:
    """Yields the next piece of every prompt's continuation, without the prompt, until all have ended.

    A prompt begins with the tokenizer's beginning of a text, where it has one. Else an empty prompt goes on from the
    end-of-document token, or from id 0 where the tokenizer has none.
    """
    ids = [tokenizer.begin + tokenizer.encode(prompt).tolist() or [tokenizer.eos_id or 0] for prompt in prompts]
    texts = [Text(tokenizer, sample_cfg.stop, continued=bool(prompt)) for prompt in prompts]
    ends = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
    yield from stream_rows(cfg, params, tokenizer, ids, texts, sample_cfg, seed, ends=ends, chunk=chunk)


def stream_rows(
    cfg: ModelConfig,
    params: Params,
    tokenizer: "Tokenizer",
    rows: Sequence[Sequence[int]],
    texts: Sequence[Text],
    sample_cfg: SampleConfig,
    seed: int,
    *,
    ends: Collection[int],
    numbers: Sequence[int] | None = None,
    chunk: int = CHUNK,
) -> Iterator[list[str]]:
    """Yields the next piece of what follows each row of ids, as the row's text takes it, until all have ended.

    `numbers` are the rows' numbers, as in `generate`.
    """
    tokens = generate(
        cfg,
        params,
        rows,
        sample_cfg,
        seed,
        eos_id=ends,
        vocab_size=tokenizer.vocab_size,
        numbers=numbers,
        chunk=chunk,
    )
    for news in tokens:
        yield [text.push(new) for text, new in zip(texts, news, strict=True)]
        if all(text.done for text in texts):
            return
    yield [text.push([]) for text in texts]


def sample_text(
    cfg: ModelConfig,
    params: Params,
    tokenizer: "Tokenizer",
    prompts: Sequence[str],
    sample_cfg: SampleConfig,
    seed: int,
) -> list[str]:
    """Returns the continuation of every prompt, without the prompt."""
    pieces = stream_text(cfg, params, tokenizer, prompts, sample_cfg, seed)
    return ["".join(row) for row in zip(*pieces, strict=True)]
