"""What the decoder owes whatever it is made of: the papers' numbers, plain trees, one result however it is computed."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax import model
from gptjax.model.attention import ATTENTIONS
from gptjax.model.config import REMAT_POLICIES, ModelConfig
from gptjax.model.gpt import BLOCKS
from gptjax.model.heads import HEADS
from gptjax.model.layers import NORMS
from gptjax.model.mlp import MLPS
from gptjax.model.positions import POSITIONS
from gptjax.registry import Choice
from gptjax.sharding import WEIGHT_NAMES
from tests.contracts import reference
from tests.params import random_params

BASE = ModelConfig(vocab_size=29, d_model=24, num_layers=2, num_heads=4, seq_len=12, vocab_multiple=1)
ROTARY, RMS, SWIGLU = Choice("rotary"), Choice("rmsnorm"), Choice("swiglu")
VARIANTS = {
    "gpt2": {},
    "gpt1": {"norm_placement": "post", "init_std": 0.1},
    "vaswani": {"norm_placement": "post", "mlp": Choice("relu"), "positions": Choice("sinusoidal")},
    "llama": {"positions": ROTARY, "norm": RMS, "mlp": SWIGLU, "num_kv_heads": 2, "use_bias": False, "d_ff": 40},
    "qwen2": {
        "attention": Choice("causal", {"window": 3}),
        "positions": ROTARY,
        "norm": RMS,
        "mlp": SWIGLU,
        "num_kv_heads": 2,
        "use_bias": False,
        "qkv_bias": True,
        "tie_embeddings": False,
    },
    "qk_norm": {
        "attention": Choice("causal", {"qk_norm": True}),
        "positions": ROTARY,
        "num_kv_heads": 2,
        "d_head": 10,
        "norm": Choice("rmsnorm", {"epsilon": 0.01}),
        "mlp": SWIGLU,
    },
    "multi_query": {
        "positions": Choice("sinusoidal", {"base": 50.0}),
        "num_kv_heads": 1,
        "use_bias": False,
        "tie_embeddings": False,
    },
    "no_positions": {
        "positions": Choice("none"),
        "norm": Choice("layernorm", {"use_bias": False, "epsilon": 0.1}),
        "use_bias": False,
    },
    "padded_vocabulary": {"vocab_multiple": 16, "tie_embeddings": False, "mlp": Choice("relu")},
    "every_option": {
        "attention": Choice("causal", {"window": 2, "qk_norm": True}),
        "positions": Choice("rotary", {"base": 50.0}),
        "norm": Choice("rmsnorm", {"epsilon": 0.1}),
        "norm_placement": "post",
        "num_kv_heads": 1,
        "d_head": 6,
        "vocab_multiple": 4,
    },
    "lstm": {"block": Choice("lstm")},
    "gru": {"block": Choice("gru"), "tie_embeddings": False, "use_bias": False},
    "lstm_stream": {"block": Choice("lstm", {"d_hidden": 10, "residual": True}), "norm": RMS},
    "gemma": {
        "attention": Choice("alternating", {"window": 3, "soft_cap": 2.0}),
        "positions": Choice("rotary", {"scaling": "yarn", "factor": 4.0, "trained_len": 200, "base": 500.0}),
        "norm": RMS,
        "norm_placement": "sandwich",
        "embedding_scale": 24**0.5,
        "residual_scale": 0.7,
        "logit_scale": 0.5,
        "attention_scale": 0.3,
        "d_head": 16,
    },
    "gpt3": {"attention": Choice("gpt3", {"window": 2}), "mlp": Choice("geglu")},
    "experts": {
        "mlp": Choice("moe", {"num_experts": 4, "num_shared": 1, "d_expert": 20}),
        "positions": Choice("rotary", {"scaling": "ntk", "factor": 4.0, "fraction": 0.5}),
        "d_head": 16,
    },
    "experts_with_places": {
        "mlp": Choice("moe", {"num_experts": 4, "capacity_factor": 4.0}),
        "positions": Choice("rotary", {"scaling": "linear", "factor": 4.0}),
        "mup_base_width": 8,
    },
    "differential": {"attention": Choice("differential", {"sink": True}), "positions": ROTARY, "d_head": 8},
    "both_ways": {"attention": Choice("bidirectional", {"window": 3}), "positions": ROTARY},
    "alibi": {"positions": Choice("alibi"), "attention": Choice("causal", {"sink": True})},
    "t5": {
        "positions": Choice("t5", {"num_buckets": 6, "max_distance": 9}),
        "num_kv_heads": 2,
        "mlp": Choice("relu2"),
    },
    "multi_token": {"head": Choice("multi_token", {"num_tokens": 3})},
}
SECOND = (
    *("gpt1", "multi_query", "no_positions", "padded_vocabulary", "every_option", "gpt3", "lstm_stream"),
    *("gru", "experts_with_places", "alibi", "vaswani", "qwen2", "qk_norm", "t5", "both_ways"),
)
variants = pytest.mark.parametrize(  # others have what these have, once each
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SECOND)) for name in VARIANTS]
)

# A row that is one document, and one with two documents (positions start again) and padding.
TOKENS_BT = jax.random.randint(jax.random.key(7), (2, 12), 0, BASE.vocab_size)
POSITIONS_BT = jnp.array([[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], [0, 1, 2, 0, 1, 2, 3, 4, 5, 6, 0, 0]])
SEGMENT_IDS_BT = jnp.array([[1] * 12, [1] * 3 + [2] * 7 + [0] * 2])


def config(name, **changes):
    return dataclasses.replace(BASE, **VARIANTS[name] | changes)


@functools.cache
def shapes_of(name):
    return model.param_shapes(config(name))


def params_of(name):
    return random_params(config(name), 0.15)


def num_places(cfg):
    """How many of the tokens that follow a position its head sees."""
    return dict(cfg.head.kwargs).get("num_tokens", 1)


def cross_entropy(cfg, params):
    """The mean over the positions whose target is in the same segment, summed over all places that the head sees.

    And the logits_ABTV of each place.
    """
    inputs = {"positions_BT": POSITIONS_BT, "segment_ids_BT": SEGMENT_IDS_BT}
    x_BTD, _, _ = model.features(cfg, params, TOKENS_BT, **inputs)
    logits_ABTV = jnp.stack([model.unembed(cfg, params, x_BTD, ahead) for ahead in range(num_places(cfg))])
    loss = 0.0
    for places, logits_BTV in enumerate(logits_ABTV, 1):
        logprobs_BTV = jax.nn.log_softmax(logits_BTV[:, :-places])
        chosen_BT = jnp.take_along_axis(logprobs_BTV, TOKENS_BT[:, places:, None], -1)[..., 0]
        ids_BT, later_BT = SEGMENT_IDS_BT[:, :-places], SEGMENT_IDS_BT[:, places:]
        counted_BT = (later_BT == ids_BT) & (later_BT > 0)
        loss -= jnp.sum(chosen_BT * counted_BT) / jnp.sum(counted_BT)
    return loss, logits_ABTV


@functools.cache
def run(name, **changes):
    """Returns loss, logits_ABTV and gradients; one compilation serves all tests of a variant."""
    loss = functools.partial(cross_entropy, config(name, **changes))
    (loss, logits_ABTV), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params_of(name))
    return loss, logits_ABTV, grads


@variants
def test_it_equals_the_reference(name):
    """Packed rows give the float64 oracle's logits; columns that only pad the vocabulary are never chosen."""
    cfg = config(name)
    actual_ABTV = np.asarray(run(name)[1])
    assert actual_ABTV.dtype == np.float32
    assert actual_ABTV.shape[-1] == cfg.padded_vocab_size
    for ahead, actual_BTV in enumerate(actual_ABTV):
        expected_BTV = reference.decoder(cfg, params_of(name), TOKENS_BT, POSITIONS_BT, SEGMENT_IDS_BT, ahead)
        np.testing.assert_allclose(actual_BTV[..., : cfg.vocab_size], expected_BTV, rtol=1e-5, atol=1e-5)
    assert np.all(actual_ABTV[..., cfg.vocab_size :] == np.finfo(np.float32).min)


@pytest.mark.parametrize(
    ("field", "table"),
    [
        *(("attention", ATTENTIONS), ("positions", POSITIONS), ("norm", NORMS), ("mlp", MLPS)),
        *(("block", BLOCKS), ("head", HEADS)),
    ],
)
def test_the_reference_knows_every_entry(field, table):
    """A new entry of a table has to be written down in the reference and in a variant above."""
    assert {getattr(config(name), field).name for name in VARIANTS} == set(table)


def test_four_numbers_make_a_model():
    """Vocabulary, width, depth and heads are enough; fresh, it is as good as a guess, and positions are the default."""
    cfg = ModelConfig(vocab_size=29, d_model=24, num_layers=2, num_heads=4)
    assert cfg.validate() == []
    params = jax.jit(functools.partial(model.init_params, cfg))(jax.random.key(0))
    logits_BTV, cache, aux = jax.jit(functools.partial(model.apply, cfg))(params, TOKENS_BT)
    assert logits_BTV.shape == (2, 12, cfg.padded_vocab_size)
    assert (cache, aux) == (None, {})
    assert abs(-jnp.mean(jax.nn.log_softmax(logits_BTV)[..., :29]) - np.log(29)) < 0.05
    expected_BTV = reference.decoder(cfg, params, TOKENS_BT)
    np.testing.assert_allclose(logits_BTV[..., :29], expected_BTV, rtol=1e-5, atol=1e-6)


@variants
def test_parameters_are_plain(name):
    """Nested dicts of float32 arrays, and beside them a tree of known names, one for each dim."""
    cfg = config(name)
    names = model.logical_axes(cfg)
    blocks = 0

    def walk(array, axes, path):
        nonlocal blocks
        if type(array) is dict:
            assert type(axes) is dict, path
            assert array.keys() == axes.keys(), path
            for key in array:
                walk(array[key], axes[key], f"{path}/{key}")
            return
        assert type(array) is jax.ShapeDtypeStruct, path
        assert array.dtype == jnp.float32, path
        assert type(axes) is tuple, path
        assert len(axes) == array.ndim, path
        assert set(axes) <= WEIGHT_NAMES | {None}, path
        if path.startswith("/blocks"):
            blocks += 1
            assert (axes[0], array.shape[0]) == ("layers", cfg.num_layers), path

    walk(shapes_of(name), names, "")
    assert blocks > 0


@variants
def test_every_parameter_learns(name):
    """Cross-entropy reaches every array, in every layer.

    One exception, which is mathematics: a key bias b adds q.b to all of a query's scores, and the softmax takes it out
    again, unless keys are turned or normalised after the bias was added, or scores are capped or have a sink.
    """
    cfg = config(name)
    _, _, grads = run(name)
    bent = {"qk_norm", "soft_cap", "sink"} & dict(cfg.attention.kwargs).keys()
    idle = cfg.positions.name != "rotary" and not bent
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        label = jax.tree_util.keystr(path, simple=True, separator="/")
        parts = np.asarray(grad if label.startswith("blocks/") else grad[None])
        for part in parts:
            if label == "blocks/attention/key/bias" and idle:
                assert np.abs(part).max() < 1e-6, label
            else:
                assert np.abs(part).max() > 1e-5, label


@pytest.mark.parametrize("name", ["gpt2", "lstm", pytest.param("qk_norm", marks=pytest.mark.slow)])
def test_bfloat16_is_close(name):
    """Computing in bfloat16 moves the logits by two per cent of their size at most, and leaves them in float32."""
    exact_ABTV = run(name)[1][..., : BASE.vocab_size]
    loss = functools.partial(cross_entropy, config(name, dtype="bfloat16"))
    rough_ABTV = jax.jit(loss)(params_of(name))[1][..., : BASE.vocab_size]
    assert rough_ABTV.dtype == jnp.float32
    assert 0 < jnp.linalg.norm(rough_ABTV - exact_ABTV) < 0.02 * jnp.linalg.norm(exact_ABTV)


def assert_same(actual, expected):
    """Loss and gradients agree to float32's rounding, each array by its own largest entry."""
    np.testing.assert_allclose(actual[0], expected[0], rtol=1e-6)
    for (path, a), e in zip(jax.tree_util.tree_leaves_with_path(actual[2]), jax.tree.leaves(expected[2]), strict=True):
        atol = 2e-6 * max(float(np.abs(e).max()), 1e-2)
        np.testing.assert_allclose(a, e, rtol=0, atol=atol, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize(
    "name", ["gpt2", *(pytest.param(name, marks=pytest.mark.slow) for name in ("qwen2", "lstm_stream"))]
)
def test_unrolled_equals_scanned(name):
    """Loss and gradients do not depend on how the loop over blocks is compiled."""
    assert_same(run(name, scan_layers=False), run(name))


@pytest.mark.parametrize(
    ("name", "policy", "scan_layers"),
    [
        *(
            pytest.param("gpt2", policy, True, marks=[pytest.mark.slow] * (policy != "full"))
            for policy in REMAT_POLICIES[1:]
        ),
        pytest.param("gpt2", "full", False, marks=pytest.mark.slow),
        pytest.param("lstm", "full", True, marks=pytest.mark.slow),
    ],
)
def test_recomputing_changes_nothing(name, policy, scan_layers):
    """What the backward pass computes again comes out as it was."""
    assert_same(run(name, remat=policy, scan_layers=scan_layers), run(name))


@pytest.mark.parametrize("scan_layers", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_recomputing_keeps_less(scan_layers):
    """The policies are in order: each keeps fewer numbers for the backward pass than the one before."""

    def kept(policy):
        loss = functools.partial(cross_entropy, config("gpt2", remat=policy, scan_layers=scan_layers))
        residuals = jax.eval_shape(lambda params: jax.vjp(loss, params, has_aux=True)[1], params_of("gpt2"))
        return sum(leaf.size for leaf in jax.tree.leaves(residuals))

    none, dots, minimal, full = map(kept, ("none", "dots", "minimal", "full"))
    assert full < minimal < dots < none
