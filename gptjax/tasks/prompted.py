"""Classification without a classifier: the model says the label's word."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

from gptjax.data.records import Record, read_records, write_records
from gptjax.tasks.candidates import Candidates
from gptjax.tasks.label_scores import single_label
from gptjax.tasks.scores import Counts
from gptjax.tasks.task import Prediction, as_in
from gptjax.types import UserError


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

    def problems(self) -> list[str]:
        """A template without the text, besides."""
        found = super().problems()
        if "{text}" not in self.template:
            found.append(f"template={self.template!r} has no {{text}}; put it where the text goes")
        return found

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
