"""Where the items of a synthetic room find a place.

World frame, in metres: x right, y up, z away, the floor at y = 0, the room's middle at x = z = 0.
Everything is a box turned about the vertical axis, the walls, floor and ceiling too (as thick slabs
outside the room), so that the ray caster knows a single shape.
"""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from emanet_jax.synthetic.parts import CLASS, Item

UNLABELLED = 255

# Lower and upper corner of an upright box.
Space = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True)
class Boxes:
    """n boxes in the world, turned by `yaws`; the front face looks along a box's local +z."""

    centres: np.ndarray  # (n, 3) metres
    halves: np.ndarray  # (n, 3) metres
    yaws: np.ndarray  # (n,) radians
    labels: np.ndarray  # (n,) uint8
    items: np.ndarray  # (n,) number of the item that the box is part of
    patterns: tuple[str, ...]
    colours: np.ndarray  # (n, 3) float32
    accents: np.ndarray  # (n, 3) float32
    phases: np.ndarray  # (n,) float32


@dataclass(frozen=True)
class Wall:
    """The middle of a wall at the floor, the yaw that faces the room, its direction and length."""

    middle: np.ndarray
    yaw: float
    along: np.ndarray
    length: float


class Layout:
    """Items placed so far and the spaces that they take."""

    def __init__(self, rng: Generator, extent: np.ndarray) -> None:
        self.rng, self.extent = rng, extent
        self.items: list[tuple[Item, np.ndarray, float]] = []
        self.taken: list[Space] = []
        self.walls = [_wall(extent, k) for k in range(4)]

    def add(self, item: Item, origin: np.ndarray, yaw: float) -> None:
        """Adds the item with its local origin at `origin` without asking for room."""
        self.items.append((item, origin, yaw))

    def boxes(self) -> Boxes:
        """All parts of all items in the world."""
        parts = [part for item, _, _ in self.items for part in item]
        numbers = np.repeat(np.arange(len(self.items)), [len(item) for item, _, _ in self.items])
        origins = np.array([origin for _, origin, _ in self.items])[numbers]
        yaws = np.array([yaw for _, _, yaw in self.items])[numbers]
        lows = np.array([part.low for part in parts])
        highs = np.array([part.high for part in parts])
        c, s = np.cos(yaws), np.sin(yaws)
        x, y, z = ((lows + highs) / 2).T
        labels = np.array([CLASS[part.label] for part in parts], np.uint8)
        # People leave some of the clutter unlabelled.
        hidden = (labels == CLASS["objects"]) & (self.rng.random(len(parts)) < 0.25)
        return Boxes(
            origins + np.stack([c * x + s * z, y, c * z - s * x], -1),
            (highs - lows) / 2,
            yaws,
            np.where(hidden, UNLABELLED, labels).astype(np.uint8),
            numbers,
            tuple(part.pattern for part in parts),
            np.array([part.colour for part in parts], np.float32),
            np.array([part.accent for part in parts], np.float32),
            self.rng.random(len(parts), np.float32),
        )

    def place(self, item: Item, origin: np.ndarray, yaw: float, space: Space | None = None) -> bool:
        """Adds the item if its space (computed if not given) is in the room and free."""
        low, high = space = space or moved(bounds(item), origin, yaw)
        w, h, d = self.extent
        inside = min(low[0] + w / 2, w / 2 - high[0], low[2] + d / 2, d / 2 - high[2]) > -1e-6
        if not inside or high[1] > h or any(_meet(space, other) for other in self.taken):
            return False
        self.taken.append(space)
        self.add(item, origin, yaw)
        return True

    def against_wall(self, item: Item, tries: int = 6) -> bool:
        """Tries random places along random walls."""
        low, high = bounds(item)
        for _ in range(tries):
            wall = self.walls[self.rng.integers(4)]
            room = wall.length - (high[0] - low[0])
            start = -wall.length / 2 - low[0] + room * self.rng.random()
            origin = wall.middle + wall.along * start
            space = moved((low, high), origin, wall.yaw)
            if room > 0 and self.place(item, origin, wall.yaw, space):
                return True
        return False

    def on_floor(self, item: Item, spread: float) -> bool:
        """Tries one place within `spread` of the room's extent around its middle."""
        yaw = self.rng.uniform(-np.pi, np.pi)
        return self.place(item, self.spot(spread), yaw)

    def spot(self, spread: float) -> np.ndarray:
        """A random point of the floor within `spread` of the room's extent around its middle."""
        x, z = self.rng.uniform(-spread, spread, 2) * self.extent[[0, 2]]
        return np.array([x, 0.0, z])


def turn(yaw: float) -> np.ndarray:
    """Local to world: the matrix whose columns are the turned x, y, z axes."""
    c, s = np.cos(yaw), np.sin(yaw)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def bounds(item: Item) -> Space:
    """The space that an item takes up in its own frame."""
    lows, highs = zip(*((part.low, part.high) for part in item), strict=True)
    return (
        tuple(map(min, zip(*lows, strict=True))),
        tuple(map(max, zip(*highs, strict=True))),
    )


def moved(space: Space, origin: np.ndarray, yaw: float) -> Space:
    """The world's smallest upright space around a turned and moved one."""
    (x0, y0, z0), (x1, y1, z1) = space
    c, s = np.cos(yaw), np.sin(yaw)
    x, z, wide, deep = (x0 + x1) / 2, (z0 + z1) / 2, (x1 - x0) / 2, (z1 - z0) / 2
    middle_x, middle_z = origin[0] + c * x + s * z, origin[2] - s * x + c * z
    reach_x, reach_z = abs(c) * wide + abs(s) * deep, abs(s) * wide + abs(c) * deep
    low = (middle_x - reach_x, origin[1] + y0, middle_z - reach_z)
    return low, (middle_x + reach_x, origin[1] + y1, middle_z + reach_z)


def _meet(first: Space, second: Space, margin: float = 0.03) -> bool:
    (a, b), (c, d) = first, second
    return (
        a[0] - margin < d[0]
        and c[0] - margin < b[0]
        and a[2] - margin < d[2]
        and c[2] - margin < b[2]
        and a[1] - margin < d[1]
        and c[1] - margin < b[1]
    )


def _wall(extent: np.ndarray, k: int) -> Wall:
    yaw = k * np.pi / 2
    along, inward = turn(yaw)[:, 0], turn(yaw)[:, 2]
    return Wall(-inward * (np.abs(inward) @ extent) / 2, yaw, along, float(np.abs(along) @ extent))
