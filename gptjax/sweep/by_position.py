"""The final loss by position in the context, of runs with evaluation.by_position: who makes use of a long one.

Computes; knows nothing of how a report looks.
"""

from collections.abc import Sequence
from typing import NamedTuple

from gptjax.sweep.results import Arm, Estimate, Result, estimate

MARGIN = 0.02
"""What is less counts as no improvement: other positions hold other tokens, so that losses differ all the same."""
_PREFIX = "loss_by_position/"


class Profile(NamedTuple):
    """An arm's losses at the positions below each of `ends`, and from the end before on."""

    ends: Sequence[int]
    losses: Sequence[Estimate | None]
    differences: Sequence[Estimate | None]
    """From the first arm, by pairs of the same seed."""

    @property
    def settled(self) -> int:
        """The first end after which no mean loss is lower by more than MARGIN of it."""
        means = [loss.mean for loss in self.losses if loss is not None]  # each is of a run or more
        return next(end for i, end in enumerate(self.ends) if min(means[i:]) >= (1 - MARGIN) * means[i])


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
        found[arm.name] = Profile(
            ends,
            [estimate([each[end] for each in losses.values()]) for end in ends],
            [estimate([losses[s][end] - baseline[s][end] for s in shared if end in baseline[s]]) for end in ends],
        )
    return found


def _losses(result: Result) -> dict[int, float]:
    row = next((row for row in reversed(result.rows) if row["split"] == "valid"), {})
    return {
        int(name.removeprefix(_PREFIX)): loss
        for name, loss in row.items()
        if name.startswith(_PREFIX) and loss is not None
    }
