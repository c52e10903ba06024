"""Figures as SVG: text as text, so that it can be searched, and one figure always gives one file."""

import io

import matplotlib as mpl
from matplotlib.figure import Figure


def to_svg(figure: Figure) -> str:
    """Returns a figure as a document of its own."""
    text = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "gptjax"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()
