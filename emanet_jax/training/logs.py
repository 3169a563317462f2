"""A run's log: progress lines, metrics, figures and charts while it trains, and tables."""

import logging
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from emanet_jax import strict_json
from emanet_jax.config import flatten
from emanet_jax.tasks.metrics import Confusion
from emanet_jax.training import charts, workdir
from emanet_jax.training.evaluation import Evaluation
from emanet_jax.training.experiment import Experiment
from emanet_jax.training.writers import FIRST, Writer, read_scalars, tag
from emanet_jax.types import MetricSums, Task

_LOG = logging.getLogger(__name__)

Rows = Sequence[tuple[int, Mapping[str, float]]]  # (step, its scalars) in order

_TRACED = (10, 15)  # steps after the start between which config.profile records a trace


class TrainLog:
    """Progress lines for people, scalars and figures for `Writer`.

    A line shows step, losses per task (means over the interval), images/s and the time left.

    Args:
        experiment: the run.
        directory: its workdir.
        start: the step that it goes on from.
    """

    def __init__(self, experiment: Experiment, directory: epath.Path, start: int) -> None:
        self._experiment, self._directory, self._start = experiment, directory, start
        self._writer = Writer(directory, start, experiment.tensorboard)
        self._writer.hparams(flatten(experiment.config))
        self._pending: list[Mapping[str, jax.Array]] = []
        self._tracing = False
        if start < experiment.total_steps:
            _LOG.info("Compiling the training step (once; about a minute on a CPU) ...")

    def step(self, step: int, scalars: Mapping[str, jax.Array]) -> Rows:
        """Call after every step; logs and writes at the end of a log interval.

        Means are over the interval's steps that were not skipped.

        Returns:
            The scalars of the interval's steps at its end, nothing before.
        """
        self._pending.append(scalars)
        if step == self._start + 1:
            jax.block_until_ready(scalars)  # so that compiling does not count as training
            self._restart_clock(step)
        if self._experiment.profile and step - self._start in _TRACED:
            self._trace(on=step - self._start == _TRACED[0])
        if step % self._experiment.every.log and step != self._experiment.total_steps:
            return []
        rows = jax.device_get(self._pending)  # the interval's only device-to-host copy
        self._pending.clear()
        means = mean_scalars(rows)
        seconds = (time.monotonic() - self._time) / max(step - self._step, 1)
        # The optimiser's own count leaves out what was skipped.
        taken = max(step - 1 - means["skipped"], 0)
        means["learning_rate"] = float(self._experiment.schedule(taken))
        means["images_per_second"] = self._experiment.batch_size / seconds
        _LOG.info(self._line(step, means, seconds))
        self._writer.scalars(step, {f"train/{k}": v for k, v in means.items()})
        self._restart_clock(step)
        return list(zip(range(step - len(rows) + 1, step + 1), rows, strict=True))

    def evaluation(self, step: int, evaluation: Evaluation) -> None:
        """Call after an evaluation; also leaves its figure and results in the workdir.

        Numbers are on disk when it returns, so that a checkpoint may follow; images come later.
        """
        tasks, values = self._experiment.tasks, evaluation.values
        primaries = (f"{task.name}/{task.primary}" for task in tasks)
        shown = "  ".join(f"{name} {values[name]:.4g}" for name in primaries if name in values)
        _LOG.info("  evaluation  %s", shown)
        self._writer.scalars(step, {f"eval/{k}": v for k, v in values.items()})
        self.flush()
        if self._writer.tensorboard:
            rows = read_scalars(self._directory / workdir.METRICS)
            self._writer.images(step, draw_curves(tasks, rows))
            self._writer.images(step, draw_charts(tasks, evaluation.sums))
        self.figure(step, evaluation.figure)
        by_class = per_class(tasks, evaluation.sums)
        for name, content in ((workdir.RESULTS, values), (workdir.PER_CLASS, by_class)):
            if jax.process_index() == 0:
                text = strict_json.dumps({"step": step, **content}, indent=2) + "\n"
                workdir.write(self._directory / name, text)

    def figure(self, step: int, figure: np.ndarray) -> None:
        """Call with every new figure (h, w, 3) uint8; also leaves it in the workdir."""
        self._writer.figure(step, figure)
        self._restart_clock(step)

    def flush(self) -> None:
        """Call before a checkpoint: what was logged until now is on disk when it returns."""
        self._writer.flush()

    def _trace(self, on: bool) -> None:
        if on:
            jax.profiler.start_trace(str(self._directory / workdir.TENSORBOARD))
        elif self._tracing:
            jax.profiler.stop_trace()
        self._tracing = on

    def _line(self, step: int, means: Mapping[str, float], seconds: float) -> str:
        total = self._experiment.total_steps
        losses = (f"{t.name} {means[f'loss_{t.name}']:.3f}" for t in self._experiment.tasks)
        return (
            f"step {step:>{len(str(total))}}/{total}  "
            f"loss {means['loss']:.3f} ({'  '.join(losses)})  "
            f"{means['images_per_second']:.1f} images/s  "
            f"{duration((total - step) * seconds)} left"
        )

    def _restart_clock(self, step: int) -> None:
        self._step, self._time = step, time.monotonic()

    def __enter__(self) -> "TrainLog":
        return self

    def __exit__(self, *_: Any) -> None:
        self._trace(on=False)
        self._writer.close()


def per_class(tasks: Sequence[Task], sums: Mapping[str, MetricSums]) -> dict[str, dict[str, float]]:
    """{"task/metric": {class: value}} of the tasks over classes; NaN for one that never occurs."""
    return {
        f"{task.name}/{name}": {
            label: float(value) for label, value in zip(task.class_names, values, strict=True)
        }
        for task in tasks
        for name, values in sums[task.name].per_class().items()
    }


def draw_charts(tasks: Sequence[Task], sums: Mapping[str, MetricSums]) -> dict[str, np.ndarray]:
    """{"task/chart": (h, w, 3) uint8} of the tasks over classes: confusion, values per class."""
    drawn = {}
    for task in tasks:
        metric = sums[task.name]
        if isinstance(metric, Confusion):
            matrix = charts.confusion_matrix(np.asarray(metric.counts), task.class_names)
            drawn[f"{task.name}/confusion_matrix"] = matrix
        for name, values in metric.per_class().items():
            drawn[f"{task.name}/{name}_by_class"] = charts.bars(values, task, name)
    return drawn


def draw_curves(
    tasks: Sequence[Task], rows: Sequence[Mapping[str, float]]
) -> dict[str, np.ndarray]:
    """{tag: (h, w, 3) uint8} of the total loss and each task's primary metric over all steps.

    Args:
        tasks: of the run.
        rows: of its metrics.jsonl; a curve without a finite value is left out.
    """
    names = ["train/loss", *(f"eval/{task.name}/{task.primary}" for task in tasks)]
    drawn = {}
    for name in names:
        points = {row["step"]: row[name] for row in rows if math.isfinite(row.get(name, math.nan))}
        if points:
            title = tag(name).replace("/", "_")
            drawn[f"{FIRST}/{title}"] = charts.curve(points, title)
    return drawn


def mean_scalars(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means over the steps that were not skipped (NaN without any), and the last step's counts."""
    good = [row for row in rows if not row["bad_in_row"]]
    means = {
        name: float(np.mean([x[name] for x in good])) if good else math.nan for name in rows[0]
    }
    return means | {name: float(rows[-1][name]) for name in ("bad_in_row", "skipped")}


def duration(seconds: float) -> str:
    """Seconds as 42s, 3m10s or 2h05m."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02}s"
    return f"{seconds // 3600}h{seconds // 60 % 60:02}m"


def _cell(column: Mapping[str, float], row: str) -> str:
    return f"{column[row]:.4g}" if row in column else "-"


def table(columns: Mapping[str, Mapping[str, float]]) -> str:
    """Aligned text table of {column title: {metric: value}}, a metric a row; "-" if it is missing.

    The column with most metrics gives their order.
    """
    by_length = sorted(columns.values(), key=len, reverse=True)
    rows = dict.fromkeys(name for column in by_length for name in column)
    lines = [
        ["metric", *columns],
        *([row, *(_cell(column, row) for column in columns.values())] for row in rows),
    ]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = [
        "  ".join(cell.rjust(width) if i else cell.ljust(width) for i, (cell, width) in pairs)
        for pairs in (enumerate(zip(line, widths, strict=True)) for line in lines)
    ]
    return "\n".join([text[0], "-" * len(text[0]), *text[1:]])
