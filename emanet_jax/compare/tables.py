"""Tables of groups of runs: means and deviations over the seeds, delta_m, cost, values by class."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
import pandas as pd

from emanet_jax.compare.runs import NO_DIFFERENCE, Group
from emanet_jax.config import flatten
from emanet_jax.models.cost import Cost
from emanet_jax.tasks import metrics
from emanet_jax.types import Task

Definition = Literal["primary", "task_means", "all_metrics"]
DEFINITIONS: tuple[Definition, ...] = get_args(Definition)
SPEED, DELTA_M = "images_per_second", "delta_m/"  # columns of `run_values`

_UNITS = {"percent": "%", "m": "m", "deg": "°"}  # by the ending of a metric's name
_MISSING = "–"
_LATEX = str.maketrans(
    {
        "↑": r"$\uparrow$",
        "↓": r"$\downarrow$",
        "Δ": r"$\Delta$",
        "°": r"$^\circ$",
        "±": r"$\pm$",
        "–": "--",
        "\u00a0": "~",
    }
)


class Table(NamedTuple):
    """A table of texts.

    Attributes:
        title: heading.
        texts: the cells; the name of the columns' index stands in the corner.
        best: which cells are the best of their kind.
        notes: sentences below it.
        colours: RGB of the rows' swatches; () for none.
    """

    title: str
    texts: pd.DataFrame
    best: pd.DataFrame
    notes: tuple[str, ...] = ()
    colours: tuple[tuple[int, ...], ...] = ()

    def rows(self) -> Iterator[tuple[str, list[tuple[str, bool]]]]:
        """Each row's name and its cells: the text, and whether it is the best."""
        cells = zip(self.texts.index, self.texts.to_numpy(), self.best.to_numpy(), strict=True)
        for name, texts, best in cells:
            yield name, list(zip(texts, best, strict=True))

    def markdown(self) -> str:
        """Title, table and notes in Markdown."""
        head = [str(self.texts.columns.name), *self.texts.columns]
        lines = [head, ["---"] * len(head)]
        for name, cells in self.rows():
            lines.append([name, *(f"**{text}**" if best else text for text, best in cells)])
        table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
        notes = "".join(f"- {note}\n" for note in self.notes)
        return f"### {self.title}\n\n{table}" + (f"\n{notes}" if notes else "")

    def latex(self) -> str:
        """A tabular with the rules of the package booktabs, the title in a comment above."""
        bold = np.where(self.best, "textbf:--rwrap;", "")
        style = self.texts.style.format(escape="latex").apply(lambda _: bold, axis=None)
        style.format_index(escape="latex", axis=0).format_index(escape="latex", axis=1)
        text = style.to_latex(hrules=True, column_format="l" + "r" * self.texts.shape[1])
        return f"% {self.title}\n" + text.translate(_LATEX)


def run_values(
    groups: Sequence[Group], tasks: Sequence[Task], reference: Group | None
) -> pd.DataFrame:
    """All numbers of the runs; NaN where there is none.

    Args:
        groups: of the runs.
        tasks: of the runs.
        reference: of delta_m; None: there is no delta_m.

    Returns:
        A run a row, indexed by its group's title; columns "task/metric" in the order of the tasks,
        `DELTA_M` + definition in percent, and `SPEED`.
    """
    runs = [run for group in groups for run in group.runs]
    index = [group.title for group in groups for _ in group.runs]
    values = pd.DataFrame([run.results for run in runs], index, dtype=float)
    names = [f"{task.name}/{name}" for task in tasks for name in task.metric_names()]
    values = values[[name for name in names if name in values]]
    values = values.where(np.isfinite(values))
    gains = _delta_m(values, tasks, reference) if reference is not None else {}
    columns = {DELTA_M + x: gains.get(x, math.nan) for x in DEFINITIONS}
    return values.assign(**columns, **{SPEED: [run.images_per_second() for run in runs]})


def _delta_m(
    values: pd.DataFrame, tasks: Sequence[Task], reference: Group
) -> dict[Definition, list[float]]:
    """Each run's delta_m over the reference's mean; NaN if either lacks a metric that counts.

    The primary metrics and those that the reference has count.
    """
    names = [f"{task.name}/{task.primary}" for task in tasks]
    names += [name for run in reference.runs for name in run.results if name in values]
    values = values.reindex(columns=list(dict.fromkeys(names)))
    means = values.loc[[reference.title]].mean().replace(0, np.nan)  # gains are shares of these
    against = {str(name): value for name, value in means.items()}
    results: list[dict[str, float]] = [dict(run) for _, run in values.iterrows()]
    return {x: [metrics.delta_m(run, against, tasks, x) for run in results] for x in DEFINITIONS}


def _compared(
    values: pd.DataFrame, columns: Mapping[str, tuple[str, bool]], digits: int | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Texts "mean ± deviation", a group a row, and which are the best of their column.

    Args:
        values: a run a row, indexed by group.
        columns: {name in `values`: (its title, whether higher is better)}.
        digits: behind the point; None: so that a column's largest number has three or four in all.
    """
    seeds = values.reindex(columns=list(columns)).groupby(level=0, sort=False)
    means, deviations = seeds.mean(), seeds.std()
    texts = means.astype(object)
    for name in columns:
        largest = means[name].abs().max()
        decimals = digits or (1 if largest >= 100 else 2 if largest >= 10 else 3)
        pairs = zip(means[name], deviations[name], strict=True)
        texts[name] = [_text(mean, deviation, decimals) for mean, deviation in pairs]
    signed = means * [1 if higher else -1 for _, higher in columns.values()]
    best = signed.eq(signed.max()) & (signed.nunique() > 1)
    titles = pd.Index([title for title, _ in columns.values()], name="network")
    return texts.set_axis(titles, axis=1), best.set_axis(titles, axis=1)


def _text(mean: float, deviation: float, decimals: int) -> str:
    if math.isnan(mean):
        return _MISSING
    shown = [f"{x:.{decimals}f}" for x in (mean, deviation) if not math.isnan(x)]
    return " ± ".join(shown)


def title_of(task: Task, name: str) -> str:
    """The name of a task's metric with unit and direction: "miou (%) ↑"."""
    arrow = "↑" if task.metric_directions()[name] else "↓"
    words, _, unit = name.rpartition("_")
    if unit not in _UNITS:
        return f"{name.replace('_', ' ')} {arrow}"
    return f"{words.replace('_', ' ')} ({_UNITS[unit]}) {arrow}"


def _count(number: int) -> str:
    return f"{number / 1e9:.2f} G" if number >= 1e9 else f"{number / 1e6:.2f} M"


def summary(
    groups: Sequence[Group],
    tasks: Sequence[Task],
    values: pd.DataFrame,
    reference: Group | None,
    costs: Sequence[Cost],
) -> Table:
    """Primary metrics, delta_m in its three definitions, and what each network costs.

    Args:
        groups: the rows.
        tasks: of the runs.
        values: `run_values` of the groups.
        reference: of delta_m.
        costs: of each group's network.
    """
    columns = {
        f"{t.name}/{t.primary}": (f"{t.name} {title_of(t, t.primary)}", t.higher_is_better)
        for t in tasks
    }
    if reference is not None:
        columns |= {DELTA_M + x: (f"Δm {x.replace('_', ' ')} (%) ↑", True) for x in DEFINITIONS}
    texts, best = _compared(values, columns)
    speeds = values[SPEED].groupby(level=0, sort=False).mean()
    texts["parameters"] = [_count(cost.parameters) for cost in costs]
    texts["multiply-adds"] = [_count(cost.multiply_adds) for cost in costs]
    texts["images/s"] = [_text(speed, math.nan, 1) for speed in speeds]
    best = best.reindex(columns=texts.columns, fill_value=False)
    return Table("Results", texts, best, _notes(groups, reference))


def _notes(groups: Sequence[Group], reference: Group | None) -> tuple[str, ...]:
    """Sentences on how the numbers of the summary were measured."""
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
    if reference is not None:
        notes.append(
            f"Δm: mean relative gain over {reference.title}; primary: of one metric a task; task "
            "means: of the mean gain over each task's metrics; all metrics: the flat mean over all."
        )
    else:
        notes.append("No Δm: there is no single-task run among these.")
    for run in runs:
        if run.total_steps is not None and not run.finished:
            name = f"{run.config.model.name}, seed {run.config.seed}"
            notes.append(f"Not finished: {name} at step {run.step} of {run.total_steps}.")
    return tuple(notes)


def all_metrics(task: Task, values: pd.DataFrame) -> Table:
    """Every metric of a task, a group a row."""
    columns = {
        f"{task.name}/{name}": (title_of(task, name), higher)
        for name, higher in task.metric_directions().items()
        if f"{task.name}/{name}" in values
    }
    texts, best = _compared(values, columns)
    return Table(f"{task.name}: all metrics", texts, best)


def settings(groups: Sequence[Group]) -> tuple[Table, dict[str, str]]:
    """The config values that differ between groups, a group a column; those that all runs share."""
    index = [group.title for group in groups for _ in group.runs]
    configs = [flatten(run.config) for group in groups for run in group.runs]
    values = pd.DataFrame(configs, index, dtype=object)
    values = values.astype(str).where(values.notna(), _MISSING)
    shared = values.nunique() == 1
    own = values.loc[:, ~shared & ~values.columns.isin(NO_DIFFERENCE)]
    texts = own[~own.index.duplicated()].T.rename_axis(index=None, columns="setting")
    best = pd.DataFrame(False, texts.index, texts.columns)
    return Table("Settings that differ", texts, best), dict(values.loc[:, shared].iloc[0])


def by_class(groups: Sequence[Group], task: Task) -> list[Table]:
    """A table, a class a row, for each metric that the task has of every class."""
    classes = task.class_names
    colours = task.colours(np.arange(len(classes))[None, :, None])[0].tolist() if classes else []
    runs = [run for group in groups for run in group.runs]
    index = [group.title for group in groups for _ in group.runs]
    tables = []
    for metric, higher in task.metric_directions().items():
        rows = [run.per_class.get(f"{task.name}/{metric}", {}) for run in runs]
        if not any(rows):
            continue
        values = pd.DataFrame(rows, index, dtype=float)
        texts, best = _compared(values, {x: (x, higher) for x in classes}, digits=1)
        tables.append(
            Table(
                f"{task.name}: {title_of(task, metric)} of every class",
                texts.T.rename_axis(index=None, columns="class"),
                best.T,
                (f"{_MISSING}: the class occurs in neither label nor prediction.",),
                tuple(map(tuple, colours)),
            )
        )
    return tables
