"""Means and deviations over seeds, delta_m, and the tables that they fill."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np

from emanet_jax.compare.layout import Row, Table
from emanet_jax.compare.runs import Group, Run
from emanet_jax.models.cost import Cost
from emanet_jax.tasks import metrics
from emanet_jax.types import Task

Definition = Literal["primary", "task_means", "all_metrics"]
DEFINITIONS: tuple[Definition, ...] = get_args(Definition)

_UNITS = {"percent": "%", "m": "m", "deg": "°"}  # what the names of metrics end in
MISSING = "–"


class Stat(NamedTuple):
    """Mean and sample standard deviation of the numbers that are there."""

    mean: float
    std: float  # NaN of fewer than two
    count: int


def stat(values: Sequence[float]) -> Stat:
    """Of the values that are finite; NaN without any."""
    there = [x for x in values if math.isfinite(x)]
    return Stat(
        mean=float(np.mean(there)) if there else math.nan,
        std=float(np.std(there, ddof=1)) if len(there) > 1 else math.nan,
        count=len(there),
    )


def metric_stat(group: Group, name: str) -> Stat:
    """Of the metric "task/metric" over a group's seeds."""
    return stat([run.results[name] for run in group.runs if name in run.results])


def metric_names(groups: Sequence[Group], task: Task) -> list[str]:
    """The task's metrics that at least one run has, "task/metric" in the Task's order."""
    there = {name for group in groups for run in group.runs for name in run.results}
    return [name for x in task.metric_names() if (name := f"{task.name}/{x}") in there]


def delta_m(
    run: Run, reference: Mapping[str, float], tasks: Sequence[Task], definition: Definition
) -> float:
    """`metrics.delta_m` of a run; NaN if it, or the reference, lacks a metric of the definition.

    Args:
        run: whose results are looked at.
        reference: {"task/metric": value} of the single-task runs.
        tasks: to average over.
        definition: which metrics of a task count.
    """
    names = [f"{task.name}/{task.primary}" for task in tasks]
    if definition != "primary":
        names += [name for name in reference if name not in names]
    lacking = [
        name
        for name in names
        if not all(math.isfinite(x.get(name, math.nan)) for x in (run.results, reference))
        or not reference[name]  # gains are shares of it
    ]
    if lacking:
        return math.nan
    return metrics.delta_m({x: run.results[x] for x in names}, reference, tasks, definition)


def reference_values(reference: Group | None, tasks: Sequence[Task]) -> dict[str, float]:
    """The means over the reference's seeds, {"task/metric": value}; {} without a reference."""
    groups = [reference] if reference else []
    return {
        name: metric_stat(group, name).mean
        for group in groups
        for task in tasks
        for name in metric_names(groups, task)
    }


def label(group: Group) -> str:
    """A group's name in tables."""
    count = len(group.runs)
    return f"{group.label}\u00a0({count}\u00a0seeds)" if count > 1 else group.label


def title_of(name: str) -> str:
    """A metric's name with unit and direction: "miou (%) ↑"."""
    arrow = "↑" if metrics.higher_is_better(name) else "↓"
    words, _, unit = name.rpartition("_")
    if unit not in _UNITS:
        return f"{name.replace('_', ' ')} {arrow}"
    return f"{words.replace('_', ' ')} ({_UNITS[unit]}) {arrow}"


def _decimals(stats: Sequence[Stat]) -> int:
    """As many that numbers of this size have three or four digits."""
    largest = max((abs(x.mean) for x in stats if x.count), default=0.0)
    return 1 if largest >= 100 else 2 if largest >= 10 else 3


def _text(value: Stat, decimals: int) -> str:
    if not value.count:
        return MISSING
    deviation = "" if math.isnan(value.std) else f" ± {value.std:.{decimals}f}"
    return f"{value.mean:.{decimals}f}{deviation}"


def _count(number: int) -> str:
    return f"{number / 1e9:.2f} G" if number >= 1e9 else f"{number / 1e6:.2f} M"


def _best(stats: Sequence[Stat], higher: bool) -> frozenset[int]:
    """Where the best mean stands; nowhere if there is nothing to compare."""
    means = {i: x.mean if higher else -x.mean for i, x in enumerate(stats) if x.count}
    if len(set(means.values())) < 2:
        return frozenset()
    return frozenset(i for i, x in means.items() if x == max(means.values()))


def _filled(columns: Sequence[tuple[Sequence[Stat], bool]]) -> list[tuple[list[str], set[int]]]:
    """Texts of each row and the columns where it is best, from columns and whether more is better.

    Every column has as many numbers as there are rows.
    """
    texts, best = [], []
    for stats, higher in columns:
        decimals = _decimals(stats)
        texts.append([_text(x, decimals) for x in stats])
        best.append(_best(stats, higher))
    count = len(columns[0][0]) if columns else 0
    return [
        ([text[r] for text in texts], {c for c, rows in enumerate(best) if r in rows})
        for r in range(count)
    ]


def summary(
    groups: Sequence[Group],
    tasks: Sequence[Task],
    reference: Group | None,
    costs: Mapping[str, Cost],
) -> Table:
    """Primary metrics, delta_m in its three definitions, and what each network costs.

    Args:
        groups: the rows.
        tasks: of the runs.
        reference: of delta_m; None: it is left out.
        costs: {label of a group: of its network}.
    """
    columns: dict[str, tuple[list[Stat], bool]] = {}
    for task in tasks:
        name = f"{task.name}/{task.primary}"
        stats = [metric_stat(group, name) for group in groups]
        columns[f"{task.name} {title_of(task.primary)}"] = stats, metrics.higher_is_better(name)
    against = reference_values(reference, tasks)
    for definition in DEFINITIONS if reference else ():
        stats = [stat([delta_m(x, against, tasks, definition) for x in g.runs]) for g in groups]
        columns[f"Δm {definition.replace('_', ' ')} (%) ↑"] = stats, True
    speeds = [stat([run.images_per_second() for run in group.runs]) for group in groups]
    rows = []
    for i, (group, (texts, best)) in enumerate(
        zip(groups, _filled([*columns.values()]), strict=True)
    ):
        cost = costs[group.label]
        speed = f"{speeds[i].mean:.1f}" if speeds[i].count else MISSING
        price = (_count(cost.parameters), _count(cost.multiply_adds), speed)
        rows.append(Row(label(group), (*texts, *price), frozenset(best)))
    titles = (*columns, "parameters", "multiply-adds", "images/s")
    return Table("Results", "network", titles, tuple(rows), _notes(groups, reference))


def _notes(groups: Sequence[Group], reference: Group | None) -> tuple[str, ...]:
    """What a reader must know of the first table's numbers."""
    runs = [run for group in groups for run in group.runs]
    devices = sorted({run.devices for run in runs if run.devices})
    notes = [
        "Every number is of the last evaluation of a run, on the whole evaluation split.",
        "The best of a column is bold; ↑: more is better, ↓: less.",
        "Multiply-adds: one image, forwards, half of the operations that XLA counts. Images/s: the "
        f"median while training, on {', '.join(devices) or 'an unknown machine'} and whatever else "
        "it had to do.",
    ]
    if any(len(group.runs) > 1 for group in groups):
        notes.insert(1, "a ± b: mean and sample standard deviation over the seeds.")
    if reference:
        notes.append(
            f"Δm: mean relative gain over {label(reference)}; primary: of one metric a task; task "
            "means: of the mean gain over each task's metrics; all metrics: the flat mean over all."
        )
    else:
        notes.append("No Δm: there is no single-task run among these.")
    for run in runs:
        if run.total_steps is not None and not run.finished:
            name = f"{run.config.model.name}, seed {run.config.seed}"
            notes.append(f"Not finished: {name} at step {run.step} of {run.total_steps}.")
    return tuple(notes)


def all_metrics(groups: Sequence[Group], task: Task) -> Table:
    """Every metric of a task, a group a row."""
    names = metric_names(groups, task)
    columns = [
        ([metric_stat(group, name) for group in groups], metrics.higher_is_better(name))
        for name in names
    ]
    filled = _filled(columns) or [([], set())] * len(groups)
    rows = [
        Row(label(group), tuple(texts), frozenset(best))
        for group, (texts, best) in zip(groups, filled, strict=True)
    ]
    titles = tuple(title_of(name.partition("/")[2]) for name in names)
    return Table(f"{task.name}: all metrics", "network", titles, tuple(rows))


def by_class(groups: Sequence[Group], task: Task) -> list[Table]:
    """A table for each metric that the task has of every class: a class a row."""
    runs = [run for group in groups for run in group.runs]
    found = (name for run in runs for name in run.per_class if name.startswith(f"{task.name}/"))
    tables = []
    for name in dict.fromkeys(found):
        rows = []
        for index, title in enumerate(task.class_names):
            stats = [_class_stat(group, name, title) for group in groups]
            best = _best(stats, metrics.higher_is_better(name))
            colour = task.colours(np.full((1, 1, 1), index))[0, 0]
            cells = tuple(_text(x, 1) for x in stats)
            rows.append(Row(title, cells, best, tuple(int(x) for x in colour)))
        heading = f"{task.name}: {title_of(name.partition('/')[2])} of every class"
        notes = (f"{MISSING}: the class occurs in neither label nor prediction.",)
        tables.append(Table(heading, "class", tuple(map(label, groups)), tuple(rows), notes))
    return tables


def _class_stat(group: Group, name: str, title: str) -> Stat:
    tables = [run.per_class[name] for run in group.runs if name in run.per_class]
    return stat([table[title] for table in tables if title in table])
