"""Choosing among continuations by their likelihood.

Shapes: B batch, T position, D model width, V vocabulary.
"""

import dataclasses
import functools
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gptjax.data.sequences import LabelArrays, Packed, Rows, Segment
from gptjax.tasks.language_modeling import next_token_losses
from gptjax.tasks.seq2seq import answered
from gptjax.tasks.task import ExampleTask, Heads, Prediction
from gptjax.types import Array, Batch, Metrics, UserError

MOST_SHARED = 64
"""So many different continuations are read after one context, at most: each costs a number an example."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidates(ExampleTask):
    """Next-token loss of the right continuation; predicts the likeliest of an example's candidates."""

    @abstractmethod
    def pairs(self, example: Any) -> Sequence[tuple[str, str]]:
        """Returns a context and a continuation for each candidate."""

    @abstractmethod
    def gold(self, example: Any) -> int:
        """Returns which candidate is right."""

    @functools.cached_property
    def _tokens(self) -> dict[str, int] | None:
        """The token of each continuation, where all have one and an example's candidates share their context.

        Then a single context says how likely each is. None elsewhere.
        """
        tokens: dict[str, int] = {}
        for example in self.examples("valid"):
            pairs = self.pairs(example)
            for continuation in {text for _, text in pairs} - tokens.keys():
                ids = self._after(continuation)
                if len(ids) != 1 or len(tokens) == MOST_SHARED:
                    return None
                tokens[continuation] = ids[0]
            if len(pairs) == 1 or len({context for context, _ in pairs}) > 1:
                return None
        return tokens

    @property
    def _right(self) -> str:
        return f"{self.name}.right"

    @property
    def label_arrays(self) -> LabelArrays:
        """Which targets are those of the right continuation."""
        return {self._right: ((), "float32")}

    def segments(self, example: Any, seq_len: int) -> list[Segment]:
        """Returns each candidate after its context, of which the end is kept where all does not fit.

        Or the right one alone, where the others are read at the same place.
        """
        if self._tokens is not None:
            return [self._right_segment(example, seq_len)]
        gold = self.gold(example)
        return [
            self._segment(example, pair, number == gold, seq_len) for number, pair in enumerate(self.pairs(example))
        ]

    def training_rows(self, seq_len: int) -> Sequence[Rows]:
        """Packs the right candidates alone."""
        examples = self.shuffled_examples()
        segments = [self._right_segment(example, seq_len) for example in examples]
        return [Packed(str(self.train), self.weight, segments, seq_len, self.label_arrays)]

    def _right_segment(self, example: Any, seq_len: int) -> Segment:
        return self._segment(example, self.pairs(example)[self.gold(example)], True, seq_len)

    def _segment(self, example: Any, pair: tuple[str, str], is_right: bool, seq_len: int) -> Segment:
        context, continuation = pair
        tokenizer = self.setting.tokenizer
        assert tokenizer is not None
        before = [*tokenizer.begin, *tokenizer.encode(context).tolist()] or [tokenizer.eos_id or 0]
        after = self._after(continuation)
        if not after or len(after) > seq_len:
            raise UserError(
                f"{self.where(example)}: a continuation has {len(after)} tokens; there must be some, and at most "
                f"model.seq_len={seq_len}"
            )
        room = seq_len + 1 - len(after)
        segment = answered([*before[-room:], *after], min(len(before), room))
        return segment._replace(labels={self._right: segment.loss_mask_T * is_right})

    def _after(self, continuation: str) -> list[int]:
        assert self.setting.tokenizer is not None
        return self.setting.tokenizer.encode(f" {continuation}", continued=True).tolist()

    @abstractmethod
    def where(self, example: Any) -> str:
        """Returns FILE:LINE of an example."""

    def metrics(self, heads: Heads, x_BTD: Array, batch: Batch) -> Metrics:
        """Returns `loss` in nats a token of the right continuations."""
        nll_BT, _ = next_token_losses(heads.unembed, x_BTD, batch.targets_BT, self.setting.num_chunks)
        right_BT = batch.labels[self._right]
        return {"loss": (jnp.sum(nll_BT * right_BT), jnp.sum(right_BT))}

    def outputs(self, heads: Heads, x_BTD: Array, batch: Batch) -> Array:
        """Returns of each target its log-probability, and whether it is the likeliest token: a last dim of 2.

        Or the log-probability of every continuation, where each is a token read after a shared context.
        """
        logits_BTV = heads.unembed(x_BTD)
        if self._tokens is not None:
            total_BT1 = jax.nn.logsumexp(logits_BTV, axis=-1, keepdims=True)
            return logits_BTV[..., jnp.array(list(self._tokens.values()))] - total_BT1
        nll_BT, _ = next_token_losses(lambda x_BTD: logits_BTV, x_BTD, batch.targets_BT)
        likeliest_BT = jnp.argmax(logits_BTV, axis=-1) == batch.targets_BT
        return jnp.stack([-nll_BT, likeliest_BT.astype(nll_BT.dtype)], axis=-1)

    def predict(self, example: Any, outputs: Sequence[np.ndarray]) -> Prediction:
        """Returns the candidate with the greatest log-probability; all of them are kept."""
        if self._tokens is not None:
            places = list(self._tokens)
            logprobs = outputs[0][0, [places.index(text) for _, text in self.pairs(example)]]
            return Prediction(int(np.argmax(logprobs)), (logprobs, False))
        logprobs = np.array([output[:, 0].sum() for output in outputs])
        return Prediction(int(np.argmax(logprobs)), (logprobs, bool(outputs[0][:, 1].all())))
