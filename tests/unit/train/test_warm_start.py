"""Starting from the parameters of a model that has other adapters or classifiers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax import model
from gptjax.model import lora
from gptjax.model.config import LoRAConfig, ModelConfig
from gptjax.sharding import Layout, MeshConfig, make_mesh, shardings
from gptjax.train.checkpoint import Checkpoints
from gptjax.train.state import TrainState
from gptjax.train.warm_start import adopt, read_params, start_from
from gptjax.types import UserError
from tests.params import random_params

BODY = {"blocks": {"query": {"kernel": (2, 3)}, "norm": {"scale": (3,)}}}
SENTIMENT = {"classifiers": {"sentiment": {"kernel": (3, 2)}}}


def filled(shapes, value):
    return jax.tree.map(lambda shape: jnp.full(shape, value), shapes, is_leaf=lambda x: isinstance(x, tuple))


def asked(shapes):
    where = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), filled(shapes, 0.0))


def start(path, saved, wanted):
    """Ones are saved; fresh ones are twos."""
    with Checkpoints(path) as checkpoints:
        checkpoints.save(TrainState(jnp.zeros((), jnp.int32), filled(saved, 1.0), {"m": jnp.ones(1)}), 4, 0, {}, None)
    init = lambda key: filled(wanted, 2.0)  # noqa: E731
    return adopt(Checkpoints(path, read_only=True), 4, asked(wanted), init, jax.random.key(0))


def test_equal_trees_are_taken_as_they_are(tmp_path):
    params, lines = start(tmp_path, {**BODY, **SENTIMENT}, {**BODY, **SENTIMENT})
    jax.tree.map(np.testing.assert_array_equal, params, filled({**BODY, **SENTIMENT}, 1.0))
    assert lines == []


def test_what_is_not_there_is_fresh_and_what_is_not_wanted_is_left_out(tmp_path):
    query = {"kernel": (2, 3), "lora_a": {"kernel": (2, 1)}, "lora_b": {"kernel": (1, 3)}}
    wanted = {"blocks": {**BODY["blocks"], "query": query}, "classifiers": {"entities": {"kernel": (3, 5)}}}
    params, lines = start(tmp_path, {**BODY, **SENTIMENT}, wanted)
    assert lines == [
        "fresh, since it has none: blocks/query/lora_a/kernel, blocks/query/lora_b/kernel, classifiers/entities/kernel",
        "left out, since the model has none: classifiers/sentiment/kernel",
    ]
    for path, x in jax.tree_util.tree_leaves_with_path(params):
        name = jax.tree_util.keystr(path)
        assert np.all(x == (2 if "lora" in name or "entities" in name else 1)), name
    assert jax.tree.map(jnp.shape, params) == wanted


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ({**BODY, "extra": {"kernel": (1,)}}, "there is no extra/kernel there"),
        ({"blocks": {"query": {"kernel": (2, 3)}}}, "there is no blocks/norm/scale in this model"),
        ({**BODY, "classifiers": {"sentiment": {"kernel": (3, 4)}}}, r"has the shape \(3, 2\) there and \(3, 4\) here"),
    ],
)
def test_another_body_is_another_model(tmp_path, wanted, reason):
    with pytest.raises(UserError, match=rf"/4 is of another model \(.*{reason}.*\); set model"):
        start(tmp_path, {**BODY, **SENTIMENT}, wanted)


def test_to_use_a_model_other_classifiers_are_left_out_and_nothing_is_fresh(tmp_path):
    start(tmp_path, {**BODY, **SENTIMENT}, BODY)
    checkpoints = Checkpoints(tmp_path, read_only=True)
    jax.tree.map(np.testing.assert_array_equal, read_params(checkpoints, 4, asked(BODY)), filled(BODY, 1.0))
    entities = {"classifiers": {"entities": {"kernel": (3, 5)}}}
    with pytest.raises(UserError, match="there is no classifiers/entities/kernel there"):
        read_params(checkpoints, 4, asked({**BODY, **entities}))


def test_adapters_are_part_of_what_a_model_computes(tmp_path):
    start(tmp_path, {**BODY, "blocks": {**BODY["blocks"], "lora_a": {"kernel": (2, 1)}}}, BODY)
    with pytest.raises(UserError, match="there is no blocks/lora_a/kernel in this model"):
        read_params(Checkpoints(tmp_path, read_only=True), 4, asked(BODY))


@pytest.mark.parametrize("kind", ["nf4", pytest.param("int8", marks=pytest.mark.slow)])
def test_kernels_come_whole_and_are_kept_in_few_bits(tmp_path, kind):
    """On a mesh; and what was saved in few bits is taken as it is."""
    pytest.importorskip("qwix", reason="qwix is not installed: pip install 'gptjax[qlora]'")
    whole = ModelConfig(vocab_size=32, d_model=16, num_layers=2, num_heads=2, seq_len=8, lora=LoRAConfig(rank=2))
    cfg = dataclasses.replace(whole, lora=dataclasses.replace(whole.lora, base=kind))
    layout = Layout(make_mesh(MeshConfig()))
    shapes = model.param_shapes(cfg)
    where = shardings(layout, model.logical_axes(cfg), shapes)
    abstract = jax.tree.map(lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at), shapes, where)
    params, state = random_params(whole, 0.1), TrainState(jnp.zeros((), jnp.int32), {}, {"m": jnp.ones(1)})
    expected = lora.quantise(cfg, params)
    for name, saved in (("whole", params), ("packed", expected)):
        with Checkpoints(tmp_path / name) as checkpoints:
            checkpoints.save(state._replace(params=saved), 4, 0, {}, None)
        reader = Checkpoints(tmp_path / name, read_only=True)
        found, lines = start_from(reader, 4, cfg, abstract, layout, jax.random.key(0))
        assert lines == ([f"adapted kernels are kept as {kind}"] if name == "whole" else [])
        jax.tree.map(np.testing.assert_array_equal, found, expected)
        assert jax.tree.map(lambda x: x.sharding, found) == where
