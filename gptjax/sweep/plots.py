"""The figures of a sweep's page: loss against how far a run is, and against the position in the context."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from gptjax.sweep.by_option import Line
from gptjax.sweep.by_position import Profile
from gptjax.sweep.figure import inline, looks
from gptjax.sweep.results import Arm, Curve, Estimate, Result

# After Okabe and Ito, whose colours all kinds of eyes tell apart; the blue is lighter, since the page may be dark.
COLORS = ("#2b8cd6", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#8c6bd6")
DASHES = ((), (6, 2), (2, 2), (6, 2, 2, 2))
AXES = {
    "steps": "step",
    "tokens": "tokens",
    "flops": "FLOPs",
    "seconds": "training time (s)",
}
"""Measures of how far a run is, by the field of Curve."""
_SKIPPED = 0.15  # of a curve, which falls from the ceiling there: the scale leaves it out


def style(number: int) -> tuple[str, tuple[int, ...]]:
    """Returns the colour and the dashes of an arm by its number."""
    return COLORS[number % len(COLORS)], DASHES[number // len(COLORS) % len(DASHES)]


def swatch(number: int) -> str:
    """Returns a short piece of an arm's line, for the legend."""
    color, dashes = style(number)
    dash = f' stroke-dasharray="{" ".join(map(str, dashes))}"' if dashes else ""
    line = f'<line x1="0" y1="5" x2="22" y2="5" stroke="{color}" stroke-width="3"{dash}/>'
    return f'<svg class="swatch" width="22" height="10" aria-hidden="true">{line}</svg>'


def loss_curves(arms: Sequence[Arm], split: str, window: int = 1) -> str | None:
    """Returns one figure with a panel for each of AXES and a line for each run, or None where there is no point yet.

    A point is the mean of `window` rows.
    """
    results = [result for arm in arms for result in arm.results if result.rows]
    numbers = {arm.name: number for number, arm in enumerate(arms)}
    curves = [(numbers[result.run.arm], _thinned(result.curve(split), window)) for result in results]
    curves = [(number, curve) for number, curve in curves if len(curve.loss)]
    if not curves:
        return None
    with looks(split):
        figure = Figure(figsize=(10.4, 6.2), layout="constrained")
        bounds = scale(results, split, window)
        for axes, (field, label) in zip(figure.subplots(2, 2, sharey=True).flat, AXES.items(), strict=True):
            for number, curve in curves:
                color, dashes = style(number)
                marker = "o" if split == "valid" or len(curve.loss) == 1 else None
                line = {"color": color, "linewidth": 1.3, "marker": marker, "markersize": 2.8}
                axes.plot(getattr(curve, field), curve.loss, dashes=dashes or (None, None), **line)
            axes.set(xlabel=label, ylim=bounds)
            axes.set_xlim(left=0)
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        figure.supylabel("loss (nats a token)", fontsize=10)
        return inline(figure, split)


def loss_by_option(option: str, lines: Sequence[Line]) -> str:
    """Returns a figure of the final loss against a number, a line for each setting of the rest.

    Bars are the 95 % intervals over seeds; a dot is the lowest mean of its line.
    """
    with looks(option):
        figure = Figure(figsize=(10.4, 4.2), layout="constrained")
        axes = figure.subplots()
        for number, line in enumerate(lines):
            _bars(axes, line.points, number)
            axes.plot(line.best, line.points[line.best].mean, "o", color=style(number)[0])
        values = [value for line in lines for value in line.points]
        if min(values) > 0 and max(values) >= 4 * min(values):
            axes.set_xscale("log", base=2)
        ticks = sorted(set(values))
        axes.set_xticks(ticks, [f"{value:g}" for value in ticks])
        axes.set(xlabel=option, ylabel="final validation loss (nats a token)")
        return inline(figure, re.sub(r"\W", "-", option))


def _bars(axes: Axes, points: Mapping[float, Estimate | None], number: int, **looks_of_line: Any) -> None:
    """Draws means with their intervals in the colour of an arm by its number."""
    known = {x: it for x, it in points.items() if it is not None}
    color, dashes = style(number)
    line = {"color": color, "linewidth": 1.3, "elinewidth": 0.8, "dashes": dashes or (None, None), **looks_of_line}
    axes.errorbar(
        list(known), [it.mean for it in known.values()], [it.half_width or 0 for it in known.values()], **line
    )


def loss_by_position(arms: Sequence[Arm], found: Mapping[str, Profile]) -> str:
    """Returns a figure of two panels: the loss against the position in the context, and what it differs by.

    Bars are the 95 % intervals over seeds.
    """
    with looks("positions"):
        figure = Figure(figsize=(10.4, 3.8), layout="constrained")
        panels = figure.subplots(1, 2)
        for number, arm in enumerate(arms):
            if arm.name not in found:
                continue
            profile = found[arm.name]
            for axes, estimates in zip(panels, (profile.losses, profile.differences), strict=True):
                _bars(axes, dict(zip(profile.ends, estimates, strict=True)), number, marker="o", markersize=2.8)
        for axes, label in zip(panels, ("loss (nats a token)", "difference from the first arm"), strict=True):
            axes.set(xlabel="tokens of context, up to", ylabel=label)
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter("{x:,.0f}")
        return inline(figure, "positions")


def _thinned(curve: Curve, window: int) -> Curve:
    """Means of so many points in a row, at the place of the last of them."""
    count = len(curve.loss) // window * window
    last = slice(window - 1, count, window)
    loss = curve.loss[:count].reshape(-1, window).mean(1)
    return Curve(curve.steps[last], curve.tokens[last], curve.flops[last], curve.seconds[last], loss)


def scale(results: Sequence[Result], split: str, window: int = 1) -> tuple[float, float]:
    """Returns bounds that hold the curves but for their beginnings, and but for runs that diverge."""
    sound = [result for result in results if result.state != "diverged"] or results
    curves = [_thinned(result.curve(split), window) for result in sound]
    later = [curve.loss[curve.steps >= _SKIPPED * curve.steps[-1]] for curve in curves if len(curve.loss)]
    losses = np.concatenate([[], *later])
    losses = losses[np.isfinite(losses)]
    low, high = (float(losses.min()), float(losses.max())) if len(losses) else (0.0, 1.0)
    margin = 0.05 * max(high - low, 1e-3)
    return low - margin, high + margin


def window_for(arms: Sequence[Arm], split: str, points: int = 100) -> int:
    """Returns how many rows of the longest run make a point, for a figure of about so many points a line."""
    longest = max((len(result.curve(split).loss) for arm in arms for result in arm.results if result.rows), default=0)
    return max(1, math.ceil(longest / points))
