"""The collectives of a compiled program: what each moves, between which devices, how often.

Bytes are flat: an all-gather counts its result, a reduce-scatter its operands, an all-reduce its operands twice (it is
both), an all-to-all and a permutation their operands; of a group of n, the exact share would be (n - 1) / n of that.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from gptjax.plan.hlo import Computation, Instruction, Module, num_bytes

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")
_ALIASES = {"ragged-all-to-all": "all-to-all", "collective-broadcast": "all-gather"}


class Transfer(NamedTuple):
    """One collective."""

    kind: str
    group: tuple[int, ...]
    """The devices of one group, by their place on the mesh; all groups of a collective are alike."""
    axes: tuple[str, ...]
    """The mesh axes that the group stretches over."""
    bytes: int
    """Of one chip and one execution."""
    times: int


def transfers(module: Module, mesh: Mapping[str, int], slices: int = 1) -> list[Transfer]:
    """Returns the collectives that one device executes; devices are numbered by the axes and sizes of `mesh`.

    Of several slices each has a program of its own, in which the slices' exchanges are sends and receipts of hosts, and
    the slice is what the mesh's first axis counts slowest.
    """
    num_devices, found = math.prod(mesh.values()), []
    for computation, instruction, times in module.executed():
        for inside, collective in _collectives(module, computation, instruction):
            kind = _kind(collective)
            assert kind is not None
            if collective.opcode == "send":
                group = tuple(range(0, num_devices, num_devices // slices))
            else:
                group = _group(collective.text, num_devices // slices)
            if kind == "all-reduce" and inside is not computation and _is_scattered(inside):
                kind = "reduce-scatter"
            operands = sum(num_bytes(inside[name].result) for name in collective.operands)
            moved = operands * {"all-gather": len(group), "all-reduce": 2}.get(kind, 1)
            if len(group) > 1:
                found.append(Transfer(kind, group, _axes(group, mesh), moved, times))
    return found


def by_kind(found: Iterable[Transfer]) -> dict[str, int]:
    """Returns the bytes of each kind of collective, of one chip and step."""
    total: dict[str, int] = dict.fromkeys(KINDS, 0)
    for transfer in found:
        total[transfer.kind] += transfer.bytes * transfer.times
    return total


def by_axes(found: Iterable[Transfer]) -> dict[str, int]:
    """Returns the bytes over each set of mesh axes, of one chip and step."""
    total: Counter[str] = Counter()
    for transfer in found:
        total["+".join(transfer.axes)] += transfer.bytes * transfer.times
    return dict(total)


def _kind(instruction: Instruction) -> str | None:
    opcode = instruction.opcode.removesuffix("-start")
    between_slices = re.search(r'_xla_megascale_transfer_type="(\w+)"', instruction.text) if opcode == "send" else None
    if between_slices:
        opcode = between_slices[1].lower().replace("_", "-")
        return opcode if opcode in KINDS else "collective-permute"
    opcode = _ALIASES.get(opcode, opcode)
    return opcode if opcode in KINDS else None


def _collectives(
    module: Module, computation: Computation, instruction: Instruction
) -> Iterator[tuple[Computation, Instruction]]:
    """Gives the instruction where it is a collective, or those inside it where it is a fusion.

    On TPUs an asynchronous collective stands in three kinds of fusions: one that starts it, some that go on with it
    beside other work, and one that ends it. It counts where it starts.
    """
    if _kind(instruction):
        yield computation, instruction
    elif instruction.opcode == "fusion":
        for name in instruction.called("calls"):
            inside = module.computations[name]
            if "async_collective_fusion" in name or any('"AsyncCollectiveDone"' in i.text for i in inside.values()):
                continue
            for nested in inside.values():
                yield from _collectives(module, inside, nested)


def _is_scattered(fusion: Computation) -> bool:
    """Whether a fusion cuts each device's part out of its sum: how older TPUs write a reduce-scatter."""
    return any(i.opcode == "dynamic-slice" for i in fusion.values())


def _axes(group: tuple[int, ...], mesh: Mapping[str, int]) -> tuple[str, ...]:
    places = np.unravel_index(np.array(group), tuple(mesh.values()))
    return tuple(axis for axis, place in zip(mesh, places, strict=True) if len(set(place.tolist())) > 1)


# ---- groups of devices, in the ways that XLA writes them


def _group(text: str, num_devices: int) -> tuple[int, ...]:
    """Returns the first group of a collective's attributes."""
    pairs = re.search(r"source_target_pairs=\{([\d,{}]*)\}", text)
    if pairs:
        return _ring({int(source): int(target) for source, target in re.findall(r"(\d+),(\d+)", pairs[1])})
    listed = re.search(r"replica_groups=\{\{([\d,]*)\}", text)
    if listed:
        return tuple(map(int, listed[1].split(",")))
    iota = re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text)
    if iota:
        shape, dims = _numbers(iota[1]), _numbers(iota[2])
        ids = np.arange(math.prod(dims)).reshape(dims)
        ids = ids.transpose(_numbers(iota[3])) if iota[3] else ids
        return tuple(ids.reshape(shape)[0].tolist())
    mesh = re.search(r"replica_groups=mesh\[([^\]]*)\](.*?) \{([^}]*)\}", text)
    if mesh:
        return _mesh_group(mesh[1], mesh[2], mesh[3])
    return tuple(range(num_devices))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


def _ring(targets: Mapping[int, int]) -> tuple[int, ...]:
    """Returns the devices that a permutation leads through from its first source."""
    place, group = next(iter(targets)), []
    while place not in group:
        group.append(place)
        place = targets.get(place, group[0])
    return tuple(group)


def _mesh_group(axes: str, order: str, along: str) -> tuple[int, ...]:
    """Reads mesh['a'=4,'b'=4], device_ids=([4,4]T(1,0)) {'a','b':(1)2}: a part of an axis is (size before)size."""
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", axes)}
    ids = np.arange(math.prod(sizes.values()))
    device_ids = re.search(r"device_ids=\((?:\[([\d,]+)\]T\(([\d,]+)\)|([\d,]+))\)", order)
    if device_ids and device_ids[1]:
        ids = ids.reshape(_numbers(device_ids[1])).transpose(_numbers(device_ids[2])).reshape(-1)
    elif device_ids:
        ids = np.array(_numbers(device_ids[3]))
    ids = ids.reshape(tuple(sizes.values()))
    index = [np.zeros(1, int)] * len(sizes)
    for name, before, size in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", along):
        stride = sizes[name] // (int(before) * int(size)) if size else 1
        index[list(sizes).index(name)] = np.arange(int(size) if size else sizes[name]) * stride
    return tuple(ids[np.ix_(*index)].reshape(-1).tolist())
