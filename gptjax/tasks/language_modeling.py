"""Next-token prediction. Knows batches and logits; knows nothing of models or meshes.

Shapes: B batch, T position, D model width, V vocabulary.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gptjax.data.sequences import Rows, training_windows, validation_windows
from gptjax.tasks.task import Heads, Task
from gptjax.types import Array, Batch, Metrics


@dataclasses.dataclass(frozen=True, kw_only=True)
class LanguageModeling(Task):
    """Cross-entropy of the next token (Bengio et al. 2003), as a sum over the tokens that the loss mask counts.

    What is reported as loss is the plain cross-entropy of the next token, whatever is minimised.
    """

    reads_corpus = True

    z_loss: float = 0.0
    """Weight of the squared log of the softmax's sum."""
    label_smoothing: float = 0.0
    """Part of the target's probability that all tokens share."""
    num_ahead: int = 0
    """The tokens up to so many places after the next are learned too (arXiv 2404.19737): the head has to see as far."""
    ahead_weight: float = 0.3
    """Weight of each of those."""

    def problems(self) -> list[str]:
        """Weights out of range, besides."""
        found = super().problems()
        for option, limit in (("z_loss", math.inf), ("label_smoothing", 1), ("ahead_weight", math.inf)):
            if not 0 <= getattr(self, option) < limit:
                found.append(f"{option}={getattr(self, option)} is not between 0 and {limit}; 0 is none")
        if self.num_ahead < 0:
            found.append(f"num_ahead={self.num_ahead} is negative; 0 learns the next token alone")
        return found

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the corpus."""
        assert self.setting.corpus is not None
        return self.setting.corpus.fingerprint

    def training_rows(self, seq_len: int) -> Sequence[Rows]:
        """Returns the windows of each of the corpus' texts, weighted among themselves."""
        assert self.setting.corpus is not None
        windows = training_windows(self.setting.corpus, self.setting.packing, seq_len)
        whole = sum(part.weight for part in windows)
        return [dataclasses.replace(part, weight=self.weight * part.weight / whole) for part in windows]

    def validation_rows(self, seq_len: int, limit: int | None) -> Rows:
        """Returns the windows of the corpus' validation split."""
        assert self.setting.corpus is not None
        return validation_windows(self.setting.corpus, self.setting.packing, seq_len, limit)

    def describe(self, seq_len: int) -> str:
        """Says how much text there is."""
        corpus = self.setting.corpus
        assert corpus is not None
        num_sequences = sum(map(len, self.training_rows(seq_len)))
        return (
            f"{len(corpus.split('train')):,} training and {len(corpus.split('valid')):,} validation tokens; "
            f"an epoch is {num_sequences:,} sequences"
        )

    @functools.cached_property
    def _token_bytes_V(self) -> np.ndarray | None:
        """The UTF-8 length of each token, special ones 0; None where the tokenizer cannot say."""
        return None if self.setting.tokenizer is None else self.setting.tokenizer.token_bytes()

    def metrics(self, heads: Heads, x_BTD: Array, batch: Batch) -> Metrics:
        """Returns `loss` in nats per token and `bits_per_byte` of the targets, each as (sum, count) in float32.

        And as `objective` what is minimised, where that is not the loss.
        """
        weights = (self.setting.num_chunks, self.z_loss, self.label_smoothing)
        nll_BT, objective_BT = next_token_losses(heads.unembed, x_BTD, batch.targets_BT, *weights)
        nll_sum, count = jnp.sum(nll_BT * batch.loss_mask_BT), jnp.sum(batch.loss_mask_BT)
        num_bytes = jnp.zeros((), jnp.float32)
        if self._token_bytes_V is not None:
            num_bytes = jnp.sum(jnp.asarray(self._token_bytes_V)[batch.targets_BT] * batch.loss_mask_BT)
        metrics = {"loss": (nll_sum, count), "bits_per_byte": (nll_sum / math.log(2), num_bytes)}
        objective = jnp.sum(objective_BT * batch.loss_mask_BT)
        for ahead in range(1, self.num_ahead + 1):
            targets_BT, mask_BT = later(batch, ahead)
            nll_BT, objective_BT = next_token_losses(partial(heads.unembed, ahead=ahead), x_BTD, targets_BT, *weights)
            metrics[f"ahead/loss_{ahead}"] = (jnp.sum(nll_BT * mask_BT), jnp.sum(mask_BT))
            objective = objective + self.ahead_weight * jnp.sum(objective_BT * mask_BT)
        is_loss = weights[1:] == (0, 0) and not self.num_ahead
        return metrics if is_loss else {**metrics, "objective": (objective, count)}


def later(batch: Batch, places: int) -> tuple[Array, Array]:
    """Returns the targets so many places later in each row, and a mask of those that are in the same document."""

    def shift(x_BT):
        return jnp.roll(x_BT, -places, axis=1).at[:, -places:].set(0)

    same_BT = (shift(batch.segment_ids_BT) == batch.segment_ids_BT) & (batch.segment_ids_BT > 0)
    return shift(batch.targets_BT), shift(batch.loss_mask_BT) * same_BT


def next_token_loss(heads: Heads, x_BTD: Array, batch: Batch, num_chunks: int = 1) -> tuple[Array, Array]:
    """Returns the cross-entropy in nats of the targets that the mask counts, as (sum, count)."""
    nll_BT, _ = next_token_losses(heads.unembed, x_BTD, batch.targets_BT, num_chunks)
    return jnp.sum(nll_BT * batch.loss_mask_BT), jnp.sum(batch.loss_mask_BT)


def next_token_losses(
    unembed: Callable,
    x_BTD: Array,
    targets_BT: Array,
    num_chunks: int = 1,
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
) -> tuple[Array, Array]:
    """Returns the cross-entropy of each target in nats, and what is minimised in its place.

    `label_smoothing` is the part of the target's probability that all tokens share (arXiv 1512.00567); `z_loss` weighs
    the squared log of the softmax's sum, which keeps logits near zero (PaLM, arXiv 2204.02311).

    Logits are of T / num_chunks positions at a time. With more chunks than one those of all positions are never in
    memory: those of a chunk are computed again for its gradient. Every so-many-th position makes a chunk, so that each
    device has its part of all.
    """

    def losses(x_BtD, targets_Bt):
        logits_BtV = unembed(x_BtD)
        nll_Bt = optax.softmax_cross_entropy_with_integer_labels(logits_BtV, targets_Bt)
        objective_Bt = nll_Bt
        if z_loss or label_smoothing:
            log_sum_Bt = jax.nn.logsumexp(logits_BtV, axis=-1)
            real_BtV = logits_BtV > jnp.finfo(logits_BtV.dtype).min  # others pad the vocabulary
            mean_Bt = jnp.mean(logits_BtV, axis=-1, where=real_BtV)
            objective_Bt = (1 - label_smoothing) * nll_Bt + label_smoothing * (log_sum_Bt - mean_Bt)
            objective_Bt = objective_Bt + z_loss * jnp.square(log_sum_Bt)
        return nll_Bt, objective_Bt

    if num_chunks == 1:
        return losses(x_BTD, targets_BT)
    B, T, D = x_BTD.shape
    x_cBtD = jnp.moveaxis(x_BTD.reshape(B, T // num_chunks, num_chunks, D), 2, 0)
    targets_cBt = jnp.moveaxis(targets_BT.reshape(B, T // num_chunks, num_chunks), 2, 0)
    both_cBt = jax.lax.map(lambda chunk: jax.checkpoint(losses)(*chunk), (x_cBtD, targets_cBt))
    both_BT = jax.tree.map(lambda x_cBt: jnp.moveaxis(x_cBt, 0, 2).reshape(B, T), both_cBt)
    return _before_its_gradient(both_BT)


@jax.custom_vjp
def _before_its_gradient(x: tuple[Array, Array]) -> tuple[Array, Array]:
    """Returns x, which is computed before the gradient goes back.

    The gradient does not need the value, so XLA computed that of the loss last of all, and kept the head for it while
    the gradients of all blocks were computed.
    """
    return x


_before_its_gradient.defvjp(lambda x: (x, x), lambda x, dx: (jax.lax.optimization_barrier((x, dx))[1],))
