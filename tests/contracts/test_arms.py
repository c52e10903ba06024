"""What every way of fine-tuning owes: what is frozen stays as it is, to the bit, on any mesh; the rest moves."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax import model
from gptjax.config import ExperimentConfig, own_problems
from gptjax.data.config import DataConfig
from gptjax.model.config import LoRAConfig, ModelConfig
from gptjax.optim.config import OptimConfig
from gptjax.optim.masks import path_of
from gptjax.program import build_program
from gptjax.registry import Choice
from gptjax.sharding import MeshConfig
from gptjax.tasks.mixture import build_tasks
from gptjax.tasks.task import Setting
from gptjax.train.config import TrainConfig
from gptjax.types import Batch
from tests.params import random_params

PLAIN = ModelConfig(
    vocab_size=32, d_model=16, num_layers=2, num_heads=2, d_ff=32, seq_len=8, vocab_multiple=32, use_bias=False,
    tie_embeddings=False,
)  # fmt: skip
ADAPTERS = LoRAConfig(rank=2, targets=r"blocks/(attention/(query|output)|mlp/up)")
ARMS = {
    "full": ({}, {}),
    "adapters": ({"lora": ADAPTERS}, {"trained": "adapters"}),
    "head": ({}, {"trained": "head/.*"}),
    "top layer": ({}, {"top_layers": 1}),
    "layer decay": ({}, {"layer_decay": 0.5}),
    "adapters of the top layer": ({"lora": ADAPTERS}, {"trained": "adapters", "top_layers": 1}),
}
MESHES = {
    "one device": MeshConfig(fsdp=1),
    "fsdp 2 x tensor 2": MeshConfig(fsdp=2, tensor=2, rules="fsdp_tp"),
    "by hand, fsdp 4": MeshConfig(fsdp=4, rules="fsdp_manual"),
}
SLOW = ("full", "head", "layer decay", "adapters of the top layer")  # others are near
arms = pytest.mark.parametrize("arm", [pytest.param(arm, marks=[pytest.mark.slow] * (arm in SLOW)) for arm in ARMS])


def experiment(arm, sequences=None):
    in_model, in_optim = ARMS[arm]
    cfg = ExperimentConfig(
        model=dataclasses.replace(PLAIN, **in_model),
        data=DataConfig(batch_size=4),
        optim=OptimConfig(warmup_steps=0, peak_lr=0.1, schedule=Choice("constant"), weight_decay=0.3, **in_optim),
        train=TrainConfig(max_sequences_per_device=sequences),
    )
    assert own_problems(cfg) == []
    return cfg


@functools.cache
def program(arm, mesh="one device", sequences=None):
    cfg = dataclasses.replace(experiment(arm, sequences), mesh=MESHES[mesh])
    tasks, devices = build_tasks(cfg.tasks, Setting("")), jax.devices()[: 1 if mesh == "one device" else 4]
    return build_program(cfg, cfg.model.resolve(), tasks, devices)


def batch():
    tokens_BT = np.random.default_rng(0).integers(0, 32, (4, 9)).astype(np.int32)
    ones_BT = np.ones((4, 8), np.int32)
    return Batch(tokens_BT[:, :-1], tokens_BT[:, 1:], ones_BT.astype(np.float32), ones_BT, np.arange(8) * ones_BT, {})


@functools.cache
def after_two_steps(arm, mesh="one device", sequences=None):
    """Returns the parameters before and after, the last metrics, and by path whether their buffers are the same."""
    built = program(arm, mesh, sequences)
    where = jax.tree.map(lambda leaf: leaf.sharding, built.abstract)
    before = random_params(built.model, 0.3)
    state = built.abstract._replace(step=jnp.int32(0), params=before, opt_state=built.tx.init(before))
    state = jax.tree.map(lambda x, at: jax.device_put(np.array(x), at), state, where)
    data = jax.tree.map(lambda x: jax.device_put(x, built.batch_sharding), batch())
    step = built.lower_train_step().compile({"xla_backend_optimization_level": 0})
    state, _ = step(state, data)
    buffers = places(state.params)  # from here on its own: what comes from the host may not be handed on
    state, metrics = step(state, data)
    same = jax.tree.map(lambda x, y: x == y, buffers, places(state.params))
    return jax.device_get((before, state.params, metrics, same))


def places(params):
    """Returns where each parameter lies in the memory of the first device."""
    return jax.tree.map(lambda x: x.addressable_shards[0].data.unsafe_buffer_pointer(), params)


def moved(before, after):
    """Returns by path whether each layer (of what is not stacked: all of it) moved."""
    leaves = zip(*map(jax.tree_util.tree_leaves_with_path, (before, after)), strict=True)
    return {
        path_of(path): [bool(np.any(a != b)) for a, b in zip(x, y, strict=True)]
        if path[0].key == "blocks"
        else [bool(np.any(x != y))]
        for (path, x), (_, y) in leaves
    }


EXPECTED = {
    "full": lambda path: [True, True],
    "adapters": lambda path: ["lora" in path] * 2,
    "head": lambda path: [path == "head/kernel"] * 2,
    "top layer": lambda path: [False, not path.startswith(("tokens", "positions"))],
    "layer decay": lambda path: [True, True],
    "adapters of the top layer": lambda path: [False, "lora" in path],
}


@arms
def test_what_is_trained_moves_and_what_is_frozen_is_the_same_to_the_bit(arm):
    before, after, _, _ = after_two_steps(arm)
    for path, layers in moved(before, after).items():
        assert layers == EXPECTED[arm](path)[-len(layers) :], path


@arms
def test_the_state_has_moments_of_what_is_trained_alone(arm):
    built = program(arm)
    sizes = [leaf.size for leaf in jax.tree.leaves(built.trained)]
    kept = [leaf.size for leaf in jax.tree.leaves(built.abstract.opt_state) if leaf.shape]
    assert sorted(kept) == sorted(2 * sizes)


@pytest.mark.parametrize(
    ("arm", "mesh"),
    [
        pytest.param(arm, mesh, marks=[pytest.mark.slow] * ((arm, mesh) != ("adapters", "by hand, fsdp 4")))
        for arm in ARMS
        for mesh in MESHES
        if mesh != "one device"
    ],
)
def test_the_mesh_changes_rounding_only(arm, mesh):
    before, expected, metrics, _ = after_two_steps(arm)
    _, after, on_mesh, _ = after_two_steps(arm, mesh)
    assert moved(before, after) == moved(before, expected)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-2), after, expected)
    np.testing.assert_allclose(on_mesh["grad_norm"][0], metrics["grad_norm"][0], rtol=1e-3)


@pytest.mark.slow
def test_micro_batches_sum_the_gradients_of_the_part():
    before, expected, metrics, _ = after_two_steps("top layer")
    _, after, in_parts, _ = after_two_steps("top layer", sequences=2)
    assert moved(before, after) == moved(before, expected)
    np.testing.assert_allclose(in_parts["grad_norm"][0], metrics["grad_norm"][0], rtol=1e-3)


def test_gradients_are_reported_for_what_is_trained_alone():
    _, _, metrics, _ = after_two_steps("head")
    assert [name for name in metrics if name.startswith("grad_norm/")] == ["grad_norm/head/kernel"]
    assert metrics["grad_norm"][0] == metrics["grad_norm/head/kernel"][0]


@arms
def test_what_is_frozen_stays_where_it_lies(arm):
    """A step copies nothing of the frozen part: it hands the buffers on. So it does what it changes, in place."""
    *_, same = after_two_steps(arm)
    assert all(jax.tree.leaves(same))


def test_adapters_need_to_be_chosen():
    """Neither to add them and to train all the same, nor to train what is not there."""
    cfg = experiment("adapters")
    everything = dataclasses.replace(cfg, optim=dataclasses.replace(cfg.optim, trained="all"))
    assert "set optim.trained='adapters'" in own_problems(everything)[0]
    nothing = dataclasses.replace(cfg, model=PLAIN)
    assert "set model.lora.rank=8" in own_problems(nothing)[0]


def test_flops_of_frozen_weights_are_less():
    """A frozen body below a head costs a forward pass; adapters save the gradients of the weights beside them."""
    full, adapters, head = (program(arm).flops_per_token for arm in ("full", "adapters", "head"))
    leaves = jax.tree_util.tree_leaves_with_path(model.param_shapes(PLAIN))
    weights = sum(leaf.size for path, leaf in leaves if path[-1].key == "kernel")
    narrow = sum(leaf.size for leaf in jax.tree.leaves(program("adapters").trained))
    scores = 2 * 8 * 16 * 2
    assert full == 6 * (weights + scores)
    assert adapters == 4 * weights + 6 * (narrow + scores)
    assert head == 2 * (weights + scores) + 2 * 16 * 32
