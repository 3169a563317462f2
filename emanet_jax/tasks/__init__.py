"""The Task record: everything the rest of the code needs to know about a task.

Augmentation, padding, loss, evaluation, pictures and the choice of the best checkpoint read this
record; nothing else branches on a task's name. A new task is one function here and, where a data
set supplies its label, one entry of `DATASET_TASKS`.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from emanet_jax.errors import UserError
from emanet_jax.ops import unit_vectors, upcast
from emanet_jax.tasks import losses, metrics, palettes
from emanet_jax.tasks.boundaries import BoundaryCounts
from emanet_jax.tasks.palettes import (
    CITYSCAPES7,
    CITYSCAPES19,
    NYU13,
    NYU40,
    PARTS7,
    PASCAL21,
    Palette,
)
from emanet_jax.types import Task


def _argmax(prediction: Array) -> Array:
    return jnp.argmax(prediction, axis=-1, keepdims=True)


def semseg(classes: Palette, absent_class: Literal["skip", "zero"] = "skip") -> Task:
    """Semantic segmentation over `classes`, in the order of their ids; 255 = ignore.

    `absent_class` says how a class that never occurs counts in the mean IoU.
    """
    count = len(classes)
    return Task(
        name="semseg",
        channels=count,
        label_channels=1,
        label_dtype=np.uint8,
        ignore=255,
        loss=losses.cross_entropy,
        activation=_argmax,
        metric=functools.partial(
            metrics.Confusion.of, num_classes=count, absent_class=absent_class
        ),
        primary="miou_percent",
        higher_is_better=True,
        to_rgb=functools.partial(palettes.class_colours, palette=classes),
        class_names=tuple(classes),
    )


def depth(limit: float = 10.0) -> Task:
    """Depth along z in metres; 0 = invalid. `limit` (metres) ends the colour scale."""
    return Task(
        name="depth",
        channels=1,
        label_channels=1,
        label_dtype=np.float32,
        ignore=0,
        loss=losses.l1,
        activation=upcast,
        metric=metrics.DepthErrors.of,
        primary="rmse_m",
        higher_is_better=False,
        to_rgb=functools.partial(palettes.colour_map, limit=limit),
        limit=limit,
        unit="m",
        zoom=lambda label, factor: label / factor,
    )


def disparity(limit: float = 0.5) -> Task:
    """The `depth` task of Cityscapes: disparity (inverse depth, no unit); 0 = invalid."""
    return dataclasses.replace(
        depth(),
        metric=functools.partial(metrics.DepthErrors.of, unit=""),
        primary="abs",
        to_rgb=functools.partial(palettes.colour_map, limit=limit),
        limit=limit,
        unit="",
        zoom=lambda label, factor: label * factor,
    )


def _unit_or_zero(label: np.ndarray, _: float) -> np.ndarray:
    # Channel by channel: NumPy reduces a short axis slowly.
    norm = np.sqrt(sum(np.square(label[..., k : k + 1]) for k in range(label.shape[-1])))
    return label / np.where(norm > 0, norm, 1)


def _negate_x(label: np.ndarray) -> np.ndarray:
    label = np.array(label)
    np.negative(label[..., 0], out=label[..., 0])
    return label


def normals(loss: Callable[[Array, Array, Array], Array] = losses.cosine) -> Task:
    """Surface normals, unit vectors: x right, y down, z forward; the zero vector = invalid."""
    return Task(
        name="normals",
        channels=3,
        label_channels=3,
        label_dtype=np.float32,
        ignore=0,
        loss=loss,
        activation=lambda prediction: unit_vectors(upcast(prediction)),
        metric=metrics.AngleErrors.of,
        primary="mean_deg",
        higher_is_better=False,
        to_rgb=palettes.axes,
        flip=_negate_x,
        zoom=_unit_or_zero,
        nearest=False,
    )


def human_parts(classes: Palette = PARTS7) -> Task:
    """Parts of persons over `classes`, in the order of their ids; 255 = ignore."""
    return dataclasses.replace(semseg(classes, absent_class="zero"), name="human_parts")


def saliency() -> Task:
    """What draws the eye: 1 = salient, 0 = not; 255 = ignore. Read as a probability."""
    return Task(
        name="saliency",
        channels=2,
        label_channels=1,
        label_dtype=np.uint8,
        ignore=255,
        loss=losses.balanced_cross_entropy,
        activation=lambda prediction: jax.nn.softmax(upcast(prediction), axis=-1)[..., 1:],
        metric=metrics.SaliencyCounts.of,
        primary="maxf_percent",
        higher_is_better=True,
        to_rgb=palettes.grey,
        limit=1.0,
    )


def edge() -> Task:
    """Boundaries of objects: 1 = boundary, 0 = not; 255 = ignore. Read as a probability."""
    return Task(
        name="edge",
        channels=1,
        label_channels=1,
        label_dtype=np.uint8,
        ignore=255,
        loss=losses.balanced_bce,
        activation=lambda prediction: jax.nn.sigmoid(upcast(prediction)),
        metric=metrics.EdgeLoss.of,
        primary="odsf_percent",
        higher_is_better=True,
        to_rgb=palettes.grey,
        limit=1.0,
        host_metric=BoundaryCounts.of,
    )


# Order matters: it is the order of CTAL's task axis (and of every axis that tasks share).
DATASET_TASKS: dict[str, tuple[Task, ...]] = {
    "synthrooms": (semseg(NYU13), depth(), normals()),
    "nyuv2": (semseg(NYU13), depth(), normals()),
    "cityscapes": (semseg(CITYSCAPES19), disparity()),
    "pascal_context": (
        semseg(PASCAL21, absent_class="zero"),
        normals(losses.normals_l1),
        saliency(),
        edge(),
        human_parts(),
    ),
}
# The first task of a data set over another number of classes.
OTHER_CLASSES: dict[str, tuple[Task, ...]] = {
    "nyuv2": (semseg(NYU40),),
    "cityscapes": (semseg(CITYSCAPES7),),
}


def tasks_for(
    dataset: str, names: Sequence[str] | None = None, classes: int | None = None
) -> tuple[Task, ...]:
    """The tasks of a data set in their canonical order, or the named subset of them.

    Args:
        dataset: a key of `DATASET_TASKS`.
        names: of the tasks; None: all of them.
        classes: how many semantic classes; None or 0: the data set's usual number.

    Raises:
        UserError: the data set, a task or the number of classes is unknown, or a name stands twice.
    """
    if dataset not in DATASET_TASKS:
        raise UserError(f"unknown data set '{dataset}'; known: {', '.join(DATASET_TASKS)}.")
    first, *rest = DATASET_TASKS[dataset]
    choices = {task.channels: task for task in (first, *OTHER_CLASSES.get(dataset, ()))}
    if classes and classes not in choices:
        raise UserError(
            f"config.data.classes is {classes} but {dataset} has "
            f"{' or '.join(str(count) for count in choices)} classes (0: {first.channels})."
        )
    tasks = (choices[classes or first.channels], *rest)
    if names is None:
        return tasks
    known = [task.name for task in tasks]
    unknown = [name for name in names if name not in known]
    if unknown or not names or len(set(names)) < len(names):
        raise UserError(
            f"tasks {list(names)} do not fit data set '{dataset}': choose one or more of "
            f"{', '.join(known)}, each once."
        )
    return tuple(task for task in tasks if task.name in names)
