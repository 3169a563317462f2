"""What a run writes for people and programs: progress lines, tables, metrics.jsonl, TensorBoard."""

import json
import math
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import ml_collections
import numpy as np
from clu import periodic_actions
from etils import epath

from emanet_jax.tasks import tasks_for
from emanet_jax.tasks.metrics import Confusion
from emanet_jax.training import charts, workdir, writers
from emanet_jax.training.writers import read_scalars
from emanet_jax.types import MetricSums, Task

if TYPE_CHECKING:
    from emanet_jax.training.experiment import Experiment


Rows = Sequence[tuple[int, Mapping[str, float]]]  # (step, its scalars) in order


def say(text: str) -> None:
    """Prints at once, on the first process only."""
    if jax.process_index() == 0:
        print(text, flush=True)


def read_evaluations(path: epath.Path) -> dict[int, dict[str, float]]:
    """{step: {"task/metric": value}} of every evaluation in a metrics.jsonl."""
    prefix = "eval/"
    found = {}
    for row in read_scalars(path):
        values = {k.removeprefix(prefix): v for k, v in row.items() if k.startswith(prefix)}
        if values:
            found[int(row["step"])] = values
    return found


class TrainLog:
    """Progress lines for people, scalars and pictures for the writers, CLU's hooks.

    A line shows step, losses per task (means over the interval), images/s and the time left.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        experiment: "Experiment",
        directory: epath.Path,
        start: int,
    ):
        self._config, self._directory = config, directory
        self._tasks, self._schedule = experiment.tasks, experiment.schedule
        self._total = total = experiment.total_steps
        known = tasks_for(config.data.dataset, classes=config.data.classes)
        primaries = [f"{task.name}/{task.primary}" for task in known]
        self._writer = writers.make_writer(directory, start, primaries)
        self._writer.write_hparams(workdir.flat(config))
        self._hooks = [periodic_actions.ReportProgress(num_train_steps=total, writer=self._writer)]
        if config.profile:
            logdir = directory / workdir.TENSORBOARD
            self._hooks.append(periodic_actions.Profile(logdir=logdir, every_secs=None))
        self._pending: list[Mapping[str, jax.Array]] = []
        self._first = start + 1
        if start < total:
            say("Compiling the training step (once; about a minute on a CPU) ...")

    def step(self, step: int, scalars: Mapping[str, jax.Array]) -> Rows:
        """Call after every step; prints and writes at the end of a log interval.

        Means are over the interval's steps that were not skipped.

        Returns:
            The scalars of the interval's steps at its end, nothing before.
        """
        self._pending.append(scalars)
        if step == self._first:
            jax.block_until_ready(scalars)  # so that compiling does not count as training
            self._restart_clock(step)
        for hook in self._hooks:
            hook(step)
        if step % self._config.log_every_steps and step != self._total:
            return []
        rows = jax.device_get(self._pending)  # the interval's only device-to-host copy
        self._pending.clear()
        means = mean_scalars(rows)
        seconds = (time.monotonic() - self._time) / max(step - self._step, 1)
        # The optimiser's own count leaves out what was skipped.
        means["learning_rate"] = float(self._schedule(max(step - 1 - means["skipped"], 0)))
        means["images_per_second"] = self._config.batch_size / seconds
        say(self._line(step, means, seconds))
        self._writer.write_scalars(step, {f"train/{k}": v for k, v in means.items()})
        self._restart_clock(step)
        return list(zip(range(step - len(rows) + 1, step + 1), rows, strict=True))

    def evaluation(
        self,
        step: int,
        values: Mapping[str, float],
        sums: Mapping[str, MetricSums],
        panel: np.ndarray,
    ) -> None:
        """Call after an evaluation; also leaves its panel and results in the workdir.

        Numbers are on disk when it returns, so that a checkpoint may follow; pictures come later.
        """
        primaries = (f"{task.name}/{task.primary}" for task in self._tasks)
        shown = "  ".join(f"{name} {values[name]:.4g}" for name in primaries if name in values)
        say(f"  evaluation  {shown}")
        self._writer.write_scalars(step, {f"eval/{k}": v for k, v in values.items()})
        self.flush()
        self._writer.write_images(step, pictures(self._tasks, sums))
        self.panel(step, panel)
        if jax.process_index() == 0:
            by_class = per_class(self._tasks, sums)
            for name, found in ((workdir.RESULTS, values), (workdir.PER_CLASS, by_class)):
                text = json.dumps({"step": step, **found}, indent=2) + "\n"
                workdir.write(self._directory / name, text)
        self._restart_clock(step)

    def flush(self) -> None:
        """Call before a checkpoint: what was logged until now is on disk when it returns."""
        self._writer.flush()

    def panel(self, step: int, panel: np.ndarray) -> None:
        """Call with every new panel (h, w, 3) uint8; also leaves it in the workdir."""
        self._writer.write_images(step, {writers.PANEL: panel[None]})
        self._restart_clock(step)

    def _line(self, step: int, means: Mapping[str, float], seconds: float) -> str:
        losses = "  ".join(f"{t.name} {means[f'loss_{t.name}']:.3f}" for t in self._tasks)
        done = f"step {step:>{len(str(self._total))}}/{self._total}"
        return (
            f"{done}  loss {means['loss']:.3f} ({losses})  "
            f"{means['images_per_second']:.1f} images/s  "
            f"{duration((self._total - step) * seconds)} left"
        )

    def _restart_clock(self, step: int) -> None:
        self._step, self._time = step, time.monotonic()

    def __enter__(self) -> "TrainLog":
        return self

    def __exit__(self, *_: Any) -> None:
        self._writer.close()


def per_class(
    tasks: Sequence[Task], sums: Mapping[str, MetricSums]
) -> dict[str, dict[str, float | None]]:
    """{"task/metric": {class: value}} of the tasks over classes; None for NaN, as JSON has it."""
    return {
        f"{task.name}/{name}": {
            label: None if math.isnan(value) else float(value)
            for label, value in zip(task.class_names, values, strict=True)
        }
        for task in tasks
        for name, values in sums[task.name].per_class().items()
    }


def pictures(tasks: Sequence[Task], sums: Mapping[str, MetricSums]) -> dict[str, np.ndarray]:
    """{"task/picture": (1, h, w, 3) uint8} of the tasks over classes: confusion, values a class."""
    found = {}
    for task in tasks:
        metric = sums[task.name]
        if isinstance(metric, Confusion):
            matrix = charts.confusion_matrix(metric.counts, task.class_names)
            found[f"{task.name}/confusion_matrix"] = matrix[None]
        for name, values in metric.per_class().items():
            found[f"{task.name}/{name}_by_class"] = charts.bars(values, task, name)[None]
    return found


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
