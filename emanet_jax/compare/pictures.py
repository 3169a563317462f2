"""Pictures of the report as data URIs: curves of training, and the same images' predictions."""

import base64
import io
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from emanet_jax import inference
from emanet_jax.compare.runs import Group
from emanet_jax.compare.tables import title_of
from emanet_jax.data import pipeline
from emanet_jax.tasks import figures
from emanet_jax.types import Task

_LOG = logging.getLogger(__name__)

# Told apart with any kind of colour vision, and readable on white and on black.
_COLOURS = ("#3b82d0", "#e0803a", "#2fa37c", "#c85fa8", "#8a6fd1", "#c2a01e", "#d2504b", "#4bb4c8")
_GREY = "#808080"
_POINTS = 200  # of a curve; more would only make the page heavier
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text that the reader's browser sets
    "svg.hashsalt": "emanet_jax",  # the same runs give the same bytes
    "font.family": "sans-serif",
    "font.size": 9,
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), _GREY),
    "axes.edgecolor": _GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
_KEY_WIDTH = 320  # pixels
_SMALL = 256 * 256  # pixels of a picture up to which it is kept without loss: it will be enlarged

Example = tuple[str, dict[str, list[str]]]  # an image; {task: its label and the predictions}


def colour(index: int) -> str:
    """The colour of the curves of the group at this place."""
    return _COLOURS[index % len(_COLOURS)]


def charts(groups: Sequence[Group], tasks: Sequence[Task]) -> dict[str, str]:
    """{title: chart} of each task's training loss and its primary metric at the evaluations.

    Lines are means over the seeds, bands reach from the least to the most. A chart without a single
    point is left out.
    """
    found = {}
    for task in tasks:
        for name, title in {
            f"train/loss_{task.name}": "training loss",
            f"eval/{task.name}/{task.primary}": f"{title_of(task, task.primary)}, evaluation",
        }.items():
            curves = [curve(group, name) for group in groups]
            if any(map(len, curves)):
                found[f"{task.name}: {title}"] = _draw(curves)
    return found


def curve(group: Group, name: str) -> pd.DataFrame:
    """A scalar at up to `_POINTS` of the steps that all seeds have: a step a row, a seed a column.

    The points are evenly spread, and the last is among them.
    """
    seeds = [
        pd.Series({row["step"]: row[name] for row in run.scalars if name in row}, dtype=float)
        for run in group.runs
    ]
    values = pd.concat(seeds, axis=1, join="inner").sort_index()
    values = values.where(np.isfinite(values)).dropna()
    return values[::-1][:: max(1, -(-len(values) // _POINTS))][::-1]


def _draw(curves: Sequence[pd.DataFrame]) -> str:
    """A chart with the mean and the range of each group's seeds."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(4.2, 2.6), layout="constrained")
        axes = figure.subplots()
        for index, seeds in enumerate(curves):
            marker = "o" if len(seeds) <= 20 else ""
            axes.plot(seeds.mean(axis=1), marker, ls="-", c=colour(index), lw=1.6, ms=3)
            if seeds.shape[1] > 1:
                ends = seeds.min(axis=1), seeds.max(axis=1)
                axes.fill_between(seeds.index, *ends, color=colour(index), alpha=0.15, lw=0)
        axes.set_xlabel("step")
        axes.set_xlim(left=0)
        axes.grid(color=_GREY, alpha=0.25, linewidth=0.6)
        content = io.BytesIO()
        figure.savefig(content, format="svg", transparent=True, metadata={"Date": None})
    return _uri("svg+xml", content)


def examples(
    groups: Sequence[Group], tasks: Sequence[Task], count: int, checkpoint: str
) -> tuple[list[Example], list[int]]:
    """The first images of the evaluation split with each group's predictions of its first seed.

    Args:
        groups: whose networks predict.
        tasks: to show.
        count: of the images.
        checkpoint: whose weights predict, "best" or "latest" of a run.

    Returns:
        The images, and the step of each group's checkpoint.

    Raises:
        UserError: the data set cannot be built, or a checkpoint not be restored.
    """
    config = groups[0].config
    source = pipeline.load(pipeline.prepare(config.data, tasks), "val")
    count = min(count, len(source))
    (batch,) = pipeline.eval_batches(
        [source[index] for index in range(count)],
        tasks,
        batch_size=count,
        image_size=tuple(config.data.image_size),
        threads=0,
    )
    maps, steps = [batch["labels"]], []
    for group in groups:
        _LOG.info("%s: pictures", group.label)
        trained = inference.load_trained(group.runs[0].directory, checkpoint)
        maps.append(jax.device_get(inference.predictor(trained)(batch["image"])))
        steps.append(int(trained.checkpoint.name))

    def tiles(task: Task, index: int) -> list[str]:
        pictures = (task.colours(x[task.name][index]) for x in maps)
        return [_webp(picture, exact=bool(task.class_names)) for picture in pictures]

    found = [
        (_webp(batch["image"][i], exact=False), {task.name: tiles(task, i) for task in tasks})
        for i in range(count)
    ]
    return found, steps


class Key(NamedTuple):
    """What a task's colours mean: {class: CSS colour}, or a picture of a bar or a ball."""

    classes: dict[str, str]
    picture: str


def keys(tasks: Sequence[Task]) -> dict[str, Key]:
    """{task: the key of its colours in `examples`}."""
    return {task.name: _key(task) for task in tasks}


def _key(task: Task) -> Key:
    if task.class_names:
        ids = np.arange(len(task.class_names))[None, :, None]
        rows = figures.colours(task, ids)[0].tolist()
        css = [f"rgb{tuple(row)}" for row in rows]
        return Key(dict(zip(task.class_names, css, strict=True)), "")
    if task.limit is not None:
        picture = figures.bar(task, (0.0, task.limit), _KEY_WIDTH)
    else:
        picture = figures.ball(task, _KEY_WIDTH)
    return Key({}, _webp(np.asarray(picture), exact=True))


def _webp(picture: np.ndarray, exact: bool) -> str:
    """A picture (h, w, 3) uint8; exact: as classes' colours, which blurring would mix, must be."""
    content = io.BytesIO()
    lossless = exact or picture.shape[0] * picture.shape[1] <= _SMALL
    Image.fromarray(picture).save(content, "WEBP", lossless=lossless, quality=90, method=4)
    return _uri("webp", content)


def _uri(kind: str, content: io.BytesIO) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content.getvalue()).decode()}"
