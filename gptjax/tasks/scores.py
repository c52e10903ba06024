"""Scores of a whole corpus with intervals: counts of each example, summed, and a measure of the sums.

A score such as F1 or BLEU is no mean over examples, but it is a function of counts that add up. So examples can be
drawn again without being scored again (Efron 1979; Koehn 2004 for BLEU), and two systems compared on the same draws.
Knows no task and no library.

Shapes: E examples, K counts, R resamples; a leading R may be absent.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

Array = np.ndarray
Measure = Callable[[Array], Mapping[str, Any]]
"""Sums of counts (.., K) -> name -> values (..)."""
_BLOCK_DRAWS = 1 << 22
"""Draws of resampled examples in memory at a time: 32 MB."""


@dataclasses.dataclass(frozen=True)
class Score:
    """A value with its interval over examples, and the number of those."""

    name: str
    value: float
    low: float
    high: float
    count: int


@dataclasses.dataclass(frozen=True)
class Counts:
    """What a corpus scores: the counts of each example, and what is measured on their sum."""

    counts_EK: Array
    measure: Measure
    signature: str = ""
    """How the library that did the counting names its settings, where it does."""

    def values(self) -> dict[str, float]:
        """Returns the scores of all examples, by name."""
        return {name: float(value) for name, value in self.measure(self.counts_EK.sum(0)).items()}

    def scores(self, *, num_resamples: int = 1000, seed: int = 0, level: float = 0.95) -> dict[str, Score]:
        """Returns the scores with percentile intervals by resampling examples."""
        return _scores(self.values(), self._resampled, len(self.counts_EK), num_resamples, seed, level)

    def differences(
        self, other: "Counts", *, num_resamples: int = 1000, seed: int = 0, level: float = 0.95
    ) -> dict[str, Score]:
        """Returns how much more this system scores than another on the same examples, in the same order.

        Both are measured on the same draws (paired), so that what is hard for both cancels. Of names that both have.
        """
        assert len(self.counts_EK) == len(other.counts_EK), "two systems are compared on the same examples"

        def difference(weights_RE: Array) -> dict[str, Array]:
            return _minus(self._resampled(weights_RE), other._resampled(weights_RE))

        values = _minus(self.values(), other.values())
        return _scores(values, difference, len(self.counts_EK), num_resamples, seed, level)

    def _resampled(self, weights_RE: Array) -> Mapping[str, Array]:
        return self.measure(weights_RE @ self.counts_EK.astype(np.float64))


def _minus(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value - other[name] for name, value in one.items() if name in other}


def _scores(values, resampled, num_examples: int, num_resamples: int, seed: int, level: float) -> dict[str, Score]:
    intervals = bootstrap(resampled, num_examples, num_resamples=num_resamples, seed=seed, level=level)
    return {name: Score(name, value, *intervals[name], num_examples) for name, value in values.items()}


def bootstrap(
    statistic: Callable[[Array], Mapping[str, Array]],
    num_examples: int,
    *,
    num_resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, tuple[float, float]]:
    """Returns percentile intervals (Efron 1979) of what a statistic names.

    `statistic` maps how often each example was drawn (R, E) to values (R) by name. The draws depend on the seed and the
    number of examples alone.
    """
    parts = [statistic(weights_RE) for weights_RE in draws(num_examples, num_resamples, seed)]
    ends = (50 * (1 - level), 50 * (1 + level))
    intervals = {}
    for name in parts[0]:
        low, high = np.percentile(np.concatenate([part[name] for part in parts]), ends)
        intervals[name] = (float(low), float(high))
    return intervals


def draws(num_examples: int, num_resamples: int, seed: int) -> Iterator[Array]:
    """Yields how often each example occurs in each of so many samples with replacement, a block of them at a time."""
    assert num_examples, "there is nothing to resample"
    rng = np.random.default_rng(seed)
    rows = max(1, _BLOCK_DRAWS // num_examples)
    for start in range(0, num_resamples, rows):
        R = min(rows, num_resamples - start)
        drawn_RE = rng.integers(num_examples, size=(R, num_examples)) + num_examples * np.arange(R)[:, None]
        counts_RE = np.bincount(drawn_RE.ravel(), minlength=R * num_examples).reshape(R, num_examples)
        yield counts_RE.astype(np.float64)


def ratio(part: Array, whole: Array) -> Array:
    """Returns part / whole, 0 where whole is."""
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    return np.divide(part, whole, out=np.zeros(np.broadcast_shapes(part.shape, whole.shape)), where=whole != 0)


def f1(right: Array, predicted: Array, gold: Array) -> dict[str, Array]:
    """Returns precision, recall and F1 of numbers of what is right, predicted and there to be found."""
    return {
        "precision": ratio(right, predicted),
        "recall": ratio(right, gold),
        "f1": ratio(2 * np.asarray(right), np.asarray(predicted) + np.asarray(gold)),
    }
