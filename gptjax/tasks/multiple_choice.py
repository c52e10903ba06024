"""Questions with choices, contexts with one continuation, and the last word of a text.

Shapes: E examples, K counts.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gptjax.data.records import Record, read_records, write_records
from gptjax.tasks.candidates import Candidates
from gptjax.tasks.scores import Counts, ratio
from gptjax.tasks.task import Prediction, as_in
from gptjax.types import Array, UserError


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
        if self.letters and "{choices}" not in self.template:
            found.append(f"template={self.template!r} shows no {{choices}}, whose letters=True are candidates; add it")
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
        return [(f"{shown}{context}", continuation) for context, continuation in self._alone(example)]

    def _alone(self, example: Record) -> Sequence[tuple[str, str]]:
        """Returns the same without anything before."""
        if self.choices is None:
            continuation = example.text("continuation")
            return [(self._context(query, ()), continuation) for query in example.texts("query")]
        choices = example.texts("choices")
        context = self._context(example.text("query"), choices)
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
                context, answer = self._alone(shot)[self.gold(shot)]
                parts.append(f"{context} {answer}\n\n")
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
