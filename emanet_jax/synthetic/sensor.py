"""Imperfections of a recording: gaps in depth, unlabelled borders, camera noise.

Every function is a pure function of its arguments, a random generator among them.
"""

import numpy as np
from numpy.random import Generator
from scipy import ndimage

_BASELINE = 0.075  # metres between the Kinect's projector and its infrared camera
_FAR = 8.0  # metres: beyond it the Kinect sees nothing


def _blobs(rng: Generator, image_size: tuple[int, int], cells: int) -> np.ndarray:
    """Smooth noise (h, w) in [0, 1]: about `cells` blobs from top to bottom."""
    noise = rng.random((cells + 1, cells * 4 // 3 + 1))
    for size in image_size:  # linear along the first axis, then along the other
        place = np.arange(size) * ((len(noise) - 1) / size)
        low = place.astype(int)
        noise = (noise[low] + (noise[low + 1] - noise[low]) * (place - low)[:, None]).T
    return noise


def invalid_depth(
    rng: Generator, depth: np.ndarray, facing: np.ndarray, shiny: np.ndarray, focal: float
) -> np.ndarray:
    """Pixels where a Kinect returns no depth, bool (h, w).

    Args:
        rng: Source of the blobs.
        depth: (h, w) metres.
        facing: (h, w) cosine between normal and line of sight.
        shiny: (h, w) bool: glass and dark screens.
        focal: fx in pixels.
    """
    h, w = depth.shape
    # The pattern projector stands beside the camera: far points next to a near edge lie in its
    # shadow, which is as wide as the difference of the disparities: s pixels to the right of a
    # point in the shadow lies one with a disparity greater by at least s.
    lead = focal * _BASELINE / depth - np.arange(w)
    furthest = np.maximum.accumulate(lead[:, ::-1], axis=1)[:, ::-1]
    missing = (facing < 0.12) | (depth > _FAR) | (_blobs(rng, (h, w), 24) > 0.9)
    missing[:, :-1] |= furthest[:, 1:] >= lead[:, :-1]
    missing |= shiny & (_blobs(rng, (h, w), 6) > 0.35)
    frame = round(w / 90)
    missing[:, :frame] = missing[:, w - frame :] = True
    return missing


def jumps(depth: np.ndarray) -> np.ndarray:
    """Pixels (h, w) bool at a step in depth, where a plane fit over neighbours means nothing."""
    broken = np.zeros(depth.shape, bool)
    broken[:, 1:] |= np.abs(np.diff(depth, axis=1)) > 0.08 * depth[:, 1:]
    broken[1:] |= np.abs(np.diff(depth, axis=0)) > 0.08 * depth[1:]
    return broken


def unlabelled(rng: Generator, instances: np.ndarray) -> np.ndarray:
    """Pixels (h, w) bool near the borders of the instances that nobody labelled."""
    h, w = instances.shape
    # In tiny pictures one side of a border is enough, or little would stay labelled.
    size = 1 + max(1, round(h / 60))
    lowest, highest = (
        f(instances, size, mode="nearest") for f in (ndimage.minimum_filter, ndimage.maximum_filter)
    )
    return (lowest != highest) & (_blobs(rng, (h, w), 12) > 0.4)


def photograph(rng: Generator, radiance: np.ndarray) -> np.ndarray:
    """Display colours (3, h, w) to a uint8 picture (h, w, 3): slight blur, vignette, noise."""
    _, h, w = radiance.shape
    soft = np.minimum(radiance, np.float32(1.15))
    for axis in (1, 2):
        soft = ndimage.correlate1d(soft, [0.15, 0.7, 0.15], axis, mode="nearest")
    y, x = np.linspace(-1, 1, h)[:, None], np.linspace(-1, 1, w)
    soft = soft * (1 - 0.06 * (x**2 + y**2)).astype(np.float32)
    soft = soft + np.float32(0.012) * rng.standard_normal((3, h, w), np.float32)
    return np.ascontiguousarray(np.moveaxis(np.rint(255 * np.clip(soft, 0, 1)), 0, -1), np.uint8)
