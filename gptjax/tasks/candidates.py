"""Choosing among continuations by their likelihood: labels as words, multiple choice, and the last word of a text.

Shapes: B batch, T position, D model width, E examples, K counts.
"""

import dataclasses
import functools
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gptjax.data.records import Record, read_records, write_records
from gptjax.data.sequences import Packed, Rows, Segment
from gptjax.tasks.label_scores import single_label
from gptjax.tasks.language_modeling import next_token_losses
from gptjax.tasks.scores import Counts, ratio
from gptjax.tasks.seq2seq import answered
from gptjax.tasks.task import ExampleTask, Heads, Prediction, as_in
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

    def segments(self, example: Any, seq_len: int) -> list[Segment]:
        """Returns each candidate after its context, of which the end is kept where all does not fit.

        Or the right one alone, where the others are read at the same place.
        """
        pairs = self.pairs(example)
        if self._tokens is not None:
            pairs = [pairs[self.gold(example)]]
        return [self._segment(example, *pair, seq_len) for pair in pairs]

    def training_rows(self, seq_len: int) -> Sequence[Rows]:
        """Packs the right candidates alone."""
        examples = self.shuffled_examples()
        segments = [self._segment(e, *self.pairs(e)[self.gold(e)], seq_len) for e in examples]
        return [Packed(str(self.train), self.weight, segments, seq_len, {})]

    def _segment(self, example: Any, context: str, continuation: str, seq_len: int) -> Segment:
        tokenizer = self.setting.tokenizer
        assert tokenizer is not None
        first = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
        before = [*first, *tokenizer.encode(context).tolist()] or [tokenizer.eos_id or 0]
        after = self._after(continuation)
        if not after or len(after) > seq_len:
            raise UserError(
                f"{self.where(example)}: a continuation has {len(after)} tokens; there must be some, and at most "
                f"model.seq_len={seq_len}"
            )
        room = seq_len + 1 - len(after)
        return answered([*before[-room:], *after], min(len(before), room))

    def _after(self, continuation: str) -> list[int]:
        assert self.setting.tokenizer is not None
        return self.setting.tokenizer.encode(f" {continuation}", continued=True).tolist()

    @abstractmethod
    def where(self, example: Any) -> str:
        """Returns FILE:LINE of an example."""

    def metrics(self, heads: Heads, x_BTD: Array, batch: Batch) -> Metrics:
        """Returns `loss` in nats a token of the continuations."""
        nll_BT, _ = next_token_losses(heads.unembed, x_BTD, batch.targets_BT, self.setting.num_chunks)
        return {"loss": (jnp.sum(nll_BT * batch.loss_mask_BT), jnp.sum(batch.loss_mask_BT))}

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompted(Candidates):
    """Classification by a prompt: the labels are words, and no classifier is added."""

    text: tuple[str, ...] = ("text",)
    """Columns that make the text, by name or number from 0."""
    label: str = "label"
    """Column of the label."""
    header: bool | None = None
    """Whether the first row names the columns; None tells by the columns asked for."""
    words: tuple[tuple[str, str], ...] = ()
    """A label of the file and the word for it: '(("0", "negative"), ("1", "positive"))'; empty takes the labels."""
    template: str = "{text}\nLabel:"
    """The prompt, with {text} for the text; the word follows after a space."""

    def read(self, path: str) -> Sequence[Record]:
        """Reads a .tsv, .csv, .jsonl or .txt file."""
        return read_records(path, {"text": self.text, "label": self.label}, header=self.header)

    @functools.cached_property
    def _words(self) -> dict[str, str]:
        if self.words:
            return dict(self.words)
        if self.train is None:
            raise UserError(f"tasks.{self.name} knows no labels; set tasks.{self.name}.words, or .train=FILE")
        return {label: label for label in sorted({record.text("label") for record in self.examples("train")})}

    def pairs(self, example: Record) -> Sequence[tuple[str, str]]:
        """Returns the prompt with each label's word."""
        prompt = self.template.replace("{text}", example.text("text"))
        return [(prompt, word) for word in self._words.values()]

    def gold(self, example: Record) -> int:
        """Returns the place of the label; raises UserError for an unknown one."""
        label = example.text("label")
        if label not in self._words:
            valid = ", ".join(self._words)
            raise UserError(f"{example.where}: the label {label!r} is unknown to tasks.{self.name}; valid: {valid}")
        return list(self._words).index(label)

    def where(self, example: Record) -> str:
        """Returns FILE:LINE of an example."""
        return example.where

    def counts(self, examples: Sequence[Record], predictions: Sequence[Prediction]) -> Sequence[Counts]:
        """Measures accuracy and F1."""
        labels = list(self._words)
        gold, predicted = [labels[self.gold(e)] for e in examples], [labels[p.value] for p in predictions]
        return [single_label(gold, predicted, labels)]

    def write(self, path: Path, source: str, examples: Sequence[Record], predictions: Sequence[Prediction]) -> Path:
        """Writes the rows of the file with predicted labels in the label's column."""
        labels = list(self._words)
        return write_records(as_in(path, source), examples, {"label": [labels[p.value] for p in predictions]})


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultipleChoice(Candidates):
    """Questions with choices, or contexts with one continuation; scored only, `train` holds examples that are shown.

    Without choices the continuation is the only candidate, and right where greedy search would write it (LAMBADA).
    """

    query: tuple[str, ...] = ("query",)
    """Columns of the question or context; several contexts (a list) have one continuation, and are the candidates."""
    choices: str | None = "choices"
    """Column of the choices, a list; None where there is a continuation instead."""
    answer: str = "gold"
    """Column of the number of the right candidate, from 0."""
    continuation: str = "continuation"
    """Column of the continuation, where there are no choices."""
    template: str = "{query}"
    """The context, with {query} and, where choices are to be seen as A., B. .., {choices}; a space follows."""
    letters: bool = False
    """Whether the letters of the choices are candidates, not their texts (MMLU)."""
    shots: int = 0
    """So many examples of `train`, with their answers, stand before each question."""
    group: str | None = None
    """Column that says from which examples of `train` the shots are taken."""
    preamble: str = ""
    """What stands before everything, with {group} for the group's name."""

    def problems(self) -> list[str]:
        """Options that do not fit, besides."""
        found = super().problems()
        if "{query}" not in self.template:
            found.append(f"template={self.template!r} has no {{query}}; put it where the question goes")
        if self.shots < 0:
            found.append(f"shots={self.shots} is negative; 0 shows none")
        if self.shots and self.train is None:
            found.append(f"shots={self.shots} are taken from train=None; give the file that holds them")
        return found

    @property
    def has_training(self) -> bool:
        """Questions are not learned."""
        return False

    def read(self, path: str) -> Sequence[Record]:
        """Reads a .jsonl file."""
        columns: dict[str, str | Sequence[str]] = {"query": self.query}
        if self.choices is not None:
            columns["choices"] = self.choices
        else:
            columns["continuation"] = self.continuation
        if self.choices is not None or not self._is_cloze:
            columns["answer"] = self.answer
        if self.group is not None:
            columns["group"] = self.group
        return read_records(path, columns)

    @property
    def _is_cloze(self) -> bool:
        return self.choices is None and self.answer == ""

    def pairs(self, example: Record) -> Sequence[tuple[str, str]]:
        """Returns context and continuation of each candidate."""
        shown = self._shown(example)
        if self.choices is None:
            continuation = example.text("continuation")
            return [(f"{shown}{self._context(query, ())}", continuation) for query in example.texts("query")]
        choices = example.texts("choices")
        context = f"{shown}{self._context(example.text('query'), choices)}"
        return [(context, _letter(i) if self.letters else choice) for i, choice in enumerate(choices)]

    def _context(self, query: str, choices: Sequence[str]) -> str:
        lettered = "\n".join(f"{_letter(i)}. {choice}" for i, choice in enumerate(choices))
        return self.template.replace("{query}", query).replace("{choices}", lettered)

    def _shown(self, example: Record) -> str:
        """Returns the preamble and the shots, each with its answer."""
        group = example.text("group") if self.group is not None else ""
        parts = [self.preamble.replace("{group}", group.replace("_", " "))] if self.preamble else []
        if self.shots:
            pool = [e for e in self.examples("train") if self.group is None or e.text("group") == group]
            for shot in pool[: self.shots]:
                choices = shot.texts("choices")
                right = self.gold(shot)
                answer = _letter(right) if self.letters else choices[right]
                parts.append(f"{self._context(shot.text('query'), choices)} {answer}\n\n")
        return "".join(parts)

    def gold(self, example: Record) -> int:
        """Returns the number of the right candidate; raises UserError where there is no such candidate."""
        if self._is_cloze:
            return 0
        text, count = example.text("answer"), len(example.texts("query" if self.choices is None else "choices"))
        if not text.isdecimal() or int(text) >= count:
            raise UserError(f"{example.where}: {self.answer}={text!r} is none of its {count} candidates, from 0")
        return int(text)

    def where(self, example: Record) -> str:
        """Returns FILE:LINE of an example."""
        return example.where

    def counts(self, examples: Sequence[Record], predictions: Sequence[Prediction]) -> Sequence[Counts]:
        """Measures accuracy, also by the log-probability a byte (`accuracy_norm`); of a cloze, perplexity a word."""
        if self._is_cloze:
            rows = [[greedy, logprobs[0], 1] for logprobs, greedy in (p.detail for p in predictions)]

            def cloze(sums_K: Array) -> dict[str, Array]:
                mean = ratio(sums_K[..., 1], sums_K[..., 2])
                return {"accuracy": ratio(sums_K[..., 0], sums_K[..., 2]), "perplexity": np.exp(-mean)}

            return [Counts(np.array(rows, np.float64), cloze)]
        rows = []
        for example, prediction in zip(examples, predictions, strict=True):
            lengths = np.array([len(text.encode()) for _, text in self.pairs(example)])
            gold, logprobs = self.gold(example), prediction.detail[0]
            rows.append([prediction.value == gold, int(np.argmax(logprobs / lengths)) == gold, 1])
        names = ("accuracy", "accuracy_norm")

        def measure(sums_K: Array) -> dict[str, Array]:
            return {name: ratio(sums_K[..., at], sums_K[..., -1]) for at, name in enumerate(names)}

        return [Counts(np.array(rows, np.float64), measure)]

    def write(self, path: Path, source: str, examples: Sequence[Record], predictions: Sequence[Prediction]) -> Path:
        """Writes the rows of the file with the predicted candidate's number in place of the right one's."""
        if self._is_cloze:
            values = ["true" if prediction.detail[1] else "false" for prediction in predictions]
            return write_records(as_in(path, source), examples, {"greedy": values})
        return write_records(as_in(path, source), examples, {"answer": [str(p.value) for p in predictions]})


def _letter(index: int) -> str:
    return chr(ord("A") + index)
