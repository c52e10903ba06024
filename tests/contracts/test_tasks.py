"""What every task in the table owes: masked targets are no matter, sums add up over rows, and it can be learned.

Shapes: B batch, T position, V vocabulary.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gptjax.model.config import ModelConfig
from gptjax.registry import Choice
from gptjax.tasks.language_modeling import TASKS
from gptjax.train.loss import make_loss_fn
from gptjax.types import Batch
from tests.params import random_params

B, T, V = 4, 8, 16
CFG = ModelConfig(vocab_size=V, d_model=32, num_layers=1, num_heads=2, seq_len=T)
# Each as it is by default, and with all that it offers.
CASES = {
    "language_modeling": {},
    "language_modeling, all options": {"z_loss": 1e-3, "label_smoothing": 0.01, "num_ahead": 1},
}
tasks = pytest.mark.parametrize("case", CASES)


def test_every_task_of_the_table_is_a_case():
    assert {case.partition(",")[0] for case in CASES} == set(TASKS)


def batch():
    """Random rows, no two of which begin alike, and a third of the targets masked."""
    random = np.random.default_rng(0)
    tokens_BT = random.integers(0, V, (B, T + 1), np.int32)
    tokens_BT[:, 0] = np.arange(B)
    mask_BT = (random.random((B, T)) < 2 / 3).astype(np.float32)
    positions_BT = np.tile(np.arange(T, dtype=np.int32), (B, 1))
    return Batch(tokens_BT[:, :-1], tokens_BT[:, 1:], mask_BT, np.ones((B, T), np.int32), positions_BT, {})


# What the programs compute is under test, not how fast: compiling them takes half the time so.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@functools.cache
def build(case):
    """Returns random parameters and a compiled (params, batch) -> (metrics, gradients of the loss)."""
    task, options = TASKS[case.partition(",")[0]], CASES[case]
    head = Choice("multi_token") if "num_ahead" in options else Choice(task.head)
    cfg = dataclasses.replace(CFG, head=head)
    loss_fn = make_loss_fn(cfg, task(np.arange(V), 1, **options), None)

    @jit
    def run(params, batch):
        (_, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, batch, 0, 0)
        return metrics, grads

    return random_params(cfg, 0.1), run


@tasks
def test_metrics_are_sums_and_counts_in_float32(case):
    """The one that is trained is `loss`."""
    params, run = build(case)
    result, _ = run(params, batch())
    assert "loss" in result
    for sum_and_count in result.values():
        assert [(x.shape, x.dtype) for x in sum_and_count] == [((), jnp.float32)] * 2


@tasks
def test_masked_targets_do_not_matter(case):
    """Not to the last bit of any metric, while every one that counts moves the loss."""
    params, run = build(case)
    data = batch()

    def change(where_BT):
        targets_BT = np.where(where_BT, (data.targets_BT + 1) % V, data.targets_BT)
        return jax.tree.map(float, run(params, data._replace(targets_BT=targets_BT))[0])

    before, mask_BT = change(False), data.loss_mask_BT == 1
    assert change(~mask_BT) == before
    for place in np.flatnonzero(mask_BT):
        assert change(np.arange(B * T).reshape(B, T) == place)["loss"][0] != before["loss"][0], place


@tasks
def test_halves_of_a_batch_add_up_to_the_whole(case):
    """Although they hold different numbers of counted targets: so any split of a batch gives the same means."""
    params, run = build(case)
    data = batch()
    halves = [
        run(params, jax.tree.map(lambda x, rows=rows: x[rows], data))[0]
        for rows in (slice(0, None, 2), slice(1, None, 2))
    ]
    assert float(halves[0]["loss"][1]) != float(halves[1]["loss"][1])
    added = jax.tree.map(lambda a, b: float(a) + float(b), *halves)
    for metric, (total, count) in run(params, data)[0].items():
        np.testing.assert_allclose(added[metric][0], total, rtol=1e-5, err_msg=metric)
        assert added[metric][1] == float(count), metric


@tasks
def test_nothing_counted_is_nothing(case):
    """A batch of padding adds 0 to every sum and every count, and its gradient is 0."""
    params, run = build(case)
    nothing = batch()._replace(loss_mask_BT=np.zeros((B, T), np.float32))
    metrics, grads = run(params, nothing)
    assert set(map(float, jax.tree.leaves(metrics))) == {0.0}
    assert all(np.all(np.asarray(grad) == 0) for grad in jax.tree.leaves(grads))


@tasks
def test_a_tiny_model_overfits_one_batch(case):
    """From a guess to nearly nothing in a hundred steps."""
    params, run = build(case)
    data, tx = batch(), optax.adam(1e-2)

    @jit
    def update(grads, state, params):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state, losses = jit(tx.init)(params), []
    for _ in range(100):
        metrics, grads = run(params, data)
        losses.append(float(metrics["loss"][0]) / float(metrics["loss"][1]))
        params, state = update(grads, state, params)
    assert losses[0] > 1
    assert losses[-1] < 0.05
