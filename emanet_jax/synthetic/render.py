"""Ray casting and light of the rooms, in NumPy.

A face lies in a plane n . X = d with the eye at X = 0 and a pixel looks along a ray r that is 1 m
deep, so its depth is d / (n . r): depth, normals and rays agree because all three come from the
same plane. Maps are (h, w), vectors and colours (3, h, w) in the world's frame of `scene`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
from scipy import ndimage

from emanet_jax import camera
from emanet_jax.synthetic.scene import SHELL, Room
from emanet_jax.synthetic.textures import FRONT_ONLY, TEXTURES, Face

_NEAR = 0.05  # metres: nothing is closer to the camera
# A face that is perpendicular to its box's x, y or z shows (u, v) = (z, y), (x, z) or (x, y).
_U_AXIS, _V_AXIS = (2, 0, 0), (1, 2, 1)


@dataclass(frozen=True)
class Hits:
    """The surface in every pixel."""

    face: np.ndarray  # (h, w) 3 * box + the local axis (0, 1, 2) that the face is perpendicular to
    glass: np.ndarray  # (h, w) bool: a window's panes
    depth: np.ndarray  # (h, w) metres along z, float64
    normals: np.ndarray  # (3, h, w) unit vectors towards the eye, float64
    facing: np.ndarray  # (h, w) cosine between the normal and the line of sight
    points: np.ndarray  # (3, h, w) metres from the eye, float32

    @property
    def box(self) -> np.ndarray:
        """Index (h, w) of the box."""
        return self.face // 3


def _local_eye(room: Room) -> np.ndarray:
    """(n, 3): the eye in the frames of the boxes."""
    return np.einsum("nij,nj->ni", room.boxes.axes, room.eye - room.boxes.centres)


def _dot(direction: Iterable[float], vectors: np.ndarray) -> np.ndarray:
    """Product (h, w) of one direction with all vectors, float32."""
    terms = [np.float32(d) * v for d, v in zip(direction, vectors, strict=True) if d]
    return sum(terms[1:], terms[0])


def _reciprocal(direction: np.ndarray) -> np.ndarray:
    """1 / direction; a ray along a plane meets it far away, where the slab test expects it."""
    return 1 / np.where(np.abs(direction) < 1e-9, np.float32(1e-9), direction)


def _enter_and_leave(
    origin: Iterable, inverses: Iterable[np.ndarray], half: Iterable
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Slab test of rays against a box, whose frame `origin` and 1 / direction are in.

    Returns:
        Distances to the three planes that bound the box from the ray's side, to the furthest of
        them and to where the ray leaves. The ray meets the box if it enters before it leaves.
    """
    front, back = [], []
    for o, inverse, reach in zip(origin, inverses, half, strict=True):
        middle, around = -o * inverse, reach * np.abs(inverse)
        front.append(middle - around)
        back.append(middle + around)
    enter = np.maximum(np.maximum(front[0], front[1]), front[2])
    return front, enter, np.minimum(np.minimum(back[0], back[1]), back[2])


def _screen_windows(room: Room, image_size: tuple[int, int]) -> np.ndarray:
    """(n, 2, 2) top, bottom; left, right of the pixels that each box can cover."""
    lens, size = camera.intrinsics(image_size), np.array(image_size)
    signs = np.array(list(product((-1, 1), repeat=3)))
    corners = (signs * room.boxes.halves[:, None]) @ room.boxes.axes + room.boxes.centres[:, None]
    x, y, z = np.moveaxis((corners - room.eye) @ room.view.T, -1, 0)
    ahead = np.maximum(z, _NEAR)
    pixels = np.stack([lens.fy * y / ahead + lens.cy, lens.fx * x / ahead + lens.cx], -1)
    low = np.clip(np.floor(pixels.min(1)), 0, size)
    high = np.clip(np.ceil(pixels.max(1)) + 1, 0, size)
    low[(z < _NEAR).any(1)], high[(z < _NEAR).any(1)] = 0, size
    high[(z < _NEAR).all(1)] = 0
    return np.stack([low, high], -1).astype(int)


def cast(room: Room, image_size: tuple[int, int]) -> Hits:
    """Finds what every pixel sees; depth and normals are exact to float64."""
    boxes, eyes = room.boxes, _local_eye(room)
    right, down, forward = room.view[:, :, None, None]
    flat = camera.rays(image_size)
    rays = flat[:1, :, 0] * right + flat[:, :1, 1] * down + forward
    # Search in float32, one box after the other.
    origins, halves, sight = (a.astype(np.float32) for a in (eyes, boxes.halves, rays))
    inverse = cache(lambda *direction: _reciprocal(_dot(direction, sight)))  # many are parallel
    directions = boxes.axes.round(6).tolist()
    nearest = np.full(image_size, np.inf, np.float32)
    face = np.ones(image_size, np.intp)  # the floor's top
    for k, ((top, bottom), (left, right)) in enumerate(_screen_windows(room, image_size)):
        if top < bottom and left < right:
            window = np.s_[top:bottom, left:right]
            inverses = [inverse(*direction)[window] for direction in directions[k]]
            front, enter, leave = _enter_and_leave(origins[k], inverses, halves[k])
            seen = (enter > _NEAR) & (enter < np.minimum(leave, nearest[window]))
            nearest[window][seen] = enter[seen]
            face[window][seen] = 3 * k + np.argmax([plane[seen] for plane in front], 0)
    # Depth and normals of the planes that were hit, in float64.
    outward = (np.sign(eyes)[..., None] * boxes.axes).reshape(-1, 3).T
    normals = np.take(outward, face, 1)
    approach = np.einsum("khw,khw->hw", normals, rays)
    depth = (boxes.halves - np.abs(eyes)).ravel()[face] / approach
    return Hits(
        face=face,
        glass=(boxes.textures == "window")[face // 3] & (face % 3 == 2),
        depth=depth,
        normals=normals,
        facing=-approach / np.linalg.norm(rays, axis=0),
        points=(depth * rays).astype(np.float32),
    )


def radiance(room: Room, hits: Hits) -> np.ndarray:
    """Display colours (3, h, w) in about [0, 1]; windows shine by themselves."""
    light = np.where(hits.glass, np.float32(1.08 * room.exposure), _light(room, hits))
    return _albedo(room, hits) * light ** np.float32(1 / 2.2)


def _albedo(room: Room, hits: Hits) -> np.ndarray:
    """Display colours (3, h, w) float32 of the boxes' textures before shading."""
    boxes, eyes = room.boxes, _local_eye(room).astype(np.float32)
    names = np.tile(boxes.textures[:, None], 3)  # of each face
    names[np.isin(names, FRONT_ONLY) & ~((eyes > 0) & [False, False, True])] = "plain"
    kinds, kind = np.unique(names, return_inverse=True)
    across, up = (
        boxes.axes[:, axes].reshape(-1, 3).T.astype(np.float32) for axes in (_U_AXIS, _V_AXIS)
    )
    u, v = (eyes[:, axes].ravel() for axes in (_U_AXIS, _V_AXIS))
    w, h = (2 * boxes.halves[:, axes].ravel().astype(np.float32) for axes in (_U_AXIS, _V_AXIS))
    face, points = hits.face.ravel(), hits.points.reshape(3, -1)
    shown = kind.ravel()[face]
    result = np.empty_like(points)
    for k in np.unique(shown):
        here = np.flatnonzero(shown == k)
        f, p = face[here], points[:, here]
        result[:, here] = TEXTURES[kinds[k]](
            Face(
                u=np.einsum("kn,kn->n", across[:, f], p) + u[f],
                v=np.einsum("kn,kn->n", up[:, f], p) + v[f],
                w=w[f],
                h=h[f],
                colour=boxes.colours.T[:, f // 3],
                accent=boxes.accents.T[:, f // 3],
                phase=boxes.phases[f // 3],
            )
        )
    return result.reshape(hits.points.shape)


def _shadows(room: Room, points: np.ndarray, limit: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Light that the largest boxes let through from the lamp and from all around, both (h, w)."""
    clear, ambient = np.ones((2, *points.shape[1:]), np.float32)
    # Neighbouring pixels look at different places of the lamp; averaging makes soft shadows.
    rows, columns = np.indices(clear.shape, np.float32, sparse=True)
    to_lamp = room.lamp.astype(np.float32)[:, None, None] - points
    to_lamp[0] += 0.15 * (columns % 3 - 1)
    to_lamp[2] += 0.15 * (rows % 3 - 1)
    inverse = cache(lambda *direction: _reciprocal(_dot(direction, to_lamp)))
    along = cache(lambda *direction: _dot(direction, points))
    boxes = room.boxes
    volumes = boxes.halves[SHELL:].prod(1)
    for k in SHELL + np.argsort(-volumes, kind="stable")[:limit]:
        directions, half = boxes.axes[k].round(6).tolist(), boxes.halves[k].astype(np.float32)
        centre = (boxes.axes[k] @ boxes.centres[k]).astype(np.float32)
        local = [along(*d) - middle for d, middle in zip(directions, centre, strict=True)]
        _, enter, leave = _enter_and_leave(local, [inverse(*d) for d in directions], half)
        clear[(enter < leave) & (leave > 2e-3) & (enter < 1)] = 0
        gaps = [np.maximum(np.abs(x) - reach, 0) for x, reach in zip(local, half, strict=True)]
        squared = gaps[0] ** 2 + gaps[1] ** 2 + gaps[2] ** 2
        near = (squared > 4e-6) & (squared < 0.25)
        ambient[near] *= 1 - np.float32(0.45) * np.exp(np.sqrt(squared[near]) / np.float32(-0.13))
    return ndimage.uniform_filter(clear, 3, mode="nearest"), ambient


def _light(room: Room, hits: Hits) -> np.ndarray:
    """Light (3, h, w): lamp with shadows, daylight from a window, ambient light, dark corners."""
    points = hits.points + room.eye.astype(np.float32)[:, None, None]
    normals = hits.normals.astype(np.float32)
    clear, ambient = _shadows(room, points)

    def point_light(place: np.ndarray, reach: float) -> np.ndarray:
        towards = place.astype(np.float32)[:, None, None] - points
        squared = np.maximum(np.einsum("khw,khw->hw", towards, towards), 1e-6)
        facing = np.maximum(np.einsum("khw,khw->hw", towards, normals), 0) / np.sqrt(squared)
        return facing / (1 + squared / np.float32(reach**2))

    def colour(*rgb: float) -> np.ndarray:
        return np.array(rgb, np.float32)[:, None, None]

    for x, low, size in zip(points, room.extent * [-0.5, 0, -0.5], room.extent, strict=True):
        for gap in (x - np.float32(low), np.float32(low + size) - x):
            corner = np.where(gap > 2e-3, np.exp(gap / np.float32(-0.2)), 0)
            ambient *= 1 - np.float32(0.3) * corner
    # Faces that look in different directions differ in ambient light, or edges would vanish.
    tilt = 0.88 + 0.08 * normals[0] + 0.1 * normals[1]
    warm = colour(1.0, 0.93 - 0.04 * room.warmth, 0.82 - 0.1 * room.warmth)
    light = 1.25 * clear * point_light(room.lamp, 2.4) * warm + 0.42 * ambient * tilt
    if room.window is not None:
        light += ambient * point_light(room.window, 1.8) * colour(0.86, 0.95, 1.08)
    return np.float32(room.exposure) * light
