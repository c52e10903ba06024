"""Texts and their labels: one of several, or any number of them, read by a classifier from the last token.

Shapes: B batch, T position, D model width, V vocabulary, L labels.
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gptjax.data.lines import read_lines
from gptjax.data.records import Record, read_records, write_records
from gptjax.data.sequences import LabelArrays, Segment
from gptjax.tasks.label_scores import several_labels, single_label
from gptjax.tasks.language_modeling import next_token_losses
from gptjax.tasks.scores import Counts
from gptjax.tasks.task import ExampleTask, Heads, Prediction, as_in
from gptjax.types import Array, Batch, Metrics, UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classification(ExampleTask):
    """Cross-entropy of a text's label, or of each of its labels on its own (GPT-1, Radford et al. 2018, section 3.2).

    `lm_weight` adds the next-token loss of the text, as a mean over its tokens: GPT-1's auxiliary objective.
    """

    text: tuple[str, ...] = ("text",)
    """Columns that make the text, by name or number from 0."""
    label: str = "label"
    """Column of the label."""
    header: bool | None = None
    """Whether the first row names the columns; None tells by the columns asked for."""
    separator: str | None = None
    """What stands between several labels of a text; None means that a text has just one."""
    labels: tuple[str, ...] = ()
    """All labels, in order; empty takes those of the training file."""
    label_names: str | None = None
    """File with a name a line, where labels in the data are line numbers from 0."""
    until: str | None = None
    """Of a label only what stands before this text counts: ':' makes TREC's coarse classes of its fine ones."""
    template: str = "{text}"
    """What the model reads, with {text} for the text."""
    lm_weight: float = 0.0
    """Weight of the next-token loss beside the label's; GPT-1's is 0.5."""

    def problems(self) -> list[str]:
        """Options that do not fit, besides."""
        found = super().problems()
        if self.template.count("{text}") != 1:
            found.append(f"template={self.template!r} must have {{text}} once, where the text goes")
        if self.separator == "":
            found.append("separator='' parts no labels; None takes each value as one label")
        if len(set(self.labels)) < len(self.labels):
            found.append(f"labels={self.labels} holds a label twice; name each once")
        if self.label_names is not None and not Path(self.label_names).expanduser().is_file():
            found.append(f"label_names={self.label_names!r} is no file that exists; give the file's path")
        if not 0 <= self.lm_weight < float("inf"):
            found.append(f"lm_weight={self.lm_weight} is not 0 or more; 0.5 is GPT-1's")
        return found

    @property
    def learned_files(self) -> Sequence[str]:
        """Examples, and the file that numbers the labels."""
        return [*super().learned_files, *([self.label_names] if self.train and self.label_names else [])]

    # ---- examples

    def read(self, path: str) -> Sequence[Record]:
        """Reads a .tsv, .csv, .jsonl or .txt file."""
        return read_records(path, {"text": self.text, "label": self.label}, header=self.header)

    def labels_of(self, record: Record) -> list[str]:
        """Returns the labels of an example as the data has them."""
        found = [record.text("label")] if self.separator is None else record.texts("label", self.separator)
        return found if self.until is None else [label.partition(self.until)[0] for label in found]

    @functools.cached_property
    def classes(self) -> list[str]:
        """All labels in the order of the classifier's outputs: as configured, or sorted as they occur in training."""
        if self.labels:
            return list(self.labels)
        if self.label_names is not None:
            return [str(number) for number, _ in enumerate(read_lines(Path(self.label_names).expanduser()))]
        if self.train is None:
            raise UserError(
                f"tasks.{self.name} has neither labels nor a file to learn from; set tasks.{self.name}.labels"
            )
        return sorted({label for record in self.examples("train") for label in self.labels_of(record)})

    @functools.cached_property
    def _number(self) -> dict[str, int]:
        return {label: number for number, label in enumerate(self.classes)}

    @property
    def unembeds(self) -> bool:
        """Whether there is the auxiliary loss."""
        return self.lm_weight > 0

    @property
    def _several(self) -> str:
        return f"{self.name}.labels"

    @property
    def _next(self) -> str:
        return f"{self.name}.next"

    @property
    def label_arrays(self) -> LabelArrays:
        """Which labels hold, where there may be several; the weight of each position's next token, where it has one."""
        arrays = {} if self.separator is None else {self._several: ((len(self.classes),), "float32")}
        return {**arrays, self._next: ((), "float32")} if self.lm_weight else arrays

    def segments(self, example: Record, seq_len: int) -> list[Segment]:
        """Returns the text in its template, cut to fit, and the token that the label is read from."""
        tokenizer = self.setting.tokenizer
        assert tokenizer is not None
        last = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
        head, _, tail = self.template.partition("{text}")
        ids = self.filled((head, tail), example.text("text"), seq_len - len(last))
        if ids is None:
            raise UserError(f"{example.where}: tasks.{self.name}.template leaves no room within {seq_len} tokens")
        tokens_T = np.array([*ids, *last] or [0], np.int32)
        T = len(tokens_T)
        last_T = np.zeros(T, np.float32)
        last_T[-1] = 1
        targets_T, extra = np.zeros(T, np.int32), {}
        numbers = [self._known(example, label) for label in self.labels_of(example)]
        if self.separator is None:
            targets_T[-1] = numbers[0]
        else:
            extra[self._several] = np.zeros((T, len(self.classes)), np.float32)
            extra[self._several][-1, numbers] = 1
        if self.lm_weight:
            extra[self._next] = np.append(np.full(T - 1, 1 / max(1, T - 1), np.float32), np.float32(0))
        return [Segment(tokens_T, targets_T, last_T, extra)]

    def _known(self, example: Record, label: str) -> int:
        if label not in self._number:
            valid = ", ".join(self.classes[:20]) + (", ..." if len(self.classes) > 20 else "")
            raise UserError(
                f"{example.where}: the label {label!r} is unknown to tasks.{self.name}; valid: {valid}; mend the file, "
                f"or set tasks.{self.name}.labels"
            )
        return self._number[label]

    # ---- on devices

    def metrics(self, heads: Heads, x_BTD: Array, batch: Batch) -> Metrics:
        """Returns `loss` in nats an example (summed over labels, where there may be several), and `lm_loss`."""
        logits_BTL = heads.classify(x_BTD, self.name)
        if self.separator is None:
            targets_BT = jnp.where(batch.loss_mask_BT > 0, batch.targets_BT, 0)
            nll_BT = optax.softmax_cross_entropy_with_integer_labels(logits_BTL, targets_BT)
        else:
            nll_BT = jnp.sum(optax.sigmoid_binary_cross_entropy(logits_BTL, batch.labels[self._several]), axis=-1)
        loss = jnp.sum(nll_BT * batch.loss_mask_BT), jnp.sum(batch.loss_mask_BT)
        if not self.lm_weight:
            return {"loss": loss}
        next_BT = jnp.roll(batch.tokens_BT, -1, axis=1)
        nll_BT, _ = next_token_losses(heads.unembed, x_BTD, next_BT, self.setting.num_chunks)
        weight_BT = batch.labels[self._next]
        lm_loss = jnp.sum(nll_BT * weight_BT), jnp.sum(weight_BT)
        return {"loss": loss, "lm_loss": lm_loss, "objective": (loss[0] + self.lm_weight * lm_loss[0], loss[1])}

    def outputs(self, heads: Heads, x_BTD: Array, batch: Batch) -> Array:
        """Returns the log-probability of each label."""
        logits_BTL = heads.classify(x_BTD, self.name)
        return jax.nn.log_softmax(logits_BTL) if self.separator is None else jax.nn.log_sigmoid(logits_BTL)

    # ---- predictions

    def predict(self, example: Record, outputs: Sequence[np.ndarray]) -> Prediction:
        """Returns the likeliest label, or all that are likelier than not."""
        logprobs_L = outputs[0][-1]
        if self.separator is None:
            return Prediction(self.classes[int(np.argmax(logprobs_L))], logprobs_L)
        return Prediction([self.classes[i] for i in np.flatnonzero(logprobs_L > np.log(0.5))], logprobs_L)

    def counts(self, examples: Sequence[Record], predictions: Sequence[Prediction]) -> Sequence[Counts]:
        """Measures accuracy and F1, or micro and macro F1 and the exact matches of sets."""
        gold = [self.labels_of(example) for example in examples]
        predicted = [prediction.value for prediction in predictions]
        if self.separator is None:
            return [single_label([labels[0] for labels in gold], predicted, self.classes)]
        return [several_labels(gold, predicted, self.classes)]

    def write(self, path: Path, source: str, examples: Sequence[Record], predictions: Sequence[Prediction]) -> Path:
        """Writes the rows of the file with predicted labels in the label's column."""
        labels = {"label": [prediction.value for prediction in predictions]}
        return write_records(as_in(path, source), examples, labels, self.separator or ",")
