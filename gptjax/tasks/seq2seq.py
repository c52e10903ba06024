"""From one text to another by a prompt: translation, summaries, subjects of e-mails. The loss counts the answer alone.

Shapes: B batch, T position, D model width.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gptjax.data.records import Record, read_aligned, read_records, write_records
from gptjax.data.sequences import Segment
from gptjax.sample.config import SampleConfig
from gptjax.tasks import text_scores
from gptjax.tasks.language_modeling import next_token_loss
from gptjax.tasks.scores import Counts
from gptjax.tasks.task import ExampleTask, Heads, Prediction, as_in
from gptjax.types import Array, Batch, Metrics, UserError


class Pair(NamedTuple):
    """A source and its references, with the records that say so."""

    source: str
    targets: Sequence[str]
    records: Sequence[Record]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seq2Seq(ExampleTask):
    """Next-token loss of an answer after its prompt (T5's text to text, arXiv 1910.10683, by a decoder alone)."""

    source: tuple[str, ...] = ("source",)
    """Columns that make the source, by name or number from 0."""
    target: tuple[str, ...] = ("target",)
    """Columns of the target; several, or a list in .jsonl, are references, the first of which is learned."""
    header: bool | None = None
    """Whether the first row names the columns; None tells by the columns asked for."""
    train_target: str | None = None
    """File with the targets of `train`, line by line; None where its columns hold them."""
    valid_target: str | None = None
    """File with the targets of `valid`, line by line."""
    template: str = "{source}\n=>"
    """The prompt, with {source} for the source; the answer follows after a space."""
    measures: tuple[str, ...] = ("bleu", "chrf")
    """What answers are scored by: bleu, chrf, rouge, exact_match."""
    max_tokens: int = 128
    """An answer ends after so many tokens at the latest."""
    num_beams: int = 1
    """Beams of the search for an answer; 1 always takes the likeliest token."""
    length_penalty: float = 1.0
    """Above 0 prefers longer answers, where there are several beams."""

    def problems(self) -> list[str]:
        """Options that do not fit, besides."""
        found = super().problems() + self.sampling().validate()
        if self.template.count("{source}") != 1:
            found.append(f"template={self.template!r} must have {{source}} once, where the source goes")
        found += text_scores.unknown(self.measures)
        if self.train == self.valid and self.train_target != self.valid_target:
            found.append(f"train={self.train!r} and valid are one file with two files of targets; give a file to each")
        for option in ("train_target", "valid_target"):
            path = getattr(self, option)
            if path is not None and not Path(path).expanduser().is_file():
                found.append(f"{option}={path!r} is no file that exists; give the file's path")
        return found

    @property
    def learned_files(self) -> Sequence[str]:
        """Sources, and targets where these have a file of their own."""
        return [*super().learned_files, *([self.train_target] if self.train and self.train_target else [])]

    # ---- examples

    def read(self, path: str) -> Sequence[Pair]:
        """Reads pairs: of columns, or of two files line by line."""
        target = {self.train: self.train_target, self.valid: self.valid_target}[path]
        if target is None:
            records = read_records(path, {"source": self.source, "target": self.target}, header=self.header)
        else:
            records = read_aligned({"source": path, "target": target})
        return [Pair(record.text("source"), record.texts("target"), [record]) for record in records]

    def examples(self, split: str, limit: int | None = None) -> Sequence[Pair]:
        """Returns pairs; to be scored on, the targets of the same source are its references."""
        pairs = super().examples(split, limit if split == "train" else None)
        if split == "train":
            return pairs
        by_source: dict[str, Pair] = {}
        for pair in pairs:
            known = by_source.setdefault(pair.source, Pair(pair.source, [], []))
            by_source[pair.source] = Pair(pair.source, [*known.targets, *pair.targets], [*known.records, *pair.records])
        return list(by_source.values())[:limit]

    def segments(self, example: Pair, seq_len: int) -> list[Segment]:
        """Returns prompt and answer, the source cut to fit; raises UserError where the answer alone does not."""
        tokenizer = self.setting.tokenizer
        assert tokenizer is not None
        end = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
        answer = [*tokenizer.encode(f" {example.targets[0]}", continued=True).tolist(), *end]
        try:
            prompt = self._prompt(example, seq_len - len(answer) + 1)
        except UserError:
            raise UserError(
                f"{example.records[0].where}: the answer has {len(answer)} tokens, which leave no room for its prompt "
                f"within model.seq_len={seq_len}; raise that, or shorten the answer"
            ) from None
        ids = [*prompt, *answer]
        return [answered(ids, len(prompt))]

    def _prompt(self, example: Pair, room: int) -> list[int]:
        """Returns the prompt in at most `room` tokens: as much of the source as fits."""
        assert self.setting.tokenizer is not None
        head, _, tail = self.template.partition("{source}")
        ids = self.filled((head, tail), example.source, room)
        if ids is None:
            raise UserError(
                f"{example.records[0].where}: no token of the source fits beside tasks.{self.name}.template into the "
                f"{room} tokens that a prompt may have; raise model.seq_len, or lower tasks.{self.name}.max_tokens"
            )
        return ids or [self.setting.tokenizer.eos_id or 0]

    # ---- on devices

    def metrics(self, heads: Heads, x_BTD: Array, batch: Batch) -> Metrics:
        """Returns `loss` in nats a token of the answers."""
        return {"loss": next_token_loss(heads, x_BTD, batch, self.setting.num_chunks)}

    # ---- predictions

    def prompt(self, example: Pair, seq_len: int) -> list[int]:
        """Returns the prompt, the source cut so that the longest answer fits."""
        return self._prompt(example, self.room_for_prompt(seq_len))

    def sampling(self) -> SampleConfig:
        """Returns greedy search, or one with beams."""
        return SampleConfig(
            temperature=0.0, max_tokens=self.max_tokens, num_beams=self.num_beams, length_penalty=self.length_penalty
        )

    def written(self, example: Pair, text: str) -> Prediction:
        """Returns the text without the space that it starts with."""
        return Prediction(text.strip())

    def counts(self, examples: Sequence[Pair], predictions: Sequence[Prediction]) -> Sequence[Counts]:
        """Measures what the options name."""
        references = [example.targets for example in examples]
        texts = [prediction.value for prediction in predictions]
        return [text_scores.MEASURES[measure](references, texts) for measure in self.measures]

    def write(self, path: Path, source: str, examples: Sequence[Pair], predictions: Sequence[Prediction]) -> Path:
        """Writes the rows of the file with predicted texts in the target's column, or a file of targets."""
        each = [(r, p.value) for example, p in zip(examples, predictions, strict=True) for r in example.records]
        each.sort(key=lambda pair: pair[0].line)  # examples of one source may be far apart
        records, texts = zip(*each, strict=True)
        return write_records(as_in(path, self.valid_target or source), records, {"target": texts})


def answered(ids: Sequence[int], num_prompt: int) -> Segment:
    """Returns a sequence whose tokens from `num_prompt` on are targets; the last is one alone."""
    tokens_T, targets_T = np.array(ids[:-1], np.int32), np.array(ids[1:], np.int32)
    return Segment(tokens_T, targets_T, (np.arange(len(tokens_T)) >= num_prompt - 1).astype(np.float32))
