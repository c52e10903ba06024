"""What is composed into an update, and where its state lies; tests/contracts/test_optimizers.py has the table."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax.optim.config import OptimConfig
from gptjax.optim.optimizer import evaluation_params, make_optimizer, make_schedule, skips, state_shardings
from gptjax.optim.rules import OPTIMIZERS
from gptjax.registry import Choice
from gptjax.sharding import Layout, MeshConfig, make_mesh

PARAMS = {
    "a": {"kernel": np.full((2, 3), 2.0, np.float32), "bias": np.ones(3, np.float32)},
    "b": {"kernel": np.full((3, 2), -1.0, np.float32)},
}
NAMES = {"a": {"kernel": ("embed", "ff"), "bias": ("ff",)}, "b": {"kernel": ("ff", "embed")}}


# Most of the time here would go into making small programs fast; what they compute is under test.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@functools.cache
def clipper(clip_norm):
    """Adam with an epsilon of 1: its first update is no longer the same for every length of the gradient."""
    cfg = OptimConfig(optimizer=Choice("adamw", {"eps": 1.0}), warmup_steps=0, weight_decay=0.0, clip_norm=clip_norm)
    tx = make_optimizer(cfg, PARAMS, NAMES)
    return jit(lambda grads: tx.update(grads, tx.init(PARAMS), PARAMS, loss=1.0))


def random_grads(norm):
    """Gradients of a given global norm, of other lengths in each parameter."""
    random = np.random.default_rng(0)
    grads = jax.tree.map(lambda p: random.standard_normal(p.shape) * p.size, PARAMS)
    whole = np.sqrt(sum(np.sum(g**2) for g in jax.tree.leaves(grads)))
    return jax.tree.map(lambda g: np.float32(g * norm / whole), grads)


def assert_close(one, other):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), one, other)


def test_the_first_moment_may_be_kept_in_bfloat16():
    """Half its bytes, and the first update differs by bfloat16's rounding alone."""
    grads = random_grads(1.0)
    first = {}
    for mu_dtype in (None, "bfloat16"):
        cfg = OptimConfig(optimizer=Choice("adamw", {"mu_dtype": mu_dtype}), warmup_steps=0)
        tx = make_optimizer(cfg, PARAMS, NAMES)
        first[mu_dtype], state = jit(lambda grads, tx=tx: tx.update(grads, tx.init(PARAMS), PARAMS, loss=1.0))(grads)
        kept = [
            leaf.dtype
            for path, leaf in jax.tree_util.tree_leaves_with_path(state)
            if ".mu[" in jax.tree_util.keystr(path)
        ]
        assert kept == [jnp.dtype(mu_dtype or "float32")] * 3
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2**-8), first[None], first["bfloat16"])
    assert "mu_dtype='int8'" in OptimConfig(optimizer=Choice("adamw", {"mu_dtype": "int8"})).validate()[0]


def test_a_huge_gradient_is_clipped_as_a_whole():
    """To the global norm, with its direction kept over all parameters; one below, or without a limit, is left."""
    updates = {}
    for norm in (0.4, 0.5, 1e6):
        for clip_norm in (0.5, None):
            updates[norm, clip_norm] = clipper(clip_norm)(random_grads(norm))[0]
    assert_close(updates[1e6, 0.5], updates[0.5, None])
    assert_close(updates[0.4, 0.5], updates[0.4, None])
    for update in jax.tree.leaves(updates[1e6, None]):  # there the epsilon does not show
        np.testing.assert_allclose(np.abs(update), OptimConfig().peak_lr, rtol=1e-3)


def test_an_update_is_the_rate_of_its_step_in_the_warm_up_and_after():
    """Under a constant gradient Adam moves by the learning rate, and decayed parameters by their share of it too."""
    cfg = OptimConfig(
        num_steps=12, warmup_steps=4, peak_lr=0.1, weight_decay=0.5, clip_norm=None, schedule=Choice("linear")
    )
    tx, schedule = make_optimizer(cfg, PARAMS, NAMES), make_schedule(cfg)
    state, update = tx.init(PARAMS), jit(tx.update)
    rates = []
    for step in range(12):
        updates, state = update(jax.tree.map(np.ones_like, PARAMS), state, PARAMS, loss=1.0)
        rates.append(-float(updates["a"]["bias"][0]))
        assert rates[-1] == pytest.approx(float(schedule(step)), rel=1e-4)
        np.testing.assert_allclose(updates["a"]["kernel"], -rates[-1] * (1 + 0.5 * 2.0), rtol=1e-5)
        np.testing.assert_allclose(updates["b"]["kernel"], -rates[-1] * (1 - 0.5 * 1.0), rtol=1e-5)
    np.testing.assert_allclose(rates[:6], [0.02, 0.04, 0.06, 0.08, 0.1, 0.1 * 7 / 8], rtol=1e-4)


@pytest.mark.parametrize("clip_norm", [0.5, None])
def test_a_gradient_that_is_not_finite_is_skipped_before_it_is_clipped(clip_norm):
    """Clipping would make it NaN everywhere."""
    grads = random_grads(1.0)
    grads["a"]["bias"][1] = np.inf
    updates, state = clipper(clip_norm)(grads)
    assert not any(jnp.any(update) for update in jax.tree.leaves(updates))
    assert (int(skips(state).consecutive), int(skips(state).total)) == (1, 1)


def after(cfg, steps, factors=None):
    """Returns parameters, evaluation parameters and state after a few steps along gradients of ones."""
    tx = make_optimizer(cfg, PARAMS, NAMES, factors)
    # A loss with a Hessian of ones, for the rule that looks at it.
    update = jit(functools.partial(tx.update, loss=1.0, gradient_at=lambda params: params))
    params, state = jax.tree.map(jnp.asarray, PARAMS), tx.init(PARAMS)
    for _ in range(steps):
        updates, state = update(jax.tree.map(jnp.ones_like, params), state, params)
        params = jax.tree.map(jnp.add, params, updates)
    return params, evaluation_params(state, params), state


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in ("adamw", "muon"))) for name in OPTIMIZERS]
)
def test_a_factor_scales_all_of_a_parameters_update(name):
    """Decay included: half the rate for one parameter is, for it, half the rate for all; and 0 freezes."""
    common = {"optimizer": Choice(name), "schedule": Choice("constant"), "warmup_steps": 0, "clip_norm": None}
    some, _, _ = after(OptimConfig(**common, peak_lr=0.1, lr_factors=(("a/.*", 0.5), (".*/bias", 0.0))), 3)
    half, _, _ = after(OptimConfig(**common, peak_lr=0.05), 3)
    np.testing.assert_allclose(some["a"]["kernel"], half["a"]["kernel"], rtol=1e-5)
    np.testing.assert_array_equal(some["a"]["bias"], PARAMS["a"]["bias"])
    moved, less = (np.abs(params["b"]["kernel"] - PARAMS["b"]["kernel"]) for params in (some, half))
    assert np.all(moved > 1.5 * less)


def test_factors_of_the_model_multiply_those_of_the_config():
    cfg = OptimConfig(warmup_steps=0, lr_factors=(("a/kernel", 0.5),))
    factors = {"a": {"kernel": 4.0, "bias": 1.0}, "b": {"kernel": 2.0}}
    plain, _, _ = after(OptimConfig(warmup_steps=0), 1)
    scaled, _, _ = after(cfg, 1, factors)
    moved = [jax.tree.map(lambda new, old: new - old, params, PARAMS) for params in (plain, scaled)]
    for path, factor in ((("a", "kernel"), 2.0), (("a", "bias"), 1.0), (("b", "kernel"), 2.0)):
        one, other = (tree[path[0]][path[1]] for tree in moved)
        np.testing.assert_allclose(other, factor * one, rtol=1e-3)


def test_evaluation_uses_an_average_where_there_is_one_and_else_the_parameters_themselves():
    common = {"warmup_steps": 0, "schedule": Choice("constant"), "weight_decay": 0.0}
    params, used, _ = after(OptimConfig(**common), 3)
    assert used is params
    _, used, _ = after(OptimConfig(**common, peak_lr=0.1, ema_decay=0.5), 2)
    np.testing.assert_allclose(used["a"]["bias"], (0.9 * 0.5 + 0.8) / 1.5, rtol=1e-4)  # it was 0.9, and is 0.8
    params, used, state = after(OptimConfig(**common, peak_lr=0.1, optimizer=Choice("schedule_free")), 2)
    # Steps of 0.1 from 1: z is 0.9 and 0.8, their mean is evaluated, and gradients are taken a tenth of the way to z.
    np.testing.assert_allclose(used["a"]["bias"], 0.85, rtol=1e-4)
    np.testing.assert_allclose(params["a"]["bias"], 0.9 * 0.85 + 0.1 * 0.8, rtol=1e-4)
    assert int(skips(state).total) == 0


# ---- where the state lies (names stand for shardings)


def test_each_moment_lies_as_its_own_parameter():
    """The longest path decides: a parameter's name may end another's, and shapes may be equal."""
    params = {"kernel": jnp.ones((2, 3)), "x": {"kernel": jnp.ones((2, 3))}, "scale": jnp.ones(3)}
    where = {"kernel": "top", "x": {"kernel": "inner"}, "scale": "scale"}
    names = jax.tree.map(lambda p: (None,) * p.ndim, params)
    tx = make_optimizer(OptimConfig(no_decay="scale", decay=".*kernel"), params, names)
    state = jax.eval_shape(tx.init, params)
    leaves = jax.tree_util.tree_leaves_with_path(state_shardings(state, params, where, "everywhere"))
    found = {jax.tree_util.keystr(path, simple=True, separator="/"): place for path, place in leaves}
    moments = {path: place for path, place in found.items() if place != "everywhere"}
    assert sorted(moments.values()) == ["inner", "inner", "scale", "scale", "top", "top"]
    for path, place in moments.items():
        assert path.endswith({"top": "/kernel", "inner": "/x/kernel", "scale": "/scale"}[place]), path
    assert sum(place == "everywhere" for place in found.values()) >= 3  # the counters


def test_a_dim_of_another_shape_lies_as_the_next_dim_of_its_size_does():
    """As those of Adafactor's row and column means, and of SOAP's bases; another path is replicated."""
    layout = Layout(make_mesh(MeshConfig(fsdp=4, tensor=2)), "fsdp_tp")
    params = {"x": {"kernel": jnp.ones((3, 8, 4, 2))}}
    where = {"x": {"kernel": layout.sharding(("layers", "embed", "q_heads", "head_dim"))}}
    expected = {
        (3, 8, 4, 2): ("layers", "embed", "q_heads", "head_dim"),
        (3, 4, 2): ("layers", "q_heads", "head_dim"),
        (3, 8, 2): ("layers", "embed", "head_dim"),
        (3, 8, 8): ("layers", "embed", "q_heads"),
        (3, 4, 2, 8): ("layers", "q_heads", "head_dim", "embed"),
        (3, 4, 2, 6): ("layers", "q_heads", "head_dim", None),  # 6 does not divide over 4
        (1,): (None,),
        (5, 8): (None, "embed"),
        (): (),
    }
    for shape, names in expected.items():
        state = {"m": {"x": {"kernel": jnp.ones(shape)}}, "x": {"other": jnp.ones(shape)}}
        places = state_shardings(state, params, where, layout.replicated)
        assert places["m"]["x"]["kernel"].is_equivalent_to(layout.sharding(names), len(shape)), shape
        assert places["x"]["other"] == layout.replicated
