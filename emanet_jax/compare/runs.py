"""The runs that are compared: what their files say, and which of them are seeds of one another."""

import json
import logging
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import ml_collections
import numpy as np
from etils import epath

from emanet_jax.errors import UserError
from emanet_jax.tasks import tasks_for
from emanet_jax.training import environment, workdir
from emanet_jax.training.writers import read_scalars
from emanet_jax.types import Task

_LOG = logging.getLogger(__name__)

SINGLE_TASK = "stl"  # the network that delta_m is taken against unless another run is named

# What runs must share: it decides what a metric is measured on.
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
# What does not make a run another one than its neighbour: the seed, and what changes no update.
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
    "panel_images",
    "panel_every_steps",
    "host_metrics",
    "checkpoint.every_steps",
    "checkpoint.keep_latest",
    "checkpoint.keep_best",
    "checkpoint.best_metric",
    "checkpoint.reference",
    "mesh.spatial",
    "profile",
)
_DEPTH = 3  # folders between one that is named and the runs in it, at most


class Run(NamedTuple):
    """What the files of one run say.

    Attributes:
        directory: its workdir.
        config: locked.
        step: of the evaluation that `results` and `per_class` are of.
        total_steps: that it is to have; None in a run that was made otherwise than by training.
        results: {"task/metric": value}.
        per_class: {"task/metric": {class: value}}, NaN for a class that never occurs.
        scalars: the rows of its metrics.jsonl.
        devices: that it was last trained on, in words; "" if unknown.
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
    """Runs that differ in their seeds alone, in the order of these."""

    label: str
    runs: tuple[Run, ...]

    @property
    def config(self) -> ml_collections.ConfigDict:
        """That of the first."""
        return self.runs[0].config


def find(places: Sequence[str]) -> list[epath.Path]:
    """The workdirs among some folders and below them.

    Args:
        places: workdirs, or folders that hold some; of these, runs without results are left out.

    Raises:
        UserError: a folder holds no run, or a workdir that is named no results.
    """
    found: dict[epath.Path, None] = {}
    for name in places:
        place = workdir.absolute(epath.Path(name).expanduser())
        if (place / workdir.CONFIG).exists():
            found[place] = None
            continue
        patterns = ("*/" * depth + workdir.CONFIG for depth in range(1, _DEPTH + 1))
        below = sorted(path.parent for pattern in patterns for path in place.glob(pattern))
        evaluated = [path for path in below if (path / workdir.RESULTS).exists()]
        for path in sorted(set(below) - set(evaluated)):
            _LOG.info("%s has not been evaluated yet: left out.", path)
        if not evaluated:
            raise UserError(f"--workdirs={name} holds no run that has been evaluated.")
        found |= dict.fromkeys(evaluated)
    return list(found)


def read(directory: epath.Path) -> Run:
    """The run in a workdir.

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
    results = _numbers(path, _load(path))
    step = results.pop("step")
    path = directory / workdir.PER_CLASS
    by_class = _load(path) if path.exists() else {}
    by_class.pop("step", None)
    starts = environment.read(directory)
    last = {"total_steps": None, "devices": None, "device": None, **(starts[-1] if starts else {})}
    return Run(
        directory=directory,
        config=config,
        step=int(step),
        total_steps=last["total_steps"],
        results=results,
        per_class={name: _numbers(path, values) for name, values in by_class.items()},
        scalars=read_scalars(directory / workdir.METRICS),
        devices=f"{last['devices']} x {last['device']}" if last["device"] else "",
    )


def _load(path: epath.Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); evaluate the run again.") from error
    if not isinstance(values, dict) or type(values.get("step")) is not int:
        raise UserError(f"{path} is no object with the step of an evaluation and its values.")
    return values


def _numbers(path: epath.Path, values: Any) -> dict[str, float]:
    """The values with NaN for null; UserError unless they are numbers."""
    kinds = (int, float, type(None))
    if not isinstance(values, dict) or any(type(x) not in kinds for x in values.values()):
        raise UserError(f"{path} holds something else than numbers: evaluate the run again.")
    return {name: math.nan if x is None else x for name, x in values.items()}


def check_comparable(runs: Sequence[Run]) -> tuple[Task, ...]:
    """The tasks of the runs.

    Raises:
        UserError: two of them were measured on different data.
    """
    first = runs[0]
    for run in runs[1:]:
        ours, theirs = _measured(first), _measured(run)
        for key in MUST_AGREE:
            if ours[key] != theirs[key]:
                raise UserError(
                    f"{first.directory} and {run.directory} cannot be compared: {key} is "
                    f"{ours[key]} and {theirs[key]}; choose --workdirs that agree in it."
                )
    return tasks_for(first.config.data.dataset, first.config.tasks, first.config.data.classes)


def _measured(run: Run) -> dict[str, Any]:
    return {**workdir.flat(run.config), "tasks": tuple(sorted(run.config.tasks))}


def grouped(runs: Sequence[Run]) -> list[Group]:
    """Groups of runs that differ in `NO_DIFFERENCE` alone, in the order of their first runs.

    A group is called after its network and, if others share it, what it differs from them in.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(json.dumps(_settings(run), sort_keys=True), []).append(run)
    alike: dict[str, list[dict[str, Any]]] = {}
    for key, members in groups.items():
        alike.setdefault(members[0].config.model.name, []).append(json.loads(key))
    found = []
    for key, members in groups.items():
        name, settings = members[0].config.model.name, json.loads(key)
        differing = [
            f"{x}={value}"
            for x, value in settings.items()
            if any(x not in other or other[x] != value for other in alike[name])
        ]
        label = f"{name} ({', '.join(differing)})" if differing else name
        found.append(Group(label, tuple(sorted(members, key=lambda run: run.config.seed))))
    return found


def _settings(run: Run) -> dict[str, Any]:
    return {k: v for k, v in workdir.flat(run.config).items() if k not in NO_DIFFERENCE}


def choose_reference(groups: Sequence[Group], named: str | None) -> Group | None:
    """The group that delta_m is taken against: that of the named workdir, or the single-task one.

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
