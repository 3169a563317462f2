"""The Task record: everything the rest of the code needs to know about a task.

Augmentation, padding, loss, evaluation, pictures and the choice of the best checkpoint read this
record; nothing else branches on a task's name. A new task is one function here and, where a data
set supplies its label, one entry of `DATASET_TASKS`.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array

from emanet_jax import losses, metrics
from emanet_jax.errors import UserError
from emanet_jax.ops import unit_vectors, widen


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
        activation: prediction to what a person reads (b, h, w, k): ids, metres, unit vectors.
        metric: (activated prediction, label, valid) to `metrics.Sums`.
        primary: the metric that stands for the task in delta_m and checkpoint choice.
        to_rgb: label or activated prediction (h, w, k) to uint8 (h, w, 3) without regard to
            validity; `colours` is what pictures use.
        flip: label values (h, w, k) after the map was mirrored left-right.
        zoom: label values (h, w, k) after the image was enlarged by a factor.
        nearest: resample by nearest neighbour; otherwise bilinear.
        class_names: of a classification task, in the order of ids.
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

    def valid(self, label: Array) -> Array:
        """Where a label (..., k) carries information: bool (..., 1)."""
        return (label != self.ignore).any(axis=-1, keepdims=True)

    def metric_names(self) -> tuple[str, ...]:
        """The names of the metric's values, as `metric(...).compute()` gives them."""
        nothing = jnp.zeros((1, 1, 1, self.label_channels))
        return tuple(self.metric(nothing, nothing, nothing[..., :1] > 0).compute())

    def colours(self, values: np.ndarray) -> np.ndarray:
        """Picture (h, w, 3) uint8 of a label or activated prediction; invalid pixels are black."""
        values = np.asarray(values)
        return np.where(self.valid(values), self.to_rgb(values), 0).astype(np.uint8)


def _palette_rgb(values: np.ndarray, palette: np.ndarray) -> np.ndarray:
    return palette[np.minimum(values[..., 0].astype(np.int64), len(palette) - 1)]


def _colour_map_rgb(values: np.ndarray, limit: float) -> np.ndarray:
    import matplotlib  # only where pictures are made

    scaled = np.clip(values[..., 0] / limit, 0, 1)
    return matplotlib.colormaps["viridis_r"](scaled, bytes=True)[..., :3]


def _vectors_rgb(values: np.ndarray) -> np.ndarray:
    # Viewer-facing axes: right is red, up is green, towards the camera is blue.
    return np.clip(127.5 * (1 + values * np.array([1, -1, -1])), 0, 255)


def _argmax(prediction: Array) -> Array:
    return jnp.argmax(prediction, axis=-1, keepdims=True)


def semseg(classes: Mapping[str, tuple[int, int, int]]) -> Task:
    """Semantic segmentation over `classes` {name: RGB}, in the order of their ids; 255 = ignore."""
    count = len(classes)
    return Task(
        name="semseg",
        channels=count,
        label_channels=1,
        label_dtype=np.uint8,
        ignore=255,
        loss=losses.cross_entropy,
        activation=_argmax,
        metric=functools.partial(metrics.Confusion.of, num_classes=count),
        primary="miou_percent",
        to_rgb=functools.partial(_palette_rgb, palette=np.array(list(classes.values()))),
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
        to_rgb=functools.partial(_colour_map_rgb, limit=limit),
        zoom=lambda label, factor: label / factor,
    )


def disparity(limit: float = 0.5) -> Task:
    """The `depth` task of Cityscapes: disparity (inverse depth, no unit); 0 = invalid."""
    return dataclasses.replace(
        depth(),
        metric=functools.partial(metrics.DepthErrors.of, unit=""),
        primary="abs",
        to_rgb=functools.partial(_colour_map_rgb, limit=limit),
        zoom=lambda label, factor: label * factor,
    )


def _unit_or_zero(label: np.ndarray, _: float) -> np.ndarray:
    norm = np.linalg.norm(label, axis=-1, keepdims=True)
    return np.divide(label, norm, out=np.zeros_like(label), where=norm > 0)


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
        to_rgb=_vectors_rgb,
        flip=lambda label: label * np.array([-1, 1, 1], label.dtype),
        zoom=_unit_or_zero,
        nearest=False,
    )


NYU13 = {
    "bed": (61, 99, 181),
    "books": (229, 158, 62),
    "ceiling": (222, 222, 240),
    "chair": (178, 56, 60),
    "floor": (142, 110, 83),
    "furniture": (112, 156, 88),
    "objects": (232, 209, 75),
    "picture": (205, 105, 180),
    "sofa": (46, 150, 160),
    "table": (176, 128, 48),
    "tv": (54, 48, 70),
    "wall": (170, 178, 186),
    "window": (124, 198, 240),
}

CITYSCAPES19 = {
    "road": (128, 64, 128),
    "sidewalk": (244, 35, 232),
    "building": (70, 70, 70),
    "wall": (102, 102, 156),
    "fence": (190, 153, 153),
    "pole": (153, 153, 153),
    "traffic light": (250, 170, 30),
    "traffic sign": (220, 220, 0),
    "vegetation": (107, 142, 35),
    "terrain": (152, 251, 152),
    "sky": (70, 130, 180),
    "person": (220, 20, 60),
    "rider": (255, 0, 0),
    "car": (0, 0, 142),
    "truck": (0, 0, 70),
    "bus": (0, 60, 100),
    "train": (0, 80, 100),
    "motorcycle": (0, 0, 230),
    "bicycle": (119, 11, 32),
}

# Order matters: it is the order of CTAL's task axis (and of every axis that tasks share).
DATASET_TASKS: dict[str, tuple[Task, ...]] = {
    "synthrooms": (semseg(NYU13), depth(), normals()),
    "nyuv2": (semseg(NYU13), depth(), normals()),
    "cityscapes": (semseg(CITYSCAPES19), disparity()),
}


def tasks_for(dataset: str, names: Sequence[str] | None = None) -> tuple[Task, ...]:
    """The tasks of a data set in their canonical order, or the named subset of them.

    Raises:
        UserError: the data set or a task is unknown, or a name stands twice.
    """
    if dataset not in DATASET_TASKS:
        raise UserError(f"unknown data set '{dataset}'; known: {', '.join(DATASET_TASKS)}.")
    tasks = DATASET_TASKS[dataset]
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
