"""The training step against its definition, on a model small enough to see through."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gptjax.optim.transforms import on_part, skip_nonfinite
from gptjax.sharding import Layout, MeshConfig, make_mesh
from gptjax.train.state import TrainState
from gptjax.train.step import batch_checksum, group_norms, make_train_step, mix
from gptjax.types import Batch

V = 7


def loss_fn(params, batch, step, part):
    """A bigram model: the logits of the next token are a row of a table."""
    logits_BTV = params["table"][batch.tokens_BT]
    nll_BT = optax.softmax_cross_entropy_with_integer_labels(logits_BTV, batch.targets_BT)
    loss_sum = jnp.sum(nll_BT * batch.loss_mask_BT)
    return loss_sum, {"loss": (loss_sum, jnp.sum(batch.loss_mask_BT))}


def batch(seed=0, B=8, T=5):
    rng = np.random.default_rng(seed)
    tokens_BT = rng.integers(0, V, (B, T + 1)).astype(np.int32)
    mask_BT = (rng.random((B, T)) < 0.6).astype(np.float32)
    positions_BT = np.broadcast_to(np.arange(T, dtype=np.int32), (B, T))
    return Batch(tokens_BT[:, :-1], tokens_BT[:, 1:], mask_BT, np.ones((B, T), np.int32), positions_BT, {})


def layout():
    return Layout(make_mesh(MeshConfig(), jax.devices()[:1]), "dp")


def one_step(accumulation, data, table=None):
    params = {"table": jax.random.normal(jax.random.key(0), (V, V)) if table is None else table}
    tx = skip_nonfinite(optax.sgd(0.5))
    state = TrainState(jnp.zeros((), jnp.int32), params, tx.init(params))
    names = {"table": (None, None)}
    step = make_train_step(
        loss_fn, tx, optax.constant_schedule(0.5), layout(), names, params, lambda batch_size: accumulation
    )
    return params, *jax.jit(step)(state, data)


def test_a_step_is_the_gradient_of_the_mean_over_counted_tokens():
    data = batch()
    params, state, metrics = one_step(1, data)
    mean = lambda p: loss_fn(p, data, 0, 0)[0] / data.loss_mask_BT.sum()  # noqa: E731
    grads = jax.grad(mean)(params)
    np.testing.assert_allclose(state.params["table"], params["table"] - 0.5 * grads["table"], rtol=1e-5, atol=1e-7)
    assert int(state.step) == 1
    np.testing.assert_allclose(metrics["loss"][0] / metrics["loss"][1], mean(params), rtol=1e-6)
    np.testing.assert_allclose(metrics["grad_norm"][0], optax.tree.norm(grads), rtol=1e-5)


@pytest.mark.parametrize("accumulation", [2, 4, 8])
def test_micro_batches_change_rounding_only(accumulation):
    """Although each holds another number of counted tokens: the division is by the global count."""
    _, whole, whole_metrics = one_step(1, batch())
    _, parts, parts_metrics = one_step(accumulation, batch())
    np.testing.assert_allclose(parts.params["table"], whole.params["table"], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(parts_metrics["loss"][0], whole_metrics["loss"][0], rtol=1e-6)
    assert int(parts_metrics["batch_checksum"][0]) == int(whole_metrics["batch_checksum"][0])


def test_a_step_that_is_not_finite_moves_nothing_but_the_counters():
    table = jnp.full((V, V), jnp.nan)
    _, state, metrics = one_step(1, batch(), table)
    assert np.isnan(state.params["table"]).all()
    assert int(state.step) == 1
    assert (int(metrics["skipped_in_a_row"][0]), int(metrics["skipped_steps"][0])) == (1, 1)


def test_nothing_counted_is_no_division_by_zero():
    data = batch()._replace(loss_mask_BT=np.zeros((8, 5), np.float32))
    params, state, _ = one_step(1, data)
    np.testing.assert_array_equal(state.params["table"], params["table"])


def test_the_checksum_is_its_definition_in_plain_integers():
    def mixed(x):
        x = (x + 0x9E3779B9) % 2**32
        x = (x ^ (x >> 16)) * 0x85EBCA6B % 2**32
        x = (x ^ (x >> 13)) * 0xC2B2AE35 % 2**32
        return x ^ (x >> 16)

    data = batch(B=3, T=4)
    expected = 0
    for r in range(3):
        for t in range(4):
            expected += mixed(mixed(mixed(r * 4 + t) ^ int(data.tokens_BT[r, t])) ^ int(data.positions_BT[r, t]))
    assert int(batch_checksum(jax.tree.map(jnp.asarray, data))) == expected % 2**32


def test_the_checksum_sees_order_tokens_and_positions():
    data = jax.tree.map(jnp.asarray, batch())
    changed = [
        data._replace(tokens_BT=data.tokens_BT[::-1]),
        data._replace(tokens_BT=data.tokens_BT.at[0, 0].add(1)),
        data._replace(positions_BT=data.positions_BT + 1),
    ]
    assert len({int(batch_checksum(each)) for each in [data, *changed]}) == 4


def test_mix_is_one_to_one_on_a_sample():
    x = jnp.arange(1 << 16, dtype=jnp.uint32) * jnp.uint32(65_537)
    assert len(np.unique(mix(x))) == 1 << 16


def test_group_norms_add_up_to_the_norm():
    tree = {"blocks": {"mlp": {"up": jnp.ones(3), "down": 2 * jnp.ones(2)}, "norm": jnp.ones(4)}, "head": jnp.ones(5)}
    norms = group_norms(tree)
    assert set(norms) == {"blocks/mlp", "blocks/norm", "head"}
    np.testing.assert_allclose(sum(n**2 for n in norms.values()), optax.tree.norm(tree) ** 2, rtol=1e-6)


@pytest.mark.slow
def test_a_rule_may_differentiate_the_loss_of_the_first_micro_batch_again():
    """Rows 0, 2, 4 ... of two micro-batches, as a mean over their own tokens."""
    data, seen = batch(), {}

    def update(grads, state, params, *, gradient_at):
        seen["gradient"] = gradient_at(params)
        return grads, state

    looks = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    params = {"table": jax.random.normal(jax.random.key(0), (V, V))}
    state = TrainState(jnp.zeros((), jnp.int32), params, skip_nonfinite(looks).init(params))
    names = {"table": (None, None)}
    step = make_train_step(
        loss_fn, skip_nonfinite(looks), optax.constant_schedule(0.5), layout(), names, params, lambda batch_size: 2
    )
    with jax.disable_jit():
        step(state, data)
    part = jax.tree.map(lambda x: x[::2], data)
    expected = jax.grad(lambda p: loss_fn(p, part, 0, 0)[0] / part.loss_mask_BT.sum())(params)
    np.testing.assert_allclose(seen["gradient"]["table"], expected["table"], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("accumulation", [1, 4])
def test_of_a_part_alone_there_are_gradients(accumulation):
    """The upper layers of a stack move as they would among others; the rest is the same to the bit."""
    stack = jax.random.normal(jax.random.key(0), (3, V, V))
    params = {"stack": stack, "frozen": jax.random.normal(jax.random.key(1), (V, V))}

    def loss(params, *inputs):
        return loss_fn({"table": jnp.tanh(params["stack"]).sum(0) * params["frozen"]}, *inputs)

    def step(part):
        tx = on_part(skip_nonfinite(optax.sgd(0.5)), part)
        names = {"stack": ("layers", None, None), "frozen": (None, None)}
        run = make_train_step(loss, tx, optax.constant_schedule(0.5), layout(), names, part, lambda size: accumulation)
        return jax.jit(run)(TrainState(jnp.zeros((), jnp.int32), params, tx.init(params)), batch())

    whole, _ = step(params)
    state, metrics = step({"stack": jax.ShapeDtypeStruct((2, V, V), jnp.float32)})
    np.testing.assert_array_equal(state.params["frozen"], params["frozen"])
    np.testing.assert_array_equal(state.params["stack"][0], stack[0])
    np.testing.assert_allclose(state.params["stack"][1:], whole.params["stack"][1:], rtol=1e-5, atol=1e-7)
    assert np.all(np.any(state.params["stack"][1:] != stack[1:], axis=(1, 2)))
    norm = optax.tree.norm((state.params["stack"] - stack) / 0.5)
    np.testing.assert_allclose(metrics["grad_norm"][0], norm, rtol=1e-4)
