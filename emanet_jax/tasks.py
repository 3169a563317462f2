"""The Task record: everything the rest of the code needs to know about a task.

Augmentation, padding, loss, evaluation, pictures and the choice of the best checkpoint read this
record; nothing else branches on a task's name. A new task is one function here and, where a data
set supplies its label, one entry of `DATASET_TASKS`.
"""

import dataclasses
import functools
import operator
from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from emanet_jax import losses, metrics, palettes
from emanet_jax.boundaries import BoundaryCounts
from emanet_jax.errors import UserError
from emanet_jax.ops import unit_vectors, widen
from emanet_jax.palettes import (
    CITYSCAPES7,
    CITYSCAPES19,
    NYU13,
    NYU40,
    PARTS7,
    PASCAL21,
    Palette,
)


def _unchanged(label: np.ndarray, *_: float) -> np.ndarray:
    return label


@dataclasses.dataclass(frozen=True)
class Task:
    """One dense prediction task.

    Attributes:
        name: unique key of predictions and labels.
        channels: of the network's prediction.
        label_channels: k of the label (b, h, w, k).
        label_dtype: of the stored label.
        ignore: a label pixel is invalid if all its channels have this value.
        loss: (prediction (b, h, w, channels), label, valid (b, h, w, 1)) to a scalar.
        activation: prediction to what a person reads (b, h, w, k): ids, metres, unit vectors; every
            pixel by itself.
        metric: (activated prediction, label, valid) to `metrics.Sums`, inside jit.
        host_metric: a second metric, too intricate for jit: NumPy arrays (h, w, k) of one image's
            activated prediction, label and valid to `metrics.Sums` with other names.
        primary: the metric that stands for the task in delta_m and checkpoint choice.
        to_rgb: label or activated prediction (h, w, k) to uint8 (h, w, 3) without regard to
            validity; `colours` is what pictures use.
        flip: label values (h, w, k) after the map was mirrored left-right.
        zoom: label values (h, w, k) after the image was enlarged by a factor.
        nearest: resample by nearest neighbour; otherwise bilinear.
        class_names: of a classification task, in the order of ids.
        limit: of a quantity, the value that ends its colours; None: classes or vectors.
        unit: of a quantity, as "m".
    """

    name: str
    channels: int
    label_channels: int
    label_dtype: type
    ignore: float
    loss: Callable[[Array, Array, Array], Array]
    activation: Callable[[Array], Array]
    metric: Callable[[Array, Array, Array], metrics.Sums]
    primary: str
    to_rgb: Callable[[np.ndarray], np.ndarray]
    flip: Callable[[np.ndarray], np.ndarray] = _unchanged
    zoom: Callable[[np.ndarray, float], np.ndarray] = _unchanged
    nearest: bool = True
    class_names: tuple[str, ...] = ()
    limit: float | None = None
    unit: str = ""
    host_metric: Callable[[np.ndarray, np.ndarray, np.ndarray], metrics.Sums] | None = None

    def valid(self, label: Array) -> Array:
        """Where a label (..., k) carries information: bool (..., 1)."""
        channels = (label[..., k : k + 1] != self.ignore for k in range(label.shape[-1]))
        return functools.reduce(operator.or_, channels)  # NumPy reduces a short axis slowly

    def metric_names(self) -> tuple[str, ...]:
        """The names of the metrics' values, as `compute()` gives them; the host metric's last."""
        nothing = jnp.zeros((1, 1, 1, self.label_channels))
        names = self.metric(nothing, nothing, nothing[..., :1] > 0).compute()
        return (*names, *self.host_metric_names())

    def host_metric_names(self) -> tuple[str, ...]:
        """The names of the host metric's values, which not every evaluation gives."""
        if self.host_metric is None:
            return ()
        nothing = np.zeros((1, 1, self.label_channels))
        return tuple(self.host_metric(nothing, nothing, nothing[..., :1] > 0).compute())

    def colours(self, values: np.ndarray) -> np.ndarray:
        """Picture (h, w, 3) uint8 of a label or activated prediction; invalid pixels are black."""
        values = np.asarray(values)
        return np.where(self.valid(values), self.to_rgb(values), 0).astype(np.uint8)


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
        activation=widen,
        metric=metrics.DepthErrors.of,
        primary="rmse_m",
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
        activation=lambda prediction: unit_vectors(widen(prediction)),
        metric=metrics.AngleErrors.of,
        primary="mean_deg",
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
        activation=lambda prediction: jax.nn.softmax(widen(prediction), axis=-1)[..., 1:],
        metric=metrics.SaliencyCounts.of,
        primary="maxf_percent",
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
        activation=lambda prediction: jax.nn.sigmoid(widen(prediction)),
        metric=metrics.EdgeLoss.of,
        primary="odsf_percent",
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
