"""Pairs of answers of which one is preferred: the likelihood of one is raised over the other's.

Both stand in one row, one after the other, so that any cut of a batch keeps them together.

Shapes: B batch, T position, D model width, P pairs of a row.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from gptjax.data.records import Record, read_records, write_records
from gptjax.data.sequences import LabelArrays, Packed, Segment
from gptjax.tasks.chat import ChatTask, exchange
from gptjax.tasks.language_modeling import next_token_losses
from gptjax.tasks.scores import Counts, ratio
from gptjax.tasks.seq2seq import answered
from gptjax.tasks.task import Heads, Prediction, as_in
from gptjax.types import Array, Batch, Metrics, UserError

# ---- losses: of a pair, from the log-probabilities of both answers, those of the reference, and the answers' lengths


def dpo(logp: Array, reference: Array, length: Array, beta: float, margin: float) -> Array:
    """-log sigmoid(beta x how much more the policy prefers the chosen than the reference does) (arXiv 2305.18290)."""
    gain = logp - reference
    return -jax.nn.log_sigmoid(beta * (gain[0] - gain[1]) - margin)


def ipo(logp: Array, reference: Array, length: Array, beta: float, margin: float) -> Array:
    """Squared distance of the gain a token from 1 / (2 beta) (arXiv 2310.12036, over means as in TRL)."""
    gain = (logp - reference) / length
    return jnp.square(gain[0] - gain[1] - 1 / (2 * beta))


def simpo(logp: Array, reference: Array, length: Array, beta: float, margin: float) -> Array:
    """-log sigmoid(beta x the difference of log-probabilities a token - margin), no reference (arXiv 2405.14734)."""
    mean = logp / length
    return -jax.nn.log_sigmoid(beta * (mean[0] - mean[1]) - margin)


def orpo(logp: Array, reference: Array, length: Array, beta: float, margin: float) -> Array:
    """-log p(chosen) a token + beta x -log sigmoid(log of the ratio of the odds), no reference (arXiv 2403.07691)."""
    mean = logp / length
    log_odds = mean - jnp.log1p(-jnp.exp(jnp.minimum(mean, -1e-6)))
    return -mean[0] - beta * jax.nn.log_sigmoid(log_odds[0] - log_odds[1] - margin)


LOSSES: dict[str, Callable[..., Array]] = {"dpo": dpo, "ipo": ipo, "simpo": simpo, "orpo": orpo}
"""By name: (logp_2BP, reference_2BP, length_2BP, beta, margin) -> loss_BP; chosen first, rejected second."""
WITH_REFERENCE = ("dpo", "ipo")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preference(ChatTask):
    """Learns which of two answers is preferred; the reference is what the run starts from."""

    prompt_column: str = "prompt"
    """Column of the prompt."""
    chosen: str = "chosen"
    """Column of the answer that is preferred."""
    rejected: str = "rejected"
    """Column of the other."""
    loss: str = "dpo"
    """dpo or ipo, which compare with the reference, or simpo or orpo, which do without."""
    beta: float = 0.1
    """How strongly: 0.1 is usual with dpo, 2 with simpo."""
    margin: float = 0.0
    """What the preference has to exceed; SimPO's gamma."""

    def problems(self) -> list[str]:
        """Options that do not fit, besides."""
        found = super().problems()
        if self.loss not in LOSSES:
            found.append(f"loss={self.loss!r} is unknown; valid: {', '.join(LOSSES)}")
        if not 0 < self.beta < float("inf"):
            found.append(f"beta={self.beta} is not positive; 0.1 is usual")
        return found

    @property
    def needs_reference(self) -> bool:
        """Whether the loss compares with what the run starts from."""
        return self.loss in WITH_REFERENCE

    @property
    def _reference(self) -> str:
        return f"{self.name}.reference"

    @property
    def label_arrays(self) -> LabelArrays:
        """The reference's log-probability of each target."""
        return {self._reference: ((), "float32")} if self.needs_reference else {}

    def read(self, path: str) -> Sequence[Record]:
        """Reads a .jsonl, .tsv or .csv file."""
        return read_records(path, {"prompt": self.prompt_column, "chosen": self.chosen, "rejected": self.rejected})

    def segments(self, example: Record, seq_len: int) -> list[Segment]:
        """Returns the chosen and the rejected answer, each after the prompt; both have to fit into one row."""
        both = []
        for side in ("chosen", "rejected"):
            messages = exchange(example.text("prompt"), example.text(side))
            with example.named():
                ids = self.chat.encode(messages).ids_L.tolist()
                segment = answered(ids, len(self.chat.prompt(messages[:-1])))
            extra = {self._reference: np.zeros(len(segment.tokens_T), np.float32)} if self.needs_reference else {}
            both.append(segment._replace(labels=extra))
        length = sum(len(segment.tokens_T) for segment in both)
        if length > seq_len:
            raise UserError(
                f"{example.where}: the pair has {length} tokens, which have to fit into one row of model.seq_len="
                f"{seq_len}; raise that, or shorten the answers"
            )
        return both

    def pack(self, examples: Sequence[Record], seq_len: int) -> tuple[Packed, list[int]]:
        """Packs pairs."""
        segments = [segment for example in examples for segment in self.segments(example, seq_len)]
        path = str(self.train if self.valid is None else self.valid)
        rows = Packed(path, self.weight, segments, seq_len, self.label_arrays, together=2)
        return rows, [2] * len(examples)

    def training_rows(self, seq_len: int) -> Sequence[Packed]:
        """Packs all training pairs, with what the reference makes of them."""
        return [self.with_reference(self._packed("train", seq_len, None)[0], "train")]

    def validation_rows(self, seq_len: int, limit: int | None) -> Packed:
        """Packs the pairs to be scored on, with what the reference makes of them."""
        # Rows of the first examples are the first rows.
        return self.with_reference(super().validation_rows(seq_len, limit), "valid")

    def with_reference(self, rows: Packed, split: str) -> Packed:
        """Returns rows with the reference's log-probabilities, where it has scored the split."""
        if not self.needs_reference or split not in self.setting.reference:
            return rows
        outputs_RT = self.setting.reference[split]
        return rows.labelled(self._reference, [outputs_RT[row, start:stop] for row, start, stop in rows.places])

    # ---- on devices

    def metrics(self, heads: Heads, x_BTD: Array, batch: Batch) -> Metrics:
        """Returns `loss` a pair, how often the chosen answer wins, and the nats a token of chosen answers."""
        mask_BT = batch.loss_mask_BT
        logp_BT = -next_token_losses(heads.unembed, x_BTD, batch.targets_BT, self.setting.num_chunks)[0] * mask_BT
        reference_BT = batch.labels[self._reference] * mask_BT if self.needs_reference else jnp.zeros_like(logp_BT)
        logp, reference, length = (
            sums_of_pairs(x_BT, batch.segment_ids_BT) for x_BT in (logp_BT, reference_BT, mask_BT)
        )
        counted_BP = (length[0] > 0) & (length[1] > 0)
        loss_BP = LOSSES[self.loss](logp, reference, jnp.maximum(length, 1), self.beta, self.margin)
        gain = (logp - reference) if self.needs_reference else logp / jnp.maximum(length, 1)
        count = jnp.sum(counted_BP, dtype=jnp.float32)

        def total(x_BP: Array) -> Array:
            return jnp.sum(jnp.where(counted_BP, x_BP, 0.0))

        return {
            "loss": (total(loss_BP), count),
            "reward_accuracy": (total((gain[0] > gain[1]).astype(jnp.float32)), count),
            "reward_margin": (total(gain[0] - gain[1]), count),
            "chosen_loss": (-total(logp[0]), total(length[0])),
        }

    def outputs(self, heads: Heads, x_BTD: Array, batch: Batch) -> Array:
        """Returns the log-probability of each target."""
        return -next_token_losses(heads.unembed, x_BTD, batch.targets_BT, self.setting.num_chunks)[0]

    # ---- predictions

    def predict(self, example: Record, outputs: Sequence[np.ndarray]) -> Prediction:
        """Returns which answer the model finds likelier a token, and both log-probabilities a token."""
        means = [float(output.mean()) for output in outputs]
        return Prediction("chosen" if means[0] > means[1] else "rejected", means)

    def counts(self, examples: Sequence[Record], predictions: Sequence[Prediction]) -> Sequence[Counts]:
        """Measures how often the chosen answer is the likelier one a token, by the name `accuracy`."""
        rows = np.array([[prediction.value == "chosen", 1] for prediction in predictions], np.float64)
        return [Counts(rows, lambda sums_K: {"accuracy": ratio(sums_K[..., 0], sums_K[..., 1])})]

    def write(self, path: Path, source: str, examples: Sequence[Record], predictions: Sequence[Prediction]) -> Path:
        """Writes the rows of the file with the likelier answer's side in a new column `predicted`."""
        return write_records(as_in(path, source), examples, {"predicted": [p.value for p in predictions]})


def sums_of_pairs(x_BT: Array, segment_ids_BT: Array) -> Array:
    """Returns x summed over each answer, 2BP: those in odd segments first, those in even ones second."""
    T = x_BT.shape[1]
    sums_BS = jax.vmap(functools.partial(jax.ops.segment_sum, num_segments=T + 2 + T % 2))(x_BT, segment_ids_BT)
    return jnp.moveaxis(sums_BS[:, 1:-1].reshape(len(x_BT), -1, 2), 2, 0)
