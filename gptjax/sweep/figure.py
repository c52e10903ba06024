"""Figures as SVG: text as text, so that it can be searched; nothing fetched, and one figure always gives one file."""

import contextlib
import io
import re

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

INK = "#010203"
"""Stands for the page's own colour of text; a figure that is a file of its own shows it, almost black."""


def looks(salt: str) -> contextlib.AbstractContextManager:
    """Returns the looks of a figure that is drawn and written within: the page's own ink, and nothing behind."""
    ink = ("axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color", "text.color")
    return mpl.rc_context(
        {
            **dict.fromkeys(ink, INK),
            "svg.fonttype": "none",
            "svg.hashsalt": salt,
            "font.family": "sans-serif",
            "figure.facecolor": "none",
            "axes.facecolor": "none",
            "axes.grid": True,
            "grid.alpha": 0.12,
            "grid.linewidth": 0.6,
            "xtick.labelsize": 9,
            "ytick.labelsize": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
        }
    )


def inline(figure: Figure, prefix: str) -> str:
    """Returns a figure to stand in a page, in its colour and font; `prefix` keeps names apart from other figures'."""
    text = io.StringIO()
    FigureCanvasSVG(figure).print_svg(text, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\1{prefix}-", svg)  # names are the whole page's
    svg = re.sub(r'<svg [^>]*?viewBox="([^"]+)"[^>]*>', r'<svg viewBox="\1" role="img" class="curves">', svg, count=1)
    return svg.replace("xlink:href", "href")


def to_svg(figure: Figure) -> str:
    """Returns a figure as a document of its own."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()
