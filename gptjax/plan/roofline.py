"""The least time that a step can take by published figures: arithmetic, memory and wires, each at full speed."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import jax

from gptjax.plan.collectives import Transfer
from gptjax.plan.topology import Fleet


def interconnect_seconds(
    fleet: Fleet, devices: Sequence[jax.Device], transfers: Iterable[Transfer]
) -> dict[str, float]:
    """Returns the time of the collectives by the mesh axes that they go over, one after the other.

    `devices` are in the order of the mesh.
    """
    seconds: defaultdict[str, float] = defaultdict(float)
    for transfer in transfers:
        places = [fleet.place(devices[number]) for number in transfer.group]
        seconds["+".join(transfer.axes)] += transfer.times * transfer.bytes * _seconds_per_byte(fleet, transfer, places)
    return dict(seconds)


def _seconds_per_byte(fleet: Fleet, transfer: Transfer, places: Sequence[tuple[int, tuple[int, ...]]]) -> float:
    """Inside an island of fast links first, then between islands: the sum of both, as of a hierarchical collective.

    Between islands the members of a group that share one divide the bytes among their network cards, except where each
    has its own to send (all-to-all and permutations).
    """
    islands = Counter(island for island, _ in places)
    (island, members), *_ = islands.most_common()
    seconds = 0.0
    if members > 1:
        seconds += 1 / _fast_bandwidth(fleet, [place for where, place in places if where == island])
    if len(islands) > 1:
        shared = 1 if transfer.kind in ("all-to-all", "collective-permute") else members
        seconds += 1 / (shared * fleet.chip.network_bandwidth)
    return seconds


def _fast_bandwidth(fleet: Fleet, places: Sequence[tuple[int, ...]]) -> float:
    """What a chip takes in from its group at once: of each dim of the torus two links in a ring, one on a line."""
    links = 0
    for size, wraps, coordinates in zip(fleet.shape, fleet.wraps, zip(*places, strict=True), strict=False):
        length = len(set(coordinates))
        if length > 1:
            links += 2 if wraps and length == size else 1
    return fleet.chip.link_bandwidth * max(links, 1)
