"""The picture of a coordinate check, as SVG."""

from matplotlib.figure import Figure

from gptjax.sweep.coordinates import Coordinates
from gptjax.sweep.figure import looks, to_svg


def draw(found: Coordinates) -> str:
    """Returns a panel for each kind of activation: its size against the width, a line for each layer.

    Faint lines are the steps before the last.
    """
    with looks("coordinates"):
        return to_svg(_panels(found))


def _panels(found: Coordinates) -> Figure:
    figure = Figure(figsize=(3.6 * len(found.sizes), 3.8), layout="constrained")
    panels = figure.subplots(1, len(found.sizes), squeeze=False)[0]
    for axes, (name, sizes) in zip(panels, found.sizes.items(), strict=True):
        num_steps, num_layers = sizes.shape[1:]
        for step in range(num_steps):
            for layer in range(num_layers):
                line = {"color": f"C{layer}", "alpha": 0.15 + 0.85 * step / (num_steps - 1)}
                label = f"layer {layer}" if step == num_steps - 1 and num_layers > 1 else None
                axes.plot(found.widths, sizes[:, step, layer], marker="o", markersize=3, label=label, **line)
        axes.set(title=name.replace("_", " "), xlabel="width", xscale="log", yscale="log")
        axes.set_xticks(found.widths, labels=map(str, found.widths))
        axes.xaxis.minorticks_off()  # those of y are numbered where less than a decade is seen
        if num_layers > 1:
            axes.legend(fontsize=8)
    figure.supylabel("mean size after each step")
    return figure
