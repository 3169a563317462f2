"""The same images with their labels and every group's predictions, in the tasks' own colours."""

import io
import logging
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
from PIL import Image

from emanet_jax import inference
from emanet_jax.compare.runs import Group
from emanet_jax.data import pipeline
from emanet_jax.types import Task

_LOG = logging.getLogger(__name__)

_SMALL = 256 * 256  # pixels of a picture up to which it is kept without loss: it will be enlarged


class Shown(NamedTuple):
    """One task of one image.

    Attributes:
        task: its name.
        tiles: pictures (h, w, 3) uint8: the label, then a prediction a group.
        exact: whether colours are classes, which blurring would mix.
    """

    task: str
    tiles: tuple[np.ndarray, ...]
    exact: bool


class Example(NamedTuple):
    """One image of the evaluation split, (h, w, 3) uint8, and what is shown of each task."""

    image: np.ndarray
    shown: tuple[Shown, ...]


def examples(
    groups: Sequence[Group], tasks: Sequence[Task], count: int
) -> tuple[list[Example], list[int]]:
    """The first images of the evaluation split with each group's predictions of its first seed.

    Args:
        groups: whose networks predict, from their latest checkpoints.
        tasks: what to show.
        count: of the images.

    Returns:
        The images, and the step of each group's checkpoint.

    Raises:
        UserError: the data set cannot be built, or a checkpoint not be restored.
    """
    config = groups[0].config
    source = pipeline.load(pipeline.prepare(config.data), "val")
    count = min(count, len(source))
    (batch,) = pipeline.eval_batches(
        [source[index] for index in range(count)],
        tasks,
        batch_size=count,
        image_size=tuple(config.data.image_size),
        threads=0,
    )
    answers = list(_answers(groups, batch["image"]))
    maps = [batch["labels"], *(predictions for predictions, _ in answers)]

    def shown(task: Task, index: int) -> Shown:
        tiles = tuple(task.colours(x[task.name][index]) for x in maps)
        return Shown(task.name, tiles, exact=bool(task.class_names))

    found = [
        Example(batch["image"][index], tuple(shown(task, index) for task in tasks))
        for index in range(count)
    ]
    return found, [step for _, step in answers]


def _answers(
    groups: Sequence[Group], images: np.ndarray
) -> Iterator[tuple[dict[str, np.ndarray], int]]:
    """Each group's {task: (b, h, w, k)} of the images (b, h, w, 3), and its checkpoint's step."""
    for group in groups:
        _LOG.info("%s: pictures", group.label)
        trained = inference.load(group.runs[0].directory, "latest")
        predictions = jax.device_get(inference.predictor(trained)(images))
        yield predictions, int(trained.checkpoint.name)


def webp(picture: np.ndarray, exact: bool) -> bytes:
    """The file of a picture (h, w, 3) uint8; `exact`: every pixel is as it was."""
    h, w, _ = picture.shape
    buffer = io.BytesIO()
    Image.fromarray(picture).save(
        buffer, "WEBP", lossless=exact or h * w <= _SMALL, quality=90, method=4
    )
    return buffer.getvalue()
