"""Meshes, logical names and the rules between them, on eight virtual devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax import sharding
from gptjax.sharding import Layout, MeshConfig, make_mesh
from gptjax.types import UserError


def layout(rules="fsdp_tp", **axes):
    return Layout(make_mesh(MeshConfig(rules=rules, **axes)), rules)


@pytest.mark.parametrize(
    ("cfg", "expected"),
    [
        (MeshConfig(), (1, 8, 1, 1, 1)),
        (MeshConfig(replica=2, tensor=2), (2, 2, 1, 1, 2)),
        (MeshConfig(fsdp=1, tensor=None), (1, 1, 1, 1, 8)),
        (MeshConfig(fsdp=4, context=2), (1, 4, 1, 2, 1)),
    ],
)
def test_one_axis_takes_the_devices_that_are_left_over(cfg, expected):
    assert tuple(make_mesh(cfg).shape.values()) == expected


@pytest.mark.parametrize(
    ("cfg", "words"),
    [
        (MeshConfig(tensor=3), "multiple of 3 devices and there are 8"),
        (MeshConfig(fsdp=2, tensor=2), "needs 4 devices and there are 8"),
        (MeshConfig(replica=None), "both None"),
        (MeshConfig(tensor=0), "tensor=0 is less than 1"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(cfg, words):
    with pytest.raises(UserError, match=words):
        cfg.shape(8)
    assert cfg.validate(8)


def test_every_rule_names_known_dims_and_axes():
    for rules in sharding.RULES.values():
        assert set(rules) <= sharding.LOGICAL_NAMES
        for axes in rules.values():
            assert {axes} <= set(sharding.AXES) if isinstance(axes, str) else set(axes) <= set(sharding.AXES)


def test_weights_and_activations_share_no_name():
    assert not sharding.WEIGHT_NAMES & sharding.ACTIVATION_NAMES


def test_a_misspelt_name_raises():
    with pytest.raises(ValueError, match="did you mean embed"):
        layout().spec(("embd", "ff"))


def test_shardings_split_by_the_rules():
    tree = sharding.shardings(
        layout(tensor=2), {"kernel": ("embed", "ff")}, {"kernel": jax.ShapeDtypeStruct((8, 6), jnp.float32)}
    )
    assert tree["kernel"].shard_shape((8, 6)) == (2, 3)


@pytest.mark.parametrize(
    ("names", "shape", "words"),
    [
        (("embed", "ff"), (6, 6), r"block/kernel: dim 0 \(embed\) of size 6 does not divide over axis fsdp of size 4"),
        (("ff", "q_heads"), (8, 8), "block/kernel: .* two of its dims over axis"),
    ],
)
def test_what_cannot_be_split_names_parameter_dim_and_axis(names, shape, words):
    with pytest.raises(UserError, match=words):
        sharding.shardings(
            layout(tensor=2), {"block": {"kernel": names}}, {"block": {"kernel": jax.ShapeDtypeStruct(shape, "f4")}}
        )


def test_constrain_pins_inside_a_layout_and_is_the_identity_outside():
    x = jnp.ones((8, 4))
    assert sharding.constrain(x, "act_batch", None) is x
    here = layout()

    @jax.jit
    def pinned(x):
        with sharding.use(here):
            return sharding.constrain(x, "act_batch", None)

    assert pinned(x).sharding.shard_shape((8, 4)) == (1, 4)


def test_local_rows_are_those_that_the_devices_hold():
    assert np.array_equal(sharding.local_rows(layout().sharding(("act_batch", None)), (16, 3)), np.arange(16))
