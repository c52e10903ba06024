"""Next-token prediction against its definition in NumPy's float64.

Shapes: B batch, T position, V vocabulary.
"""

import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax.tasks.language_modeling import LanguageModeling, next_token_losses
from gptjax.tasks.task import Heads, Setting
from gptjax.types import Batch

B, T, V = 2, 3, 5
TOKEN_BYTES_V = np.array([0, 1, 2, 3, 4])  # token 0 is a special one
TARGETS_BT = np.array([[0, 1, 2], [3, 4, 1]], np.int32)
MASK_BT = np.array([[1, 1, 0], [1, 0, 1]], np.float32)


def metrics(logits_BTV, token_bytes_V=TOKEN_BYTES_V, mask_BT=MASK_BT):
    """The head is the identity: features are logits."""
    zeros_BT = np.zeros((B, T), np.int32)
    batch = Batch(zeros_BT, TARGETS_BT, mask_BT, zeros_BT + 1, zeros_BT, {})
    tokenizer = types.SimpleNamespace(token_bytes=lambda: token_bytes_V)
    task = LanguageModeling(setting=Setting("lm", tokenizer))
    heads = Heads(unembed=lambda x: x, classify=None)
    return jax.jit(lambda x_BTV: task.metrics(heads, x_BTV, batch))(logits_BTV)


def test_sums_and_counts_are_the_definition():
    """The loss counts targets; bits count the bytes of the same targets, of which a special one has none."""
    logits_BTV = np.random.default_rng(0).standard_normal((B, T, V), np.float32)
    logprobs_BTV = logits_BTV - np.log(np.exp(logits_BTV.astype(np.float64)).sum(-1, keepdims=True))
    nll = -sum(logprobs_BTV[b, t, TARGETS_BT[b, t]] for b, t in ((0, 0), (0, 1), (1, 0), (1, 2)))
    result = metrics(logits_BTV)
    assert result.keys() == {"loss", "bits_per_byte"}
    np.testing.assert_allclose(result["loss"], (nll, 4), rtol=1e-6)
    np.testing.assert_allclose(result["bits_per_byte"], (nll / math.log(2), 0 + 1 + 3 + 1), rtol=1e-6)


def test_a_guess_among_equals_costs_log_v():
    loss_sum, count = metrics(np.zeros((B, T, V), np.float32))["loss"]
    assert loss_sum / count == pytest.approx(math.log(V), rel=1e-6)


def test_a_tokenizer_that_knows_no_bytes_counts_none():
    """A count of 0 is a mean that is unknown, not one that is 0; the loss is as ever."""
    logits_BTV = np.random.default_rng(0).standard_normal((B, T, V), np.float32)
    result = metrics(logits_BTV, token_bytes_V=None)
    assert float(result["bits_per_byte"][1]) == 0
    np.testing.assert_array_equal(result["loss"], metrics(logits_BTV)["loss"])


@pytest.mark.parametrize("num_chunks", [2, 4, 8])
def test_chunks_change_neither_the_loss_nor_its_gradients(num_chunks):
    x_BTD, kernel_DV = (np.random.default_rng(0).standard_normal(shape, np.float32) for shape in ((2, 8, 3), (3, V)))
    targets_BT = np.random.default_rng(1).integers(0, V, (2, 8))

    def nll(num_chunks):
        def loss(x_BTD, kernel_DV):
            nll_BT, _ = next_token_losses(lambda x_BTD: x_BTD @ kernel_DV, x_BTD, targets_BT, num_chunks)
            return jnp.sum(nll_BT * jnp.arange(8)), nll_BT

        return jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(x_BTD, kernel_DV)

    for ours, wanted in zip(jax.tree.leaves(nll(num_chunks)), jax.tree.leaves(nll(1)), strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=1e-5)


def test_logits_of_all_positions_are_never_in_memory():
    """With 16 chunks a step's temporaries are less than the whole logits; with one they are more."""
    x_BTD, kernel_DV = np.zeros((1, 256, 8), np.float32), np.zeros((8, 4096), np.float32)

    def temporaries(num_chunks):
        def loss(x_BTD, kernel_DV):
            targets_BT = jnp.zeros((1, 256), jnp.int32)
            return jnp.sum(next_token_losses(lambda x_BTD: x_BTD @ kernel_DV, x_BTD, targets_BT, num_chunks)[0])

        compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(x_BTD, kernel_DV).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporaries(16) < 256 * 4096 * 4 < temporaries(1)


def options(**options):
    """Returns the metrics of a task with options, of logits that depend on how far ahead they look."""
    logits_BTV = np.random.default_rng(0).standard_normal((B, T, V), np.float32)
    logits_BTV[..., 4] = np.finfo(np.float32).min  # pads the vocabulary
    segments_BT = np.array([[1, 1, 1], [1, 1, 2]])
    zeros_BT = np.zeros((B, T), np.int32)
    targets_BT = TARGETS_BT % 4
    batch = Batch(zeros_BT, targets_BT, MASK_BT, segments_BT, zeros_BT, {})
    task = LanguageModeling(setting=Setting("lm"), **options)
    heads = Heads(unembed=lambda x, ahead=0: (1 + ahead) * x, classify=None)
    found = jax.jit(lambda x_BTV: task.metrics(heads, x_BTV, batch))(logits_BTV)
    return found, logits_BTV[..., :4].astype(np.float64), targets_BT


def log_softmax(x_BTV):
    return x_BTV - np.log(np.exp(x_BTV).sum(-1, keepdims=True))


def test_smoothing_and_z_loss_are_minimised_and_not_reported():
    """Nine tenths of the target, a tenth of all tokens alike, and a hundredth of the squared log-sum."""
    found, logits_BTV, targets_BT = options(label_smoothing=0.1, z_loss=0.01)
    plain, _, _ = options()
    np.testing.assert_array_equal(found["loss"], plain["loss"])
    assert "objective" not in plain
    chances_BTV = 0.9 * np.eye(4)[targets_BT] + 0.1 / 4
    each_BT = -(chances_BTV * log_softmax(logits_BTV)).sum(-1) + 0.01 * np.log(np.exp(logits_BTV).sum(-1)) ** 2
    np.testing.assert_allclose(found["objective"], ((each_BT * MASK_BT).sum(), 4), rtol=1e-5)


def test_tokens_ahead_are_learned_within_their_document():
    """Place 1 of row 0 and none of row 1, whose last token is another document's, see a target two places on."""
    found, logits_BTV, targets_BT = options(num_ahead=1, ahead_weight=0.5)
    ahead = -log_softmax(2 * logits_BTV)[0, 0, targets_BT[0, 1]]
    np.testing.assert_allclose(found["ahead/loss_1"], (ahead, 1), rtol=1e-5)
    np.testing.assert_allclose(found["objective"][0], found["loss"][0] + 0.5 * ahead, rtol=1e-5)
