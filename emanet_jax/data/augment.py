"""Joint augmentation of an image and its labels; what it does to a label stands in the Task record.

A sample is {"image": (h, w, 3) uint8 or float, "labels": {task: (h, w, k)}, ...}; other keys pass
through. Every function is pure; randomness comes from the generator that is handed in.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from emanet_jax.tasks import Task

Sample = dict[str, Any]

# MTAN's scales for NYUv2.
ZOOM_FACTORS = (1.0, 1.2, 1.5)


def augment(
    sample: Sample, tasks: Sequence[Task], rng: np.random.Generator, *, flip: bool, scale_crop: bool
) -> Sample:
    """Mirrors with probability 1/2 and zooms into a random window, each if asked for."""
    # Drawn always, so that switching one of them off leaves the other's choices alone.
    mirrored, factor, place = rng.random() < 0.5, rng.choice(ZOOM_FACTORS), rng.random(2)
    if scale_crop and factor > 1:
        h, w, _ = sample["image"].shape
        spare_rows, spare_columns = int(h - h / factor), int(w - w / factor)
        top, left = int(place[0] * (spare_rows + 1)), int(place[1] * (spare_columns + 1))
        sample = zoom(sample, tasks, float(factor), top, left)
    if flip and mirrored:
        sample = mirror(sample, tasks)
    return sample


def mirror(sample: Sample, tasks: Sequence[Task]) -> Sample:
    """Swaps left and right."""
    labels = sample["labels"]
    mirrored = {task.name: task.flip(labels[task.name][:, ::-1]) for task in tasks}
    return {**sample, "image": sample["image"][:, ::-1], "labels": mirrored}


def zoom(sample: Sample, tasks: Sequence[Task], factor: float, top: int, left: int) -> Sample:
    """Enlarges the window (h / factor, w / factor) at (top, left) to the full size.

    Images are resampled bilinearly; labels by nearest neighbour or bilinearly over their valid
    pixels (`task.nearest`), and then change their values (`task.zoom`).
    """
    image = sample["image"]
    h, w, _ = image.shape
    # Pixel centres of the result, in pixels of the source; the window's border pixels repeat.
    y, x = (
        np.clip(start + (np.arange(n) + 0.5) / factor - 0.5, start, start + n / factor - 1)
        for start, n in ((top, h), (left, w))
    )
    larger = _bilinear(image.astype(np.float32), y, x)
    if image.dtype == np.uint8:
        larger = np.rint(larger)
    labels = {
        task.name: task.zoom(_resample(sample["labels"][task.name], task, y, x), factor)
        for task in tasks
    }
    return {**sample, "image": larger.astype(image.dtype), "labels": labels}


def _resample(label: np.ndarray, task: Task, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    nearest = label[np.ix_(np.rint(y).astype(int), np.rint(x).astype(int))]
    if task.nearest:
        return nearest
    # Invalid neighbours carry no weight; where the nearest pixel is invalid the result is too.
    valid = task.valid(label)
    weight = _bilinear(valid.astype(label.dtype), y, x)
    total = _bilinear(np.where(valid, label, 0), y, x)
    kept = task.valid(nearest)
    return np.where(kept, total / np.where(kept, weight, 1), task.ignore).astype(label.dtype)


def _bilinear(values: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Values (h, w, k) at rows y and columns x, given in pixels of the source."""
    h, w, _ = values.shape
    top, left = np.minimum(y.astype(int), h - 2), np.minimum(x.astype(int), w - 2)
    down = (y - top).astype(values.dtype)[:, None, None]
    right = (x - left).astype(values.dtype)[:, None]
    rows = values[top] * (1 - down) + values[top + 1] * down
    return rows[:, left] * (1 - right) + rows[:, left + 1] * right
