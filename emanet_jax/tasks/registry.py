"""The tasks, and on one screen the data sets that label them.

Augmentation, padding, loss, evaluation, pictures and the choice of the best checkpoint read the
`Task` record; nothing else branches on a task's name. A new task is one function like those below,
a new data set is one `DatasetSpec`; both can come from a file outside of this package, through
`register_task` and `register_dataset`. Importing this file imports neither TFDS nor TensorFlow.
"""

import dataclasses
import functools
import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from ml_collections import ConfigDict

from emanet_jax import menu
from emanet_jax.errors import UserError, choose
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
from emanet_jax.types import Loss, Task


def _argmax(prediction: Array) -> Array:
    return jnp.argmax(prediction, axis=-1, keepdims=True)


def semseg(classes: Palette, absent_class: Literal["skip", "zero"] = "skip") -> Task:
    """Semantic segmentation over `classes`, in the order of their ids; 255 = ignore.

    `absent_class` decides how a class that never occurs counts in the mean IoU.
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


def normals(loss: Loss = losses.cosine) -> Task:
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
    """Objects that draw the eye: 1 = salient, 0 = not; 255 = ignore. Read as a probability."""
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


@dataclasses.dataclass(frozen=True)
class DatasetSpec:
    """Everything that the rest of the code needs to know about a data set.

    Attributes:
        name: key of the registry, value of config.data.dataset.
        tasks: the tasks that it labels. Their order is that of CTAL's task axis, and of every axis
            that tasks share.
        builder: config.data, and the tasks that the records must have labels of, to their TFDS
            builder (see `data.records.builder_of_files`); or, as entry points are written,
            "module:function", imported when it is needed.
        splits: the official number of images by split; {}: unknown.
        layouts: the layouts of source files that the builder reads; (): it has only one.
        other_classes: the first task over other numbers of classes (config.data.classes).
    """

    name: str
    tasks: tuple[Task, ...]
    builder: str | Callable[[ConfigDict, tuple[Task, ...]], Any]
    splits: Mapping[str, int] = dataclasses.field(default_factory=dict)
    layouts: tuple[str, ...] = ()
    other_classes: tuple[Task, ...] = ()

    def make_builder(self, data: ConfigDict, tasks: tuple[Task, ...]) -> Any:
        """The TFDS builder for config.data, which may import TFDS; `tasks` are those to train."""
        if callable(self.builder):
            return self.builder(data, tasks)
        module, _, function = self.builder.partition(":")
        return getattr(importlib.import_module(module), function)(data, tasks)


DATASETS: dict[str, DatasetSpec] = {
    spec.name: spec
    for spec in (
        DatasetSpec(
            name="synthrooms",
            tasks=(semseg(NYU13), depth(), normals()),
            builder="emanet_jax.data.synthrooms:builder",
        ),
        DatasetSpec(
            name="nyuv2",
            tasks=(semseg(NYU13), depth(), normals()),
            other_classes=(semseg(NYU40),),
            builder="emanet_jax.data.nyuv2:builder",
            splits={"train": 795, "val": 654},
            layouts=tuple(menu.LAYOUTS["nyuv2"]),
        ),
        DatasetSpec(
            name="cityscapes",
            tasks=(semseg(CITYSCAPES19), disparity()),
            other_classes=(semseg(CITYSCAPES7),),
            builder="emanet_jax.data.cityscapes:builder",
            splits={"train": 2975, "val": 500},
            layouts=tuple(menu.LAYOUTS["cityscapes"]),
        ),
        DatasetSpec(
            name="pascal_context",
            tasks=(
                semseg(PASCAL21, absent_class="zero"),
                normals(losses.normals_l1),
                saliency(),
                edge(),
                human_parts(),
            ),
            builder="emanet_jax.data.pascal_context:builder",
            splits={"train": 4998, "val": 5105},
            layouts=tuple(menu.LAYOUTS["pascal_context"]),
        ),
    )
}


def register_dataset(spec: DatasetSpec) -> None:
    """Adds a data set of your own, for `tasks_for` and for config.data.dataset.

    Raises:
        UserError: the name is one of this package's, or there are no tasks, or two of one name.
    """
    tasks = tuple(task.name for task in spec.tasks)
    if not tasks or len(set(tasks)) < len(tasks):
        raise UserError(
            f"data set '{spec.name}' has the tasks {[*tasks]}; it needs some, each once."
        )
    menu.DATASETS.register(spec.name, spec, DATASETS)
    menu.TASKS[spec.name] = tasks
    menu.LAYOUTS[spec.name] = dict.fromkeys(spec.layouts, "")


def register_task(task: Task, dataset: str) -> None:
    """Gives a data set this task: in place of its task of that name, or as its last.

    The labels are what the data set's builder makes of them: a task of another name needs a builder
    that gives its label too.

    Raises:
        UserError: there is no such data set.
    """
    spec = spec_of(dataset)
    others = tuple(task if other.name == task.name else other for other in spec.tasks)
    tasks = others if task in others else (*others, task)
    DATASETS[dataset] = dataclasses.replace(spec, tasks=tasks)
    menu.TASKS[dataset] = tuple(other.name for other in tasks)


def spec_of(dataset: str) -> DatasetSpec:
    """The data set of this name.

    Raises:
        UserError: there is none.
    """
    return choose("data set", dataset, DATASETS)


def tasks_for(
    dataset: str, names: Sequence[str] | None = None, classes: int | None = None
) -> tuple[Task, ...]:
    """The tasks of a data set in their canonical order, or the named subset of them.

    Args:
        dataset: a key of `DATASETS`.
        names: of the tasks; None: all of them.
        classes: how many semantic classes; None or 0: the data set's usual number.

    Raises:
        UserError: the data set, a task or the number of classes is unknown, or a name stands twice.
    """
    spec = spec_of(dataset)
    first, *rest = spec.tasks
    choices = {task.channels: task for task in (first, *spec.other_classes)}
    if classes and classes not in choices:
        raise UserError(
            f"config.data.classes is {classes} but {dataset} has "
            f"{' or '.join(str(count) for count in choices)} classes (0: {first.channels})."
        )
    tasks = (choices[classes or first.channels], *rest)
    if names is None:
        return tasks
    menu.check_tasks(dataset, names, [task.name for task in tasks])
    return tuple(task for task in tasks if task.name in names)
