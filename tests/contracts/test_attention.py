"""What every attention and every recurrent block in the tables owes.

The past alone (or both sides, where it says so), one segment alone, and one result cached, sharded or plain.

Shapes: B batch, T query position (of the whole sequence), D model width, V vocabulary; U and E, T and D of the input.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax import manual, model, registry, sharding, zigzag
from gptjax.model.attention import ATTENTIONS
from gptjax.model.config import ModelConfig
from gptjax.model.gpt import BLOCKS
from gptjax.model.positions import POSITIONS
from gptjax.registry import Choice
from tests.params import random_params

# The name of a case -> the attention's options, other fields of the model.
OPTIONS = {
    "plain": ({}, {}),
    "window": ({"window": 3}, {}),
    "qk_norm": ({"qk_norm": True}, {}),
    "grouped_query": ({}, {"num_kv_heads": 2}),
    "multi_query": ({}, {"num_kv_heads": 1}),
    "soft_cap": ({"soft_cap": 1.0}, {}),
    "sink": ({"sink": True}, {"num_kv_heads": 2}),
    "alibi": ({}, {"positions": Choice("alibi")}),
    "t5": ({}, {"positions": Choice("t5", {"num_buckets": 4, "max_distance": 6}), "num_kv_heads": 2}),
}
RECURRENT = {name: ({}, {"block": Choice(name)}) for name, block in BLOCKS.items() if block.num_states}
OTHERS = ("window", "grouped_query")  # the options that entries beside the first are tried with
CASES = [
    (name, option)
    for name, factory in ATTENTIONS.items()
    for option, (kwargs, _) in OPTIONS.items()
    if kwargs.keys() <= registry.options(factory).keys() and (name == "causal" or option in OTHERS)
] + [("causal", name) for name in RECURRENT]
OPTIONS |= RECURRENT
FIRST = [("causal", "plain"), ("causal", "window"), ("causal", "grouped_query"), ("differential", "window")]
FIRST += [("causal", "lstm"), ("bidirectional", "window")]


def is_second(name, option):
    """Whether a case is a variant of one that is tried by default."""
    return (name, option) not in FIRST


B = T = 8
TOKENS_BT = np.random.default_rng(1).integers(0, 16, (B, T))
POSITIONS_BT = np.tile([0, 1, 2, 0, 1, 2, 3, 0], (B, 1))
SEGMENT_IDS_BT = np.tile([1, 1, 1, 2, 2, 2, 2, 0], (B, 1))
ONE_SEGMENT = np.tile(np.arange(T), (B, 1)), np.ones((B, T), int)


def config(name, option, **changes):
    kwargs, fields = OPTIONS[option]
    fields = {
        "vocab_size": 16,
        "d_model": 16,
        "num_layers": 2,
        "num_heads": 4,
        "seq_len": T,
        "vocab_multiple": 1,
        **fields,
        **changes,
    }
    return ModelConfig(attention=Choice(name, kwargs), **({"positions": Choice("rotary")} | fields))


def of_cases(found):
    """Returns the mark that runs a test once for each case."""
    params = [pytest.param(*case, marks=[pytest.mark.slow] * is_second(*case)) for case in found]
    return pytest.mark.parametrize(("name", "option"), params)


cases = of_cases(CASES)
causal_cases = of_cases([(name, option) for name, option in CASES if not config(name, option).both_ways])
both_ways_cases = of_cases([(name, option) for name, option in CASES if config(name, option).both_ways])


def layout_of(cfg, rules):
    """Returns a layout of eight devices, None without rules; heads over as many as the key/value heads divide over."""
    if rules is None:
        return None
    axes = sharding.axes_of(rules)
    tensor = math.gcd(2, cfg.resolve().num_kv_heads) if "tensor" in axes else 1
    # A state passes through a row in order: the context axis has no part of it.
    mesh = sharding.MeshConfig(tensor=tensor, context=2 if "context" in axes and not cfg.num_states else 1)
    return sharding.Layout(sharding.make_mesh(mesh), rules)


def on_mesh(function, layout, params, results):
    """Runs (params, *rows) -> results as a step would: rows in their devices' order, by hand where the rules say so."""
    if layout is None:
        return function
    parts, row = layout.parts("act_seq"), ("act_batch", "act_seq")

    def run(tree, *rows):
        with sharding.use(layout):
            each = manual.per_device(function, layout, (params, *[row] * len(rows)), results)
            return each(tree, *(zigzag.spread(x_BT, parts) for x_BT in rows))

    return run


@functools.cache
def influence(cfg):
    """Returns how strongly the features at t depend on the token at u, by the gradient: each token is another row."""
    params, tokens_BT = random_params(cfg, 0.2), jnp.arange(T)[None]

    def features(embedding_VD):
        return model.features(cfg, {**params, "tokens": {"embedding": embedding_VD}}, tokens_BT)[0][0]

    jacobian_TDVE = np.asarray(jax.jit(jax.jacrev(features))(params["tokens"]["embedding"]))
    return np.abs(jacobian_TDVE).sum((1, 3))[:, :T]


@causal_cases
def test_no_position_sees_its_future(name, option):
    """The gradient of output t with respect to input u is exactly zero for u > t, and not zero for u = t."""
    influence_TU = influence(config(name, option))
    assert np.all(np.triu(influence_TU, 1) == 0)
    assert np.all(np.diagonal(influence_TU) > 0)


@causal_cases
def test_the_past_is_seen_as_far_as_the_window(name, option):
    """Every earlier position has an influence; with a window, those that a chain of windows reaches, one a layer."""
    cfg = config(name, option)
    is_local = name in ("causal", "differential")  # others have a block that sees everything
    reach = cfg.num_layers * (OPTIONS[option][0].get("window", T) - 1) if is_local else T
    distance_TU = np.arange(T)[:, None] - np.arange(T)
    np.testing.assert_array_equal(influence(cfg) > 0, (distance_TU >= 0) & (distance_TU <= reach))


@both_ways_cases
def test_both_sides_are_seen_as_far_as_the_window(name, option):
    """Where a mask lets both sides be seen, a chain of windows reaches as far ahead as behind."""
    cfg = config(name, option)
    reach = cfg.num_layers * (OPTIONS[option][0].get("window", T) - 1)
    distance_TU = np.abs(np.arange(T)[:, None] - np.arange(T))
    np.testing.assert_array_equal(influence(cfg) > 0, distance_TU <= reach)


@functools.cache
def forward(cfg, rules=None):
    """Returns a compiled (tokens_BT, positions_BT, segment_ids_BT) -> logits_BTV; with rules, on eight devices."""
    params, layout = random_params(cfg, 0.2), layout_of(cfg, rules)
    if layout is not None:
        params = jax.device_put(params, sharding.shardings(layout, model.logical_axes(cfg), params))

    def logits(params, tokens_BT, positions_BT, segment_ids_BT):
        return model.apply(cfg, params, tokens_BT, positions_BT=positions_BT, segment_ids_BT=segment_ids_BT)[0]

    run = jax.jit(on_mesh(logits, layout, model.logical_axes(cfg), ("act_batch", "act_seq", None)))
    parts = 1 if layout is None else layout.parts("act_seq")

    def place(x_BT):
        return x_BT if layout is None else jax.device_put(x_BT, layout.sharding(("act_batch", None)))

    return lambda *inputs: np.asarray(zigzag.gathered(np.asarray(run(params, *map(place, inputs))), parts))


@cases
def test_segments_are_isolated(name, option):
    """Other tokens in one segment leave the logits of the others as they are, to the bit, and change its own."""
    before_BTV = forward(config(name, option))(TOKENS_BT, POSITIONS_BT, SEGMENT_IDS_BT)
    for segment in (0, 1, 2):
        inside_BT = segment == SEGMENT_IDS_BT
        tokens_BT = np.where(inside_BT, (TOKENS_BT + 1) % 16, TOKENS_BT)
        after_BTV = forward(config(name, option))(tokens_BT, POSITIONS_BT, SEGMENT_IDS_BT)
        np.testing.assert_array_equal(after_BTV[~inside_BT], before_BTV[~inside_BT])
        assert np.all(np.any(after_BTV[inside_BT] != before_BTV[inside_BT], axis=-1))


@cases
def test_packed_equals_alone(name, option):
    """A document in a packed row has the logits that it has in a row of its own."""
    run = forward(config(name, option))
    packed_BTV = run(TOKENS_BT, POSITIONS_BT, SEGMENT_IDS_BT)
    alone_BTV = run(np.roll(TOKENS_BT, -3, axis=1), ONE_SEGMENT[0], np.tile(np.arange(T) < 4, (B, 1)).astype(int))
    np.testing.assert_allclose(packed_BTV[:, 3:7], alone_BTV[:, :4], rtol=1e-5, atol=1e-5)


def decode(cfg, tokens_BT, lengths_B):
    """Returns logits_BTV from a prefill of prompts of unequal lengths, padded on the right, then token by token."""
    params = random_params(cfg, 0.2)
    rows_B = np.arange(B)

    @jax.jit
    def step(cache, tokens, positions, segments):
        return model.apply(cfg, params, tokens, positions_BT=positions, segment_ids_BT=segments, cache=cache)[:2]

    # What stands in slots not yet written must not matter.
    cache = jax.tree.map(lambda x: x + 3, model.init_cache(cfg, B, T))
    logits_BTV = np.zeros((B, T, cfg.vocab_size), np.float32)

    P = lengths_B.max()
    real_BP = np.arange(P) < lengths_B[:, None]
    prompts_BP = np.where(real_BP, tokens_BT[:, :P], 0)
    prefilled_BPV, cache = step(cache, prompts_BP, np.where(real_BP, np.arange(P), 0), real_BP.astype(np.int32))
    logits_BTV[:, :P][real_BP] = np.asarray(prefilled_BPV)[real_BP]
    for n in range(T - lengths_B.min()):
        positions_B = lengths_B + n
        real_B = positions_B < T  # a row that is done goes on with padding
        slot_B = np.where(real_B, positions_B, 0)
        token_B1, slot_B1 = np.where(real_B, tokens_BT[rows_B, slot_B], 0)[:, None], slot_B[:, None]
        next_B1V, cache = step(cache, token_B1, slot_B1, real_B.astype(np.int32)[:, None])
        logits_BTV[rows_B[real_B], slot_B[real_B]] = np.asarray(next_B1V)[real_B, 0]
    return logits_BTV


def assert_cached_equals_full(cfg):
    cached_BTV = decode(cfg, TOKENS_BT, np.array([5, 1, 3, 8, 2, 2, 7, 4]))
    np.testing.assert_allclose(cached_BTV, forward(cfg)(TOKENS_BT, *ONE_SEGMENT), rtol=1e-5, atol=1e-5)


@causal_cases
def test_cached_decoding_equals_the_full_forward(name, option):
    """Every position's logits, whether its token came with the prompt or alone, are those of the whole sequence."""
    assert_cached_equals_full(config(name, option))


@pytest.mark.parametrize(
    "positions",
    [pytest.param(name, marks=[pytest.mark.slow] * (name != "learned")) for name in POSITIONS if name != "rotary"],
)
def test_cached_decoding_with_other_positions(positions):
    """The same for the schemes that the test above leaves out."""
    assert_cached_equals_full(config("causal", "plain", positions=Choice(positions)))


LARGE = ("fsdp_manual", "fsdp_tp_sp", "context")  # what the other rules do, these do as well


def is_quick(name, option, rules):
    """Plain attention where rows, heads and weights are split, and what looks beyond its own part of a context."""
    if (name, option) == ("causal", "plain"):
        return rules in LARGE
    return rules == "context" and (name == "differential" or option == "window") and not is_second(name, option)


RULES = [
    pytest.param(name, option, rules, marks=[pytest.mark.slow] * (not is_quick(name, option, rules)))
    for name, option in CASES
    if option not in RECURRENT
    for rules in sharding.RULES
]


@pytest.mark.parametrize(("name", "option", "rules"), RULES)
def test_sharded_equals_unsharded(name, option, rules):
    """Logits on eight devices are those of one, whatever the layout."""
    cfg = config(name, option)
    inputs = TOKENS_BT, POSITIONS_BT, SEGMENT_IDS_BT
    np.testing.assert_allclose(forward(cfg, rules)(*inputs), forward(cfg)(*inputs), rtol=1e-5, atol=1e-5)


@functools.cache
def gradients(cfg, rules=None):
    """Returns the gradients of a weighted sum of the features, and the shardings that their parameters have."""
    params, layout = random_params(cfg, 0.2), layout_of(cfg, rules)
    weights_BTD = np.random.default_rng(3).standard_normal((B, T, cfg.d_model), np.float32)
    placed = None
    if layout is not None:
        placed = sharding.shardings(layout, model.logical_axes(cfg), params)
        params = jax.device_put(params, placed)

    def loss(params, tokens_BT, positions_BT, segment_ids_BT, weights_BTD):
        x_BTD, _, _ = model.features(cfg, params, tokens_BT, positions_BT=positions_BT, segment_ids_BT=segment_ids_BT)
        return jnp.sum(x_BTD * weights_BTD)

    names = model.logical_axes(cfg)
    run = jax.jit(on_mesh(jax.grad(loss), layout, names, names), out_shardings=placed)
    return run(params, TOKENS_BT, ONE_SEGMENT[0], SEGMENT_IDS_BT, weights_BTD), placed


LEARNED = [("differential", "grouped_query"), ("causal", "sink"), ("causal", "t5")]  # by heads


@pytest.mark.parametrize(
    ("name", "option", "rules"),
    [
        *(
            pytest.param("causal", "grouped_query", rules, marks=[pytest.mark.slow] * (rules != "fsdp_manual"))
            for rules in sharding.RULES
        ),
        *(
            pytest.param(*case, rules, marks=pytest.mark.slow)
            for case in LEARNED
            for rules in ("context", "fsdp_manual")
        ),
        *(
            pytest.param("causal", name, rules, marks=pytest.mark.slow)
            for name in RECURRENT
            for rules in sharding.RULES
        ),
    ],
)
def test_sharded_gradients_equal_unsharded(name, option, rules):
    """So are the gradients, each laid as its parameter."""
    cfg = config(name, option)
    grads, placed = gradients(cfg, rules)
    assert jax.tree.map(lambda grad: grad.sharding, grads) == placed
    for (path, grad), wanted in zip(
        jax.tree_util.tree_leaves_with_path(grads), jax.tree.leaves(gradients(cfg)[0]), strict=True
    ):
        atol = 1e-5 * max(1.0, float(np.abs(wanted).max()))
        np.testing.assert_allclose(grad, wanted, rtol=1e-5, atol=atol, err_msg=jax.tree_util.keystr(path))
