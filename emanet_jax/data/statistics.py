"""What a split of a data set holds, counted in one pass, and what of it looks wrong."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from emanet_jax.data.alignment import Agreement, Borders
from emanet_jax.types import Task

# Classes whose surfaces everybody knows: a floor looks up (0, -1, 0), a wall sideways.
SURFACES = ("floor", "wall")
_PLAUSIBLE_METRES = (0.1, 100.0)  # of a median distance


@dataclasses.dataclass
class Field:
    """Sums over the images or the labels of one task; `task` is None for the image."""

    task: Task | None
    images: int = 0
    shapes: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    dtypes: set = dataclasses.field(default_factory=set)
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    pixels: int = 0
    valid_pixels: int = 0
    without: int = 0  # images that have no valid pixel
    not_finite: int = 0  # pixels
    lengths_off: int = 0  # pixels whose vector is not of length 1
    classes: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(256, np.int64))
    medians: list = dataclasses.field(default_factory=list)

    def update(self, values: np.ndarray) -> None:
        """Adds an image or a label (h, w, k)."""
        self.images += 1
        self.shapes[values.shape] += 1
        self.dtypes.add(str(values.dtype))
        finite = np.isfinite(values).all(-1)
        valid = finite if self.task is None else finite & self.task.valid(values)[..., 0]
        self.pixels += valid.size
        self.not_finite += valid.size - int(finite.sum())
        count = int(valid.sum())
        self.valid_pixels += count
        if not count:
            self.without += 1
            return
        inside = values[valid]
        low, high = inside.min(0), inside.max(0)
        self.low = low if self.low is None else np.minimum(self.low, low)
        self.high = high if self.high is None else np.maximum(self.high, high)
        if self.task is None:
            return
        if values.dtype.kind in "iu":
            self.classes += np.bincount(np.clip(inside[:, 0], 0, 255), minlength=256)
        elif values.shape[-1] == 1:
            self.medians.append(float(np.median(inside)))
        else:
            length = np.sqrt(np.einsum("nk,nk->n", inside, inside))
            self.lengths_off += int((np.abs(length - 1) > 0.01).sum())

    @property
    def invalid_share(self) -> float:
        """Of all pixels."""
        return 1 - self.valid_pixels / max(1, self.pixels)

    def class_shares(self) -> dict[str, float]:
        """Of the valid pixels, by the class's name."""
        names = self.task.class_names or ("0", "1")
        return {n: c / max(1, self.valid_pixels) for n, c in zip(names, self.classes, strict=False)}

    def faults(self) -> list[str]:
        """What looks wrong, a sentence each."""
        if not self.images:
            return []
        found = []
        if self.not_finite:
            found.append(f"{self.not_finite} pixels are NaN or infinite")
        if not self.valid_pixels:
            return [*found, "no pixel of any image is valid"]
        if np.array_equal(self.low, self.high):
            what = "colour" if self.task is None else "value"
            found.append(f"all pixels of all images have the same {what}, {_numbers(self.low)}")
        return found + (self._image_faults() if self.task is None else self._label_faults())

    def _image_faults(self) -> list[str]:
        low, high = float(self.low.min()), float(self.high.max())
        if self.dtypes == {"uint8"}:
            return ["all values are 0 or 1 of 255: black"] if 0 < high <= 1 else []
        fine = low >= 0 and high <= 1
        return [] if fine else [f"values lie between {low:g} and {high:g}, not between 0 and 1"]

    def _label_faults(self) -> list[str]:
        if self.classes.any():
            count = len(self.task.class_names) or 2
            above = [k for k in np.flatnonzero(self.classes) if k >= count]
            if above:
                share = 100 * self.classes[count:].sum() / self.valid_pixels
                return [
                    f"{share:.3g} % of the valid pixels have the label {', '.join(map(str, above))}"
                    f", but there are {count} classes: 0 to {count - 1}, and {self.task.ignore:g} "
                    "for no label"
                ]
        if self.lengths_off > 0.001 * self.valid_pixels:
            share = 100 * self.lengths_off / self.valid_pixels
            return [f"{share:.3g} % of the valid vectors do not have the length 1"]
        median = float(np.median(self.medians)) if self.medians else 0
        if is_distance(self.task) and median > _PLAUSIBLE_METRES[1]:
            return [f"its median is {median:g}: these look like millimetres, not metres"]
        if is_distance(self.task) and median < _PLAUSIBLE_METRES[0]:
            return [f"its median is {median:g} metres: too near for a picture of a scene"]
        return []


def is_distance(task: Task) -> bool:
    """Whether a label is a distance: coming twice as near halves it."""
    one = np.ones((1, 1, task.label_channels), np.float32)
    return task.label_channels == 1 and bool((task.zoom(one, 2.0) == 0.5).all())


class Split:
    """Everything about one split: its fields, and how they fit each other."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self.tasks = tuple(tasks)
        self.fields = {"image": Field(None), **{task.name: Field(task) for task in tasks}}
        self.borders = {task.name: Borders() for task in tasks}
        self.agreement = Agreement()
        self.directions = np.zeros(3)  # sum of all normals
        self.surfaces = {name: np.zeros(3) for name in SURFACES}
        self.depth = next((task for task in tasks if is_distance(task)), None)
        self.normals = next((task for task in tasks if task.label_channels == 3), None)
        self._classes = next(
            (task for task in tasks if set(SURFACES) & set(task.class_names)), None
        )

    def update(self, example: Mapping[str, Any], compare: bool) -> None:
        """Adds an example; `compare`: also how its fields fit each other, which takes longer."""
        for name, field in self.fields.items():
            field.update(example[name])
        if self.normals:
            self.directions += example[self.normals.name].sum((0, 1), dtype=np.float64)
        if self.normals and self._classes:
            label = example[self._classes.name][..., 0]
            for name in self.surfaces:
                ids = self._classes.class_names
                if name in ids:
                    vectors = example[self.normals.name][label == ids.index(name)]
                    self.surfaces[name] += vectors.sum(0, dtype=np.float64)
        if compare:
            for task in self.tasks:
                self.borders[task.name].update(example["image"], example[task.name], task)
            if self.depth and self.normals:
                self.agreement.update(example, self.depth, self.normals)

    def surface_normals(self) -> dict[str, np.ndarray]:
        """Mean direction (3,) of the pixels of `SURFACES`, of those that have any."""
        lengths = {name: np.linalg.norm(total) for name, total in self.surfaces.items()}
        return {n: self.surfaces[n] / length for n, length in lengths.items() if length > 0}

    def faults(self) -> list[str]:
        """What looks wrong, "FIELD: sentence" each."""
        by_field = {name: field.faults() for name, field in self.fields.items()}
        for task in self.tasks:
            if not by_field["image"] and not by_field[task.name]:
                by_field[task.name] += self._misplaced(task)
        if self.normals and not by_field[self.normals.name]:
            trusted = self.depth and not by_field[self.depth.name]
            by_field[self.normals.name] += self._turned() if trusted else self._averted()
        return [f"{name}: {fault}" for name, faults in by_field.items() for fault in faults]

    def _misplaced(self, task: Task) -> list[str]:
        borders = self.borders[task.name]
        down, right = borders.shift()
        if (down, right) != (0, 0):
            return [
                f"shifted against the image: it fits best when it is moved {down} pixels down and "
                f"{right} to the right"
            ]
        share = borders.own_share()
        if share < 0.6:
            return [
                f"only {100 * share:.0f} % of the labels fit their image better than the label of "
                "another image does: they may belong to other images"
            ]
        return []

    def _turned(self) -> list[str]:
        median, correlations = self.agreement.median(), self.agreement.correlations()
        axes = "".join(axis for axis, r in zip("xyz", correlations, strict=True) if r < -0.3)
        if axes:
            return [
                f"the sign of {axes} is opposite to that of the normals from depth (x right, y "
                f"down, z forward): config.data.negate_normals={axes} turns it round"
            ]
        if median > 45:
            return [f"the median angle to the normals from depth is {median:.0f} degrees"]
        return []

    def _averted(self) -> list[str]:
        """Without a depth to compare with: what is seen looks back, and the floor looks up."""
        found = []
        if self.directions[2] > 0:
            found.append("their mean looks away from the camera: z must be negative (z forward)")
        floor = self.surface_normals().get("floor")
        if floor is not None and floor[1] > 0:
            found.append(f"the floor's mean is {_numbers(floor)}, but it looks up: (0, -1, 0)")
        return found


def _numbers(values: np.ndarray) -> str:
    text = ", ".join(f"{x:.3g}" for x in np.atleast_1d(values))
    return f"({text})" if np.size(values) > 1 else text
