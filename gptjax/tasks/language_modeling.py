"""Next-token prediction, and the table of tasks. Knows batches and logits; knows nothing of models or meshes.

Shapes: B batch, T position, D model width, V vocabulary.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gptjax.types import Array, Batch, Metrics


class LanguageModeling:
    """Cross-entropy of the next token (Bengio et al. 2003), as a sum over the tokens that the loss mask counts."""

    head = "lm"

    def __init__(self, token_bytes_V: np.ndarray | None, num_chunks: int):
        """Takes the UTF-8 length of each token (special ones 0; None where the tokenizer cannot say it).

        `num_chunks` is that of `next_token_nll`.
        """
        self.token_bytes_V = token_bytes_V
        self.num_chunks = num_chunks

    def metrics(self, unembed: Callable[[Array], Array], x_BTD: Array, batch: Batch) -> Metrics:
        """Returns `loss` in nats per token and `bits_per_byte` of the targets, each as (sum, count) in float32."""
        nll_BT = next_token_nll(unembed, x_BTD, batch.targets_BT, self.num_chunks)
        nll_sum = jnp.sum(nll_BT * batch.loss_mask_BT)
        num_bytes = jnp.zeros((), jnp.float32)
        if self.token_bytes_V is not None:
            num_bytes = jnp.sum(jnp.asarray(self.token_bytes_V)[batch.targets_BT] * batch.loss_mask_BT)
        return {
            "loss": (nll_sum, jnp.sum(batch.loss_mask_BT)),
            "bits_per_byte": (nll_sum / math.log(2), num_bytes),
        }


def next_token_nll(unembed: Callable, x_BTD: Array, targets_BT: Array, num_chunks: int) -> Array:
    """Returns the cross-entropy of each target in nats, from logits of T / num_chunks positions at a time.

    With more chunks than one the logits of all positions are never in memory: those of a chunk are computed again for
    its gradient. Every so-many-th position makes a chunk, so that each device has its part of all.
    """

    def nll(x_BtD, targets_Bt):
        return optax.softmax_cross_entropy_with_integer_labels(unembed(x_BtD), targets_Bt)

    if num_chunks == 1:
        return nll(x_BTD, targets_BT)
    B, T, D = x_BTD.shape
    x_cBtD = jnp.moveaxis(x_BTD.reshape(B, T // num_chunks, num_chunks, D), 2, 0)
    targets_cBt = jnp.moveaxis(targets_BT.reshape(B, T // num_chunks, num_chunks), 2, 0)
    nll_cBt = jax.lax.map(lambda chunk: jax.checkpoint(nll)(*chunk), (x_cBtD, targets_cBt))
    return _before_its_gradient(jnp.moveaxis(nll_cBt, 0, 2).reshape(B, T))


@jax.custom_vjp
def _before_its_gradient(x: Array) -> Array:
    """Returns x, which is computed before the gradient goes back.

    The gradient does not need the value, so XLA computed that of the loss last of all, and kept the head for it while
    the gradients of all blocks were computed.
    """
    return x


_before_its_gradient.defvjp(lambda x: (x, x), lambda x, dx: (jax.lax.optimization_barrier((x, dx))[1],))


TASKS = {
    "language_modeling": LanguageModeling,
}
