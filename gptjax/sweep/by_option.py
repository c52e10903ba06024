"""The final loss by a number that a sweep varies, such as the learning rate: a line for each setting of the rest.

Computes; knows nothing of how a report looks.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gptjax.sweep.results import Arm, Estimate
from gptjax.sweep.runs import SEED, run_name

_LEAST_POINTS = 3


class Line(NamedTuple):
    """Arms that differ in one number alone."""

    setting: str
    """What else they have, as in the names of runs; empty where that is nothing."""
    points: Mapping[float, Estimate]
    """The final validation loss by the number, from the least on."""

    @property
    def best(self) -> float:
        """The number with the least mean loss."""
        return min(self.points, key=lambda value: self.points[value].mean)

    @property
    def is_open(self) -> bool:
        """Whether the best is the first or the last that was tried, so that a better one may lie beyond."""
        return self.best in (next(iter(self.points)), next(reversed(self.points)))


def lines(arms: Sequence[Arm]) -> dict[str, list[Line]]:
    """Returns, for each option that takes three numbers or more while the others stay, its lines."""
    found: dict[str, dict[str, dict[float, Estimate]]] = {}
    for arm in arms:
        loss = arm.estimate(lambda result: result.last("loss"))
        if loss is None:
            continue
        overrides = {path: value for path, value in arm.results[0].run.overrides.items() if path != SEED}
        for option, value in overrides.items():
            if _is_number(value):
                rest = {path: other for path, other in overrides.items() if path != option}
                setting = run_name(rest) if rest else ""
                found.setdefault(option, {}).setdefault(setting, {})[value] = loss
    by_option = {
        option: [Line(setting, dict(sorted(points.items()))) for setting, points in settings.items()]
        for option, settings in found.items()
    }
    kept = {option: [line for line in each if len(line.points) >= _LEAST_POINTS] for option, each in by_option.items()}
    return {option: each for option, each in kept.items() if each}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
