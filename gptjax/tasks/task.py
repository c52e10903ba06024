"""What every task is. Knows batches, heads by name, files and predictions; knows nothing of models, meshes or loops.

A task makes rows of its text or examples, turns features and a batch into sums and counts, and, where it has examples,
turns what it reads at their positions, or what the model writes after their prompts, into predictions with scores.

Shapes: B batch, T position, D model width, V vocabulary, L labels.
"""

import dataclasses
import functools
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import numpy as np

from gptjax.data.sequences import LabelArrays, Packed, Rows, Segment
from gptjax.data.sources import Corpus
from gptjax.data.text import reading
from gptjax.data.tokenizer import Tokenizer
from gptjax.sample.config import SampleConfig
from gptjax.tasks.scores import Counts
from gptjax.types import Array, Batch, Metrics, UserError


class Heads(NamedTuple):
    """What reads the features, given by whoever knows the model."""

    unembed: Callable[..., Array]
    """(x_BTD, ahead=0) -> logits_BTV of the token so many places after the next."""
    classify: Callable[[Array, str], Array]
    """(x_BTD, task's name) -> logits_BTL."""


class Setting(NamedTuple):
    """Where a task stands in an experiment."""

    name: str
    """What the experiment calls it."""
    tokenizer: Tokenizer | None = None
    """None where programs are planned without any text."""
    corpus: Corpus | None = None
    """The text of data.source, where a task of the experiment reads it."""
    packing: str = "windows"
    """How that text is cut."""
    num_chunks: int = 1
    """Parts of a sequence that the next-token loss is computed for in turn."""
    reference: Mapping[str, np.ndarray] = MappingProxyType({})
    """What the model that the run starts from puts out for the rows of a split, where a task asks for it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """The options that all tasks have; those of one kind follow in its class."""

    reads_corpus: ClassVar[bool] = False
    """Whether it learns from the text of data.source."""

    setting: Setting
    weight: float = 1.0
    """How often its rows are taken, beside other tasks' (mixture_temperature=1); 0 is scored and not learned."""
    loss_weight: float = 1.0
    """What its loss is multiplied by, beside other tasks'."""

    def problems(self) -> list[str]:
        """Returns what is wrong with the options, each as "option=value is wrong; do this"."""
        found = []
        for option in ("weight", "loss_weight"):
            if not 0 <= getattr(self, option) < float("inf"):
                found.append(f"{option}={getattr(self, option)} is not 0 or more; 1 is usual")
        return found

    @property
    def name(self) -> str:
        """What the experiment calls it."""
        return self.setting.name

    @property
    def classes(self) -> Sequence[str]:
        """What the outputs of the classifier that it needs stand for, in their order; empty where it needs none."""
        return ()

    @property
    def unembeds(self) -> bool:
        """Whether its loss reads the next token."""
        return True

    @property
    def needs_reference(self) -> bool:
        """Whether it compares with the model that the run starts from."""
        return False

    @property
    def label_arrays(self) -> LabelArrays:
        """What `Batch.labels` holds of it."""
        return {}

    @property
    def has_training(self) -> bool:
        """Whether there is anything to learn from."""
        return self.weight > 0

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 of what it learns from."""

    @abstractmethod
    def training_rows(self, seq_len: int) -> Sequence[Rows]:
        """Returns the rows to learn from; raises UserError where there are none."""

    @abstractmethod
    def validation_rows(self, seq_len: int, limit: int | None) -> Rows:
        """Returns the rows to be scored on, or those of the first `limit` windows or examples."""

    @abstractmethod
    def metrics(self, heads: Heads, x_BTD: Array, batch: Batch) -> Metrics:
        """Returns (sum, count) pairs over what the mask counts: `loss`, and `objective` where another is minimised."""

    def outputs(self, heads: Heads, x_BTD: Array, batch: Batch) -> Array | None:
        """Returns what predictions are read from, BT or with more dims; None where it predicts nothing."""
        return None

    def describe(self, seq_len: int) -> str:
        """Says in a line what there is to learn from."""
        return ""


class Prediction(NamedTuple):
    """What the model says of an example."""

    value: Any
    """A label, labels, tags, spans or a text, as the task has it."""
    detail: Any = None
    """What else is kept of it, such as the labels' probabilities."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExampleTask(Task):
    """A task with examples in files; each becomes one segment of a row, or one for each of its candidates."""

    train: str | None = None
    """File of examples to learn from; None learns nothing."""
    valid: str | None = None
    """File of examples to be scored on."""
    train_examples: int | None = None
    """Only the first so many; None takes all."""

    def problems(self) -> list[str]:
        """Files that are not there, besides."""
        found = super().problems()
        for option in ("train", "valid"):
            path = getattr(self, option)
            if path is not None and not Path(path).expanduser().is_file():
                found.append(f"{option}={path!r} is no file that exists; give the file's path")
        if self.train_examples is not None and self.train_examples < 1:
            found.append(f"train_examples={self.train_examples} is less than 1; None takes all")
        return found

    @property
    def has_training(self) -> bool:
        """Whether it has a file to learn from and a weight."""
        return self.train is not None and self.weight > 0

    # ---- what each task says of its examples

    @abstractmethod
    def read(self, path: str) -> Sequence[Any]:
        """Returns the examples of a file; raises UserError with file and line."""

    @abstractmethod
    def segments(self, example: Any, seq_len: int) -> Sequence[Segment]:
        """Returns an example as segments of at most seq_len tokens; raises UserError where it does not fit."""

    def predict(self, example: Any, outputs: Sequence[Array]) -> Prediction:
        """Returns the prediction that the outputs at an example's segments come to; of tasks that do not write."""
        raise TypeError(f"{type(self).__name__} neither reads a prediction nor has a `prompt` to write one after")

    @abstractmethod
    def counts(self, examples: Sequence[Any], predictions: Sequence[Prediction]) -> Sequence[Counts]:
        """Returns what the task's metrics are measured on."""

    @abstractmethod
    def write(self, path: Path, source: str, examples: Sequence[Any], predictions: Sequence[Prediction]) -> Path:
        """Writes predictions in the input's format and returns the file; `path` has no suffix yet."""

    # ---- writing tasks

    def prompt(self, example: Any, seq_len: int) -> list[int] | None:
        """Returns the tokens that the model goes on from; None where predictions are read, not written."""
        return None

    @property
    def ends(self) -> Collection[int]:
        """The tokens that end what the model writes."""
        assert self.setting.tokenizer is not None
        return () if self.setting.tokenizer.eos_id is None else (self.setting.tokenizer.eos_id,)

    def sampling(self) -> SampleConfig:
        """Returns the rules by which the model writes."""
        return SampleConfig(temperature=0.0)

    def room_for_prompt(self, seq_len: int) -> int:
        """Returns how many tokens a prompt may have before the longest answer; raises UserError where none are left."""
        room = seq_len - self.sampling().max_tokens
        if room < 1:
            raise UserError(
                f"tasks.{self.name}.max_tokens={seq_len - room} leaves no room for a prompt within model.seq_len="
                f"{seq_len}; lower the first or raise the second"
            )
        return room

    def written(self, example: Any, text: str) -> Prediction:
        """Returns the prediction that a written text is."""
        return Prediction(text)

    # ---- the same for all

    def filled(self, template: tuple[str, str], text: str, room: int) -> list[int] | None:
        """Returns the tokens of a text between the halves of a template, of which as much as fits into `room`.

        Begun as all texts are; None where not even a token of the text fits.
        """
        tokenizer = self.setting.tokenizer
        assert tokenizer is not None
        head, tail = template
        gap = head[len(head.rstrip(" ")) :]  # a space belongs to the word that follows it
        before = [*tokenizer.begin, *tokenizer.encode(head.rstrip(" ")).tolist()]
        after = tokenizer.encode(tail, continued=True).tolist()
        ids = tokenizer.encode(f"{gap}{text}", continued=bool(before)).tolist()
        left = room - len(before) - len(after)
        return None if left < min(1, len(ids)) else [*before, *ids[:left], *after]

    def examples(self, split: str, limit: int | None = None) -> Sequence[Any]:
        """Returns the examples of `train` or `valid`, or the first `limit`; raises UserError where there are none."""
        path = getattr(self, split)
        if path is None:
            raise UserError(f"tasks.{self.name}.{split}=None names no file of examples; give one")
        if path not in self._files:
            self._files[path] = self.read(path)
        limit = self.train_examples if split == "train" else limit
        return self._files[path][:limit]

    @functools.cached_property
    def _files(self) -> dict[str, Sequence[Any]]:
        """What was read, by path."""
        return {}

    def training_rows(self, seq_len: int) -> Sequence[Rows]:
        """Packs all training examples."""
        return [self._packed("train", seq_len, None)[0]]

    def shuffled_examples(self) -> Sequence[Any]:
        """Returns the training examples in an order that has nothing to do with the file's."""
        examples = self.examples("train")
        order = np.random.default_rng(0).permutation(len(examples))
        return [examples[i] for i in order]

    def validation_rows(self, seq_len: int, limit: int | None) -> Packed:
        """Packs the examples to be scored on."""
        return self._packed("valid", seq_len, limit)[0]

    def validation_counts(self, seq_len: int, limit: int | None) -> list[int]:
        """Returns how many segments each of those examples has."""
        return self._packed("valid", seq_len, limit)[1]

    def _packed(self, split: str, seq_len: int, limit: int | None) -> tuple[Packed, list[int]]:
        key = split, seq_len, limit
        if key not in self._rows:
            examples = self.shuffled_examples() if split == "train" else self.examples("valid", limit)
            self._rows[key] = self.pack(examples, seq_len)
        return self._rows[key]

    @functools.cached_property
    def _rows(self) -> dict[tuple[str, int, int | None], tuple[Packed, list[int]]]:
        """What was packed: a run reads it with every evaluation."""
        return {}

    def pack(self, examples: Sequence[Any], seq_len: int) -> tuple[Packed, list[int]]:
        """Returns rows of examples, and how many segments each example has."""
        each = [self.segments(example, seq_len) for example in examples]
        segments = [segment for segments in each for segment in segments]
        path = self.train if self.valid is None else self.valid
        rows = Packed(str(path), self.weight, segments, seq_len, self.label_arrays)
        return rows, [len(segments) for segments in each]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the files that it learns from."""
        whole = hashlib.sha256()
        for path in self.learned_files:
            with reading(file := Path(path).expanduser()):
                whole.update(file.read_bytes())
        return whole.hexdigest() if self.learned_files else ""

    @property
    def learned_files(self) -> Sequence[str]:
        """The files whose content makes it the task that it is."""
        return () if self.train is None else (self.train,)

    def describe(self, seq_len: int) -> str:
        """Says how many examples there are, and in how many rows."""
        words = []
        if self.has_training:
            num_rows = sum(map(len, self.training_rows(seq_len)))
            words.append(f"{len(self.examples('train')):,} training examples in {num_rows:,} rows")
        if self.valid is not None:
            words.append(f"{len(self.examples('valid')):,} to be scored on")
        return ", ".join(words) + (f", {len(self.classes)} labels" if self.classes else "")


def as_in(path: Path, source: str) -> Path:
    """Returns a path with the suffix of a file in whose format predictions are written, .gz left out."""
    return path.with_name(path.name + Path(source.removesuffix(".gz")).suffix)
