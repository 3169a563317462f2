"""The report of some runs: read, compare, draw, write."""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from emanet_jax.compare import curves, layout, page, pictures, runs, tables
from emanet_jax.compare.runs import Group
from emanet_jax.compare.tables import DEFINITIONS
from emanet_jax.errors import UserError
from emanet_jax.models.cost import Cost, cost
from emanet_jax.training import workdir
from emanet_jax.training.experiment import make_network
from emanet_jax.types import Task

_LOG = logging.getLogger(__name__)

PAGE, MARKDOWN, ROWS, DATA = "report.html", "report.md", "rows.tex", "report.json"


def write(places: Sequence[str], output: str, reference: str | None, images: int) -> None:
    """Writes the report of the runs in some folders.

    Args:
        places: workdirs, or folders that hold some.
        output: folder of the report.
        reference: workdir of a run that delta_m is taken against; None: the single-task run.
        images: how many to show predictions of; with 0 no data is read.

    Raises:
        UserError: the runs cannot be read or compared, or the report not be written.
    """
    if images < 0:
        raise UserError(f"--images={images}: it must be at least 0.")
    folder = workdir.absolute(epath.Path(output).expanduser())
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output={output} is a file; the report needs a folder.")
    found = [runs.read(directory) for directory in runs.find(places)]
    tasks = runs.check_comparable(found)
    groups = runs.grouped(found)
    against = runs.choose_reference(groups, reference)
    costs = {group.label: _cost(group) for group in groups}
    summary = tables.summary(groups, tasks, against, costs)
    others = [tables.all_metrics(groups, task) for task in tasks]
    others += [table for task in tasks for table in tables.by_class(groups, task)]
    examples, steps = pictures.examples(groups, tasks, images) if images else ([], [])
    content = page.Content(
        title=" · ".join(dict.fromkeys(group.config.model.name for group in groups)),
        facts=_facts(groups, tasks),
        summary=summary,
        names=[group.label for group in groups],
        charts=curves.charts(groups, tasks),
        tables=others,
        examples=examples,
        predicted_by=_predicted_by(groups, steps),
        settings=_shared_settings(groups),
    )
    markdown = "\n".join(
        ["\n".join(content.facts) + "\n", *map(layout.markdown, [summary, *others])]
    )
    files = {
        PAGE: page.render(content),
        MARKDOWN: markdown,
        ROWS: "\n".join(map(layout.latex, [summary, *others])),
        DATA: json.dumps(_data(groups, tasks, against, costs), indent=2) + "\n",
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            workdir.write(folder / name, text)
    except OSError as error:
        raise UserError(f"--output={output} cannot be written: {error.strerror}.") from error
    _LOG.info("\n%s", layout.markdown(summary))
    _LOG.info("report: %s", folder / PAGE)


def _cost(group: Group) -> Cost:
    _LOG.info("%s: counting multiply-adds", group.label)
    _, model = make_network(group.config)
    return cost(model, tuple(group.config.data.image_size))


def _facts(groups: Sequence[Group], tasks: Sequence[Task]) -> list[str]:
    """What the runs are of, in a sentence."""
    config = groups[0].config
    h, w = config.data.image_size
    names = ", ".join(task.name for task in tasks)
    count = sum(len(group.runs) for group in groups)
    steps = sorted({run.step for group in groups for run in group.runs})
    trained = f"{steps[0]}" if len(steps) == 1 else f"{steps[0]} to {steps[-1]}"
    return [
        f"Data set {config.data.dataset}, {h}×{w} pixels; tasks: {names}; runs: {count}, of "
        f"{trained} training steps."
    ]


def _predicted_by(groups: Sequence[Group], steps: Sequence[int]) -> list[str]:
    """Which runs the pictures are of."""
    made = [
        f"{group.label}: seed {group.config.seed}, step {step}"
        for group, step in zip(groups, steps, strict=False)
    ]
    return [f"Predictions are of each network's first seed, latest checkpoint ({'; '.join(made)})."]


def _shared_settings(groups: Sequence[Group]) -> list[tuple[str, str]]:
    """The config's values that all runs have in common."""
    flat = [workdir.flat(run.config) for group in groups for run in group.runs]
    return [
        (key, str(value))
        for key, value in flat[0].items()
        if all(key in other and other[key] == value for other in flat)
    ]


def _data(
    groups: Sequence[Group],
    tasks: Sequence[Task],
    reference: Group | None,
    costs: Mapping[str, Cost],
) -> dict[str, Any]:
    """All numbers of the report, null where there is none."""
    against = tables.reference_values(reference, tasks)

    def number(value: float) -> float | None:
        return value if math.isfinite(value) else None

    def statistics(values: Sequence[float]) -> dict[str, float | None]:
        return {k: number(v) for k, v in tables.stat(values)._asdict().items()}

    def entry(group: Group) -> dict[str, Any]:
        names = [name for task in tasks for name in tables.metric_names(groups, task)]
        gains = {x: [tables.delta_m(r, against, tasks, x) for r in group.runs] for x in DEFINITIONS}
        return {
            "label": group.label,
            **costs[group.label]._asdict(),
            "metrics": {x: tables.metric_stat(group, x)._asdict() for x in names},
            "delta_m_percent": {x: statistics(values) for x, values in gains.items()},
            "runs": [
                {
                    "workdir": str(run.directory),
                    "seed": run.config.seed,
                    "step": run.step,
                    "total_steps": run.total_steps,
                    "devices": run.devices,
                    "images_per_second": number(run.images_per_second()),
                    "results": {k: number(v) for k, v in run.results.items()},
                }
                for run in group.runs
            ],
        }

    return {
        "reference": reference.label if reference else None,
        "groups": [entry(group) for group in groups],
    }
