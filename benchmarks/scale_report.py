"""What `benchmarks.scale` measured: a table for people, fits of its growth and a picture."""

import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks import fits


class Row(NamedTuple):
    """A line of the table and the CSV."""

    phase: str
    h: int
    w: int
    tasks: int
    batch: int
    pixels: int  # of an image
    compile_s: float
    step_s: float  # NaN where no step was run
    cpu_s: float  # of all threads, likewise
    tflop: float  # of a step
    state_mib: float  # parameters, the optimiser's moments, statistics
    memory_mib: float  # state, batch, results and temporaries


class Quantity(NamedTuple):
    """A column that is fitted."""

    name: str
    field: str
    unit: str


QUANTITIES = (
    Quantity("time", "step_s", "s"),
    Quantity("CPU time", "cpu_s", "s"),
    Quantity("memory", "memory_mib", "MiB"),
    Quantity("operations", "tflop", "TFLOP"),
)

HEADER = (
    f"{'phase':8} {'image':>9} {'tasks':>5} {'compile':>8} {'a step':>9} {'CPU':>9} {'TFLOP':>7} "
    f"{'state':>9} {'memory':>10}  a million pixels: CPU, memory, TFLOP"
)


def line(row: Row) -> str:
    """The row as it is printed under HEADER; "-" where no step was run."""
    millions = row.pixels * row.batch / 1e6
    return (
        f"{row.phase:8} {f'{row.h}x{row.w}':>9} {row.tasks:5} {row.compile_s:6.0f} s "
        f"{row.step_s:7.2f} s {row.cpu_s:7.2f} s {row.tflop:7.3f} "
        f"{row.state_mib:5.0f} MiB {row.memory_mib:6.0f} MiB  {row.cpu_s / millions:13.2f} s "
        f"{row.memory_mib / millions:6.0f} MiB {row.tflop / millions:6.3f}"
    ).replace("nan", "  -")


class Series(NamedTuple):
    """Rows that differ in one thing, x, which is in units of `unit`; and how to draw and fit them.

    Attributes:
        words: what grows, for `summary`.
        label: of the axis.
        field: x in a row.
        letter: x in a formula.
        unit: of x in formulas.
        degrees: of the polynomials to fit.
        rows: of all phases, in the order of x.
    """

    words: str
    label: str
    field: str
    letter: str
    unit: float
    degrees: tuple[int, ...]
    rows: tuple[Row, ...]

    def points(self, phase: str, field: str) -> list[tuple[float, float]]:
        """(x, y) of a phase, where y was measured."""
        points = [
            (getattr(r, self.field), getattr(r, field)) for r in self.rows if r.phase == phase
        ]
        return [(x, y) for x, y in points if math.isfinite(y)]


def both_series(rows: Sequence[Row], tasks: int, size: tuple[int, int]) -> tuple[Series, Series]:
    """The series over pixels, with as many tasks, and the series over tasks, at that (h, w)."""
    h, w = size
    return (
        Series(
            words=f"millions of pixels P, {tasks} task{'s' * (tasks > 1)}",
            label=f"pixels of an image ({tasks} task{'s' * (tasks > 1)})",
            field="pixels",
            letter="P",
            unit=1e6,
            degrees=(1,),
            rows=tuple(sorted((r for r in rows if r.tasks == tasks), key=lambda r: r.pixels)),
        ),
        Series(
            words=f"N tasks, {h}x{w}",
            label=f"tasks ({h} x {w})",
            field="tasks",
            letter="N",
            unit=1,
            degrees=(1, 2),
            rows=tuple(sorted((r for r in rows if (r.h, r.w) == size), key=lambda r: r.tasks)),
        ),
    )


def _formula(coefficients: Sequence[float], unit: str, letter: str) -> str:
    """As "0.3 s + 2 s P"."""
    powers = ("", f" {letter}", f" {letter}²")
    terms = [f"{c:.3g} {unit}{power}" for c, power in zip(coefficients, powers, strict=False)]
    return " + ".join(terms).replace("+ -", "- ")


def summary(both: Sequence[Series]) -> str:
    """Power laws and polynomials that fit a series' quantities, and how well."""
    text = []
    for series in both:
        for phase in dict.fromkeys(row.phase for row in series.rows):
            text += ["", f"{phase}, growth with {series.words}:"]
            for name, field, unit in QUANTITIES:
                points = [(x / series.unit, y) for x, y in series.points(phase, field)]
                (_, exponent), r2 = fits.power_law(points)
                found = [f"~ {series.letter}^{exponent:.2f} (R² {r2:.4f})"]
                for degree in series.degrees:
                    coefficients, r2 = fits.polynomial(points, degree)
                    formula = _formula(coefficients, unit, series.letter)
                    found.append(f"{formula} (R² {r2:.4f})")
                text.append(f"  {name:10} {', '.join(found)}")
    return "\n".join(text).replace("nan", "-")


def _draw_pixels(axis: Any, points: list[tuple[float, float]], colour: str) -> None:
    """Logarithmic axes, and the line of slope 1 that fits the points."""
    x, y = np.array(points).T
    slope = np.exp(np.mean(np.log(y / x)))
    axis.loglog(x, slope * x, "--", color=colour, linewidth=1)
    axis.xaxis.set_minor_formatter("")  # beside the powers of ten there is no room


def _draw_tasks(axis: Any, points: list[tuple[float, float]], colour: str) -> None:
    """The line and the parabola that fit the points."""
    x = np.linspace(points[0][0], points[-1][0])
    for degree, dashes in ((1, "--"), (2, "-")):
        coefficients, _ = fits.polynomial(points, degree)
        if math.isfinite(coefficients[0]):
            y = np.polyval(coefficients[::-1], x)
            axis.plot(x, y, dashes, color=colour, linewidth=1)


_PANELS = (("seconds", {"step_s": "C0", "cpu_s": "C1"}), ("MiB", {"memory_mib": "C2"}))
_NAMES = {"step_s": "time", "cpu_s": "CPU time of all threads", "memory_mib": "memory"}
_DRAWN = ("dashed: slope 1", "dashed: line, solid: parabola")


def plot(both: Sequence[Series], title: str, path: pathlib.Path) -> None:
    """A row of panels a series, time and memory; the file is written whole or not at all."""
    try:
        import matplotlib
    except ImportError:
        print(f"matplotlib is not installed: no plot at {path}.")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(9, 6.6), layout="constrained")
    drawn = zip(axes, both, (_draw_pixels, _draw_tasks), _DRAWN, strict=True)
    for axes_row, series, draw, legend in drawn:
        for axis, (unit, colours) in zip(axes_row, _PANELS, strict=True):
            for phase, marker in (("train", "o"), ("predict", "^")):
                for field, colour in colours.items():
                    points = series.points(phase, field)
                    if points:
                        label = f"{phase}: {_NAMES[field]}"
                        axis.plot(*zip(*points, strict=True), marker + colour, label=label)
                        draw(axis, points, colour)
            axis.set(xlabel=series.label, ylabel=unit)
            axis.grid(alpha=0.3)
            if axis.lines:
                axis.legend(title=legend, fontsize=7, title_fontsize=7)
    figure.suptitle(title, fontsize=9)
    part = path.with_name(path.name + ".part")
    figure.savefig(part, dpi=100, format="png")
    pyplot.close(figure)
    os.replace(part, path)
