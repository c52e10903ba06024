"""Times on wires, worked out by hand on fleets of paper."""

import types

import numpy as np
import pytest

from gptjax.chips import CHIPS
from gptjax.plan.collectives import Transfer
from gptjax.plan.roofline import interconnect_seconds
from gptjax.plan.topology import Fleet

GB = 10**9


def torus(chip, shape, wraps, slices=1):
    cells = [(island, *cell) for island in range(slices) for cell in np.ndindex(shape)]
    devices = [types.SimpleNamespace(slice_index=cell[0], coords=[*cell[1:], 0, 0][:3]) for cell in cells]
    return Fleet(name=chip, chip=CHIPS[chip], shape=shape, wraps=wraps, slices=slices, devices=devices)


def hosts(chip, count, size):
    devices = [types.SimpleNamespace(id=number) for number in range(count * size)]
    return Fleet(name=chip, chip=CHIPS[chip], shape=(count, size), wraps=(), slices=1, devices=devices)


V5P = torus("v5p", (4, 4, 4), (True, True, True))
H100 = hosts("h100", 2, 4)


@pytest.mark.parametrize(
    ("fleet", "kind", "group", "bandwidth"),
    [
        (V5P, "all-gather", range(4), 2 * 100e9),  # a ring along one dim of the torus: two links
        (V5P, "all-gather", range(64), 6 * 100e9),  # all three
        (V5P, "all-reduce", range(2), 100e9),  # half of a ring is a line
        (torus("v5e", (4, 4), (False, False)), "all-gather", range(4), 50e9),
        (H100, "all-gather", range(4), 450e9),  # NVLink within a host
        (H100, "all-gather", (0, 4), 50e9),  # one network card each
        (H100, "all-gather", range(8), 1 / (1 / 450e9 + 1 / 200e9)),  # NVLink, and four cards together
        (H100, "all-to-all", range(8), 1 / (1 / 450e9 + 1 / 50e9)),  # everyone has its own to send
        (torus("v5p", (2, 2, 1), (False,) * 3, slices=2), "all-reduce", (0, 4), 50e9 / 8),
    ],
)
def test_a_group_uses_the_links_between_its_members(fleet, kind, group, bandwidth):
    transfer = Transfer(kind, tuple(group), ("fsdp",), GB, 3)
    assert interconnect_seconds(fleet, fleet.devices, [transfer]) == {"fsdp": pytest.approx(3 * GB / bandwidth)}


def test_axes_add_up():
    transfers = [Transfer("all-gather", (0, 1), ("tensor",), GB, 1), Transfer("all-gather", (0, 4), ("fsdp",), GB, 2)]
    seconds = interconnect_seconds(H100, H100.devices, transfers)
    assert seconds == {"tensor": pytest.approx(1 / 450), "fsdp": pytest.approx(2 / 50)}
