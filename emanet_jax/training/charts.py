"""Charts: a curve, and numbers per class (confusion matrix, bars), legible from 2 to 40 of them."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from emanet_jax.types import Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 80


def confusion_matrix(counts: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Draws the shares of each label's pixels that were predicted as each class.

    Args:
        counts: (classes, classes) of pixels; rows are labels, columns predictions. The row of a
            class without pixels stays grey.
        names: of the classes.

    Returns:
        uint8 (height, width, 3).
    """
    counts, n = np.asarray(counts, np.float64), len(names)
    totals = counts.sum(1, keepdims=True)
    percent = 100 * np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)
    figure = _figure(3 + 0.35 * n, 2.5 + 0.35 * n)
    axes = figure.add_subplot(facecolor="lightgrey")
    axes.imshow(percent, cmap="Blues", vmin=0, vmax=100)
    axes.set_xticks(range(n), names, rotation=90)
    axes.set_yticks(range(n), names)
    axes.set(title="% of a label's pixels", xlabel="predicted as", ylabel="label")
    for i, j in np.argwhere(percent >= 0.5):
        colour = "white" if percent[i, j] > 50 else "black"
        axes.text(j, i, f"{percent[i, j]:.0f}", color=colour, ha="center", va="center", size=8)
    return _pixels(figure)


def bars(percentages: np.ndarray, task: Task, title: str) -> np.ndarray:
    """Draws a bar from 0 to 100 % and a number per class, in the classes' colours.

    Args:
        percentages: (classes,); NaN for a class that has no value.
        task: over these classes.
        title: above the bars.

    Returns:
        uint8 (height, width, 3).
    """
    n = len(percentages)
    figure = _figure(7, 0.8 + 0.28 * n)
    axes = figure.add_subplot(title=title, xlim=(0, 110))
    colours = task.colours(np.arange(n)[:, None, None])[:, 0] / 255
    drawn = axes.barh(range(n), np.nan_to_num(percentages), color=colours, edgecolor="black")
    axes.bar_label(drawn, ["none" if np.isnan(x) else f"{x:.1f}" for x in percentages], padding=3)
    axes.set_yticks(range(n), task.class_names)
    axes.invert_yaxis()
    return _pixels(figure)


def curve(points: Mapping[float, float], title: str) -> np.ndarray:
    """Draws a scalar over the steps, every point inside of the chart.

    Positive values that span more than a power of ten stand on a logarithmic axis, where a huge
    first one leaves room for the others.

    Args:
        points: {step: finite value}, at least one.
        title: above the chart.

    Returns:
        uint8 (height, width, 3), legible also at half the size, as TensorBoard's cards show it.
    """
    least, most = min(points.values()), max(points.values())
    figure = _figure(6, 4)
    axes = figure.add_subplot(xlabel="step")
    axes.set_title(title, size=17)
    axes.set_yscale("log" if 0 < 10 * least < most else "linear")
    axes.plot(list(points), list(points.values()), "o-" if len(points) <= 20 else "-", lw=2)
    axes.xaxis.label.set_fontsize(15)
    axes.tick_params(labelsize=15)
    axes.grid(color="lightgrey")
    return _pixels(figure)


def _figure(width: float, height: float) -> "Figure":
    """A figure of so many inches; matplotlib is imported only here."""
    from matplotlib.figure import Figure

    return Figure((width, height), dpi=_DPI, layout="constrained")


def _pixels(figure: "Figure") -> np.ndarray:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
