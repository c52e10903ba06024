"""What every optimiser in the table owes: masks, state that lies as the parameters, progress, a checkpoint."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax import model, registry
from gptjax.model.config import ModelConfig
from gptjax.optim.config import OptimConfig
from gptjax.optim.masks import leaves_of, put, take, trained_part
from gptjax.optim.optimizer import OPTIMIZERS, evaluation_params, make_optimizer, skips
from gptjax.registry import Choice
from gptjax.sharding import Layout, MeshConfig, make_mesh
from gptjax.train.checkpoint import Checkpoints
from gptjax.train.state import abstract_state

CFG = ModelConfig(vocab_size=32, d_model=16, num_layers=2, num_heads=2, seq_len=8, tie_embeddings=False)
SHAPES, NAMES = model.param_shapes(CFG), model.logical_axes(CFG)
SMALL = {"adafactor": {"min_factored_dim": 4, "b1": 0.9}, "soap": {"refresh_every": 3, "max_dim": 100}}
"""Options that show on a small model what the defaults show on a large one."""
SCHEDULES = {"schedule_free": "constant"}
"""What goes with no other schedule."""
FIRST = ("adamw", "muon", "schedule_free")
optimizers = pytest.mark.parametrize(  # rules of other kinds; the rest have what these have
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in FIRST)) for name in OPTIMIZERS]
)


def config(name, options=None, **kwargs):
    """A constant rate from the first step, unless it is said otherwise; whatever is said has to be valid."""
    choice = Choice(name, {**SMALL.get(name, {}), **(options or {})})
    cfg = OptimConfig(**{"optimizer": choice, "schedule": Choice("constant"), "warmup_steps": 0, **kwargs})
    assert cfg.validate() == []
    return cfg


def identity(params):
    """The gradient of a loss with a Hessian of ones, for rules that look at one."""
    return params


def some(tree):
    """One of each kind of parameter: the others would only take longer to compile."""
    blocks = tree["blocks"]
    attention = {name: blocks["attention"][name] for name in ("query", "output")}
    return {
        **{name: tree[name] for name in ("tokens", "head")},
        "blocks": {"attention": attention, "mlp": {"up": blocks["mlp"]["up"]}, "mlp_norm": blocks["mlp_norm"]},
    }


def random_params(seed):
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(random.standard_normal(x.shape), x.dtype), some(SHAPES))


@functools.cache
def descent(name):
    """Jitted: the optimiser's start, and a step towards a target that takes parameters and state over."""
    cfg = config(name, weight_decay=0.0, peak_lr=0.05, num_steps=200, schedule=Choice(SCHEDULES.get(name, "linear")))
    tx = make_optimizer(cfg, some(SHAPES), some(NAMES))

    def distance(params, target):
        return sum(jnp.sum((p - t) ** 2) for p, t in zip(jax.tree.leaves(params), jax.tree.leaves(target), strict=True))

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, target):
        loss, grads = jax.value_and_grad(distance)(params, target)
        updates, state = tx.update(
            grads, state, params, loss=loss, gradient_at=functools.partial(jax.grad(distance), target=target)
        )
        return jax.tree.map(jnp.add, params, updates), state, loss

    return jax.jit(tx.init), step


@optimizers
def test_decay_reaches_the_matrices_and_nothing_else(name):
    """With zero gradients only decayed parameters move, and every one of them does."""
    params = jax.tree.map(lambda x: jnp.ones(x.shape), some(SHAPES))
    tx = make_optimizer(config(name, weight_decay=0.5, peak_lr=0.1), params, some(NAMES))
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = jax.jit(lambda: tx.update(zeros, tx.init(params), params, loss=1.0, gradient_at=identity))()
    for path, update in jax.tree_util.tree_leaves_with_path(updates):
        # A parameter of 1 moves by 0.05, to its rounding.
        np.testing.assert_allclose(update, -0.1 * 0.5 if path[-1].key == "kernel" else 0, atol=2**-23, rtol=0)


@optimizers
@pytest.mark.parametrize("rules", ["fsdp", "fsdp_tp"])
def test_state_lies_as_its_parameters(name, rules):
    """Nothing as large as a matrix is replicated."""
    mesh = MeshConfig(tensor=2) if rules == "fsdp_tp" else MeshConfig()
    tx = make_optimizer(config(name), SHAPES, NAMES)
    abstract = abstract_state(SHAPES, NAMES, tx, Layout(make_mesh(mesh), rules))
    least = min(leaf.size for path, leaf in jax.tree_util.tree_leaves_with_path(SHAPES) if path[-1].key == "kernel")
    large = [leaf for leaf in jax.tree.leaves(abstract.opt_state) if leaf.size >= least]
    assert large
    for leaf in large:
        assert not leaf.sharding.is_fully_replicated, leaf.shape


@optimizers
def test_it_minimises(name):
    """Two hundred steps on a quadratic bring the parameters to their target; state and parameters are donated."""
    params = random_params(0)
    target = jax.tree.map(lambda p, noise: p + 0.3 * noise, params, random_params(1))
    init, step = descent(name)
    state, losses = init(params), []
    for _ in range(200):
        params, state, loss = step(params, state, target)
        losses.append(float(loss))
    assert losses[-1] < 0.001 * losses[0]


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name != "muon")) for name in OPTIMIZERS],
)
def test_the_mesh_changes_rounding_only(name):
    """Matrices are split over eight devices, along both of their sides, and so is all that belongs to them."""
    # After one gradient the longer side of a matrix has eigenvalues of 0, and any basis will do for those.
    options = {"max_dim": 16} if name == "soap" else {}
    tx = make_optimizer(config(name, options, peak_lr=1.0), some(SHAPES), some(NAMES))
    layout = Layout(make_mesh(MeshConfig(fsdp=4, tensor=2)), "fsdp_tp")
    abstract = abstract_state(some(SHAPES), some(NAMES), tx, layout)
    where = jax.tree.map(lambda leaf: leaf.sharding, abstract)

    def step(params, state, grads):
        return tx.update(grads, state, params, loss=1.0, gradient_at=identity)

    def steps(step, put):
        params, state = put(random_params(0), where.params), put(tx.init(random_params(0)), where.opt_state)
        for seed in (1, 2):
            updates, state = step(params, state, put(random_params(seed), where.params))
        return updates, state

    expected, _ = steps(jax.jit(step), lambda tree, _: tree)
    updates, state = steps(jax.jit(step, out_shardings=(where.params, where.opt_state)), jax.device_put)
    assert jax.tree.map(lambda leaf: leaf.sharding, state) == where.opt_state
    # Eigenvectors make more of rounding than sums do, most of all where a second moment is nearly 0: few elements.
    for x, y in zip(jax.tree.leaves(updates), jax.tree.leaves(expected), strict=True):
        assert np.linalg.norm(x - y) < 1e-3 * np.linalg.norm(y)


@optimizers
def test_a_step_that_is_not_finite_changes_nothing(name):
    params = random_params(0)
    init, step = descent(name)
    params, state, _ = step(params, init(params), random_params(1))
    before = jax.device_get((params, state.inner))
    params, state, _ = step(params, state, jax.tree.map(lambda p: p * jnp.nan, params))
    jax.tree.map(np.testing.assert_array_equal, before, (params, state.inner))
    assert int(skips(state).total) == 1


def top_queries(name, **options):
    """The optimiser of the top layer's queries, that of a model in which there is nothing else, and this part."""
    options = {"weight_decay": 0.1, "clip_norm": 0.1, **options}
    cfg = config(name, trained="blocks/attention/query/.*", top_layers=1, **options)
    part = trained_part(cfg, some(SHAPES), some(NAMES))
    alone = make_optimizer(config(name, **options), part, leaves_of(some(NAMES), part))
    return make_optimizer(cfg, some(SHAPES), some(NAMES)), alone, part


@optimizers
def test_its_state_is_of_the_trained_part_alone(name):
    tx, alone, part = top_queries(name)
    states = [jax.eval_shape(tx.init, some(SHAPES)), jax.eval_shape(alone.init, part)]
    assert jax.tree.map(lambda x: (x.shape, x.dtype), states[0]) == jax.tree.map(
        lambda x: (x.shape, x.dtype), states[1]
    )


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name not in ("adamw", "schedule_free"))) for name in OPTIMIZERS],
)
def test_what_is_frozen_changes_no_update(name):
    """And averages are evaluated together with what is frozen."""
    tx, alone, part = top_queries(name, ema_decay=0.5 if name == "adamw" else None)
    params, grads, results = random_params(0), take(random_params(1), part), []
    for optimizer, tree in ((tx, params), (alone, take(params, part))):
        state = optimizer.init(tree)
        step = jax.jit(functools.partial(optimizer.update, loss=1.0, gradient_at=identity))
        for _ in range(2):
            updates, state = step(grads, state, tree)
        results.append((updates, evaluation_params(state, tree)))
    (updates, evaluated), (expected, evaluated_alone) = results
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-8), updates, expected)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), evaluated, put(params, evaluated_alone))


@pytest.mark.parametrize(
    ("name", "mu_dtype"),
    [
        *((name, None) for name in OPTIMIZERS),
        *((name, "bfloat16") for name, rule in OPTIMIZERS.items() if "mu_dtype" in registry.options(rule)),
    ],
)
def test_an_update_keeps_the_types_of_its_state(name, mu_dtype):
    """Updates are float32 whatever the moments are; those that may be bfloat16 are, before and after."""
    params = some(SHAPES)
    tx = make_optimizer(config(name, {} if mu_dtype is None else {"mu_dtype": mu_dtype}), params, some(NAMES))
    state = jax.eval_shape(tx.init, params)
    updates, after = jax.eval_shape(
        lambda g, s, p: tx.update(g, s, p, loss=1.0, gradient_at=identity), params, state, params
    )

    def types(tree):
        return jax.tree.map(lambda x: (x.shape, x.dtype), tree)

    assert types(after) == types(state)
    assert types(updates) == types(params)
    halved = sum(leaf.size for leaf in jax.tree.leaves(state) if leaf.dtype == jnp.bfloat16)
    assert halved == (0 if mu_dtype is None else sum(leaf.size for leaf in jax.tree.leaves(params)))


@optimizers
def test_state_survives_a_checkpoint_onto_another_mesh(name, tmp_path):
    """Saved from eight devices as fsdp, restored as fsdp x tensor: equal to the bit."""
    tx = make_optimizer(config(name), some(SHAPES), some(NAMES))
    layouts = [Layout(make_mesh(MeshConfig()), "fsdp"), Layout(make_mesh(MeshConfig(tensor=2)), "fsdp_tp")]
    abstracts = [abstract_state(some(SHAPES), some(NAMES), tx, layout) for layout in layouts]
    random = np.random.default_rng(0)
    state = jax.tree.map(
        lambda leaf: jax.device_put(random.uniform(0, 100, leaf.shape).astype(leaf.dtype), leaf.sharding), abstracts[0]
    )
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state, 3, 24, {}, None)
    checkpoints.wait()
    restored, cursor = checkpoints.restore(3, abstracts[1])
    assert (int(restored.step), cursor) == (3, 24)
    for before, after, wanted in zip(
        jax.tree.leaves(state)[1:], jax.tree.leaves(restored)[1:], jax.tree.leaves(abstracts[1])[1:], strict=True
    ):
        np.testing.assert_array_equal(before, after)
        assert after.sharding == wanted.sharding
