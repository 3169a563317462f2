"""Curves of training as SVG: the loss and the primary metric of every task over the steps."""

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from emanet_jax.compare.runs import Group, Run
from emanet_jax.compare.tables import title_of
from emanet_jax.types import Task

# Told apart with any kind of colour vision, and readable on white and on black.
COLOURS = ("#3b82d0", "#e0803a", "#2fa37c", "#c85fa8", "#8a6fd1", "#c2a01e", "#d2504b", "#4bb4c8")
_GREY = "#808080"
_POINTS = 200  # of a curve; more would only make the page heavier


class Chart(NamedTuple):
    """A picture of curves."""

    title: str
    svg: str


def colour(index: int) -> str:
    """The colour of the group at this place."""
    return COLOURS[index % len(COLOURS)]


def charts(groups: Sequence[Group], tasks: Sequence[Task]) -> list[Chart]:
    """Two charts a task: its training loss, and its primary metric at the evaluations.

    Lines are means over the seeds, bands reach from the least to the most. A chart without a single
    point is left out.
    """
    found = []
    for task in tasks:
        metric = f"eval/{task.name}/{task.primary}"
        for name, title in (
            (f"train/loss_{task.name}", f"{task.name}: training loss"),
            (metric, f"{task.name}: {title_of(task.primary)}, evaluation"),
        ):
            curves = [[_curve(run, name) for run in group.runs] for group in groups]
            if any(len(curve) for members in curves for curve in members):
                found.append(Chart(title, _draw(curves)))
    return found


def _curve(run: Run, name: str) -> dict[int, float]:
    """{step: value} of a scalar."""
    points = {int(row["step"]): row[name] for row in run.scalars if name in row}
    return {step: value for step, value in points.items() if math.isfinite(value)}


def _thinned(steps: Iterable[int]) -> list[int]:
    """At most `_POINTS` of the steps, evenly spread, the last among them."""
    ordered = sorted(steps)
    stride = -(-len(ordered) // _POINTS)
    return ordered[::-1][:: max(stride, 1)][::-1]


def _draw(curves: Sequence[Sequence[Mapping[int, float]]]) -> str:
    """SVG text of groups of curves {step: value}."""
    style = {
        "svg.fonttype": "none",  # text that the reader's browser sets
        "svg.hashsalt": "emanet_jax",  # the same runs give the same bytes
        "font.family": "sans-serif",
        "font.size": 9,
        **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), _GREY),
        "axes.edgecolor": _GREY,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(4.2, 2.6), layout="constrained")
        axes = figure.subplots()
        for index, members in enumerate(curves):
            shared = set.intersection(*(set(curve) for curve in members))
            steps = _thinned(shared)
            values = np.array([[curve[step] for step in steps] for curve in members])
            if not values.size:
                continue
            marker = "o" if len(steps) <= 20 else ""
            line = {"color": colour(index), "linewidth": 1.6, "marker": marker, "markersize": 3}
            axes.plot(steps, values.mean(axis=0), **line)
            if len(members) > 1:
                ends = values.min(axis=0), values.max(axis=0)
                axes.fill_between(steps, *ends, color=colour(index), alpha=0.15, linewidth=0)
        axes.set_xlabel("step")
        axes.set_xlim(left=0)
        axes.grid(color=_GREY, alpha=0.25, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    return text.getvalue()
