"""What `benchmarks.ctal` measured, as a table for people, a CSV, fitted exponents and a plot."""

import csv
import math
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks import fits
from benchmarks.timing import machine
from emanet_jax.models.affinity import IMPLEMENTATIONS


class Row(NamedTuple):
    """A line of the table and the CSV; NaN for what was not measured."""

    implementation: str
    h: int
    w: int
    tasks: int
    channels: int
    batch: int
    pixels: int
    auto: str
    forward_s: float = math.nan
    train_s: float = math.nan
    forward_temp_mib: float = math.nan
    train_temp_mib: float = math.nan
    forward_gflop: float = math.nan
    train_gflop: float = math.nan
    value_error: float = math.nan
    gradient_error: float = math.nan


def skip(row: Row, kind: str, why: str) -> None:
    """Says what is left out."""
    print(f"{row.implementation:12} {row.h}x{row.w}x{row.tasks}: {kind} left out, {why}.")


HEADER = (
    f"{'':12} {'case':>16} {'pixels':>7} {'forward':>10} {'train':>10} {'temporaries, MiB':>17} "
    f"{'GFLOP':>13} {'error, value':>12} {'gradient':>9}  auto"
)


def line(row: Row) -> str:
    """A row for people."""
    case = "x".join(map(str, row[1:6]))
    times = " ".join(f"{1e3 * x:7.1f} ms" for x in (row.forward_s, row.train_s))
    temporaries = f"{row.forward_temp_mib:8.1f} {row.train_temp_mib:8.1f}"
    operations = f"{row.forward_gflop:6.2f} {row.train_gflop:6.2f}"
    errors = f"{row.value_error:12.1e} {row.gradient_error:9.1e}"
    mark = "  <-" if row.auto == row.implementation else ""
    return (
        f"{row.implementation:12} {case:>16} {row.pixels:7} {times} {temporaries} {operations} "
        f"{errors}{mark}"
    ).replace("nan", "  -")


def exponent(rows: Sequence[Row], field: str) -> float:
    """The b of the least-squares fit field = a * pixels^b, NaN for fewer than two measured rows."""
    points = [(row.pixels, getattr(row, field)) for row in rows]
    return fits.power_law(points).coefficients[1]


def series(rows: Sequence[Row], name: str) -> list[Row]:
    """The rows of an implementation that differ in pixels only: 3 tasks, 128 channels, batch 1."""
    return [row for row in rows if row[0] == name and row[3:6] == (3, 128, 1)]


def summary(rows: Sequence[Row]) -> str:
    """Growth with pixels, and what "auto" loses to the best implementation."""
    text = ["", "growth with pixels P (3 tasks, 128 channels, batch 1, from 192 pixels on):"]
    for name in IMPLEMENTATIONS:
        grown = [row for row in series(rows, name) if row.pixels >= 192]
        fits = {k: exponent(grown, k) for k in ("forward_s", "train_s", "train_temp_mib")}
        text.append(f"  {name:12} " + ", ".join(f"{k} ~ P^{x:.2f}" for k, x in fits.items()))
    text.append('train time of "auto" over the best of the others:')
    for case in dict.fromkeys(row[1:6] for row in rows):
        times = {r.implementation: r.train_s for r in rows if r[1:6] == case}
        times = {name: x for name, x in times.items() if math.isfinite(x)}
        auto = next(r.auto for r in rows if r[1:6] == case)
        if auto in times and len(times) > 1:
            best = min(times, key=times.get)
            ratio = times[auto] / times[best]
            text.append(f"  {'x'.join(map(str, case)):>16} {auto:12} {ratio:.2f} (best: {best})")
    return "\n".join(text).replace("P^nan", "P^-")


def write_csv(rows: Sequence[Row], path: pathlib.Path) -> None:
    """One line a row, empty where nothing was measured."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Row._fields)
        for row in rows:
            writer.writerow(["" if x != x else x for x in row])  # only NaN differs from itself


def plot(rows: Sequence[Row], path: pathlib.Path) -> None:
    """Time and temporaries of the forward and backward pass over pixels, both logarithmic."""
    try:
        import matplotlib
    except ImportError:
        print(f"matplotlib is not installed: no plot at {path}.")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    quantities = {"s": "seconds", "temp_mib": "temporaries, MiB"}
    for axis, (field, label) in zip(axes, quantities.items(), strict=True):
        for number, name in enumerate(IMPLEMENTATIONS):
            for kind, style in (("train", "o-"), ("forward", "o:")):
                part = [
                    r for r in series(rows, name) if math.isfinite(getattr(r, f"{kind}_{field}"))
                ]
                part.sort(key=lambda row: row.pixels)
                axis.loglog(
                    [row.pixels for row in part],
                    [getattr(row, f"{kind}_{field}") for row in part],
                    style,
                    color=f"C{number}",
                    markersize=4,
                    label=f"{name}, {'forward + backward' if kind == 'train' else kind}",
                )
        axis.set(xlabel="pixels P", ylabel=label)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=7)
    figure.suptitle(f"CTAL: 3 tasks, 128 channels, batch 1, float32 ({machine()})", fontsize=9)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
