"""Arithmetic, tables and pictures for `benchmarks.step_times`; NumPy, and Matplotlib to draw."""

import csv
import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

# What the loop does between two steps; of several at once the first gives the pause its name.
KINDS = ("evaluation", "checkpoint", "figure", "log")
_BARS = " ▁▂▃▄▅▆▇█"
_BINS = 48  # characters of a line of the histogram


class Call(NamedTuple):
    """One call of a jitted step; seconds of one clock."""

    kind: str  # "train" or "eval"
    called: float  # when its arguments were there
    done: float  # when its results were


class Step(NamedTuple):
    """The time from the end of one training step to the end of the next, in ms."""

    arm: str
    round: int
    step: int  # number of the later step, from 1
    after: str  # what the loop did before it: one of KINDS, or ""
    ms: float
    evaluating_ms: float  # part of it in which evaluation steps ran
    waiting_ms: float  # part of it in which no step ran, for training or evaluation


class Summary(NamedTuple):
    """A line of the table."""

    arm: str
    steps: int  # with nothing else to do before them
    median_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float
    waiting: float  # share of their time in which no step ran
    pauses: dict[str, tuple[int, float, float]]  # {kind: (number, median ms, longest ms)}
    total_s: float  # of all rounds
    evaluating: float  # share of the total in evaluation steps
    pausing: float  # share of the total in pauses, evaluation steps left out


def due(step: int, every: Mapping[str, int]) -> str:
    """What the loop does after a step: the first of KINDS whose interval divides it, or "".

    Args:
        step: from 1.
        every: {kind: steps between}; a kind that is missing is off.
    """
    return next((kind for kind in KINDS if kind in every and step % every[kind] == 0), "")


def steps_of(
    calls: Sequence[Call], arm: str, number: int, every: Mapping[str, int], skip: int = 0
) -> list[Step]:
    """The times between the training steps of one run.

    Args:
        calls: all of the run, in the order in which they were made.
        arm: its name.
        number: of the round.
        every: of `due`.
        skip: so many of the first times are left out.
    """
    found, busy, evaluating, before = [], 0.0, 0.0, None
    step = 0
    for call in calls:
        started = max(call.called, busy)  # a device works on one call after the other
        busy = max(call.done, busy)
        if call.kind == "eval":
            evaluating += busy - started
            continue
        step += 1
        if before is not None:
            waiting = max(0.0, started - before - evaluating)
            times = (busy - before, evaluating, waiting)
            found.append(Step(arm, number, step, due(step - 1, every), *(1e3 * x for x in times)))
        before, evaluating = busy, 0.0
    return found[skip:]


def summary(arm: str, steps: Iterable[Step]) -> Summary:
    """What the steps of all rounds of an arm come to."""
    steps = list(steps)
    between = [x for x in steps if not x.after]
    ms = np.array([x.ms for x in between] or [math.nan])
    total = math.fsum(x.ms for x in steps)
    pauses = {}
    for kind in KINDS:
        waits = [x.waiting_ms for x in steps if x.after == kind]
        if waits:
            pauses[kind] = (len(waits), float(np.median(waits)), max(waits))
    return Summary(
        arm,
        len(between),
        *(float(np.percentile(ms, q)) for q in (50, 90, 99, 100)),
        waiting=math.fsum(x.waiting_ms for x in between) / float(ms.sum()),
        pauses=pauses,
        total_s=total / 1e3,
        evaluating=math.fsum(x.evaluating_ms for x in steps) / total,
        pausing=math.fsum(x.waiting_ms for x in steps if x.after) / total,
    )


HEADER = (
    f"{'':12} {'steps':>5} {'median':>8} {'p90':>7} {'p99':>7} {'max':>7}  ms {'waiting':>8} "
    f"{'total':>9} {'evaluating':>11} {'pausing':>8}  pauses: number x median (longest) ms"
)


def line(row: Summary) -> str:
    """A line of the table under HEADER."""
    pauses = ", ".join(
        f"{kind} {n} x {middle:.1f} ({most:.1f})" for kind, (n, middle, most) in row.pauses.items()
    )
    return (
        f"{row.arm:12} {row.steps:5} {row.median_ms:8.1f} {row.p90_ms:7.1f} {row.p99_ms:7.1f} "
        f"{row.max_ms:7.1f}     {row.waiting:8.1%} {row.total_s:7.1f} s {row.evaluating:11.1%} "
        f"{row.pausing:8.1%}  {pauses or '-'}"
    )


def histogram(steps: Sequence[Step]) -> list[str]:
    """A line an arm, step times from left to right on a logarithmic axis, pauses left out."""
    between = [x for x in steps if not x.after]
    times = np.array([x.ms for x in between])
    # Rounding must not push the shortest and the longest over the edges.
    edges = np.geomspace(0.999 * times.min(), 1.001 * times.max(), _BINS + 1)
    lines = [f"{'ms':12}  {edges[0]:<{_BINS // 2}.1f}{edges[-1]:>{_BINS - _BINS // 2}.1f}"]
    for arm in dict.fromkeys(x.arm for x in between):
        counts, _ = np.histogram([x.ms for x in between if x.arm == arm], edges)
        # Any step at all shows: a hiccup is what one looks for.
        heights = np.ceil(counts / counts.max() * (len(_BARS) - 1)).astype(int)
        lines.append(f"{arm:12} |{''.join(_BARS[h] for h in heights)}|")
    return lines


def write_csv(steps: Sequence[Step], path: pathlib.Path) -> None:
    """One line a step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Step._fields)
        for step in steps:
            writer.writerow([f"{x:.3f}" if isinstance(x, float) else x for x in step])
    part.replace(path)


def plot(steps: Sequence[Step], title: str, path: pathlib.Path) -> None:
    """Left: the share of steps that take longer; right: every pause. Both logarithmic."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    times, pauses = figure.subplots(1, 2)
    arms = list(dict.fromkeys(x.arm for x in steps))
    for number, arm in enumerate(arms):
        ms = np.sort([x.ms for x in steps if x.arm == arm and not x.after])
        if len(ms):
            longer = 1 - np.arange(len(ms)) / len(ms)  # the share that takes at least so long
            times.step(ms, longer, where="post", color=f"C{number}", linewidth=1.2, label=arm)
    times.set(
        xscale="log", yscale="log", xlabel="ms a step", ylabel="share that takes as long or longer"
    )
    # Not the few whose predecessor's end was noted late, nearly with their own.
    shortest = np.percentile([x.ms for x in steps], 1)
    times.set_xlim(left=0.8 * shortest)
    times.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    times.xaxis.set_major_formatter("{x:g}")
    times.xaxis.set_minor_formatter(NullFormatter())
    if times.lines:
        times.legend(fontsize=7)
    _plot_pauses(pauses, steps, arms)
    for axis in (times, pauses):
        axis.grid(alpha=0.3, which="both")
    figure.suptitle(title, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    figure.savefig(part, dpi=100, format=path.suffix[1:])
    part.replace(path)


def _plot_pauses(axis: Any, steps: Sequence[Step], arms: Sequence[str]) -> None:
    for place, kind in enumerate(KINDS):
        for number, arm in enumerate(arms):
            waits = [max(x.waiting_ms, 0.01) for x in steps if (x.arm, x.after) == (arm, kind)]
            if waits:
                height = place + 0.6 * (number / len(arms) - 0.5)
                axis.plot(waits, [height] * len(waits), ".", color=f"C{number}", alpha=0.6)
    axis.set(xscale="log", xlabel="ms that no step runs", yticks=range(len(KINDS)))
    axis.set_yticklabels(KINDS)
    axis.invert_yaxis()
