"""Ray casting of synthetic rooms in NumPy: which face every pixel sees and its geometry.

A face lies in a plane n . X = d of the camera frame and the ray of a pixel is r = (x, y, 1), so its
depth is d / (n . r): depth, normals and rays agree because all three come from the same plane.
"""

from dataclasses import dataclass

import numpy as np

from emanet_jax import camera
from emanet_jax.synthetic.scene import Room

_NEAR = 0.05  # metres: nothing is closer to the camera


@dataclass(frozen=True)
class Frames:
    """The boxes in the camera frame: n boxes, `axes[i]` holds the directions of box i as rows."""

    axes: np.ndarray  # (n, 3, 3)
    centres: np.ndarray  # (n, 3)
    halves: np.ndarray  # (n, 3)


@dataclass(frozen=True)
class Geometry:
    """What every pixel sees, all (h, w[, k])."""

    box: np.ndarray  # index of the box
    axis: np.ndarray  # 0, 1, 2: the local axis that the face is perpendicular to
    side: np.ndarray  # -1 or +1: which of the two faces
    depth: np.ndarray  # metres along z, float64
    normals: np.ndarray  # (h, w, 3) unit vectors towards the camera, float64
    points: np.ndarray  # (h, w, 3) metres in the camera frame
    local: np.ndarray  # (h, w, 3) metres in the frame of the box, float32


def frames(room: Room) -> Frames:
    """Moves a room's boxes into the frame of its camera."""
    boxes, view = room.boxes, room.camera
    c, s = np.cos(boxes.yaws), np.sin(boxes.yaws)
    zero, one = np.zeros_like(c), np.ones_like(c)
    world = np.array([[c, zero, -s], [zero, one, zero], [s, zero, c]]).transpose(2, 0, 1)
    return Frames(world @ view.axes.T, (boxes.centres - view.position) @ view.axes.T, boxes.halves)


def _screen_windows(boxes: Frames, rays: np.ndarray) -> list[tuple[slice, slice]]:
    """The part of the image that each box can cover; empty slices for boxes out of sight."""
    h, w, _ = rays.shape
    signs = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, 8).T
    corners = boxes.centres[:, None] + (signs * boxes.halves[:, None]) @ boxes.axes
    z = corners[..., 2]
    behind, crossing = (z < _NEAR).all(1), (z < _NEAR).any(1)
    flat = corners[..., :2] / np.maximum(z, _NEAR)[..., None]
    x, y = rays[0, :, 0], rays[:, 0, 1]
    left, right = np.searchsorted(x, flat[..., 0].min(1)), np.searchsorted(x, flat[..., 0].max(1))
    top, bottom = np.searchsorted(y, flat[..., 1].min(1)), np.searchsorted(y, flat[..., 1].max(1))
    windows = []
    for k in range(len(z)):
        if behind[k]:
            windows.append((slice(0, 0), slice(0, 0)))
        elif crossing[k]:
            windows.append((slice(0, h), slice(0, w)))
        else:
            windows.append((slice(top[k], bottom[k]), slice(left[k], right[k])))
    return windows


def _nearest_boxes(boxes: Frames, rays: np.ndarray) -> np.ndarray:
    """Index (h, w) of the box that each ray meets first (slab test of one box after the other)."""
    x, y = rays[0, :, 0].astype(np.float32), rays[:, :1, 1].astype(np.float32)
    # Most boxes stand parallel to the walls, so few directions occur; the sign does not matter.
    directions: dict[bytes, np.ndarray] = {}

    def inverse(axis: np.ndarray) -> np.ndarray:
        """1 / (axis . ray) for all pixels."""
        key = axis.astype(np.float32).round(5).tobytes()
        if key not in directions:
            across, down, ahead = axis.astype(np.float32)
            directions[key] = 1 / _not_zero(across * x + ahead + down * y)
        return directions[key]

    nearest = np.full(rays.shape[:2], np.inf, np.float32)
    index = np.zeros(rays.shape[:2], np.int32)
    origins = -np.einsum("nij,nj->ni", boxes.axes, boxes.centres).astype(np.float32)
    # All axes in the same half space: an axis and its opposite bound the same slab.
    signs = np.where(boxes.axes[..., 2] + 1e-3 * boxes.axes[..., 0] < 0, -1, 1)
    axes, origins = signs[..., None] * boxes.axes, signs.astype(np.float32) * origins
    halves = boxes.halves.astype(np.float32)
    for k, window in enumerate(_screen_windows(boxes, rays)):
        rows, columns = window
        if rows.stop <= rows.start or columns.stop <= columns.start:
            continue
        # Starting from what is nearest so far, the box is met only if it lies in front of that.
        entry, leave = np.float32(_NEAR), nearest[window]
        for a in range(3):
            slab = inverse(axes[k, a])[window]
            middle, reach = -origins[k, a] * slab, halves[k, a] * np.abs(slab)
            entry, leave = np.maximum(entry, middle - reach), np.minimum(leave, middle + reach)
        seen = (entry < leave) & (entry > _NEAR)
        nearest[window][seen] = entry[seen]
        index[window][seen] = k
    return index


def _not_zero(directions: np.ndarray) -> np.ndarray:
    """Rays along a plane meet it far away, on the side that the slab test expects."""
    return np.where(directions == 0, np.float32(1e-12), directions)


def cast(boxes: Frames, image_size: tuple[int, int]) -> Geometry:
    """Finds what every pixel sees; depth and normals are exact to float64."""
    rays = camera.rays(image_size)
    box = _nearest_boxes(boxes, rays)
    rows, columns = np.indices(box.shape, sparse=True)

    origins = -np.einsum("nij,nj->ni", boxes.axes, boxes.centres).astype(np.float32)[box]
    axes, halves = boxes.axes.astype(np.float32)[box], boxes.halves.astype(np.float32)[box]
    directions = _not_zero(np.einsum("hwij,hwj->hwi", axes, rays.astype(np.float32)))
    # The ray enters the box through the last of the three front planes that it passes.
    entries = -(np.sign(directions) * halves + origins) / directions
    x, y, z = np.moveaxis(entries, -1, 0)
    axis = np.where(x > np.maximum(y, z), 0, np.where(y > z, 1, 2))
    side = -np.sign(directions[rows, columns, axis]).astype(int)

    centre_offsets = np.einsum("nij,nj->ni", boxes.axes, boxes.centres)
    normals = side[..., None] * boxes.axes[box, axis]
    offsets = side * centre_offsets[box, axis] + boxes.halves[box, axis]
    depth = offsets / np.einsum("hwi,hwi->hw", normals, rays)
    local = origins + depth[..., None].astype(np.float32) * directions
    return Geometry(box, axis, side, depth, normals, depth[..., None] * rays, local)
