"""What a recording does to perfect ground truth: gaps in depth, unlabelled borders, camera noise.

Every function is a pure function of what the pixels see and of a random generator.
"""

import numpy as np
from numpy.random import Generator

_BASELINE = 0.075  # metres between the Kinect's projector and its infrared camera
_FAR = 8.0  # metres: beyond it the Kinect sees nothing


def _blobs(rng: Generator, image_size: tuple[int, int], cells: int) -> np.ndarray:
    """Smooth noise (h, w) in [0, 1]: about `cells` blobs from top to bottom."""
    h, w = image_size
    coarse = rng.random((cells + 1, cells * 4 // 3 + 1))
    y, x = (
        np.linspace(0, cells, h, endpoint=False),
        np.linspace(0, coarse.shape[1] - 1, w, endpoint=False),
    )
    top, left = y.astype(int), x.astype(int)
    down, right = (y - top)[:, None], x - left
    rows = coarse[top] * (1 - down) + coarse[top + 1] * down
    return rows[:, left] * (1 - right) + rows[:, left + 1] * right


def invalid_depth(
    rng: Generator,
    depth: np.ndarray,
    facing: np.ndarray,
    shiny: np.ndarray,
    focal: float,
) -> np.ndarray:
    """Where a Kinect returns no depth, bool (h, w).

    Args:
        rng: Source of the blobs.
        depth: (h, w) metres.
        facing: (h, w) cosine between normal and line of sight.
        shiny: (h, w) bool: glass and dark screens.
        focal: fx in pixels.
    """
    h, w = depth.shape
    # The pattern projector stands beside the camera: far points next to a near edge lie in its
    # shadow, which is as wide as the difference of the disparities.
    disparity = focal * _BASELINE / depth
    hidden = np.zeros((h, w), bool)
    for shift in range(1, int(np.ceil(disparity.max())) + 1):
        hidden[:, :-shift] |= disparity[:, shift:] - disparity[:, :-shift] >= shift
    hidden |= shiny & (_blobs(rng, (h, w), 6) > 0.35)
    hidden |= (facing < 0.12) | (depth > _FAR) | (_blobs(rng, (h, w), 24) > 0.9)
    frame = round(w / 90)
    hidden[:, :frame] = hidden[:, w - frame :] = True
    return hidden


def jumps(depth: np.ndarray) -> np.ndarray:
    """Pixels (h, w) bool at a step in depth, where a plane fit over neighbours means nothing."""
    broken = np.zeros(depth.shape, bool)
    broken[:, 1:] |= np.abs(np.diff(depth, axis=1)) > 0.08 * depth[:, 1:]
    broken[1:] |= np.abs(np.diff(depth, axis=0)) > 0.08 * depth[1:]
    return broken


def unlabelled(rng: Generator, instances: np.ndarray) -> np.ndarray:
    """Pixels (h, w) bool near the borders of the instances that nobody labelled."""
    h, w = instances.shape
    border = np.zeros((h, w), bool)
    for shift in range(1, max(1, round(h / 120)) + 1):
        across = instances[:, shift:] != instances[:, :-shift]
        down = instances[shift:] != instances[:-shift]
        border[:, shift:] |= across
        border[shift:] |= down
        # In tiny pictures one side of a border is enough, or little would stay labelled.
        if shift > 1 or h >= 96:
            border[:, :-shift] |= across
            border[:-shift] |= down
    return border & (_blobs(rng, (h, w), 12) > 0.4)


def photograph(rng: Generator, radiance: np.ndarray) -> np.ndarray:
    """Display colours (h, w, 3) to a uint8 picture: slight blur, vignette, noise."""
    h, w, _ = radiance.shape
    padded = np.pad(
        np.minimum(radiance, 1.15).astype(np.float32), ((1, 1), (1, 1), (0, 0)), mode="edge"
    )
    rows = 0.15 * (padded[:-2] + padded[2:]) + 0.7 * padded[1:-1]
    soft = 0.15 * (rows[:, :-2] + rows[:, 2:]) + 0.7 * rows[:, 1:-1]
    y, x = np.linspace(-1, 1, h)[:, None], np.linspace(-1, 1, w)
    soft = soft * (1 - 0.06 * (x**2 + y**2))[..., None].astype(np.float32)
    soft = soft + np.float32(0.012) * rng.standard_normal((h, w, 3), np.float32)
    return np.rint(255 * np.clip(soft, 0, 1)).astype(np.uint8)
