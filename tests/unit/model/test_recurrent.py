"""Recurrent layers: where a state starts, goes on and is left alone, and what its gradient costs.

Shapes: B batch, T position, D model width, G gates, H and J state channel, N layers, P part of a state.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core

from gptjax import model
from gptjax.model.attention import Context
from gptjax.model.config import ModelConfig
from gptjax.model.positions import Encoding
from gptjax.model.recurrent import GRU, LSTM, Marks, marks, recur
from gptjax.registry import Choice
from tests.params import random_params

VARIANTS = {"lstm": LSTM, "gru": GRU}
variants = pytest.mark.parametrize("name", ["lstm", pytest.param("gru", marks=pytest.mark.slow)])
B, T, H = 3, 6, 4


# What the programs compute is under test, not how fast: compiling them takes half the time so.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def config(name, **options):
    return ModelConfig(vocab_size=16, d_model=8, num_layers=2, vocab_multiple=1, block=Choice(name, options))


def marked(segment_ids_BT=None, positions_BT=None, cached=False):
    """Returns what is marked, batch first, as zeros and ones."""
    positions_BT = np.arange(T)[None] if positions_BT is None else np.array(positions_BT)
    ids_BT = None if segment_ids_BT is None else jnp.array(segment_ids_BT)
    context = Context(positions_BT, ids_BT, Encoding(), 0)
    found = jit(lambda: marks(context, cached))()
    return None if found is None else [np.asarray(x_TB1)[..., 0].T.astype(int).tolist() for x_TB1 in found]


def test_a_segment_starts_where_its_id_is_another_than_that_of_the_last_real_token():
    """Padding within a segment does not cut it, nor does padding in front; each token of padding stands alone."""
    fresh_BT, real_BT = marked([[1, 1, 2, 2, 2, 3], [0, 0, 4, 4, 0, 4], [1, 0, 0, 2, 2, 0]])
    assert fresh_BT == [[0, 0, 1, 0, 0, 1], [0, 0, 0, 0, 1, 0], [0, 1, 1, 1, 0, 1]]
    assert real_BT == [[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 0, 1], [1, 0, 0, 1, 1, 0]]


def test_with_a_cache_position_0_is_a_start_and_any_other_goes_on():
    assert marked() is None
    assert marked(cached=True) == [[[1, 0, 0, 0, 0, 0]], [[1] * 6]]
    assert marked(positions_BT=[[7, 8, 9, 0, 1, 2]], cached=True) == [[[0, 0, 0, 1, 0, 0]], [[1] * 6]]


@variants
def test_padding_leaves_the_state_alone(name):
    """Wherever it stands, to the bit; and what comes out of the tokens is the same."""
    cfg = config(name)
    random = np.random.default_rng(0)
    before_NPBH = random.standard_normal((2, VARIANTS[name].num_states, B, 8), np.float32)
    run = jit(functools.partial(model.features, cfg, random_params(cfg, 0.5)))
    tokens_BT, where_BT = np.array([[1, 2, 3]] * B), np.array([[1, 1, 1, 0, 0], [0, 0, 1, 1, 1], [1, 0, 1, 0, 1]]) > 0
    padded_BT, positions_BT = np.full((B, 5), 9), np.full((B, 5), 9)
    padded_BT[where_BT], positions_BT[where_BT] = tokens_BT.ravel(), 4 + tokens_BT.ravel()
    expected_BTD, expected, _ = run(tokens_BT, positions_BT=4 + tokens_BT, cache=model.Memory(before_NPBH))
    segments_BT = where_BT.astype(int)
    actual_BTD, actual, _ = run(
        padded_BT, positions_BT=positions_BT, segment_ids_BT=segments_BT, cache=model.Memory(before_NPBH)
    )
    np.testing.assert_array_equal(actual.states_NPBH, expected.states_NPBH)
    np.testing.assert_array_equal(np.asarray(actual_BTD)[where_BT], np.asarray(expected_BTD).reshape(-1, 8))


@variants
def test_the_state_is_kept_in_float32(name):
    """It adds up over a whole text, whatever products are computed in."""
    cfg = ModelConfig(vocab_size=16, d_model=8, num_layers=2, block=Choice(name, {"d_hidden": 12}), dtype="bfloat16")
    cache = model.init_cache(cfg, B, 0)
    assert cache.states_NPBH.shape == (2, VARIANTS[name].num_states, B, 12)
    x_BTD, cache, _ = jax.eval_shape(
        lambda params, cache: model.features(cfg, params, jnp.zeros((B, T), int), cache=cache),
        model.param_shapes(cfg),
        cache,
    )
    assert (x_BTD.dtype, cache.states_NPBH.dtype) == (jnp.bfloat16, jnp.float32)


@variants
def test_gates_start_in_the_standard_manner(name):
    """What reads tokens by the number of inputs, what reads states orthogonal; the forget gate open. Five sigma."""
    cfg = ModelConfig(vocab_size=16, d_model=64, num_layers=2, block=Choice(name, {"d_hidden": 32}))
    blocks = jit(functools.partial(model.init_params, cfg))(jax.random.key(0))["blocks"]
    for path, inputs in (("input", 64), ("output", 32)):
        x = np.asarray(blocks[path]["kernel"])
        np.testing.assert_allclose(np.std(x), inputs**-0.5, rtol=5 / np.sqrt(2 * x.size))
    matrices = np.moveaxis(np.asarray(blocks["state"]["kernel"]), 2, 1).reshape(-1, 32, 32)
    for i, one in enumerate(matrices):
        np.testing.assert_allclose(one.T @ one, np.eye(32), atol=1e-5)
        assert all(np.abs(one - other).max() > 0.1 for other in matrices[:i])
    forget = [[0.0] * 32, [1.0] * 32, [0.0] * 32, [0.0] * 32]
    assert blocks["bias"].tolist() == [forget if name == "lstm" else [[0.0] * 32] * 3] * 2


def inputs_of(variant):
    random = np.random.default_rng(0)
    normal = lambda *shape: random.standard_normal(shape, np.float32)  # noqa: E731
    G = variant.num_gates
    state = tuple(normal(B, H) for _ in range(variant.num_states))
    found = Marks(random.random((T, B, 1)) < 0.3, random.random((T, B, 1)) < 0.7)
    return normal(H, G, H), normal(T, B, G, H), state, found


def step_by_step(variant, kernel_JGH, x_TBGH, state, found):
    """What `recur` computes, with neither loop nor gradient of its own."""
    y_TBH = []
    for x_BGH, fresh_B1, real_B1 in zip(x_TBGH, *found, strict=True):
        begun = tuple(jnp.where(fresh_B1, 0, x_BH) for x_BH in state)
        new = variant.advance(begun, x_BGH, jnp.einsum("BJ,JGH->BGH", begun[0], kernel_JGH))
        state = tuple(jnp.where(real_B1, a_BH, b_BH) for a_BH, b_BH in zip(new, state, strict=True))
        y_TBH.append(new[0])
    return jnp.stack(y_TBH), state


@variants
def test_the_gradient_is_that_of_the_steps(name):
    """For kernel, tokens and the first state, from all outputs and the last state."""
    variant = VARIANTS[name]
    *inputs, found = inputs_of(variant)

    def gradients(run):
        def loss(*inputs):
            return sum(jnp.sum(jnp.sin((k + 2) * x)) for k, x in enumerate(jax.tree.leaves(run(*inputs))))

        return jit(jax.grad(loss, argnums=(0, 1, 2)))(*inputs)

    actual = gradients(lambda *inputs: recur(variant.advance, *inputs, found))
    expected = gradients(lambda *inputs: step_by_step(variant, *inputs, found))
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-5)


def scans(jaxpr):
    """Yields every loop in a program."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan":
            yield equation
        for inner in core.jaxprs_in_params(equation.params):
            yield from scans(inner)


@variants
def test_no_loop_carries_the_gradient_of_the_kernel(name):
    """It is one product after the loop, not a sum that is read and written at every step."""
    variant = VARIANTS[name]
    *inputs, found = inputs_of(variant)
    loss = lambda *inputs: jnp.sum(recur(variant.advance, *inputs, found)[0])  # noqa: E731
    loops = list(scans(jax.make_jaxpr(jax.grad(loss))(*inputs).jaxpr))
    assert len(loops) == 2
    for loop in loops:
        assert inputs[0].shape not in [x.aval.shape for x in loop.outvars]


def test_the_context_is_unlimited_and_attention_needs_no_part_of_the_config():
    """Seven heads divide nothing: a recurrent model has none. It says what it ignores."""
    cfg = ModelConfig(vocab_size=16, d_model=8, num_heads=7, block=Choice("gru"), positions=Choice("rotary"))
    assert cfg.validate() == []
    assert cfg.ignored() == ["num_heads", "positions"]
    assert cfg.max_context > 2**30
    assert "positions" not in model.param_shapes(cfg)
    assert ModelConfig(block=Choice("lstm"), norm=Choice("rmsnorm")).ignored() == ["norm"]
    assert ModelConfig(block=Choice("lstm", {"residual": True}), norm=Choice("rmsnorm")).ignored() == []
    assert ModelConfig(num_heads=7).ignored() == []


def test_dropout_is_on_what_a_layer_shows_and_never_on_its_state():
    """Of the last layer's output a half is 0 and the rest doubled; the state goes on whole (arXiv 1409.2329)."""
    cfg = ModelConfig(vocab_size=16, d_model=64, num_layers=1, block=Choice("lstm"), dropout=0.5)
    params, tokens_BT = random_params(cfg, 0.5), jnp.zeros((1, 8), int)
    # Without weights on tokens, the dropped embedding does not show.
    params["blocks"]["input"]["kernel"] *= 0
    features = jit(lambda key: model.features(cfg, params, tokens_BT, dropout_key=key)[0])
    dropped_BTD, whole_BTD = features(jax.random.key(0)), features(None)
    kept_BTD = dropped_BTD != 0
    assert 0.3 < jnp.mean(kept_BTD) < 0.7
    np.testing.assert_allclose(dropped_BTD[kept_BTD], 2 * whole_BTD[kept_BTD], rtol=1e-6)
