"""The collectives of a loss by hand, as XLA compiles them for eight virtual devices."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax import manual, sharding
from gptjax.config import ExperimentConfig
from gptjax.model.config import ModelConfig
from gptjax.program import build_program
from gptjax.sharding import Layout, MeshConfig, make_mesh
from gptjax.tasks.mixture import build_tasks
from gptjax.tasks.task import Setting


def step_text(rules, **axes):
    """Returns the optimised step of a small model, two blocks in a loop."""
    cfg = ExperimentConfig(mesh=MeshConfig(rules=rules, **axes))
    model = ModelConfig(vocab_size=128, d_model=64, num_layers=2, num_heads=2, seq_len=16, use_bias=False)
    cfg = dataclasses.replace(cfg, model=model, data=dataclasses.replace(cfg.data, batch_size=16))
    lowered = build_program(cfg, model.resolve(), build_tasks(cfg.tasks, Setting(""))).lower_train_step()
    return lowered.compile({"xla_backend_optimization_level": 0}).as_text()


def count(text, opcode):
    return text.count(f" {opcode}(")


@pytest.mark.parametrize("replica", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_gradients_by_hand_leave_the_backward_pass_scattered(replica):
    """A reduce-scatter for each of a block's six matrices and for the head; no matrix is summed whole."""
    text = step_text("fsdp_manual", replica=replica)
    assert count(text, "reduce-scatter") >= 7
    fsdp = 8 // replica
    for result in re.findall(r"= (.*?) all-reduce\(", text):
        for dims in re.findall(r"f32\[([\d,]+)\]", result):
            assert np.prod([int(size) for size in dims.split(",")]) <= 64 * 256 / fsdp, result


def test_the_table_is_not_gathered_to_look_tokens_up():
    """The activations are exchanged in its place; the head gathers the table once."""
    text = step_text("fsdp_manual")
    assert count(text, "all-to-all") >= 2
    assert len(re.findall(r"= f32\[128,64\]\S* all-gather\(", text)) == 1


def test_gather_and_its_gradient_on_devices_with_other_data():
    """The whole weight forward; backward the sum over all devices, each with its part."""
    layout = Layout(make_mesh(MeshConfig(rules="fsdp_manual", replica=2)), "fsdp_manual")
    weight, rows = jnp.arange(32.0).reshape(8, 4), jnp.arange(16.0).reshape(16, 1)

    def loss(weight, rows):
        return jnp.sum(manual.gather(weight, ("embed", None), "float32") * jnp.sum(rows))

    with sharding.use(layout):
        run = manual.per_device(jax.grad(loss), layout, (("embed", None), ("act_batch", None)), ("embed", None))
        np.testing.assert_allclose(jax.jit(run)(weight, rows), np.full((8, 4), rows.sum()))


def test_without_rules_by_hand_nothing_happens():
    layout = Layout(make_mesh(MeshConfig()), "fsdp")
    with sharding.use(layout):
        weight = jnp.ones((8, 4))
        assert manual.gather(weight, ("embed", None), "bfloat16") is weight
        assert manual.total(weight) is weight
        assert manual.local_size(64, "embed") == 64
        assert manual.per_device(print, layout, (), ()) is print
