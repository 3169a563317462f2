"""The report of some runs: read them, compare them, write the page and the tables."""

import logging
from collections.abc import Sequence
from typing import Any

import jinja2
import pandas as pd
from etils import epath

from emanet_jax import strict_json
from emanet_jax.compare import pictures, runs, tables
from emanet_jax.compare.runs import Group
from emanet_jax.errors import UserError
from emanet_jax.models.cost import Cost, cost
from emanet_jax.network import make_network
from emanet_jax.training import workdir
from emanet_jax.types import Task

_LOG = logging.getLogger(__name__)
_PIXELATED = 256  # pixels of a picture's width below which it is enlarged without blur


def write(
    places: Sequence[str],
    output: str,
    reference: str | None,
    *,
    images: int,
    checkpoint: str = "latest",
) -> None:
    """Writes the report of the runs in some folders: report.html, .md, .tex and .json.

    Args:
        places: workdirs, or folders that hold some.
        output: folder of the report.
        reference: workdir of a run that delta_m is taken against; None: the single-task run.
        images: how many to show predictions of; with 0 no data is read.
        checkpoint: that predicts them, "best" or "latest" of each run.

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
    values = tables.run_values(groups, tasks, against)
    costs = [_cost(group) for group in groups]
    differing, shared = tables.settings(groups)
    shown = [
        tables.summary(groups, tasks, values, against, costs),
        *(tables.all_metrics(task, values) for task in tasks),
        *(table for task in tasks for table in tables.by_class(groups, task)),
        differing,
    ]
    facts = _facts(groups, tasks)
    examples: list[pictures.Example] = []
    steps: list[int] = []
    if images:
        examples, steps = pictures.examples(groups, tasks, images, checkpoint)
    page = render(
        title=" · ".join(dict.fromkeys(group.config.model.name for group in groups)),
        facts=facts,
        tables=shown,
        names=[group.label for group in groups],
        colour=pictures.colour,
        charts=pictures.charts(groups, tasks),
        examples=examples,
        pixelated=groups[0].config.data.image_size[1] < _PIXELATED,
        keys=pictures.keys(tasks),
        predicted_by=_predicted_by(groups, steps, checkpoint),
        settings=shared,
    )
    data = {
        "reference": against.label if against else None,
        "groups": [_data(*pair, values) for pair in zip(groups, costs, strict=True)],
    }
    files = {
        "report.html": page,
        "report.md": "\n".join([f"{facts}\n", *(table.markdown() for table in shown)]),
        "report.tex": "\n".join(table.latex() for table in shown),
        "report.json": strict_json.dumps(data, indent=2) + "\n",
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            workdir.write(folder / name, text)
    except OSError as error:
        raise UserError(f"--output={output} cannot be written: {error.strerror}.") from error
    _LOG.info("\n%s", shown[0].markdown())
    _LOG.info("report: %s", folder / "report.html")


def render(**content: Any) -> str:
    """The page of page.html.j2 with this content, whose texts are escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("emanet_jax", "compare"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(content)


def _cost(group: Group) -> Cost:
    _LOG.info("%s: counting multiply-adds", group.label)
    _, model = make_network(group.config)
    return cost(model.network, tuple(group.config.data.image_size))


def _facts(groups: Sequence[Group], tasks: Sequence[Task]) -> str:
    """A sentence on the data set, the tasks and the runs."""
    config = groups[0].config
    h, w = config.data.image_size
    names = ", ".join(task.name for task in tasks)
    steps = sorted({run.step for group in groups for run in group.runs})
    trained = f"{steps[0]}" if len(steps) == 1 else f"{steps[0]} to {steps[-1]}"
    count = sum(len(group.runs) for group in groups)
    return (
        f"Data set {config.data.dataset}, {h}×{w} pixels; tasks: {names}; runs: {count}, of "
        f"{trained} training steps."
    )


def _predicted_by(groups: Sequence[Group], steps: Sequence[int], checkpoint: str) -> str:
    """A sentence on the runs that the pictures are of."""
    made = [
        f"{group.label}: seed {group.config.seed}, step {step}"
        for group, step in zip(groups, steps, strict=False)
    ]
    return (
        f"Predictions are of each network's first seed, {checkpoint} checkpoint "
        f"({'; '.join(made)})."
    )


def _data(group: Group, price: Cost, values: pd.DataFrame) -> dict[str, Any]:
    """All numbers of a group."""
    stats = values.loc[[group.title]].agg(["mean", "std", "count"]).T.astype({"count": int})
    gains = stats.index.str.startswith(tables.DELTA_M)
    by_definition = stats[gains].rename(lambda name: name.removeprefix(tables.DELTA_M))
    return {
        "label": group.label,
        **price._asdict(),
        "metrics": stats[~gains].drop(tables.SPEED).to_dict("index"),
        "delta_m_percent": by_definition.to_dict("index"),
        "runs": [
            {
                "workdir": str(run.directory),
                "seed": run.config.seed,
                "step": run.step,
                "total_steps": run.total_steps,
                "devices": run.devices,
                "images_per_second": run.images_per_second(),
                "results": run.results,
            }
            for run in group.runs
        ],
    }
