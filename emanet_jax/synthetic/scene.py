"""A furnished room and a camera in it: every choice comes from one random generator."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from emanet_jax.synthetic import fittings, furniture, storage
from emanet_jax.synthetic.layout import Boxes, Layout, bounds, moved, turn
from emanet_jax.synthetic.parts import Item, Part, wood_colour


@dataclass(frozen=True)
class Camera:
    """Position (3,) and the rows right, down, forward of `axes` (3, 3) in the world."""

    position: np.ndarray
    axes: np.ndarray


@dataclass(frozen=True)
class Room:
    """A furnished room in the world frame of `layout`: the first SHELL boxes are its shell."""

    extent: np.ndarray
    boxes: Boxes
    camera: Camera
    lamp: np.ndarray
    window: np.ndarray | None
    warmth: float
    exposure: float


SHELL = 6  # floor, ceiling, four walls

Maker = Callable[[Generator], Item]
Menu = dict[Maker, float]


@dataclass(frozen=True, eq=False)
class Kind:
    """A kind of room: its share, what it has for certain, what else may stand along its walls."""

    share: float
    certain: tuple[Maker, ...]
    likely: Menu
    dining: float = 0.0


KINDS = (
    Kind(  # bedroom
        0.27,
        (furniture.bed, storage.wardrobe),
        {
            furniture.bed: 0.4,
            storage.wardrobe: 2,
            storage.cabinet: 3,
            storage.night_stand: 2,
            furniture.desk: 1,
            fittings.clutter: 3,
            furniture.chair: 1,
            fittings.floor_lamp: 0.5,
            storage.bookcase: 0.7,
        },
    ),
    Kind(  # living room
        0.32,
        (furniture.sofa, storage.tv_stand, storage.cabinet),
        {
            furniture.sofa: 3,
            storage.bookcase: 1.8,
            storage.cabinet: 2.5,
            fittings.floor_lamp: 0.8,
            fittings.plant: 1.2,
            fittings.clutter: 2.2,
            furniture.chair: 1.2,
        },
        dining=0.35,
    ),
    Kind(  # study
        0.2,
        (furniture.desk, storage.bookcase, storage.cabinet),
        {
            furniture.desk: 1.7,
            storage.bookcase: 1.7,
            storage.cabinet: 2,
            furniture.chair: 1.5,
            fittings.clutter: 2.5,
            fittings.plant: 0.7,
            furniture.sofa: 0.5,
        },
        dining=0.3,
    ),
    Kind(  # kitchen
        0.21,
        (storage.kitchen, storage.fridge, storage.kitchen),
        {
            storage.kitchen: 2,
            storage.cabinet: 2.5,
            fittings.clutter: 2,
            furniture.chair: 0.7,
        },
        dining=0.9,
    ),
)
ON_WALLS: Menu = {
    fittings.painting: 3,
    fittings.wall_object: 3,
    fittings.wall_shelf: 1.5,
    fittings.wall_cupboard: 1,
    fittings.wall_tv: 0.12,
}


def draw_room(rng: Generator) -> Room:
    """Draws a furnished room and a camera inside it."""
    extent = np.array([rng.uniform(2.9, 4.7), rng.uniform(2.4, 2.75), rng.uniform(2.9, 4.9)])
    kind = _pick(rng, {kind: kind.share for kind in KINDS}, 1)[0]
    layout = Layout(rng, extent)
    _add_shell(layout)
    layout.against_wall(fittings.door(rng))
    for make in kind.certain:
        layout.against_wall(make(rng), tries=12)
    window = None
    for _ in range(rng.integers(1, 4)):
        if layout.against_wall(fittings.window(rng)):
            low, high = np.array(layout.taken[-1])
            window = 0.45 * (low + high)  # the light stands a little inside the room
    if rng.random() < kind.dining:
        _add_dining_group(layout)
    for make in _pick(rng, kind.likely, rng.integers(9, 16)):
        layout.against_wall(make(rng))
    for make in _pick(rng, ON_WALLS, rng.integers(9, 16)):
        layout.against_wall(make(rng))
    for make in _pick(
        rng,
        {fittings.clutter: 3, furniture.chair: 2.5, furniture.coffee_table: 2.5},
        rng.integers(3, 8),
    ):
        layout.on_floor(make(rng), spread=0.35)
    if rng.random() < 0.45:
        layout.add(fittings.rug(rng), layout.spot(0.1) - [0, 0, 0.6], 0.0)
    return Room(
        extent,
        layout.boxes(),
        _draw_camera(rng, layout),
        extent * [rng.uniform(-0.15, 0.15), 0.93, rng.uniform(-0.15, 0.15)],
        window,
        warmth=rng.uniform(-1, 1),
        exposure=rng.uniform(0.85, 1.12),
    )


def _pick(rng: Generator, menu: dict, count: int) -> list:
    weights = np.array(list(menu.values()))
    return [
        list(menu)[k] for k in rng.choice(len(menu), size=int(count), p=weights / weights.sum())
    ]


def _add_shell(layout: Layout) -> None:
    """Floor, ceiling and walls as slabs 1 m thick."""
    rng, (w, h, d) = layout.rng, layout.extent
    kind = str(rng.choice(["planks", "tiles", "carpet"], p=[0.45, 0.2, 0.35]))
    floor = {
        "planks": wood_colour(rng),
        "tiles": rng.uniform(0.55, 0.85) * np.array([1, 0.97, 0.92]),
        "carpet": rng.uniform(0.35, 0.68) * np.array([1, 0.93, 0.82]),
    }[kind]
    paint = rng.uniform(0.68, 0.9) * (1 - rng.uniform(0, 0.3) * rng.dirichlet((1, 1, 1)))
    accent = rng.uniform(0.45, 0.8) * (1 - rng.uniform(0.1, 0.5) * rng.dirichlet((1, 1, 1)))
    dark, white = 0.45 * np.array(floor), (0.93, 0.93, 0.91)
    origin = np.zeros(3)
    layout.add([Part("floor", (-w, -1, -d), (w, 0, d), floor, kind, dark)], origin, 0.0)
    layout.add([Part("ceiling", (-w, h, -d), (w, h + 1, d), white)], origin, 0.0)
    accent_wall = rng.integers(10)
    for k, wall in enumerate(layout.walls):
        reach = wall.length / 2 + 1
        colour = accent if k == accent_wall else paint
        slab = Part("wall", (-reach, -1, -1), (reach, h + 1, 0), colour, "wall")
        layout.add([slab], wall.middle, wall.yaw)


def _add_dining_group(layout: Layout) -> None:
    """A table near the middle of the room with chairs around it."""
    rng, table = layout.rng, furniture.dining_table(layout.rng)
    yaw = rng.choice([0.0, np.pi / 2]) + rng.uniform(-0.06, 0.06)
    place = layout.spot(0.2)
    if not layout.place(table, place, yaw):
        return
    _, (half_width, _, depth) = bounds(table)
    centre = place + turn(yaw)[:, 2] * depth / 2
    for side in range(4):
        if rng.random() < 0.75:
            out = turn(yaw + side * np.pi / 2)[:, 2]
            reach = (half_width if side % 2 else depth / 2) + rng.uniform(-0.12, 0.3)
            chair, spot = furniture.chair(rng), centre + out * (reach + 0.42)
            # A chair's front is its local +z: it is turned to face the table.
            facing = yaw + side * np.pi / 2 + np.pi + rng.normal(0, 0.15)
            layout.taken.append(moved(bounds(chair), spot, facing))
            layout.add(chair, spot, facing)


def _draw_camera(rng: Generator, layout: Layout, tries: int = 10) -> Camera:
    """A view at the height of a hand or a head with much to look at and nothing in the way."""
    w, _, d = layout.extent
    lows, highs = np.moveaxis(np.array(layout.taken), 1, 0)
    centres = (lows + highs) / 2
    best, best_score = (np.zeros(3), 0.0), -np.inf
    for _ in range(tries):
        x, z = rng.uniform(-0.45, 0.45, 2) * (w, d)
        eye = np.array([x, rng.uniform(1.1, 1.6), z])
        target = 0.9 * centres[rng.integers(len(centres))]
        heading = np.arctan2(target[0] - x, target[2] - z) + rng.normal(0, 0.15)
        towards = centres - eye
        ahead = towards @ [np.sin(heading), 0, np.cos(heading)]
        seen = (ahead > 1.0) & (ahead > 0.8 * np.hypot(towards[:, 0], towards[:, 2]))
        gaps = np.maximum(np.maximum(lows - eye, eye - highs), 0)
        nearest = np.sqrt((gaps**2).sum(1).min())
        score = seen.sum() + rng.uniform(0, 1.5) - 20 * (nearest < 0.35) - 2 * (nearest < 0.6)
        if score > best_score:
            best, best_score = (eye, heading), score
    eye, heading = best
    return Camera(eye, _view(heading, rng.uniform(0.03, 0.5), rng.normal(0, 0.025)))


def _view(heading: float, pitch: float, roll: float) -> np.ndarray:
    """Rows right, down, forward for a heading about the vertical and a pitch below the horizon."""
    (ch, sh), (cp, sp), (cr, sr) = ((np.cos(a), np.sin(a)) for a in (heading, pitch, roll))
    forward = np.array([sh * cp, -sp, ch * cp])
    right, down = np.array([ch, 0, -sh]), np.array([-sh * sp, -cp, -ch * sp])
    return np.stack([cr * right + sr * down, cr * down - sr * right, forward])
