"""The final loss by position in the context, of runs with evaluation.by_position: who makes use of a long one.

Computes; knows nothing of how a report looks.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from gptjax.sweep.results import Arm, Estimate, Result, estimate

_PREFIX = "loss_by_position/"


class Profile(NamedTuple):
    """An arm's losses at the positions below each of `ends`, and from the end before on."""

    ends: Sequence[int]
    losses: Sequence[Estimate | None]
    differences: Sequence[Estimate | None]
    """From the first arm, by pairs of the same seed."""
    last_fall: int | None
    """The last end at which the loss is lower than at the end before: the 95 % interval of the fall, over seeds, is
    below zero. None where there is no such end, or one seed only."""


def profiles(arms: Sequence[Arm]) -> dict[str, Profile]:
    """Returns the profile of each arm, by name, whose finished runs all know their loss by position."""
    found = {}
    for arm in arms:
        losses = {result.seed: _losses(result) for result in arm.finished}
        ends = sorted(set.intersection(*(set(each) for each in losses.values()))) if losses else []
        if not ends:
            continue
        baseline = {result.seed: _losses(result) for result in arms[0].finished}
        shared = [seed for seed in losses if seed in baseline]
        falls = {
            end: estimate([each[end] - each[before] for each in losses.values()])
            for before, end in itertools.pairwise(ends)
        }
        found[arm.name] = Profile(
            ends,
            [estimate([each[end] for each in losses.values()]) for end in ends],
            [estimate([losses[s][end] - baseline[s][end] for s in shared if end in baseline[s]]) for end in ends],
            max((end for end, fall in falls.items() if _is_below_zero(fall)), default=None),
        )
    return found


def _losses(result: Result) -> dict[int, float]:
    row = next((row for row in reversed(result.rows) if row["split"] == "valid"), {})
    return {
        int(name.removeprefix(_PREFIX)): loss
        for name, loss in row.items()
        if name.startswith(_PREFIX) and loss is not None
    }


def _is_below_zero(fall: Estimate | None) -> bool:
    return fall is not None and fall.half_width is not None and fall.mean + fall.half_width < 0
