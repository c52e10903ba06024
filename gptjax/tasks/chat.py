"""Conversations and instructions: the loss counts an assistant's answers, in all turns.

Shapes: B batch, T position, D model width.
"""

import dataclasses
import functools
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gptjax.data.chat import Chat
from gptjax.data.records import Record, read_records, write_records
from gptjax.data.sequences import Segment
from gptjax.sample.config import SampleConfig
from gptjax.tasks import text_scores
from gptjax.tasks.language_modeling import next_token_loss
from gptjax.tasks.scores import Counts
from gptjax.tasks.task import ExampleTask, Heads, Prediction, as_in
from gptjax.types import Array, Batch, Metrics, UserError


class Conversation(NamedTuple):
    """Messages, each with role and content, and the record that holds them."""

    messages: Sequence[Mapping[str, Any]]
    record: Record


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChatTask(ExampleTask):
    """A task of conversations."""

    template: str | None = None
    """Chat template: chatml, alpaca, plain or Jinja; None is the tokenizer's own."""

    @functools.cached_property
    def chat(self) -> Chat:
        """How conversations are written."""
        assert self.setting.tokenizer is not None
        return Chat(self.setting.tokenizer, self.template)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chatting(ChatTask):
    """Next-token loss of answers, as a chat template writes them (instruction tuning, arXiv 2109.01652)."""

    messages: str | None = None
    """Field of a .jsonl row that holds the messages, a list of {role, content}; None takes prompt and response."""
    prompt_column: str = "prompt"
    """Column of what the user says."""
    response_column: str = "response"
    """Column of the answer."""
    header: bool | None = None
    """Whether the first row names the columns; None tells by the columns asked for."""
    cut: bool = False
    """Whether a conversation that does not fit into model.seq_len is cut; otherwise it is an error.

    Its end is left out, or its beginning where no answer would be left.
    """
    measures: tuple[str, ...] = ("rouge",)
    """What answers are scored by: bleu, chrf, rouge, exact_match; () scores none, and only the loss is measured."""
    max_tokens: int = 128
    """An answer that is scored ends after so many tokens at the latest."""

    def problems(self) -> list[str]:
        """Options that do not fit, besides."""
        found = super().problems() + self.sampling().validate()
        return found + text_scores.unknown(self.measures)

    # ---- examples

    def read(self, path: str) -> Sequence[Conversation]:
        """Reads conversations; raises UserError for one without an answer at its end."""
        if self.messages is None:
            columns = {"prompt": self.prompt_column, "response": self.response_column}
            records = read_records(path, columns, header=self.header)
            return [Conversation(exchange(r.text("prompt"), r.text("response")), r) for r in records]
        return [Conversation(self._messages(record), record) for record in read_records(path, {})]

    def _messages(self, record: Record) -> Sequence[Mapping[str, Any]]:
        found = record.content.get(self.messages) if isinstance(record.content, Mapping) else None
        if not isinstance(found, list) or not found or not all(isinstance(message, Mapping) for message in found):
            raise UserError(
                f"{record.where}: the field {self.messages!r} holds no messages, a list of "
                f'{{"role": "user", "content": ".."}} and so on; set tasks.{self.name}.messages'
            )
        if found[-1].get("role") != "assistant":
            raise UserError(f"{record.where}: the last message is no assistant's, so that there is no answer to learn")
        return found

    def segments(self, example: Conversation, seq_len: int) -> list[Segment]:
        """Returns a conversation; raises UserError where it does not fit."""
        with example.record.named():
            encoded = self.chat.encode(example.messages)
        if len(encoded.ids_L) > seq_len + 1 and not self.cut:
            raise UserError(
                f"{example.record.where}: the conversation has {len(encoded.ids_L)} tokens and model.seq_len is "
                f"{seq_len}; raise that, shorten the answer, or set tasks.{self.name}.cut=True"
            )
        fitting = slice(seq_len + 1) if encoded.answers_L[: seq_len + 1].any() else slice(-seq_len - 1, None)
        ids_L, answers_L = encoded.ids_L[fitting], encoded.answers_L[fitting]
        return [Segment(ids_L[:-1], ids_L[1:], answers_L[1:].astype(np.float32))]

    # ---- on devices

    def metrics(self, heads: Heads, x_BTD: Array, batch: Batch) -> Metrics:
        """Returns `loss` in nats a token of the answers."""
        return {"loss": next_token_loss(heads, x_BTD, batch, self.setting.num_chunks)}

    # ---- predictions

    def prompt(self, example: Conversation, seq_len: int) -> list[int] | None:
        """Returns the conversation up to its last answer, of which the end fits; None where answers are not scored."""
        if not self.measures:
            return None
        room = self.room_for_prompt(seq_len)
        with example.record.named():
            return self.chat.prompt(example.messages[:-1])[-room:]

    @property
    def ends(self) -> Collection[int]:
        """What ends an answer."""
        return self.chat.ends

    def sampling(self) -> SampleConfig:
        """Returns greedy search."""
        return SampleConfig(temperature=0.0, max_tokens=self.max_tokens)

    def written(self, example: Conversation, text: str) -> Prediction:
        """Returns the text up to what ends a turn in words."""
        for stop in self.chat.stop:
            text = text.partition(stop)[0]
        return Prediction(text.strip())

    def counts(self, examples: Sequence[Conversation], predictions: Sequence[Prediction]) -> Sequence[Counts]:
        """Measures what the options name, against the last answer."""
        references = [[example.messages[-1]["content"]] for example in examples]
        texts = [prediction.value for prediction in predictions]
        return [text_scores.MEASURES[measure](references, texts) for measure in self.measures]

    def write(
        self, path: Path, source: str, examples: Sequence[Conversation], predictions: Sequence[Prediction]
    ) -> Path:
        """Writes the rows of the file with what was answered, in the response's column or a field `prediction`."""
        name = "response" if self.messages is None else "prediction"
        records = [example.record for example in examples]
        return write_records(as_in(path, source), records, {name: [p.value for p in predictions]})


def exchange(prompt: str, response: str) -> list[dict[str, str]]:
    """Returns a question and its answer as messages."""
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
