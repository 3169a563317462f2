"""EMA-Net's training step over sizes and numbers of tasks: the work of `benchmarks.scale`."""

import math
import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from benchmarks import common
from emanet_jax.config import default_config
from emanet_jax.tasks import DATASETS
from emanet_jax.types import Task


class Row(NamedTuple):
    """A line of the table and the CSV."""

    h: int
    w: int
    tasks: int
    pixels: int
    compile_s: float
    step_s: float  # NaN where no step was run
    cpu_s: float  # of all threads, likewise
    tflop: float
    state_mib: float
    memory_mib: float


HEADER = (
    f"{'image':>9} {'tasks':>5} {'compile':>8} {'a step':>9} {'CPU':>9} {'TFLOP':>7} {'state':>9} "
    f"{'memory':>10}  a million pixels: CPU, memory, TFLOP"
)
QUANTITIES = {"step_s": "s", "cpu_s": "s", "memory_mib": "MiB", "tflop": "TFLOP"}


def line(row: Row) -> str:
    """The row as it is printed under HEADER; "-" where no step was run."""
    millions = row.pixels / 1e6
    return (
        f"{f'{row.h}x{row.w}':>9} {row.tasks:5} {row.compile_s:6.0f} s {row.step_s:7.2f} s "
        f"{row.cpu_s:7.2f} s {row.tflop:7.3f} {row.state_mib:5.0f} MiB {row.memory_mib:6.0f} MiB  "
        f"{row.cpu_s / millions:13.2f} s {row.memory_mib / millions:6.0f} MiB "
        f"{row.tflop / millions:6.3f}"
    ).replace("nan", "  -")


def all_tasks() -> tuple[Task, ...]:
    """Every task that a data set has, the first of each name."""
    named: dict[str, Task] = {}
    for dataset in DATASETS.values():
        for task in dataset.tasks:
            named.setdefault(task.name, task)
    return tuple(named.values())


def cases(
    sizes: Sequence[tuple[int, int]], count: int, tasks: Sequence[int], size: tuple[int, int]
) -> list[tuple[tuple[int, int], int]]:
    """((h, w), number of tasks) of both series, each once, the cheap ones first."""
    both = {(hw, count) for hw in sizes} | {(size, number) for number in tasks}
    return sorted(both, key=lambda case: (case[0][0] * case[0][1], case[1], case[0]))


def measure(
    image_size: tuple[int, int], count: int, backbone: str, budget: float, most_mib: float
) -> Row:
    """Compiles EMA-Net's training step for the first `count` of all tasks, and repeats it.

    Args:
        image_size: (h, w) in pixels.
        count: number of tasks.
        backbone: of the network.
        budget: seconds to repeat it for.
        most_mib: a program that holds more is not run.
    """
    tasks = all_tasks()[:count]
    config = default_config()
    config.model.backbone, config.data.image_size, config.batch_size = backbone, image_size, 1
    config.task_weights = {task.name: 1.0 for task in tasks}
    one = jax.devices()[:1]
    row = common.measure_step(config, "train", budget, most_mib, tasks, devices=one)
    return Row(
        *image_size,
        tasks=count,
        pixels=image_size[0] * image_size[1],
        compile_s=row.compile_s,
        step_s=row.step_ms / 1e3,
        cpu_s=row.cpu_ms / 1e3,
        tflop=row.tflop,
        state_mib=row.state_mib,
        memory_mib=row.memory_mib,
    )


def series(
    rows: Sequence[Row], count: int, size: tuple[int, int]
) -> dict[str, tuple[str, list[Row]]]:
    """{axis label: (x, rows in the order of x)}: pixels with `count` tasks, tasks at `size`."""
    over_pixels = sorted((r for r in rows if r.tasks == count), key=lambda r: r.pixels)
    over_tasks = sorted((r for r in rows if (r.h, r.w) == size), key=lambda r: r.tasks)
    return {
        f"pixels of an image ({count} task{'s' * (count > 1)})": ("pixels", over_pixels),
        f"tasks ({size[0]} x {size[1]})": ("tasks", over_tasks),
    }


def summary(both: dict[str, tuple[str, list[Row]]]) -> str:
    """The power laws, lines and parabolas that fit each quantity, and R^2."""
    text = []
    for label, (field, rows) in both.items():
        letter, unit = ("P", 1e6) if field == "pixels" else ("N", 1)
        text += ["", f"growth with {label}; P in millions of pixels:"]
        for quantity, unit_of in QUANTITIES.items():
            points = [(getattr(r, field) / unit, getattr(r, quantity)) for r in rows]
            found = [f"~ {letter}^{common.exponent(points):.2f}"]
            for degree in (1,) if letter == "P" else (1, 2):
                coefficients, r2 = common.fit(points, degree)
                powers = ("", f" {letter}", f" {letter}²")
                terms = [
                    f"{c:.3g} {unit_of}{p}" for c, p in zip(coefficients, powers, strict=False)
                ]
                found.append(f"{' + '.join(terms)} (R² {r2:.4f})".replace("+ -", "- "))
            text.append(f"  {quantity:10} {', '.join(found)}")
    return "\n".join(text).replace("nan", "-")


def plot(both: dict[str, tuple[str, list[Row]]], title: str, path: pathlib.Path) -> None:
    """Time and memory of both series: pixels on logarithmic axes, tasks with a parabola."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawn = {
        "seconds": {"step_s": "time", "cpu_s": "CPU time of all threads"},
        "MiB": {"memory_mib": "memory"},
    }
    figure, axes = pyplot.subplots(2, 2, figsize=(9, 6.6), layout="constrained")
    for axes_row, (label, (field, rows)) in zip(axes, both.items(), strict=True):
        for axis, (unit, names) in zip(axes_row, drawn.items(), strict=True):
            for quantity, name in names.items():
                points = [(getattr(r, field), getattr(r, quantity)) for r in rows]
                x, y = np.array([p for p in points if math.isfinite(p[1])] or [(1, 1)]).T
                (mark,) = axis.plot(x, y, "o", label=name)
                at = np.linspace(x[0], x[-1])
                if field == "pixels":  # proportional to pixels
                    axis.loglog(
                        at, at * np.exp(np.mean(np.log(y / x))), "--", color=mark.get_color()
                    )
                else:
                    coefficients, _ = common.fit(zip(x, y, strict=True), 2)
                    axis.plot(at, np.polyval(coefficients[::-1], at), color=mark.get_color())
            axis.set(xlabel=label, ylabel=unit)
            axis.legend(fontsize=7)
            axis.grid(alpha=0.3)
    figure.suptitle(title, fontsize=9)
    part = path.with_name(path.name + ".part")
    figure.savefig(part, dpi=100, format="png")
    pyplot.close(figure)
    os.replace(part, path)
