"""The loss of a batch: when dropout is drawn, and what of the batch reaches the model.

Shapes: B batch, T position.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax import model
from gptjax.model.config import ModelConfig
from gptjax.tasks.language_modeling import LanguageModeling
from gptjax.tasks.task import Setting
from gptjax.train.loss import loss_by_position, make_loss_fn, make_output_fn
from gptjax.types import Batch

DRY = ModelConfig(vocab_size=11, d_model=8, num_layers=1, num_heads=2, seq_len=8, vocab_multiple=1, scan_layers=False)
WET = dataclasses.replace(DRY, dropout=0.5)
LENGTHS = (5, 3)


@functools.cache
def params():
    """Large weights: positions and other tokens have to show in the loss."""
    shapes = model.param_shapes(DRY)
    random = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(random.standard_normal(leaf.shape, np.float32)), shapes)


def packed():
    """One row that holds two documents."""
    ids_BT = np.random.default_rng(1).integers(0, 11, (1, 9)).astype(np.int32)
    segments_BT = np.repeat([[1, 2]], LENGTHS, axis=1).astype(np.int32)
    positions_BT = np.concatenate([np.arange(length) for length in LENGTHS])[None].astype(np.int32)
    return Batch(ids_BT[:, :-1], ids_BT[:, 1:], np.ones((1, 8), np.float32), segments_BT, positions_BT, {})


TASK = LanguageModeling(setting=Setting("lm"))


def alone(start, length):
    """One document of `packed`, in a row of its own, the rest padding."""
    batch = packed()

    def moved(x_BT):
        return np.pad(x_BT[:, start : start + length], [(0, 0), (0, 8 - length)])

    ones = np.ones((1, length), np.int32)
    segments_BT = np.pad(ones, [(0, 0), (0, 8 - length)])
    return Batch(moved(batch.tokens_BT), moved(batch.targets_BT), segments_BT.astype(np.float32), segments_BT,
                 moved(batch.positions_BT), {})  # fmt: skip


@functools.cache
def loss_fn(cfg, seed):
    compiler_options = {"xla_backend_optimization_level": 0}  # quick to compile
    return jax.jit(make_loss_fn(cfg, TASK, seed), compiler_options=compiler_options)


def loss(cfg, seed, step=0, part=0, batch=None):
    return float(loss_fn(cfg, seed)(params(), batch or packed(), step, part)[0])


def test_without_a_seed_nothing_is_dropped():
    assert loss(WET, None, 0, 0) == loss(WET, None, 7, 3) == pytest.approx(loss(DRY, None), rel=1e-6)


def test_seed_step_and_part_decide_what_is_dropped():
    """Each draws its own, and the same again: a run that was interrupted repeats what it has dropped."""
    draws = [loss(WET, 0, 0, 0), loss(WET, 0, 1, 0), loss(WET, 0, 0, 1), loss(WET, 0, 1, 1), loss(WET, 1, 0, 0)]
    assert len({*draws, loss(WET, None)}) == 6
    assert loss(WET, 0, 1, 1) == draws[3]


def test_packed_documents_cost_what_they_cost_alone():
    """Segments, positions and the loss mask all reach the model and the task."""
    together, (one, other) = packed(), (alone(0, 5), alone(5, 3))
    apart = loss(DRY, None, batch=one) + loss(DRY, None, batch=other)
    assert loss(DRY, None, batch=together) == pytest.approx(apart, rel=1e-5)
    for lost in (
        together._replace(segment_ids_BT=np.ones((1, 8), np.int32)),
        together._replace(positions_BT=np.arange(8, dtype=np.int32)[None]),
    ):
        assert loss(DRY, None, batch=lost) != pytest.approx(apart, rel=1e-3)


def test_the_loss_is_the_sum_that_the_metrics_report():
    """What is differentiated and what is written down are one number."""
    batch = packed()._replace(loss_mask_BT=np.array([[1, 1, 0, 1, 0, 0, 1, 0]], np.float32))
    loss_sum, metrics = loss_fn(DRY, None)(params(), batch, 0, 0)
    assert (float(metrics["loss"][0]), float(metrics["loss"][1])) == (float(loss_sum), 4.0)


def test_the_loss_by_position_is_that_of_each_target():
    """Positions count within the document; what the mask leaves out is in no bucket, and together they are the loss."""
    batch = packed()._replace(loss_mask_BT=np.array([[1, 1, 0, 1, 1, 1, 1, 1]], np.float32))
    metrics = jax.jit(make_output_fn(DRY, TASK, by_position=True))(params(), batch, 0, 0)[0]
    logits_BTV = model.apply(
        DRY, params(), batch.tokens_BT, positions_BT=batch.positions_BT, segment_ids_BT=batch.segment_ids_BT
    )[0]
    loss_BT = -np.take_along_axis(np.asarray(jax.nn.log_softmax(logits_BTV)), batch.targets_BT[..., None], -1)[0, :, 0]
    places = {1: [0, 5], 2: [1, 6], 4: [3, 7], 8: [4]}
    assert metrics.keys() == {"loss", "bits_per_byte", *(f"loss_by_position/{end}" for end in places)}
    for end, place in places.items():
        expected = (loss_BT[place].sum(), len(place))
        np.testing.assert_allclose(metrics[f"loss_by_position/{end}"], expected, rtol=1e-5)
    plain = loss_fn(DRY, None)(params(), batch, 0, 0)[1]
    np.testing.assert_allclose(metrics["loss"], plain["loss"], rtol=1e-6)


@pytest.mark.parametrize(("seq_len", "ends"), [(1, [1]), (2, [1, 2]), (12, [1, 2, 4, 8, 12]), (16, [1, 2, 4, 8, 16])])
def test_positions_fall_into_powers_of_two_and_the_last_into_the_rest(seq_len, ends):
    positions_BT = np.arange(seq_len)[None]
    ones_BT = np.ones((1, seq_len), np.float32)
    metrics = loss_by_position(ones_BT, packed()._replace(positions_BT=positions_BT, loss_mask_BT=ones_BT), seq_len)
    assert [name.split("/")[1] for name in metrics] == [str(end) for end in ends]
    assert [float(count) for _, count in metrics.values()] == [b - a for a, b in zip([0, *ends], ends, strict=False)]
