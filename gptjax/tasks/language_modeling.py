"""Next-token prediction, and the table of tasks. Knows batches and logits; knows nothing of models or meshes.

Shapes: B batch, T position, D model width, V vocabulary.
"""

import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import optax

from gptjax.types import Array, Batch, Metrics


class LanguageModeling:
    """Cross-entropy of the next token (Bengio et al. 2003), as a sum over the tokens that the loss mask counts."""

    head = "lm"

    def __init__(self, token_bytes_V: np.ndarray | None):
        """Takes the UTF-8 length of each token (special ones 0), or None where the tokenizer cannot say."""
        self.token_bytes_V = token_bytes_V

    def metrics(self, unembed: Callable[[Array], Array], x_BTD: Array, batch: Batch) -> Metrics:
        """Returns `loss` in nats per token and `bits_per_byte` of the targets, each as (sum, count) in float32."""
        nll_BT = optax.softmax_cross_entropy_with_integer_labels(unembed(x_BTD), batch.targets_BT)
        nll_sum = jnp.sum(nll_BT * batch.loss_mask_BT)
        num_bytes = jnp.zeros((), jnp.float32)
        if self.token_bytes_V is not None:
            num_bytes = jnp.sum(jnp.asarray(self.token_bytes_V)[batch.targets_BT] * batch.loss_mask_BT)
        return {
            "loss": (nll_sum, jnp.sum(batch.loss_mask_BT)),
            "bits_per_byte": (nll_sum / math.log(2), num_bytes),
        }


TASKS = {
    "language_modeling": LanguageModeling,
}
