"""The runs to compare: the numbers in their workdirs, and groups of runs that are seeds of one."""

import json
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import ml_collections
import numpy as np
from etils import epath

from emanet_jax import strict_json
from emanet_jax.config import flatten
from emanet_jax.data.files import is_hidden
from emanet_jax.errors import UserError
from emanet_jax.tasks import tasks_for
from emanet_jax.training import environment, workdir
from emanet_jax.training.writers import read_scalars
from emanet_jax.types import Task

_LOG = logging.getLogger(__name__)

SINGLE_TASK = "stl"  # the network that delta_m is taken against unless another run is named

# Config values that runs must share, because they decide what a metric is measured on.
MUST_AGREE = (
    "data.dataset",
    "data.layout",
    "data.image_size",
    "data.classes",
    "data.negate_normals",
    "data.val_examples",
    "data.seed",
    "tasks",
)
# Config values in which runs of one group may differ: the seed, and those that change no update.
NO_DIFFERENCE = (
    "seed",
    "data.data_dir",
    "data.manual_dir",
    "data.threads",
    "data.prefetch",
    "data.cache",
    "remat",
    "task_gradients",
    "max_bad_steps",
    "eval_batch_size",
    "log_every_steps",
    "eval_every_epochs",
    "figure_images",
    "figure_every_steps",
    "host_metrics",
    "checkpoint.every_steps",
    "checkpoint.keep_latest",
    "checkpoint.keep_best",
    "checkpoint.best_metric",
    "checkpoint.reference",
    "mesh.spatial",
    "profile",
)
_DEPTH = 3  # levels of folders between one that is named and the runs in it, at most

T = TypeVar("T")


class Run(NamedTuple):
    """The files of one run.

    Attributes:
        directory: its workdir.
        config: locked.
        step: of the evaluation that gave `results` and `per_class`.
        total_steps: length of the training; None if the run was not made by training.
        results: {"task/metric": value}.
        per_class: {"task/metric": {class: value}}, NaN for a class that never occurs.
        scalars: the rows of its metrics.jsonl.
        devices: number and kind of those it was last trained on, as "1 x cpu"; "" if unknown.
    """

    directory: epath.Path
    config: ml_collections.ConfigDict
    step: int
    total_steps: int | None
    results: dict[str, float]
    per_class: dict[str, dict[str, float]]
    scalars: list[dict[str, float]]
    devices: str

    @property
    def finished(self) -> bool:
        """Whether its results are of the last step."""
        return self.step == self.total_steps

    def images_per_second(self) -> float:
        """The median over its log intervals; NaN without any."""
        speeds = [row[name] for row in self.scalars if (name := "train/images_per_second") in row]
        return float(np.median(speeds)) if speeds else math.nan


class Group(NamedTuple):
    """Runs that differ in their seeds alone, in the order of these; no two have the same label."""

    label: str
    runs: tuple[Run, ...]

    @property
    def config(self) -> ml_collections.ConfigDict:
        """The config of the first run."""
        return self.runs[0].config

    @property
    def title(self) -> str:
        """The label with the number of seeds, where there are several."""
        count = len(self.runs)
        return f"{self.label}\u00a0({count}\u00a0seeds)" if count > 1 else self.label


def find(places: Sequence[str]) -> list[epath.Path]:
    """The workdirs among some folders and below them.

    Args:
        places: workdirs, or folders that hold some; of these, runs without results are left out.

    Raises:
        UserError: a folder holds no run with results.
    """
    found: dict[epath.Path, None] = {}
    for name in places:
        place = workdir.absolute(epath.Path(name).expanduser())
        if (place / workdir.CONFIG).exists():
            found[place] = None
            continue
        patterns = ("*/" * depth + workdir.CONFIG for depth in range(1, _DEPTH + 1))
        below = sorted(
            path.parent
            for pattern in patterns
            for path in place.glob(pattern)
            if not any(map(is_hidden, path.relative_to(place).parts))
        )
        evaluated = [path for path in below if (path / workdir.RESULTS).exists()]
        for path in sorted(set(below) - set(evaluated)):
            _LOG.info("%s has not been evaluated yet: left out.", path)
        if not evaluated:
            raise UserError(f"--workdirs={name} holds no run that has been evaluated.")
        found |= dict.fromkeys(evaluated)
    return list(found)


def read(directory: epath.Path) -> Run:
    """Reads the run in a workdir.

    Raises:
        UserError: it has not been evaluated, or one of its files is damaged.
    """
    config = workdir.load_config(directory)
    path = directory / workdir.RESULTS
    if not path.exists():
        raise UserError(
            f"{directory} has not been evaluated yet, so that there is no {workdir.RESULTS} in it: "
            "train it, or leave it out of --workdirs."
        )
    step, results = read_evaluation(path, strict_json.numbers)
    path = directory / workdir.PER_CLASS
    _, per_class = read_evaluation(path, numbers_by_class) if path.exists() else (step, {})
    last = {"total_steps": None, "devices": None, "device": None}
    last |= (environment.read(directory) or [{}])[-1]
    return Run(
        directory=directory,
        config=config,
        step=step,
        total_steps=last["total_steps"],
        results=results,
        per_class=per_class,
        scalars=read_scalars(directory / workdir.METRICS),
        devices=f"{last['devices']} x {last['device']}" if last["device"] else "",
    )


def read_evaluation(
    path: epath.Path, convert: Callable[[dict[str, Any]], dict[str, T]]
) -> tuple[int, dict[str, T]]:
    """The step of an evaluation and its values, from results.json or per_class.json.

    Raises:
        UserError: the file cannot be read or converted.
    """
    try:
        values = json.loads(path.read_text())
        return int(values.pop("step")), convert(values)
    except (OSError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read as the results of an evaluation ({type(error).__name__}: "
            f"{error}); evaluate the run again."
        ) from error


def numbers_by_class(values: dict[str, dict[str, float | None]]) -> dict[str, dict[str, float]]:
    """The values by class with NaN for null."""
    return {name: strict_json.numbers(by_class) for name, by_class in values.items()}


def check_comparable(runs: Sequence[Run]) -> tuple[Task, ...]:
    """The tasks of the runs.

    Raises:
        UserError: two of them were measured on different data.
    """
    first, *others = [flatten(r.config) | {"tasks": sorted(r.config.tasks)} for r in runs]
    for run, other in zip(runs[1:], others, strict=True):
        for key in MUST_AGREE:
            if other[key] != first[key]:
                raise UserError(
                    f"{runs[0].directory} and {run.directory} cannot be compared: {key} is "
                    f"{first[key]} and {other[key]}; choose --workdirs that agree in it."
                )
    config = runs[0].config
    return tasks_for(config.data.dataset, config.tasks, config.data.classes)


def grouped(runs: Sequence[Run]) -> list[Group]:
    """Groups of runs that differ in `NO_DIFFERENCE` alone, in the order of their first runs.

    A group is called after its network; where others share it, also after what differs from them.
    """
    groups: dict[frozenset, list[Run]] = {}
    for run in runs:
        groups.setdefault(frozenset(_settings(run).items()), []).append(run)
    found = []
    for members in groups.values():
        name = members[0].config.model.name
        alike = (x for x, (run, *_) in groups.items() if run.config.model.name == name)
        shared = frozenset.intersection(*alike)
        own = [f"{k}={v}" for k, v in _settings(members[0]).items() if (k, v) not in shared]
        label = f"{name} ({', '.join(own)})" if own else name
        found.append(Group(label, tuple(sorted(members, key=lambda run: run.config.seed))))
    return found


def _settings(run: Run) -> dict[str, Any]:
    """The config's values that tell groups apart, by flat keys ("model.name")."""
    return {k: v for k, v in flatten(run.config).items() if k not in NO_DIFFERENCE}


def choose_reference(groups: Sequence[Group], named: str | None) -> Group | None:
    """The group that delta_m is taken against: the one of a named workdir, or the single-task one.

    Raises:
        UserError: no run is of that name, or there are several single-task groups.
    """
    if named is not None:
        place = workdir.absolute(epath.Path(named).expanduser())
        for group in groups:
            if place in [run.directory for run in group.runs]:
                return group
        raise UserError(f"--reference={named} is none of the runs of --workdirs.")
    single = [group for group in groups if group.config.model.name == SINGLE_TASK]
    if len(single) > 1:
        names = " and ".join(str(group.runs[0].directory) for group in single)
        raise UserError(f"delta_m could be taken against {names}: choose one with --reference.")
    return single[0] if single else None
