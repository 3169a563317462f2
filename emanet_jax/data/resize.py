"""Whole images and label maps at another size: images by area, labels by exact pixel centres.

Pixel i of n covers [i / n, (i + 1) / n) of the side, so the pictures' corners stay together.
"""

import functools

import numpy as np


def nearest(values: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """Labels (h, w[, k]) at `image_size` = (h, w): the value under each new pixel's centre."""
    # (i + 1/2) old / new, rounded down, in whole numbers; on a border the later pixel wins.
    rows, columns = (
        (2 * np.arange(new) + 1) * old // (2 * new)
        for new, old in zip(image_size, values.shape, strict=False)
    )
    return values[rows[:, None], columns]


def smooth(image: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """Image (h, w, 3) uint8 at `image_size`: mean over pixel areas; bilinear where it grows."""
    if image.shape[:2] == image_size:
        return image
    down, across = (_weights(*sides) for sides in zip(image.shape, image_size, strict=False))
    rows = np.tensordot(down, image.astype(np.float32), 1)
    resized = np.tensordot(rows, across, (1, 1))  # (h, 3, w)
    return np.rint(np.moveaxis(resized, 2, 1)).astype(np.uint8)


@functools.lru_cache(maxsize=8)
def _weights(old: int, new: int) -> np.ndarray:
    """Share (new, old) float32 of every old pixel in every new one; rows sum to 1."""
    if new > old:
        places = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        weights = np.maximum(0, 1 - np.abs(np.subtract.outer(places, np.arange(old))))
    else:
        # In units of 1 / (old new) of the side, so that the overlaps are whole numbers.
        starts, ends = (old * (np.arange(new) + k)[:, None] for k in (0, 1))
        left, right = (new * (np.arange(old) + k) for k in (0, 1))
        weights = np.maximum(0, np.minimum(ends, right) - np.maximum(starts, left)) / old
    return weights.astype(np.float32)
