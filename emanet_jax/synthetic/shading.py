"""Colour and light of the synthetic rooms: patterns, soft shadows, window light, dark corners."""

import numpy as np

from emanet_jax.synthetic.patterns import PATTERNS, Face
from emanet_jax.synthetic.raycast import Geometry
from emanet_jax.synthetic.scene import SHELL, Room

# Lamp positions of neighbouring pixels in units of the lamp's size; averaging over them later turns
# hard shadows into soft ones.
_LAMP_OFFSETS = np.array(
    [[(x, 0.0, z) for x in (-1.0, 0.0, 1.0)] for z in (-1.0, 0.0, 1.0)], np.float32
)


def albedo(room: Room, seen: Geometry) -> np.ndarray:
    """Unshaded display colours (h, w, 3) float32 of the boxes' patterns."""
    names = list(PATTERNS)
    boxes = room.boxes
    chosen = np.array([names.index(pattern) for pattern in boxes.patterns])
    front_only = np.array([PATTERNS[name][1] for name in names])
    extent = (2 * boxes.halves).astype(np.float32)

    shown, axis, local = seen.box.ravel(), seen.axis.ravel(), seen.local.reshape(-1, 3)
    pattern = chosen[shown]
    front = (axis == 2) & (seen.side.ravel() > 0)
    pattern = np.where(front_only[pattern] & ~front, names.index("plain"), pattern)
    # A face shows (u, v) = (z, y), (x, z) or (x, y) of its box.
    u_axis, v_axis = np.array([2, 0, 0])[axis], np.array([1, 2, 1])[axis]
    result = np.empty((len(shown), 3), np.float32)
    for k in np.unique(pattern):
        here = np.flatnonzero(pattern == k)
        box, u_here, v_here = shown[here], u_axis[here], v_axis[here]
        face = Face(
            local[here, u_here],
            local[here, v_here],
            np.stack([extent[box, u_here], extent[box, v_here]], -1),
            boxes.colours[box],
            boxes.accents[box],
            boxes.phases[box],
        )
        result[here] = PATTERNS[names[k]][0](face)
    return result.reshape(*seen.box.shape, 3)


def _blur3(values: np.ndarray) -> np.ndarray:
    """Mean over 3 x 3 pixels with repeated borders, (h, w)."""
    padded = np.pad(values, 1, mode="edge")
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    return (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) / 9


def _dot(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.einsum("...k,...k->...", first, second)


def _inverse(slope: np.ndarray) -> np.ndarray:
    """1 / slope; a ray along a face gets a tiny slope, so that no infinity meets a zero."""
    return 1 / np.where(slope == 0, np.float32(1e-12), slope)


def _light_and_contact(
    room: Room, points: np.ndarray, limit: int = 10
) -> tuple[np.ndarray, np.ndarray]:
    """Visibility of the lamp and closeness of furniture, both (h, w) in [0, 1].

    Args:
        room: Whose lamp and furniture.
        points: (3, h, w) what the pixels see, in the world.
        limit: Only so many boxes, the largest, throw shadows.
    """
    _, h, w = points.shape
    clear, contact = np.ones((h, w), np.float32), np.ones((h, w), np.float32)
    offsets = np.tile(_LAMP_OFFSETS, (h // 3 + 1, w // 3 + 1, 1))[:h, :w]
    lamps = room.lamp.astype(np.float32) + np.float32(0.15) * offsets
    towards = np.ascontiguousarray(np.moveaxis(lamps, -1, 0)) - points
    upward = _inverse(towards[1])
    halves, yaws = room.boxes.halves, room.boxes.yaws
    largest = SHELL + np.argsort(-halves[SHELL:].prod(1), kind="stable")[:limit]
    for k in largest:
        c, s = np.float32(np.cos(yaws[k])), np.float32(np.sin(yaws[k]))
        x, y, z = (points[a] - np.float32(room.boxes.centres[k, a]) for a in range(3))
        slabs = (
            (c * x - s * z, _inverse(c * towards[0] - s * towards[2])),
            (y, upward),
            (s * x + c * z, _inverse(s * towards[0] + c * towards[2])),
        )
        entry, leave = np.float32(-np.inf), np.float32(np.inf)
        squared = np.float32(0)
        for half, (origin, inverse) in zip(halves[k].astype(np.float32), slabs, strict=True):
            middle, reach = origin * -inverse, half * np.abs(inverse)
            entry, leave = np.maximum(entry, middle - reach), np.minimum(leave, middle + reach)
            squared = squared + np.square(np.maximum(np.abs(origin) - half, 0))
        clear[(entry < leave) & (leave > 2e-3) & (entry < 1)] = 0
        near = (squared > 4e-6) & (squared < 0.25)
        contact[near] *= 1 - np.float32(0.45) * np.exp(np.sqrt(squared[near]) / np.float32(-0.13))
    return _blur3(clear), contact


def shade(room: Room, seen: Geometry) -> np.ndarray:
    """Light (h, w, 3) on every pixel: lamp with shadows, window, ambient light, dark corners."""
    axes = room.camera.axes.astype(np.float32)
    points = seen.points.astype(np.float32) @ axes + room.camera.position.astype(np.float32)
    normals = seen.normals.astype(np.float32) @ axes
    clear, contact = _light_and_contact(room, np.ascontiguousarray(np.moveaxis(points, -1, 0)))

    def point_light(place: np.ndarray, reach: float) -> np.ndarray:
        towards = place.astype(np.float32) - points
        squared = _dot(towards, towards)
        facing = np.maximum(_dot(towards, normals), 0) / np.sqrt(squared)
        return facing / (1 + squared / reach**2)

    corners = np.ones_like(contact)
    for a, low in enumerate((-room.extent[0] / 2, 0.0, -room.extent[2] / 2)):
        for gap in (points[..., a] - low, low + room.extent[a] - points[..., a]):
            near = np.abs(gap)
            corners *= 1 - np.float32(0.3) * np.where(near > 2e-3, np.exp(near / -0.2), 0)
    # Faces that look in different directions differ in ambient light, or edges would vanish.
    tilt = 0.88 + 0.08 * normals[..., 0] + 0.1 * normals[..., 1]

    lamp_colour = np.array([1.0, 0.93 - 0.04 * room.warmth, 0.82 - 0.1 * room.warmth], np.float32)
    sky_colour = np.array([0.86, 0.95, 1.08], np.float32)
    light = (1.25 * clear * point_light(room.lamp, 2.4))[..., None] * lamp_colour
    light += (0.42 * contact * corners * tilt)[..., None]
    if room.window is not None:
        light += (contact * point_light(room.window, 1.8))[..., None] * sky_colour
    return np.float32(room.exposure) * light
