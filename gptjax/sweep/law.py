"""Loss as a function of size: L(N, D) = E + A / N^alpha + B / D^beta, its fit, its intervals and its optimum.

The third approach of Hoffmann et al. 2022 (arXiv 2203.15556, appendix D.3): the Huber loss of log residuals, by a
quasi-Newton search from a grid of starts. Knows numbers alone: no runs, no files, no words.

Shapes: R runs, P the five coefficients as they are searched for.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy.optimize import minimize

Array = np.ndarray

DELTA = 1e-3
"""Residuals of log loss beyond this are outliers: they count by their size, not by its square."""
STARTS = {
    "E": (-2.0, -1.5, -1.0, -0.5, 0.0),
    "A": (-5.0, -4.0, -3.0, -2.0, -1.0, 0.0),
    "B": (-5.0, -4.0, -3.0, -2.0, -1.0, 0.0),
    "alpha": (0.0, 0.5, 1.0, 1.5, 2.0),
    "beta": (0.0, 0.5, 1.0, 1.5, 2.0),
}
"""The grid: logs of the three terms at the runs' geometric means of N and D, over the lowest loss; and the exponents.

Hoffmann's grid has as many starts and the same exponents, but fixes A and B themselves, which suits sizes like theirs
alone. Relative to the runs, the fit is the same in whatever units loss, parameters and tokens are counted.
"""
NUM_DESCENTS = 20
"""The starts of least objective that BFGS goes down from; the others are only looked at."""
NUM_WARM = 2
"""Where the fit of a resample starts: at the best fit, and at the best start of the grid."""
EDGE = 1e-3
"""What ends so near to the least or the greatest start of its grid, or beyond, is no result of the data."""
COVERAGE = 0.95


@dataclasses.dataclass(frozen=True)
class Optimum:
    """The best use of a budget."""

    params: float
    tokens: float
    loss: float


@dataclasses.dataclass(frozen=True)
class Law:
    """The five coefficients; what is not defined (an exponent that is not positive) is nan."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float

    def loss(self, params, tokens):
        """Returns the loss of models of so many parameters after so many tokens."""
        return self.E + self.A / params**self.alpha + self.B / tokens**self.beta

    @property
    def a(self) -> float:
        """The exponent of compute in the optimal number of parameters."""
        return self.beta / (self.alpha + self.beta) if self._has_optimum else math.nan

    @property
    def b(self) -> float:
        """The exponent of compute in the optimal number of tokens: 1 - a."""
        return self.alpha / (self.alpha + self.beta) if self._has_optimum else math.nan

    @property
    def G(self) -> float:
        """The factor of the optimal number of parameters."""
        if not self._has_optimum:
            return math.nan
        log_ratio = math.log(self.alpha * self.A) - math.log(self.beta * self.B)
        return _exp(log_ratio / (self.alpha + self.beta))

    @property
    def _has_optimum(self) -> bool:
        return min(self.alpha, self.beta, self.A, self.B) > 0 and math.isfinite(self.A) and math.isfinite(self.B)

    def optimum(self, flops: float) -> Optimum:
        """Returns the N and D of least loss with 6 N D = flops: N = G (flops / 6)^a, D = (flops / 6)^b / G."""
        product = flops / 6
        params = self.G * product**self.a
        if not params > 0:
            return Optimum(math.nan, math.nan, math.nan)
        tokens = product / params
        return Optimum(params, tokens, self.loss(params, tokens))


COEFFICIENTS = tuple(field.name for field in dataclasses.fields(Law))


@dataclasses.dataclass(frozen=True)
class Fit:
    """A law, the laws of resampled runs, and what the search said."""

    law: Law
    resampled: tuple[Law, ...]
    residuals_R: Array
    """Log of observed over fitted loss."""
    at_edge: tuple[str, ...]
    """Coefficients that ended at the edge of their starts or beyond."""

    def interval(self, quantity: Callable[[Law], float]) -> tuple[float, float]:
        """Returns the percentile interval of a quantity; a resample in which it is not defined widens both ends."""
        values = np.array([quantity(law) for law in self.resampled])
        tail = (1 - COVERAGE) / 2
        low, high = (
            np.quantile(np.where(np.isnan(values), undefined, values), share, method="inverted_cdf")
            for undefined, share in ((-np.inf, tail), (np.inf, 1 - tail))
        )
        return float(low), float(high)


@dataclasses.dataclass(frozen=True)
class _Problem:
    """Runs in the coordinates of the search: centred logs, which untangle the amplitudes from the exponents."""

    n_R: Array
    d_R: Array
    y_R: Array
    origin: tuple[float, float, float]

    @classmethod
    def of(cls, params_R: Array, tokens_R: Array, loss_R: Array) -> "_Problem":
        log_R = [np.log(values) for values in (params_R, tokens_R, loss_R)]
        origin = (float(log_R[0].mean()), float(log_R[1].mean()), float(log_R[2].min()))
        return cls(log_R[0] - origin[0], log_R[1] - origin[1], log_R[2] - origin[2], origin)

    def terms(self, x_P: Array) -> tuple[Array, Array]:
        """Returns the log of the fitted loss, and the share of E, A and B in it."""
        e, a, b, alpha, beta = x_P
        log_3R = np.stack([np.full_like(self.n_R, e), a - alpha * self.n_R, b - beta * self.d_R])
        top_R = log_3R.max(axis=0)
        share_3R = np.exp(log_3R - top_R)
        sum_R = share_3R.sum(axis=0)
        return top_R + np.log(sum_R), share_3R / sum_R

    def objective(self, x_P: Array, weight_R: Array) -> tuple[float, Array]:
        """Returns the sum of Huber losses, in units of DELTA squared so that it is of the order of R, and its gradient.

        A sum, not a mean: means this small meet an optimiser's tolerance far from the optimum, which is what made
        the published coefficients imprecise (Besiroglu et al. 2024, arXiv 2404.10102).
        """
        fitted_R, share_3R = self.terms(x_P)
        r_R = (fitted_R - self.y_R) / DELTA
        slope_R = np.clip(r_R, -1, 1)
        value = weight_R @ (slope_R * (r_R - slope_R / 2))
        grad_3R = share_3R * (weight_R * slope_R / DELTA)
        e, a, b = grad_3R.sum(axis=1)
        return float(value), np.array([e, a, b, -grad_3R[1] @ self.n_R, -grad_3R[2] @ self.d_R])

    def descend(self, starts: Sequence[Array], weight_R: Array) -> Array:
        """Returns the best end of BFGS from some starts.

        With five coefficients there is no memory to limit, and SciPy's L-BFGS, which ends at the same place, spends
        most of its time on LAPACK's threads: it took five to fifteen times as long on two cores that others used too.
        """
        options = {"maxiter": 2000, "gtol": 1e-6}
        ends = [
            minimize(self.objective, start, (weight_R,), method="BFGS", jac=True, options=options) for start in starts
        ]
        return min(ends, key=lambda end: end.fun).x

    def law(self, x_P: Array) -> Law:
        """Returns the coefficients in the runs' own units."""
        e, a, b, alpha, beta = map(float, x_P)
        n, d, y = self.origin
        return Law(_exp(e + y), _exp(a + y + alpha * n), _exp(b + y + beta * d), alpha, beta)


def _exp(log: float) -> float:
    return math.exp(log) if log < 700 else math.inf


def fit(params_R: Array, tokens_R: Array, loss_R: Array, num_resamples: int = 1000, seed: int = 0) -> Fit:
    """Fits the law to runs, all of them positive and finite, and bootstraps its coefficients over runs.

    A resample with less than three sizes, or three lengths, says nothing of an exponent and is drawn again.
    """
    problem, ones_R = _Problem.of(params_R, tokens_R, loss_R), np.ones(len(loss_R))
    starts = [np.array(start) for start in itertools.product(*STARTS.values())]
    starts.sort(key=lambda start: problem.objective(start, ones_R)[0])
    best = problem.descend(starts[:NUM_DESCENTS], ones_R)
    warm = [best, *starts[: NUM_WARM - 1]]
    rng = np.random.default_rng(seed)
    resampled = []
    while len(resampled) < num_resamples:
        drawn_R = rng.integers(len(loss_R), size=len(loss_R))
        if min(len(np.unique(params_R[drawn_R])), len(np.unique(tokens_R[drawn_R]))) < 3:
            continue
        weight_R = np.bincount(drawn_R, minlength=len(loss_R)).astype(np.float64)
        resampled.append(problem.law(problem.descend(warm, weight_R)))
    return Fit(
        law=problem.law(best),
        resampled=tuple(resampled),
        residuals_R=problem.y_R - problem.terms(best)[0],
        at_edge=tuple(
            name
            for x, (name, grid) in zip(best, STARTS.items(), strict=True)
            if not min(grid) + EDGE < x < max(grid) - EDGE
        ),
    )
