"""Metrics of a split, summed over its batches; tests/unit/test_experiment.py has it on a model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax import sharding
from gptjax.sharding import Layout, MeshConfig, make_mesh
from gptjax.train.evaluate import evaluate, make_eval_step


def given(params, batch):
    """An evaluation step whose metrics are the batch itself."""
    return jax.tree.map(lambda number: jnp.asarray(number, jnp.float32), batch), None


def test_sums_are_kept_in_float64():
    """In float32, 2^24 + 1 is 2^24: a long split would lose its tail."""
    batches = [{"loss": (2.0**24, 1.0)}, {"loss": (1.0, 1.0)}, {"loss": (1.0, 2.0**24)}, {"loss": (1.0, 1.0)}]
    assert evaluate(given, None, iter(batches)) == ({"loss": (2**24 + 3) / (2**24 + 3)}, None)


@pytest.mark.parametrize("size", [1, 4, 5, 20])
def test_the_mean_is_over_tokens_whatever_the_batch(size):
    """Not over batches, each of which counts another number of tokens."""
    random = np.random.default_rng(0)
    costs, counted = random.integers(0, 9, 20), random.integers(0, 2, 20)
    cuts = [slice(start, start + size) for start in range(0, 20, size)]
    batches = ({"loss": ((costs * counted)[cut].sum(), counted[cut].sum())} for cut in cuts)
    assert evaluate(given, None, batches)[0] == {"loss": (costs * counted).sum() / counted.sum()}


def test_what_was_counted_nowhere_or_is_not_finite_is_none():
    one = {"some": (6.0, 3.0), "empty": (0.0, 0.0), "nan": (np.nan, 1.0), "inf": (1.0, 1.0)}
    other = {"some": (0.0, 0.0), "empty": (0.0, 0.0), "nan": (1.0, 1.0), "inf": (np.inf, 1.0)}
    assert evaluate(given, None, [one, other])[0] == {"some": 2.0, "empty": None, "nan": None, "inf": None}


def test_the_step_follows_the_layout_and_gives_the_metrics():
    """Activations are pinned within it; outside, the layout is not in use."""
    pinned = []

    def output_fn(params, batch, step, part):
        pinned.append(sharding.constrain(batch, "act_batch") is not batch)
        return {"loss": (params * batch.sum(), step + part + 2)}, batch

    eval_step = make_eval_step(output_fn, Layout(make_mesh(MeshConfig()), "fsdp"), ())
    metrics, outputs = jax.jit(eval_step)(3.0, jnp.ones(8))
    assert (float(metrics["loss"][0]), int(metrics["loss"][1])) == (24.0, 2)
    assert pinned == [True]
    assert outputs.tolist() == [1.0] * 8
    outside = jnp.ones(8)
    assert sharding.constrain(outside, "act_batch") is outside
