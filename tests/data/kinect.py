"""Synthetic rooms with exact normals, and their depth as a Kinect records it."""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from emanet_jax import camera
from emanet_jax.data.normals import DISPARITY_STEP
from emanet_jax.synthetic import render_room


class Room(NamedTuple):
    """Exact ground truth, and where a recording of it has depth."""

    depth: np.ndarray  # (h, w) metres
    normals: np.ndarray  # (h, w, 3)
    measured: np.ndarray  # (h, w) bool


def make_room(index: int, image_size: tuple[int, int]) -> Room:
    """Synthetic room number `index`."""
    exact = render_room(0, index, image_size, clean=True)
    recorded = render_room(0, index, image_size)
    return Room(exact["depth"][..., 0], exact["normals"], recorded["depth"][..., 0] > 0)


def kinect(rng: np.random.Generator, depth: np.ndarray) -> np.ndarray:
    """Depth (h, w) in metres with a Kinect's noise, which grows with the square of the distance.

    Pixels see up to a pixel beside themselves (deviation 1/2), and the disparity, in steps of
    1/351.3 per metre, errs by half a step (deviation) before it is rounded (Barron and Malik,
    "Intrinsic Scene Properties from a Single RGB-D Image", 2013, with the larger disparity noise of
    Khoshelham and Elberink, 2012).
    """
    positions = np.indices(depth.shape) + rng.normal(0, 1 / 2, (2, *depth.shape))
    seen = ndimage.map_coordinates(depth.astype(np.float64), positions, order=1, mode="nearest")
    steps = np.rint(1 / (seen * DISPARITY_STEP) + rng.normal(0, 1 / 2, depth.shape))
    return 1 / (np.maximum(steps, 1) * DISPARITY_STEP)


def inner(room: Room, distance: int) -> np.ndarray:
    """Pixels (h, w) bool further than `distance` from any other plane."""
    points = camera.back_project(room.depth.astype(np.float64))
    offset = (points * room.normals).sum(-1, keepdims=True)
    planes = np.concatenate([room.normals, offset], -1)
    window = (2 * distance + 1, 2 * distance + 1, 1)
    spread = ndimage.maximum_filter(planes, window) - ndimage.minimum_filter(planes, window)
    return (spread < 1e-3).all(-1)


def angles(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Degrees between unit vectors (..., 3)."""
    return np.degrees(np.arccos(np.clip((first * second).sum(-1, dtype=np.float64), -1, 1)))
