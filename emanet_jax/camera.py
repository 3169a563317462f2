"""The pinhole camera of NYUv2, scaled to any image size: rays, points, projections.

Convention everywhere: x right, y down, z forward; depth is the z coordinate in metres; the pixel in
row v and column u looks along ((u - cx) / fx, (v - cy) / fy, 1).
"""

from typing import NamedTuple

import numpy as np

# The colour camera of NYU Depth v2, for images of 480 x 640 pixels.
NYU_SIZE = (480, 640)
NYU_FOCAL = (518.858, 519.470)
NYU_CENTRE = (325.582, 253.736)


class Intrinsics(NamedTuple):
    """Focal lengths and principal point in pixels."""

    fx: float
    fy: float
    cx: float
    cy: float


def intrinsics(image_size: tuple[int, int]) -> Intrinsics:
    """Intrinsics of the NYUv2 colour camera for images of `image_size` = (h, w) pixels."""
    h, w = image_size
    down, right = h / NYU_SIZE[0], w / NYU_SIZE[1]
    return Intrinsics(
        NYU_FOCAL[0] * right, NYU_FOCAL[1] * down, NYU_CENTRE[0] * right, NYU_CENTRE[1] * down
    )


def rays(image_size: tuple[int, int], camera: Intrinsics | None = None) -> np.ndarray:
    """Directions (h, w, 3) float64 with z = 1, so that a point is its depth times its ray.

    Args:
        image_size: (h, w) in pixels.
        camera: The intrinsics; those of NYUv2 scaled to `image_size` if left out.
    """
    h, w = image_size
    camera = camera or intrinsics(image_size)
    x = (np.arange(w) - camera.cx) / camera.fx
    y = (np.arange(h) - camera.cy) / camera.fy
    return np.stack([*np.meshgrid(x, y), np.ones((h, w))], axis=-1)


def back_project(depth: np.ndarray, camera: Intrinsics | None = None) -> np.ndarray:
    """Camera-space points (h, w, 3) in metres of a depth map (h, w, 1) or (h, w)."""
    depth = depth.reshape(*depth.shape[:2], 1)
    return depth * rays(depth.shape[:2], camera)
