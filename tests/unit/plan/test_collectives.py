"""Bytes on the wires: of programs really compiled, where arithmetic knows them, and of what TPUs print."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from gptjax.plan import collectives, hlo

MESH = {"a": 2, "b": 4}


def compiled(function, steps):
    """Compiles a function of (a, b)-sharded f32[16, 32], of which a device has f32[8, 8], in a loop."""
    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(AxisType.Auto,) * 2)

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=P("a", "b"), out_specs=P("a", "b"), check_vma=False)
    def looped(x):
        return jax.lax.scan(lambda x, _: (function(jnp.sin(x)), None), x, length=steps)[0]

    x = jax.ShapeDtypeStruct((16, 32), jnp.float32, sharding=NamedSharding(mesh, P("a", "b")))
    return hlo.parse(jax.jit(looped).lower(x).compile().as_text())


LOCAL = 8 * 8 * 4
CASES = {
    "all-gather": (lambda x: jax.lax.all_gather(x, "b", axis=0, tiled=True)[:8], ("b",), 4 * LOCAL),
    "reduce-scatter": (
        lambda x: jnp.tile(jax.lax.psum_scatter(x, "a", scatter_dimension=0, tiled=True), (2, 1)),
        ("a",),
        LOCAL,
    ),
    "all-reduce": (lambda x: jax.lax.psum(x, ("a", "b")), ("a", "b"), 2 * LOCAL),
    "all-to-all": (lambda x: jax.lax.all_to_all(x, "b", 0, 0, tiled=True), ("b",), LOCAL),
    "collective-permute": (lambda x: jax.lax.ppermute(x, "b", [(i, (i + 1) % 4) for i in range(4)]), ("b",), LOCAL),
}


@pytest.mark.parametrize("kind", CASES)
def test_a_compiled_collective_moves_what_arithmetic_says(kind):
    """In a loop of three: kind, axes and bytes."""
    function, axes, moved = CASES[kind]
    found = collectives.transfers(compiled(function, 3), MESH)
    assert [(t.kind, t.axes, t.bytes, t.times) for t in found] == [(kind, axes, moved, 3)]
    assert collectives.by_kind(found) == {**dict.fromkeys(collectives.KINDS, 0), kind: 3 * moved}
    assert collectives.by_axes(found) == {"+".join(axes): 3 * moved}


GROUPS = {
    "replica_groups={{0,4},{1,5},{2,6},{3,7}}, x": ((0, 4), ("a",)),
    "replica_groups={}, x": (tuple(range(8)), ("a", "b")),
    "replica_groups=[2,4]<=[8], x": ((0, 1, 2, 3), ("b",)),
    "replica_groups=[4,2]<=[2,4]T(1,0), x": ((0, 4), ("a",)),
    "replica_groups=mesh['x'=2,'y'=4] {'y'}, x": ((0, 1, 2, 3), ("b",)),
    "replica_groups=mesh['x'=2,'y'=4] {'x','y'}, x": (tuple(range(8)), ("a", "b")),
    "replica_groups=mesh['x'=8] {'x':(2)4}, x": ((0, 1, 2, 3), ("b",)),
    "replica_groups=mesh['x'=8] {'x':(1)2}, x": ((0, 4), ("a",)),
    "replica_groups=mesh['x'=4,'y'=2], device_ids=([2,4]T(1,0)) {'y'}, x": ((0, 4), ("a",)),
    "source_target_pairs={{0,1},{1,2},{2,3},{3,0},{4,5},{5,6},{6,7},{7,4}}, x": ((0, 1, 2, 3), ("b",)),
}


@pytest.mark.parametrize("text", GROUPS)
def test_groups_are_read_in_each_way_they_are_written(text):
    group, axes = GROUPS[text]
    assert sorted(collectives._group(text, 8)) == sorted(group)
    assert collectives._axes(group, MESH) == axes


TPU = """\
HloModule m

%start_fusion (p: f32[8,4]) -> (f32[8,4], f32[32,4]) {
  %p = f32[8,4]{1,0:T(8,128)} parameter(0)
  %all-gather.1 = f32[32,4]{1,0:T(8,128)} all-gather(%p), channel_id=1, replica_groups={{0,1,2,3},{4,5,6,7}}
  ROOT %call.1 = (f32[8,4], f32[32,4]) custom-call(%all-gather.1), custom_call_target="AsyncCollectiveStart"
}

%async_collective_fusion.5 (q: f32[8,4]) -> f32[32,4] {
  %q = f32[8,4]{1,0:T(8,128)} parameter(0)
  ROOT %all-gather.2 = f32[32,4]{1,0:T(8,128)} all-gather(%q), channel_id=1, replica_groups={{0,1,2,3},{4,5,6,7}}
}

%done_fusion (r: f32[8,4]) -> f32[32,4] {
  %r = f32[8,4]{1,0:T(8,128)} parameter(0)
  %all-gather.3 = f32[32,4]{1,0:T(8,128)} all-gather(%r), channel_id=1, replica_groups={{0,1,2,3},{4,5,6,7}}
  ROOT %call.3 = f32[32,4] custom-call(%r, %all-gather.3), custom_call_target="AsyncCollectiveDone"
}

%scatter (s: f32[8,4]) -> f32[4,4] {
  %s = f32[8,4]{1,0:T(8,128)} parameter(0)
  %sum = f32[8,4]{1,0:T(8,128)} all-reduce(%s), replica_groups={{0,4},{1,5},{2,6},{3,7}}, to_apply=%add
  ROOT %part = f32[4,4]{1,0:T(8,128)} dynamic-slice(%sum, %s), dynamic_slice_sizes={4,4}
}

ENTRY %main (x: f32[8,4]) -> f32[32,4] {
  %x = f32[8,4]{1,0:T(8,128)} parameter(0)
  %one = (f32[8,4], f32[32,4], s32[2]{0:S(4)}) fusion(%x), kind=kCustom, calls=%start_fusion
  %two = f32[32,4] fusion(%x), kind=kCustom, calls=%async_collective_fusion.5
  %four = f32[4,4] fusion(%x), kind=kCustom, calls=%scatter
  ROOT %three = f32[32,4] fusion(%x), kind=kCustom, calls=%done_fusion
}
"""


def test_an_asynchronous_collective_of_a_tpu_counts_where_it_starts():
    """And a sum of which a fusion cuts each device's part is a reduce-scatter."""
    found = collectives.transfers(hlo.parse(TPU), MESH)
    assert [(t.kind, t.axes, t.bytes) for t in found] == [("all-gather", ("b",), 512), ("reduce-scatter", ("a",), 128)]


def test_both_halves_of_a_gpus_asynchronous_collective_count_once():
    text = """\
HloModule m

ENTRY %main (x: f32[8], y: bf16[4]) -> (f32[32], bf16[16]) {
  %x = f32[8]{0} parameter(0)
  %y = bf16[4]{0} parameter(1)
  %go = ((f32[8]{0}, bf16[4]{0}), (f32[32]{0}, bf16[16]{0})) all-gather-start(%x, %y), replica_groups=[2,4]<=[8]
  ROOT %end = (f32[32]{0}, bf16[16]{0}) all-gather-done(%go)
}
"""
    assert [t.bytes for t in collectives.transfers(hlo.parse(text), MESH)] == [32 * 4 + 16 * 2]


def test_slices_exchange_by_the_hosts():
    """A sum over two slices of a part of 16 numbers; within a slice, devices are numbered from 0."""
    text = """\
HloModule m

ENTRY %main (x: f32[16]) -> f32[16] {
  %x = f32[16]{0} parameter(0)
  %go = token[] after-all()
  %out = (f32[16]{0}, u32[], token[]) send(%x, %go), frontend_attributes={_xla_megascale_transfer_type="ALL_REDUCE"}
  %in = (f32[16]{0}, u32[], token[]) recv(%go), frontend_attributes={_xla_megascale_transfer_type="ALL_REDUCE"}
  ROOT %sum = f32[16]{0} all-reduce(%x), replica_groups={}, to_apply=%add
}
"""
    found = collectives.transfers(hlo.parse(text), {"replica": 2, "fsdp": 4}, slices=2)
    assert [(t.kind, t.group, t.axes, t.bytes) for t in found] == [
        ("all-reduce", (0, 4), ("replica",), 128),
        ("all-reduce", (0, 1, 2, 3), ("fsdp",), 128),
    ]
