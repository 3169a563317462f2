"""What looks wrong in a data set: the sums, tables and figures of `emanet_jax.data.check`."""

import collections
import dataclasses
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from emanet_jax.config import check_config
from emanet_jax.data import geometry
from emanet_jax.data.files import ROUNDING
from emanet_jax.data.normals import normals_from_depth
from emanet_jax.errors import UserError
from emanet_jax.tasks import figures, tasks_for
from emanet_jax.tasks.registry import spec_of
from emanet_jax.types import Examples, Task

_LOG = logging.getLogger(__name__)

_COMPARED = 64  # images of a split whose fields are compared with each other
_PROGRESS = 10.0  # seconds between two lines
_TILE_WIDTH = 512  # pixels, at most, of a picture in the figures

# Classes whose surfaces everybody knows: a floor looks up (0, -1, 0), a wall sideways.
SURFACES = ("floor", "wall")
_PLAUSIBLE_METRES = (0.1, 100.0)  # of a median distance


# --- one field of a split -------------------------------------------------------------------------


@dataclasses.dataclass
class Field:
    """Sums over the images of a split, or over the labels of one task."""

    images: int = 0
    shapes: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    dtypes: set[str] = dataclasses.field(default_factory=set)
    low: np.ndarray = dataclasses.field(default_factory=lambda: np.array(np.inf))
    high: np.ndarray = dataclasses.field(default_factory=lambda: np.array(-np.inf))
    pixels: int = 0
    valid_pixels: int = 0
    without: int = 0  # images that have no valid pixel
    not_finite: int = 0  # pixels

    def update(self, values: np.ndarray) -> np.ndarray:
        """Adds an image or a label (h, w, k); returns its valid pixels (n, k)."""
        self.images += 1
        self.shapes[values.shape] += 1
        self.dtypes.add(str(values.dtype))
        finite = np.isfinite(values).all(-1)
        self.pixels += finite.size
        self.not_finite += finite.size - int(finite.sum())
        valid = finite & self._labelled(values)
        inside = values[valid]
        self.valid_pixels += len(inside)
        self.without += not len(inside)
        if len(inside):
            self.low = np.minimum(self.low, inside.min(0))
            self.high = np.maximum(self.high, inside.max(0))
        return inside

    @property
    def invalid_share(self) -> float:
        """The share of all pixels that carry no information."""
        return 1 - self.valid_pixels / max(1, self.pixels)

    def problems(self) -> list[str]:
        """Sentences about what looks wrong."""
        if not self.images:
            return []
        sentences = []
        if self.not_finite:
            sentences.append(f"{self.not_finite} pixels are NaN or infinite")
        if not self.valid_pixels:
            return [*sentences, "no pixel of any image is valid"]
        if np.array_equal(self.low, self.high):
            sentences.append(
                f"all pixels of all images have the same {self._value}, {_numbers(self.low)}"
            )
        return sentences + self._problems_of_values()

    _value = "colour"

    def _labelled(self, values: np.ndarray) -> np.ndarray:
        return np.ones(values.shape[:2], bool)

    def _problems_of_values(self) -> list[str]:
        low, high = float(self.low.min()), float(self.high.max())
        if self.dtypes == {"uint8"}:
            return ["all values are 0 or 1 of 255: black"] if 0 < high <= 1 else []
        if low >= -ROUNDING and high <= 1 + ROUNDING:
            return []
        return [f"values lie between {low:.6g} and {high:.6g}, not between 0 and 1"]


@dataclasses.dataclass
class LabelField(Field):
    """Sums over the labels of one task."""

    task: Task = dataclasses.field(kw_only=True)
    wrong_lengths: int = 0  # pixels whose vector is not of length 1
    classes: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(256, np.int64))
    medians: list[float] = dataclasses.field(default_factory=list)

    _value = "value"

    def _labelled(self, values: np.ndarray) -> np.ndarray:
        return self.task.valid(values)[..., 0]

    def update(self, values: np.ndarray) -> np.ndarray:
        """Adds a label (h, w, k); returns its valid pixels (n, k)."""
        inside = super().update(values)
        if not len(inside):
            return inside
        if values.dtype.kind in "iu":
            self.classes += np.bincount(np.clip(inside[:, 0], 0, 255), minlength=256)
        elif values.shape[-1] == 1:
            self.medians.append(float(np.median(inside)))
        else:
            length = np.sqrt(np.einsum("nk,nk->n", inside, inside))
            self.wrong_lengths += int((np.abs(length - 1) > 0.01).sum())
        return inside

    def class_shares(self) -> dict[str, float]:
        """Shares of the valid pixels by the class's name; {} for a task without classes."""
        if not self.classes.any():
            return {}
        names = self.task.class_names or ("0", "1")
        return {n: c / max(1, self.valid_pixels) for n, c in zip(names, self.classes, strict=False)}

    def _problems_of_values(self) -> list[str]:
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
        if self.wrong_lengths > 0.001 * self.valid_pixels:
            share = 100 * self.wrong_lengths / self.valid_pixels
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


def _numbers(values: np.ndarray) -> str:
    text = ", ".join(f"{x:.3g}" for x in np.atleast_1d(values))
    return f"({text})" if np.size(values) > 1 else text


# --- how the fields of an example fit each other --------------------------------------------------
# Sums over examples, so that a coincidence in one of them does not count.

_ANGLES = np.linspace(0, 180, 721)  # edges of the histogram, degrees
_WIDTH = 512  # wider pictures are thinned out first


class Borders:
    """Correlation of a label's borders with its image's edges, at every shift up to width / 16.

    It is highest at no shift if the borders lie where they should.
    """

    def __init__(self) -> None:
        self._surface: np.ndarray | float = 0.0
        self._previous: np.ndarray | None = None
        self._wins: list[bool] = []
        self._step, self._reach = 1, 0

    def update(self, image: np.ndarray, label: np.ndarray, task: Task) -> None:
        """Adds an image (h, w, 3) and its label (h, w, k)."""
        w = image.shape[1]
        if not self._reach:
            self._step = -(-w // _WIDTH)
            self._reach = max(4, w // self._step // 16)
        thin = np.s_[:: self._step, :: self._step]
        luma = image[thin].astype(np.float32).mean(-1, keepdims=True)
        edges = _edges(luma, np.ones((*luma.shape[:2], 1), bool))
        borders = _edges(_comparable(label[thin], task), task.valid(label[thin]))
        self._surface = self._surface + _correlation(edges, borders, self._reach)
        # The same image with another example's label: what chance and composition alone give.
        if not borders.any():
            return
        if self._previous is not None and self._previous.shape == edges.shape:
            self._wins.append((edges * borders).sum() > (edges * self._previous).sum())
        self._previous = borders

    def shift(self) -> tuple[int, int]:
        """How far the label must be moved (down, right) to fit best, in pixels.

        (0, 0) if that is within 1 % of the width, hardly better than no move, or no clear peak.
        """
        surface = np.asarray(self._surface)
        reach = self._reach
        if not surface.ndim or surface.max() <= 0:
            return 0, 0
        peak = np.unravel_index(surface.argmax(), surface.shape)
        y, x = (int(k) - reach for k in peak)
        near = max(1, round(reach * 16 / 100))
        around = surface[reach - near : reach + near + 1, reach - near : reach + near + 1].max()
        clear = surface.max() > np.median(surface) + 3 * surface.std()
        if max(abs(y), abs(x)) <= near or surface.max() < 1.2 * around or not clear:
            return 0, 0
        return y * self._step, x * self._step

    def own_share(self) -> float:
        """Share of images that their own label fits better than the one before it; NaN if few.

        Labels of other images reach one half.
        """
        return float(np.mean(self._wins)) if len(self._wins) >= 8 else np.nan


def _comparable(label: np.ndarray, task: Task) -> np.ndarray:
    """Values (h, w, k) whose differences between neighbours mean the same everywhere."""
    if label.dtype.kind == "f" and task.label_channels == 1:  # distances grow with noise
        return np.log(np.where(task.valid(label), np.abs(label), 1))
    return label.astype(np.float32)


def _edges(values: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Difference of pixels (h, w) to their neighbours: mean 0, sum of squares 1 (or all 0)."""
    valid = valid[..., 0]
    edges = np.zeros(valid.shape, np.float32)
    for first, second in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
        change = np.abs(values[second] - values[first]).sum(-1) * (valid[second] & valid[first])
        edges[first] += change
        edges[second] += change
    # A label has no stronger and weaker borders; of a picture the strongest edges must not rule.
    strong = np.percentile(edges, 95)
    edges = np.minimum(edges, strong) if strong > 0 else np.sign(edges)
    edges = edges - edges.mean()
    norm = np.sqrt((edges * edges).sum())
    return edges / norm if norm > 0 else edges


def _correlation(first: np.ndarray, second: np.ndarray, reach: int) -> np.ndarray:
    """Entry (reach + y, reach + x): `first` against `second` moved y down and x right."""
    size = (first.shape[0] + reach, first.shape[1] + reach)
    product = np.fft.rfft2(first, size) * np.conj(np.fft.rfft2(second, size))
    surface = np.roll(np.fft.irfft2(product, size), (reach, reach), (0, 1))
    return surface[: 2 * reach + 1, : 2 * reach + 1]


class Agreement:
    """Stored normals against normals from depth, which needs the camera of NYUv2."""

    def __init__(self) -> None:
        self._angles = np.zeros(len(_ANGLES) - 1)
        self._products, self._stored, self._derived = (np.zeros(3) for _ in range(3))

    def update(self, labels: Mapping[str, np.ndarray], depth: Task, normals: Task) -> None:
        """Adds an example's depth (h, w, 1) in metres and normals (h, w, 3)."""
        stored = labels[normals.name].astype(np.float64)
        derived = normals_from_depth(labels[depth.name]).astype(np.float64)
        both = normals.valid(stored)[..., 0] & derived.any(-1)
        stored, derived = stored[both], derived[both]
        cosine = np.clip((stored * derived).sum(-1), -1, 1)
        self._angles += np.histogram(np.degrees(np.arccos(cosine)), _ANGLES)[0]
        self._products += (stored * derived).sum(0)
        self._stored += (stored * stored).sum(0)
        self._derived += (derived * derived).sum(0)

    def median(self) -> float:
        """Median angle in degrees; NaN if no pixel has both."""
        total = self._angles.cumsum()
        if not total[-1]:
            return np.nan
        return float(_ANGLES[1 + np.searchsorted(total, total[-1] / 2)])

    def correlations(self) -> np.ndarray:
        """Correlation (3,) of the x, y and z components; NaN for an axis no surface looks along."""
        scale = np.sqrt(self._stored * self._derived)
        seen = np.minimum(self._stored, self._derived) > 0.005 * self._angles.sum()
        return np.divide(self._products, scale, out=np.full(3, np.nan), where=seen & (scale > 0))


# --- one split ------------------------------------------------------------------------------------


class Split:
    """Sums over one split: its fields, and how they fit each other."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self.tasks = tuple(tasks)
        self.image = Field()
        self.labels = {task.name: LabelField(task=task) for task in tasks}
        self.borders = {task.name: Borders() for task in tasks}
        self.agreement = Agreement()
        self.directions = np.zeros(3)  # sum of all normals
        self.surfaces = {name: np.zeros(3) for name in SURFACES}
        self.depth = next((task for task in tasks if is_distance(task)), None)
        self.normals = next((task for task in tasks if task.label_channels == 3), None)
        self._classes = next(
            (task for task in tasks if set(SURFACES) & set(task.class_names)), None
        )

    @property
    def fields(self) -> dict[str, Field]:
        """The image and the label of every task, by name."""
        return {"image": self.image, **self.labels}

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
        """Mean direction (3,) of the pixels of each of `SURFACES` that has any."""
        lengths = {name: np.linalg.norm(total) for name, total in self.surfaces.items()}
        return {n: self.surfaces[n] / length for n, length in lengths.items() if length > 0}

    def problems(self) -> list[str]:
        """Lines "FIELD: sentence" about what looks wrong."""
        by_field = {name: field.problems() for name, field in self.fields.items()}
        for task in self.tasks:
            if not by_field["image"] and not by_field[task.name]:
                by_field[task.name] += self._misplaced(task)
        if self.normals and not by_field[self.normals.name]:
            trusted = self.depth and not by_field[self.depth.name]
            by_field[self.normals.name] += self._turned() if trusted else self._averted()
        return [f"{name}: {line}" for name, lines in by_field.items() for line in lines]

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
        sentences = []
        if self.directions[2] > 0:
            sentences.append(
                "their mean looks away from the camera: z must be negative (z forward)"
            )
        floor = self.surface_normals().get("floor")
        if floor is not None and floor[1] > 0:
            sentences.append(f"the floor's mean is {_numbers(floor)}, but it looks up: (0, -1, 0)")
        return sentences


def inspect(split: str, source: Examples, tasks: Sequence[Task]) -> Split:
    """Reads every example of a split once; only sums stay in memory.

    Args:
        split: its name, for lines of progress.
        source: examples {"image": (h, w, 3), TASK: (h, w, k)}.
        tasks: whose labels to look at.
    """
    sums = Split(tasks)
    compared = set(evenly(len(source), _COMPARED))
    start = logged = time.monotonic()
    for index in range(len(source)):
        sums.update(source[index], index in compared)
        now = time.monotonic()
        if now - logged > _PROGRESS:
            logged, left = now, (now - start) / (index + 1) * (len(source) - index - 1)
            _LOG.info("%s: %d of %d images, %.0f s left", split, index + 1, len(source), left)
    return sums


def evenly(count: int, wanted: int) -> list[int]:
    """Up to `wanted` of the numbers 0 to count - 1, evenly spread."""
    return sorted({int(k) for k in np.linspace(0, count - 1, min(count, wanted))})


def problems(splits: Mapping[str, Split], expected: Mapping[str, int]) -> list[str]:
    """Lines "SPLIT: sentence" or "SPLIT/FIELD: sentence" about what looks wrong in a data set.

    Args:
        splits: sums over each split, of `inspect`.
        expected: number of images by split, of the splits where it is known.
    """
    counts = {split: sums.image.images for split, sums in splits.items()}
    counts = {split: counts.get(split, 0) for split in expected}
    lines = []
    if counts != dict(expected) and sorted(counts.values()) == sorted(expected.values()):
        lines.append(f"the splits are exchanged: {_words(counts)} instead of {_words(expected)}")
    else:
        for split, count in counts.items():
            if count != expected[split]:
                lines.append(
                    f"{split}: there are {count} images where {expected[split]} are expected"
                )
    return lines + [f"{name}/{line}" for name, sums in splits.items() for line in sums.problems()]


def report(split: str, sums: Split) -> str:
    """The table of a split."""
    lines = [f"{split}: {sums.image.images} images"]
    rows = [("field", "shape", "type", "range", "invalid", "images without")]
    rows += [_row(name, field) for name, field in sums.fields.items()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  " + "  ".join(cells).rstrip())
    for name, label in sums.labels.items():
        shares = [f"{n} {100 * share:.1f}" for n, share in label.class_shares().items()]
        if shares:
            lines.append(f"  {name}, % of the valid pixels: {', '.join(shares)}")
    for name, mean in sums.surface_normals().items():
        lines.append(f"  mean normal of {name}: ({', '.join(f'{x:.2f}' for x in mean)})")
    median = sums.agreement.median()
    if not np.isnan(median):
        axes = zip("xyz", sums.agreement.correlations(), strict=True)
        text = ", ".join(f"{axis} {r:.2f}" for axis, r in axes)
        lines.append(
            f"  normals against normals from depth: median angle {median:.1f} degrees, "
            f"correlation {text}"
        )
    return "\n".join(lines)


def _row(name: str, field: Field) -> tuple[str, str, str, str, str, str]:
    shapes = ["x".join(map(str, shape)) for shape, _ in field.shapes.most_common(1)]
    if len(field.shapes) > 1:
        shapes.append(f"and {len(field.shapes) - 1} others")
    ends = f"{field.low.min():.4g} to {field.high.max():.4g}" if field.valid_pixels else "none"
    invalid = f"{100 * field.invalid_share:.1f} %"
    return name, " ".join(shapes), ", ".join(field.dtypes), ends, invalid, str(field.without)


def figure(source: Examples, tasks: Sequence[Task], count: int) -> np.ndarray:
    """Images and labels of up to `count` examples, evenly spread: uint8 (height, width, 3)."""
    examples = [source[k] for k in evenly(len(source), count)]
    h, w = (max(example["image"].shape[axis] for example in examples) for axis in (0, 1))
    samples = [
        geometry.pad(
            {"image": x["image"], "labels": {t.name: x[t.name] for t in tasks}}, tasks, (h, w)
        )
        for x in examples
    ]
    step = -(-w // _TILE_WIDTH)
    thin = np.s_[::step, ::step]
    images = np.stack([x["image"][thin] for x in samples])
    labels = {t.name: np.stack([x["labels"][t.name][thin] for x in samples]) for t in tasks}
    return figures.image_grid(images, labels, {}, tasks)


def expected_counts(data: ConfigDict, given: Sequence[str]) -> dict[str, int]:
    """Images by split: as given, SPLIT=COUNT each, or as the data set has them officially.

    Raises:
        UserError: something else is given.
    """
    # The config has the numbers of images of procedural data sets; of others it has 0.
    asked = {"train": data.train_examples, "val": data.val_examples}
    counts = {**spec_of(data.dataset).splits, **{k: n for k, n in asked.items() if n}}
    for part in given:
        split, _, count = part.partition("=")
        if split not in asked or not count.isdecimal():
            raise UserError(
                f"--expect={part} is not understood; it must be SPLIT=COUNT with SPLIT one of "
                f"{', '.join(asked)}, as in --expect=train=795,val=654."
            )
        counts[split] = int(count)
    return counts


def check(config: ConfigDict, output: Path, images: int, given: Sequence[str] = ()) -> list[str]:
    """Builds, reads, prints and draws a data set; returns the lines about what looks wrong.

    Raises:
        UserError: the data cannot be built, or the figures not be written.
    """
    from emanet_jax.data import pipeline  # Grain loads slowly

    check_config(config)
    data = config.data
    needed = tasks_for(data.dataset, config.tasks, data.classes)
    expected = expected_counts(data, given)
    if images < 1:
        raise UserError(f"--images={images}: it must be at least 1.")
    builder = pipeline.prepare(data, needed)
    known = tasks_for(data.dataset, classes=data.classes)
    tasks = tuple(task for task in known if task.name in builder.info.features)
    splits = {}
    for split in builder.info.splits:
        source = pipeline.load(builder, split)
        splits[split] = inspect(split, source, tasks)
        print(report(split, splits[split]))
        try:
            output.mkdir(parents=True, exist_ok=True)
            Image.fromarray(figure(source, tasks, images)).save(output / f"{split}.png")
        except OSError as error:
            raise UserError(f"--output={output} cannot be written: {error.strerror}.") from error
        print(f"  figure: {output / f'{split}.png'}\n")
    lines = problems(splits, expected)
    for line in lines:
        print(f"wrong: {line}.")
    if not lines:
        print("Nothing looks wrong.")
    return lines


def _words(counts: Mapping[str, int]) -> str:
    return " and ".join(f"{split} {count}" for split, count in counts.items())
