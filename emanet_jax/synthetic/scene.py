"""A furnished room and a camera in it, drawn from one random generator.

World frame, in metres: x right, y up, z away, the floor at y = 0, the room's middle at x = z = 0.
Everything is a box turned about the vertical axis, the walls, floor and ceiling too (as slabs 1 m
thick outside the room), so that the ray caster knows a single shape.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.random import Generator

from emanet_jax.synthetic.furniture import Box, Piece, draw_colour, draw_piece
from emanet_jax.tasks.palettes import NYU13

CLASS = {name: index for index, name in enumerate(NYU13)}
UNLABELLED = 255
SHELL = 6  # the first boxes of a room: floor, ceiling, four walls

Menu = dict[str, float]  # names of designs and how often they are picked


@dataclass(frozen=True)
class Boxes:
    """n boxes in the world; the front face of a box looks along its local +z."""

    centres: np.ndarray  # (n, 3) metres
    halves: np.ndarray  # (n, 3) metres
    axes: np.ndarray  # (n, 3, 3): the rows are a box's local x, y and z in the world
    labels: np.ndarray  # (n,) uint8
    pieces: np.ndarray  # (n,) index of the piece that the box is part of
    textures: np.ndarray  # (n,) names
    colours: np.ndarray  # (n, 3) float32
    accents: np.ndarray  # (n, 3) float32
    phases: np.ndarray  # (n,) float32 in [0, 1)


@dataclass(frozen=True)
class Room:
    """A furnished room, its lights and the camera in it."""

    extent: np.ndarray  # (3,) width, height, depth
    boxes: Boxes
    eye: np.ndarray  # (3,) where the camera is
    view: np.ndarray  # (3, 3): the rows are the camera's right, down and forward in the world
    lamp: np.ndarray  # (3,)
    window: np.ndarray | None  # (3,) where daylight comes from
    warmth: float  # of the lamp, -1 to 1
    exposure: float


@dataclass(frozen=True)
class Kind:
    """A kind of room: what it has for certain, what else may stand along its walls."""

    share: float
    certain: tuple[str, ...]
    likely: Menu
    dining: float = 0.0  # probability of a table with chairs in the middle


# fmt: off
KINDS = (
    Kind(0.33, ("bed", "wardrobe"), {  # bedroom
        "bed": 1, "wardrobe": 2, "cabinet": 3, "night stand": 2, "desk": 1, "clutter": 4,
        "chair": 1, "floor lamp": 0.5, "bookcase": 0.4}),
    Kind(0.31, ("sofa", "cabinet"), {  # living room
        "sofa": 5, "bookcase": 1.2, "cabinet": 2.5, "tv stand": 2.5, "floor lamp": 0.8,
        "plant": 1.5, "clutter": 3, "chair": 1, "wardrobe": 0.8}, dining=0.45),
    Kind(0.17, ("desk", "bookcase", "cabinet"), {  # study
        "desk": 1.7, "bookcase": 1.2, "cabinet": 2, "chair": 1.5, "clutter": 3.5, "plant": 0.8,
        "sofa": 0.5, "wardrobe": 0.8}, dining=0.3),
    Kind(0.19, ("kitchen", "fridge", "kitchen"), {  # kitchen
        "kitchen": 2, "cabinet": 2.5, "clutter": 3, "chair": 0.7}, dining=0.9),
)
# fmt: on
ON_WALLS: Menu = {
    **{"painting": 4, "notice board": 3, "towel": 2.5, "wall shelf": 1.5},
    **{"wall cupboard": 1.5, "wall tv": 0.25},
}
ON_FLOOR: Menu = {"clutter": 4, "chair": 1.5, "coffee table": 3}


def draw_room(rng: Generator) -> Room:
    """Draws a furnished room and a camera inside it."""
    extent = rng.uniform((2.9, 2.4, 2.9), (4.7, 2.7, 4.9))
    layout = Layout(rng, extent)
    _add_shell(layout)
    kind = KINDS[rng.choice(len(KINDS), p=[kind.share for kind in KINDS])]
    for name in ("door", *kind.certain):
        layout.against_wall(name, tries=12)
    window = None
    for _ in range(rng.integers(1, 4)):
        if layout.against_wall("window"):
            space = np.array(layout.taken[-1])
            window = 0.45 * (space[:3] + space[3:])  # the light stands a little inside the room
    if rng.random() < kind.dining:
        _add_dining_group(layout)
    for menu in (kind.likely, ON_WALLS):
        for name in _pick(rng, menu, rng.integers(12, 19)):
            layout.against_wall(name)
    for name in _pick(rng, ON_FLOOR, rng.integers(6, 13)):
        layout.place(draw_piece(rng, name), *layout.spot(0.35), rng.uniform(-np.pi, np.pi))
    if rng.random() < 0.45:
        layout.place(draw_piece(rng, "rug"), *layout.spot(0.1), 0.0, force=True)
    eye, view = _draw_camera(layout)
    lamp = extent * [rng.uniform(-0.15, 0.15), 0.93, rng.uniform(-0.15, 0.15)]
    light = rng.uniform(-1, 1), rng.uniform(0.85, 1.12)
    return Room(extent, layout.boxes(), eye, view, lamp, window, *light)


def _pick(rng: Generator, menu: Menu, count: int | np.integer) -> list[str]:
    """Draws names with replacement, each as often as its weight says."""
    weights = np.array(list(menu.values()))
    return rng.choice(list(menu), int(count), p=weights / weights.sum()).tolist()


def _turn(yaw: np.ndarray | float) -> np.ndarray:
    """(..., 3, 3): the rows are the x, y and z axes, in the world, of a frame turned about y."""
    c, s, zero, one = np.cos(yaw), np.sin(yaw), np.zeros_like(yaw), np.ones_like(yaw)
    rows = np.array([[c, zero, -s], [zero, one, zero], [s, zero, c]])
    return np.moveaxis(rows, (0, 1), (-2, -1))


@dataclass
class Layout:
    """The pieces placed so far and the spaces that they take."""

    rng: Generator
    extent: np.ndarray
    pieces: list[tuple[list[Box], tuple[float, float], float]] = field(default_factory=list)
    taken: list[tuple[float, ...]] = field(default_factory=list)  # lower, then upper corner

    def spot(self, spread: float) -> tuple[float, float]:
        """A random place (x, z) within `spread` of the room's extent around its middle."""
        x, _, z = self.rng.uniform(-spread, spread, 3) * self.extent
        return x, z

    def place(self, piece: Piece, x: float, z: float, yaw: float, force: bool = False) -> bool:
        """Adds a piece with the middle of its footprint at (x, z) if its space is free.

        Args:
            piece: The boxes.
            x: Metres to the right of the room's middle.
            z: Metres behind the room's middle.
            yaw: Radians about the vertical axis.
            force: Add it in any case, as a chair that stands half under a table.
        """
        c, s, (w, top, d) = math.cos(yaw), math.sin(yaw), piece.high
        reach_x, reach_z = (abs(c) * w + abs(s) * d) / 2, (abs(s) * w + abs(c) * d) / 2
        space = (x - reach_x, piece.bottom, z - reach_z, x + reach_x, top, z + reach_z)
        width, height, depth = self.extent.tolist()
        outside = max(abs(x) + reach_x - width / 2, abs(z) + reach_z - depth / 2, top - height)
        if not force and (outside > 1e-6 or any(_meet(space, other) for other in self.taken)):
            return False
        self.taken.append(space)
        origin = (x - (c * w + s * d) / 2, z - (c * d - s * w) / 2)
        self.pieces.append((piece.boxes, origin, yaw))
        return True

    def against_wall(self, name: str, tries: int = 6) -> bool:
        """Tries random places along random walls."""
        piece = draw_piece(self.rng, name)
        walls, places = self.rng.integers(4, size=tries), self.rng.random(tries)
        for wall, where in zip(walls, places, strict=True):
            # Wall 0 is the one at the smallest z; its pieces look along +z.
            length, across = self.extent[[0, 2]] if wall % 2 == 0 else self.extent[[2, 0]]
            along, inward = (where - 0.5) * (length - piece.high[0]), (piece.high[2] - across) / 2
            c, s = round(math.cos(wall * math.pi / 2)), round(math.sin(wall * math.pi / 2))
            x, z = c * along + s * inward, c * inward - s * along
            if length > piece.high[0] and self.place(piece, x, z, wall * math.pi / 2):
                return True
        return False

    def boxes(self) -> Boxes:
        """All boxes of all pieces in the world."""
        boxes = [box for piece, _, _ in self.pieces for box in piece]
        index = np.repeat(np.arange(len(self.pieces)), [len(piece) for piece, _, _ in self.pieces])
        origins = np.array([(x, 0, z) for _, (x, z), _ in self.pieces])[index]
        axes = _turn(np.array([yaw for _, _, yaw in self.pieces]))[index]
        low, high = (np.array([box[k] for box in boxes]) for k in (1, 2))
        labels = np.array([CLASS[box.label] for box in boxes], np.uint8)
        # People leave some of the clutter unlabelled.
        forgotten = (labels == CLASS["objects"]) & (self.rng.random(len(boxes)) < 0.3)
        return Boxes(
            centres=origins + np.einsum("ni,nij->nj", (low + high) / 2, axes),
            halves=(high - low) / 2,
            axes=axes,
            labels=np.where(forgotten, UNLABELLED, labels).astype(np.uint8),
            pieces=index,
            textures=np.array([box.texture for box in boxes]),
            colours=np.array([box.colour for box in boxes], np.float32),
            accents=np.array([box.accent for box in boxes], np.float32),
            phases=self.rng.random(len(boxes), np.float32),
        )


def _meet(first: tuple[float, ...], second: tuple[float, ...], margin: float = 0.03) -> bool:
    a, b, c, d, e, f = first
    p, q, r, s, t, u = second
    x = a - margin < s and p - margin < d
    return x and c - margin < u and r - margin < f and b - margin < t and q - margin < e


def _add_shell(layout: Layout) -> None:
    """Floor, ceiling and walls as slabs 1 m thick."""
    rng, (w, h, d) = layout.rng, layout.extent.tolist()
    kind = str(rng.choice(["planks", "tiles", "carpet"], p=[0.45, 0.2, 0.35]))
    r, g, b = floor = draw_colour(rng, "wood" if kind == "planks" else kind)
    white, dark = draw_colour(rng, "white"), (0.45 * r, 0.45 * g, 0.45 * b)
    paint, accent = draw_colour(rng, "wall"), draw_colour(rng, "accent wall")
    slabs = [
        Box("floor", (-w, -1, -d), (w, 0, d), floor, kind, dark),
        Box("ceiling", (-w, h, -d), (w, h + 1, d), white),
    ]
    layout.pieces += [([slab], (0, 0), 0.0) for slab in slabs]
    accented = rng.integers(10)
    for wall in range(4):
        length, across = (w, d) if wall % 2 == 0 else (d, w)
        low, high = (-length / 2 - 1, -1, -across / 2 - 1), (length / 2 + 1, h + 1, -across / 2)
        slab = Box("wall", low, high, accent if wall == accented else paint, "wall", white)
        layout.pieces.append(([slab], (0, 0), wall * math.pi / 2))


def _add_dining_group(layout: Layout) -> None:
    """A table near the middle of the room with chairs around it."""
    rng, table = layout.rng, draw_piece(layout.rng, "dining table")
    yaw, (x, z) = rng.choice([0.0, np.pi / 2]) + rng.uniform(-0.06, 0.06), layout.spot(0.2)
    if not layout.place(table, x, z, yaw):
        return
    for side in range(4):
        if rng.random() < 0.75:
            out = yaw + side * np.pi / 2
            reach = table.high[0 if side % 2 else 2] / 2 + rng.uniform(0.05, 0.45)
            chair = draw_piece(rng, "chair")
            place = x + reach * math.sin(out), z + reach * math.cos(out)
            layout.place(chair, *place, out + rng.normal(np.pi, 0.15), force=True)


def _draw_camera(layout: Layout, tries: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """A view at the height of a hand or a head with much to look at and nothing in the way.

    Returns:
        The place (3,) and the rows right, down, forward (3, 3) in the world.
    """
    rng, (w, _, d) = layout.rng, layout.extent
    lows, highs = np.moveaxis(np.array(layout.taken).reshape(-1, 2, 3), 1, 0)
    middles = (lows + highs) / 2
    eyes = rng.uniform((-0.45 * w, 1.1, -0.45 * d), (0.45 * w, 1.6, 0.45 * d), (tries, 3))
    targets = 0.9 * middles[rng.integers(len(middles), size=tries)] - eyes
    headings = np.arctan2(targets[:, 0], targets[:, 2]) + rng.normal(0, 0.15, tries)
    across, _, ahead = np.einsum("tik,tmk->itm", _turn(headings), middles - eyes[:, None])
    seen = (ahead > 1.0) & (ahead > 1.6 * np.abs(across))
    gaps = np.maximum(np.maximum(lows - eyes[:, None], eyes[:, None] - highs), 0)
    nearest = np.linalg.norm(gaps, axis=-1).min(1)
    score = seen.sum(1) + rng.uniform(0, 1.5, tries) - 20 * (nearest < 0.35) - 3 * (nearest < 0.8)
    best = np.argmax(score)
    pitch, roll = rng.uniform(0.05, 0.5), rng.normal(0, 0.025)  # below the horizon; to the right
    right, up, ahead = _turn(headings[best])
    down = -np.cos(pitch) * up - np.sin(pitch) * ahead
    forward = np.cos(pitch) * ahead - np.sin(pitch) * up
    c, s = np.cos(roll), np.sin(roll)
    return eyes[best], np.stack([c * right + s * down, c * down - s * right, forward])
