"""Adapters: where they stand, what they add, and that merging them changes no more than rounding.

Shapes: B batch, T position, V vocabulary.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax import model
from gptjax.model import lora
from gptjax.model.config import LoRAConfig, ModelConfig
from gptjax.model.layers import Projection
from gptjax.registry import Choice
from gptjax.types import UserError
from tests.params import random_params

PLAIN = ModelConfig(vocab_size=32, d_model=16, num_layers=2, num_heads=2, num_kv_heads=1, d_ff=24, seq_len=8)
ADAPTED = dataclasses.replace(PLAIN, lora=LoRAConfig(rank=3, alpha=6.0))
TOKENS_BT = np.random.default_rng(0).integers(0, 32, (2, 8))


@functools.cache
def logits(cfg):
    """Jitted: (params, tokens_BT, **inputs) -> logits_BTV."""
    return jax.jit(lambda params, tokens_BT, **inputs: model.apply(cfg, params, tokens_BT, **inputs)[0])


def paths(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in leaves}


def fresh(params):
    """As they start: B is zero."""
    return jax.tree_util.tree_map_with_path(
        lambda path, x: 0 * x if "lora_b" in jax.tree_util.keystr(path) else x, params
    )


def test_an_adapter_starts_with_a_within_its_bound_and_b_of_zeros():
    """A is uniform within 1 / sqrt(inputs), whatever the number of dims that are inputs; or B would never learn."""
    cfg = dataclasses.replace(ADAPTED, lora=LoRAConfig(rank=64, targets=".*"))
    layer = Projection(cfg, (5,), ("q_heads", "head_dim", "embed"), num_inputs=2)
    params = jax.jit(layer.init)(jax.random.key(0), jnp.zeros((2, 8)))["params"]
    a, b = (params[name]["kernel"].value for name in lora.ADAPTER)
    assert (a.shape, b.shape) == ((2, 8, 64), (64, 5))
    assert 0.95 / 4 < np.max(np.abs(a)) <= 1 / 4
    assert np.all(b == 0)


def test_a_fresh_adapter_changes_nothing():
    """To the bit."""
    params = fresh(random_params(ADAPTED, 0.3))
    np.testing.assert_array_equal(logits(ADAPTED)(params, TOKENS_BT), logits(PLAIN)(lora.split(params)[0], TOKENS_BT))


def test_what_stands_beside_a_kernel_has_the_names_of_its_dims():
    names = paths(jax.tree.map(str, model.logical_axes(ADAPTED), is_leaf=lambda x: isinstance(x, tuple)))
    assert names["blocks/attention/query/lora_a/kernel"] == str(("layers", "embed", None))
    assert names["blocks/attention/query/lora_b/kernel"] == str(("layers", None, "q_heads", "head_dim"))
    assert names["blocks/attention/output/lora_a/kernel"] == str(("layers", "q_heads", "head_dim", None))
    assert names["blocks/mlp/down/lora_b/kernel"] == str(("layers", None, "embed"))


@pytest.mark.parametrize(
    ("targets", "adapted"),
    [
        (r".*/(query|value)", ["blocks/attention/query", "blocks/attention/value"]),
        (r"blocks/mlp/.*", ["blocks/mlp/down", "blocks/mlp/up"]),
    ],
)
def test_targets_choose_by_whole_paths(targets, adapted):
    cfg = dataclasses.replace(PLAIN, lora=LoRAConfig(rank=3, targets=targets))
    _, adapters = lora.split(model.param_shapes(cfg))
    assert sorted({path.rsplit("/", 2)[0] for path in paths(adapters)}) == adapted


def test_targets_that_match_nothing_are_refused_with_what_there_is():
    cfg = dataclasses.replace(PLAIN, lora=LoRAConfig(rank=3, targets="query"))
    with pytest.raises(
        UserError, match=r"model\.lora\.targets='query' matches no projection; .*blocks/attention/query"
    ):
        model.param_shapes(cfg)
    recurrent = dataclasses.replace(ADAPTED, block=Choice("gru"))
    with pytest.raises(UserError, match=r"this model has none; set lora\.rank=0"):
        model.param_shapes(recurrent)


@pytest.mark.parametrize("scan_layers", [True, False])
def test_merging_changes_rounding_only(scan_layers):
    """In a loop over the blocks and unrolled, remat included; and what is merged comes out again."""
    cfg = dataclasses.replace(ADAPTED, scan_layers=scan_layers, remat="full")
    params = random_params(ADAPTED, 0.3)
    plain, merged = lora.merge(cfg, params)
    assert plain.lora.rank == 0
    assert jax.tree.structure(merged) == jax.tree.structure(model.param_shapes(plain))
    adapted, base = logits(cfg)(params, TOKENS_BT), logits(plain)(lora.split(params)[0], TOKENS_BT)
    assert np.max(np.abs(adapted - base)) > 0.1
    np.testing.assert_allclose(logits(plain)(merged, TOKENS_BT), adapted, rtol=1e-3, atol=1e-3)
    back = lora.unmerge(cfg, merged, lora.split(params)[1])
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), back, params)


def test_decoding_with_a_cache_equals_the_whole_sequence():
    params, cache = random_params(ADAPTED, 0.3), model.init_cache(ADAPTED, 2, 8)
    step = jax.jit(lambda tokens_BT, positions_BT, cache: model.apply(
        ADAPTED, params, tokens_BT, positions_BT=positions_BT, cache=cache
    ))  # fmt: skip
    expected_BTV = logits(ADAPTED)(params, TOKENS_BT)
    for t in range(8):
        logits_B1V, cache, _ = step(TOKENS_BT[:, t : t + 1], jnp.full((2, 1), t), cache)
        np.testing.assert_allclose(logits_B1V[:, 0], expected_BTV[:, t], rtol=1e-3, atol=1e-4)


def test_dropout_is_on_what_the_adapter_reads_alone():
    """Without a key nothing is dropped; with one, a fresh adapter still adds nothing."""
    cfg = dataclasses.replace(ADAPTED, lora=dataclasses.replace(ADAPTED.lora, dropout=0.5))
    assert (cfg.drops, ADAPTED.drops) == (True, False)
    params, key = random_params(ADAPTED, 0.3), jax.random.key(0)
    dry_BTV = logits(ADAPTED)(params, TOKENS_BT)
    np.testing.assert_array_equal(logits(cfg)(params, TOKENS_BT), dry_BTV)
    assert np.max(np.abs(logits(cfg)(params, TOKENS_BT, dropout_key=key) - dry_BTV)) > 0.01
    params = fresh(params)
    np.testing.assert_array_equal(logits(cfg)(params, TOKENS_BT, dropout_key=key), logits(ADAPTED)(params, TOKENS_BT))


def test_the_rate_of_b_does_not_fall_with_the_width():
    """muP: B's inputs are as many as the rank, at any width; A's are the model's."""
    factors = paths(model.lr_factors(dataclasses.replace(ADAPTED, mup_base_width=4)))
    assert factors["blocks/mlp/up/lora_a/kernel"] == factors["blocks/mlp/up/kernel"] == 0.25
    assert factors["blocks/mlp/up/lora_b/kernel"] == 1
