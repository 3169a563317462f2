"""Mirrors, scales, cuts, pads and resizes images and labels; tasks say how label values change.

A sample is {"image": (h, w, 3) uint8 or float32, "labels": {task: (h, w, k)}, ...}; other keys pass
through. Every function is pure; float labels and images are computed in float32.
"""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from emanet_jax.types import Task

Sample = dict[str, Any]

# ImageNet's mean in 0..255: normalised with its statistics, padding is (nearly) zero, as the
# padding of a convolution.
PADDING_COLOUR = (124, 116, 104)


def mirror(sample: Sample, tasks: Sequence[Task]) -> Sample:
    """Swaps left and right. A principal point at column cx moves to w - 1 - cx."""
    labels = sample["labels"]
    mirrored = {task.name: task.flip(labels[task.name][:, ::-1]) for task in tasks}
    return {**sample, "image": sample["image"][:, ::-1], "labels": mirrored}


def zoom(
    sample: Sample,
    tasks: Sequence[Task],
    factor: float,
    top: int,
    left: int,
    size: tuple[int, int],
) -> Sample:
    """Scales by a factor and cuts out a window.

    The pixel in row i and column j of the result shows row (top + i + 1/2) / factor - 1/2 and
    column (left + j + 1/2) / factor - 1/2 of the source, so a camera (fx, fy, cx, cy) becomes
    (factor fx, factor fy, (cx + 1/2) factor - 1/2 - left, (cy + 1/2) factor - 1/2 - top).

    Images are resampled bilinearly (without a low-pass filter where they shrink), labels by nearest
    neighbour or bilinearly over their valid pixels (`task.nearest`); labels then change their
    values (`task.zoom`).

    Args:
        sample: image and labels (h, w, k).
        tasks: of the labels to keep.
        factor: above 1 enlarges.
        top: first row of the window, in pixels of the scaled picture.
        left: its first column.
        size: (rows, columns) of the window.
    """
    image, labels = sample["image"], sample["labels"]
    if factor == 1:
        window = np.s_[top : top + size[0], left : left + size[1]]
        kept = {task.name: labels[task.name][window] for task in tasks}
        return {**sample, "image": image[window], "labels": kept}
    y, x = _source_pixels(image.shape, factor, top, left, size)
    scaled = _bilinear(image, y, x)
    if image.dtype == np.uint8:
        scaled = (scaled + 0.5).astype(np.uint8)  # rounded: truncation is the faster cast
    labels = {
        task.name: task.zoom(_resample(labels[task.name], task, y, x), factor) for task in tasks
    }
    return {**sample, "image": scaled, "labels": labels}


def pad(sample: Sample, tasks: Sequence[Task], size: tuple[int, int]) -> Sample:
    """Adds rows below and columns to the right: the image's mean colour, labels invalid."""
    image, labels = sample["image"], sample["labels"]
    if image.shape[:2] == size:
        return sample
    colour = np.array(PADDING_COLOUR, image.dtype)
    padded = {task.name: _padded(labels[task.name], size, task.ignore) for task in tasks}
    if image.dtype != np.uint8:
        colour = colour / 255
    return {**sample, "image": _padded(image, size, colour), "labels": padded}


def cut(label: np.ndarray, factor: float, top: int, left: int, size: tuple[int, int]) -> np.ndarray:
    """The window that `zoom` shows of a label with `task.nearest`, its values unchanged."""
    return _nearest(label, *_source_pixels(label.shape, factor, top, left, size))


def resize_label(values: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """Labels (h, w[, k]) at `image_size` = (h, w): the value under each new pixel's centre.

    Pixel i of n covers [i / n, (i + 1) / n) of the side, so that corners stay together.
    """
    # (i + 1/2) old / new, rounded down, in whole numbers; on a border the later pixel wins.
    rows, columns = (
        (2 * np.arange(new) + 1) * old // (2 * new)
        for new, old in zip(image_size, values.shape, strict=False)
    )
    return values[rows[:, None], columns]


def resize_image(image: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """Image (h, w, 3), uint8 or float, at a size: mean over areas; bilinear where it grows."""
    if image.shape[:2] == image_size:
        return image
    down, across = (_area_weights(*sides) for sides in zip(image.shape, image_size, strict=False))
    rows = np.tensordot(down, image.astype(np.float32), 1)
    resized = np.moveaxis(np.tensordot(rows, across, (1, 1)), 2, 1)
    return np.rint(resized).astype(np.uint8) if image.dtype == np.uint8 else resized


def _source_pixels(
    shape: tuple[int, ...], factor: float, top: int, left: int, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the source, in pixels, that a window's rows and columns show."""
    y, x = (
        np.clip((start + np.arange(n) + 0.5) / factor - 0.5, 0, whole - 1)
        for start, n, whole in zip((top, left), size, shape, strict=False)
    )
    return y, x


def _nearest(label: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    h, w, k = label.shape
    rows, columns = np.rint(y).astype(np.intp), np.rint(x).astype(np.intp)
    flat = label.reshape(h, w * k)
    # Row by row, then by flat columns: several times faster than indexing with both at once.
    taken = flat[rows].take((columns[:, None] * k + np.arange(k)).ravel(), axis=1)
    return taken.reshape(len(y), len(x), k)


def _resample(label: np.ndarray, task: Task, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    if task.nearest:
        return _nearest(label, y, x)
    # Invalid neighbours carry no weight; where the nearest pixel is invalid the result is too.
    valid = task.valid(label)
    if valid.all():
        return _bilinear(label, y, x).astype(label.dtype)
    weight = _bilinear(valid, y, x)
    total = _bilinear(label - np.asarray(task.ignore, label.dtype), y, x)  # 0 where invalid
    kept = _nearest(valid, y, x)
    share = np.divide(kept, weight, out=np.zeros_like(weight), where=kept)
    return (total * share + np.float32(task.ignore)).astype(label.dtype)


def _bilinear(values: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Values (h, w, k) at rows y and columns x, given in pixels of the source; float32."""
    h, w, k = values.shape
    top, left = np.minimum(y.astype(np.intp), h - 2), np.minimum(x.astype(np.intp), w - 2)
    down = (y - top).astype(np.float32)[:, None]
    right = np.repeat((x - left).astype(np.float32), k)
    first, last = top[0], top[-1] + 2
    rows = values[first:last].reshape(last - first, w * k).astype(np.float32, copy=False)
    columns = (left[:, None] * k + np.arange(k)).ravel()
    across = _between(rows.take(columns, axis=1), rows.take(columns + k, axis=1), right)
    top = top - first
    return _between(across[top], across[top + 1], down).reshape(len(y), len(x), k)


def _between(start: np.ndarray, end: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Linear interpolation that writes into the arrays that are handed in."""
    end -= start
    end *= share
    start += end
    return start


def _padded(values: np.ndarray, size: tuple[int, int], fill: Any) -> np.ndarray:
    h, w, k = values.shape
    result = np.empty((*size, k), values.dtype)
    result[:h, :w] = values
    result[h:] = fill
    result[:h, w:] = fill
    return result


@functools.lru_cache(maxsize=8)
def _area_weights(old: int, new: int) -> np.ndarray:
    """Share (new, old) float32 of every old pixel in every new one; rows sum to 1."""
    if new > old:
        centres = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        weights = np.maximum(0, 1 - np.abs(np.subtract.outer(centres, np.arange(old))))
    else:
        # In units of 1 / (old new) of the side, so that the overlaps are whole numbers.
        starts, ends = (old * (np.arange(new) + k)[:, None] for k in (0, 1))
        left, right = (new * (np.arange(old) + k) for k in (0, 1))
        weights = np.maximum(0, np.minimum(ends, right) - np.maximum(starts, left)) / old
    return weights.astype(np.float32)
