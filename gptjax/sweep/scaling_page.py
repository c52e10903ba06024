"""The picture of a scaling law, and the page that holds it."""

from collections.abc import Sequence
from html import escape

import matplotlib as mpl
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from gptjax.sweep.figure import inline
from gptjax.sweep.law import Fit
from gptjax.sweep.page import page
from gptjax.sweep.scaling_runs import Runs

COLORS = ListedColormap(mpl.colormaps["plasma"](np.linspace(0.25, 0.85, 256)))
"""Without its ends, which are lost on a dark page and on a light one."""


def draw(runs: Runs, fitted: Fit, budget: float) -> Figure:
    """Returns three panels: losses by size, the optimum by compute, and observed against fitted losses."""
    figure = Figure(figsize=(15, 4.6), layout="constrained")
    by_size, by_compute, by_fit = figure.subplots(1, 3)
    params, tokens, loss = runs.arrays()
    flops = 6 * params * tokens
    _losses_by_size(by_size, fitted, params, flops, loss)
    _optimum_by_compute(by_compute, fitted, params, flops, budget)
    by_fit.axline((loss.min(), loss.min()), slope=1, color="0.7")
    by_fit.scatter(fitted.law.loss(params, tokens), loss, s=18)
    by_fit.set(xlabel="fitted loss", ylabel="observed loss", title="Fit")
    return figure


def _losses_by_size(axes, fitted: Fit, params, flops, loss) -> None:
    """The runs, and a line of the law for each of a few budgets, whose lowest point is the best size."""
    dots = axes.scatter(params, loss, c=np.log10(flops), s=18, cmap=COLORS)
    axes.figure.colorbar(dots, ax=axes, label="log10 of FLOPs (6 N D)")
    size = np.geomspace(params.min(), params.max(), 100)
    for compute in np.geomspace(flops.min(), flops.max(), 5):
        axes.plot(size, fitted.law.loss(size, compute / 6 / size), color=dots.cmap(dots.norm(np.log10(compute))))
    margin = 0.1 * (loss.max() - loss.min())  # far from the runs the lines go where nobody looks
    axes.set_ylim(loss.min() - margin, loss.max() + margin)
    axes.set(xscale="log", xlabel="parameters", ylabel="loss", title="Loss by size; lines: the law, one budget each")


def _optimum_by_compute(axes, fitted: Fit, params, flops, budget: float) -> None:
    """The size that the law would choose, with its interval, among the sizes that were trained."""
    axes.scatter(flops, params, s=18, color="0.6", label="runs")
    compute = np.geomspace(min(flops.min(), budget), max(flops.max(), budget), 12)
    best = np.array([fitted.law.optimum(C).params for C in compute])
    low, high = np.transpose([fitted.interval(lambda law, C=C: law.optimum(C).params) for C in compute])
    known = np.isfinite(best) & np.isfinite(low) & np.isfinite(high) & (low > 0)
    axes.plot(compute[known], best[known], label="compute-optimal")
    axes.fill_between(compute[known], low[known], high[known], alpha=0.2, label="95 % interval")
    axes.set(xscale="log", yscale="log", xlabel="FLOPs (6 N D)", ylabel="parameters", title="Optimal size by compute")
    axes.legend(fontsize="small")


def document(source: str, lines: Sequence[str], picture: Figure) -> str:
    """Returns a page that needs no other file."""
    title = f"Scaling law: {source}"
    words = escape("\n".join(lines))
    return page(title, f"<h1>{escape(title)}</h1>\n{inline(picture, 'law')}\n<pre>{words}</pre>")
