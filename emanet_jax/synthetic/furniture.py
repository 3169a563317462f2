"""Furniture and fittings of the rooms, declared as tables of boxes.

A piece's frame, in metres: x runs along the wall from 0, y up from the floor, z out of the wall
from 0. Colours are display RGB in [0, 1]; every class has its own palettes, so that looks and class
go together about as loosely as in real rooms.
"""

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from numpy.random import Generator

Point = tuple[float, float, float]
Colour = tuple[float, float, float]


class Part(NamedTuple):
    """A box of a design: its class, where it begins and ends along x, y and z, and its looks."""

    label: str
    left: float
    right: float
    bottom: float
    top: float
    back: float
    front: float
    palette: str
    texture: str = "plain"
    accent: str = "pale"
    chance: float = 1.0


class Things(NamedTuple):
    """Small objects side by side on a surface at height y."""

    left: float
    right: float
    y: float
    back: float
    front: float
    least: int
    most: int


class Design(NamedTuple):
    """Parts at their usual size; a whole piece is stretched along x, y, z by 1 +- these shares."""

    x: float
    y: float
    z: float
    parts: Sequence[Part | Things]


class Box(NamedTuple):
    """A box of a piece in the piece's frame."""

    label: str
    low: Point
    high: Point
    colour: Colour
    texture: str = "plain"
    accent: Colour = (0.93, 0.93, 0.92)


@dataclass(frozen=True)
class Piece:
    """Boxes and the space from (0, bottom, 0) to `high` that they take up."""

    boxes: list[Box]
    bottom: float
    high: Point


# Ranges of hue, saturation and value, each in [0, 1].
PALETTES: dict[str, tuple[tuple[float, float], ...]] = {
    "accent wall": ((0, 1), (0.1, 0.45), (0.45, 0.78)),
    "black": ((0.6, 0.7), (0.1, 0.2), (0.05, 0.08)),
    "brass": ((0.1, 0.14), (0.1, 0.2), (0.7, 0.8)),
    "bright": ((0, 1), (0.35, 0.8), (0.35, 0.9)),  # things that people buy
    "cardboard": ((0.07, 0.1), (0.4, 0.55), (0.55, 0.75)),
    "carpet": ((0.08, 0.12), (0.1, 0.22), (0.35, 0.68)),
    "cherry": ((0.0, 0.08), (0.5, 0.85), (0.3, 0.6)),
    "cloth": ((0, 1), (0.1, 0.55), (0.55, 0.92)),
    "dye": ((0, 1), (0.2, 0.6), (0.35, 0.75)),
    "lampshade": ((0.09, 0.14), (0.08, 0.3), (0.9, 1.0)),
    "leaves": ((0.25, 0.36), (0.4, 0.75), (0.25, 0.5)),
    "metal": ((0.6, 0.7), (0.02, 0.1), (0.2, 0.26)),
    "office": ((0, 1), (0.1, 0.6), (0.1, 0.35)),
    "pale": ((0, 1), (0.05, 0.3), (0.75, 0.95)),  # linen, paper
    "screen": ((0.6, 0.65), (0.3, 0.5), (0.08, 0.2)),
    "steel": ((0.55, 0.6), (0.0, 0.06), (0.6, 0.92)),
    "stone": ((0.05, 0.12), (0.0, 0.25), (0.25, 0.75)),
    "tiles": ((0.08, 0.12), (0.06, 0.1), (0.55, 0.85)),
    "upholstery": ((0.0, 0.62), (0.15, 0.7), (0.25, 0.6)),
    "wall": ((0, 1), (0.0, 0.25), (0.66, 0.88)),
    "white": ((0.1, 0.14), (0.0, 0.03), (0.9, 0.94)),
    "white wood": ((0.08, 0.12), (0.02, 0.1), (0.8, 0.92)),
    "wood": ((0.045, 0.1), (0.35, 0.68), (0.3, 0.75)),  # light beech to dark walnut
}
_ONE_COLOUR_EACH = ("bright", "leaves")  # other palettes give one colour to a whole piece


def _legs(label: str, w: float, h: float, d: float, thick: float, palette: str) -> list[Part]:
    """Four posts under the corners of w x d."""
    return [
        Part(label, x, x + thick, 0, h, z, z + thick, palette)
        for x in (0.02, w - thick - 0.02)
        for z in (0.02, d - thick - 0.02)
    ]


def _table(w: float, h: float, d: float) -> list[Part]:
    legs = _legs("table", w, h - 0.05, d, 0.06, "wood")
    return [*legs, Part("table", 0, w, h - 0.05, h, 0, d, "wood", "wood")]


def _sofa(w: float, seats: int) -> list[Part]:
    wide = (w - 0.4) / seats
    places = [0.2 + k * wide for k in range(seats)]
    # fmt: off
    return [
        Part("sofa", 0, w, 0.06, 0.82, 0, 0.26, "upholstery", "fabric"),
        Part("sofa", 0.2, w - 0.2, 0.06, 0.3, 0.26, 0.86, "upholstery", "fabric"),
        Part("sofa", 0, 0.2, 0.06, 0.6, 0.26, 0.86, "upholstery", "fabric"),
        Part("sofa", w - 0.2, w, 0.06, 0.6, 0.26, 0.86, "upholstery", "fabric"),
        *(Part("sofa", x, x + wide - 0.015, 0.3, 0.45, 0.26, 0.88, "upholstery", "cushion")
          for x in places),
        *(Part("objects", x + 0.1, x + 0.5, 0.45, 0.8, 0.26, 0.42, "bright", "stripes", chance=0.4)
          for x in places),
    ]
    # fmt: on


def _bed(w: float, pillows: int) -> list[Part]:
    middles = [w * (k + 0.5) / pillows for k in range(pillows)]
    # fmt: off
    return [
        Part("bed", 0.03, w - 0.03, 0, 0.95, 0, 0.07, "wood", "wood"),
        Part("bed", 0.03, w - 0.03, 0.08, 0.32, 0.07, 2, "wood", "wood"),
        Part("bed", 0.06, w - 0.06, 0.32, 0.5, 0.07, 1.98, "white"),
        Part("bed", 0, w, 0.2, 0.54, 0.62, 2.02, "cloth", "stripes"),
        *(Part("objects", x - 0.28, x + 0.28, 0.5, 0.64, 0.1, 0.48, "pale", "fabric")
          for x in middles),
    ]
    # fmt: on


def _bookcase(shelves: int) -> list[Part | Things]:
    h = 0.35 * shelves + 0.03
    parts: list[Part | Things] = [
        Part("furniture", 0, 0.03, 0, h, 0, 0.3, "wood", "wood"),
        Part("furniture", 0.97, 1, 0, h, 0, 0.3, "wood", "wood"),
        Part("furniture", 0.03, 0.97, 0, h, 0, 0.02, "wood", "dark wood"),
        Part("furniture", 0.03, 0.97, h - 0.03, h, 0.02, 0.3, "wood", "wood"),
    ]
    for k in range(shelves):
        y = 0.35 * k + 0.03
        end, tall = (0.6, 0.85, 0.45, 0.7, 0.9)[k], (0.27, 0.24, 0.29, 0.22, 0.26)[k]
        parts += [
            Part("furniture", 0.03, 0.97, y - 0.03, y, 0.02, 0.3, "wood", "wood"),
            Part("books", 0.03, end, y, y + tall, 0.03, 0.26, "pale", "books", chance=0.75),
            Things(end + 0.02, 0.95, y, 0.05, 0.25, 0, 2),
        ]
    return parts


# fmt: off
# Every piece has one or more designs, all equally frequent.
DESIGNS: dict[str, list[Design]] = {
    "bed": [Design(0.15, 0.15, 0.05, _bed(1.6, 2)), Design(0.15, 0.15, 0.05, _bed(1.05, 1))],
    "sofa": [Design(0.1, 0.1, 0.1, _sofa(2.1, 3)), Design(0.1, 0.1, 0.1, _sofa(1.65, 2))],
    "chair": [
        Design(0.05, 0.1, 0.05, [
            *_legs("chair", 0.46, 0.46, 0.48, 0.045, "cherry"),
            Part("chair", 0.005, 0.455, 0.43, 0.49, 0.01, 0.49, "cherry", "fabric"),
            Part("chair", 0, 0.045, 0.46, 0.91, 0, 0.04, "cherry"),
            Part("chair", 0.415, 0.46, 0.46, 0.91, 0, 0.04, "cherry"),
            Part("chair", 0, 0.46, 0.61, 0.91, 0.005, 0.035, "cherry", "wood"),
        ]),
        Design(0.05, 0.1, 0.05, [
            *_legs("chair", 0.46, 0.46, 0.48, 0.045, "dye"),
            Part("chair", 0.005, 0.455, 0.43, 0.49, 0.01, 0.49, "cloth", "fabric"),
            Part("chair", 0, 0.46, 0.46, 0.91, 0, 0.04, "dye"),
        ]),
        Design(0.05, 0.08, 0.05, [
            Part("chair", 0, 0.52, 0.03, 0.09, 0.22, 0.28, "metal"),
            Part("chair", 0.23, 0.29, 0.03, 0.09, 0.02, 0.52, "metal"),
            Part("chair", 0.225, 0.295, 0.09, 0.38, 0.22, 0.29, "metal"),
            Part("chair", 0.01, 0.51, 0.38, 0.46, 0.02, 0.5, "office", "fabric"),
            Part("chair", 0.03, 0.49, 0.54, 0.96, 0, 0.07, "office", "fabric"),
        ]),
    ],
    "dining table": [Design(0.2, 0.02, 0.1, [
        *_table(1.4, 0.74, 0.85), Things(0.05, 1.35, 0.74, 0.05, 0.8, 3, 7)])],
    "coffee table": [Design(0.2, 0.1, 0.1, [
        *_table(0.95, 0.42, 0.56), Things(0.05, 0.9, 0.42, 0.05, 0.5, 1, 3)])],
    "desk": [Design(0.15, 0.02, 0.1, [
        *_table(1.4, 0.74, 0.7),
        Part("furniture", 0.95, 1.33, 0, 0.68, 0.05, 0.66, "wood", "cabinet", "brass"),
        Part("objects", 0.5, 0.7, 0.74, 0.76, 0.15, 0.3, "black"),
        Part("objects", 0.57, 0.63, 0.74, 0.89, 0.2, 0.23, "black"),
        Part("objects", 0.34, 0.86, 0.84, 1.16, 0.23, 0.26, "screen", "screen", "black"),
        Part("objects", 0.38, 0.82, 0.74, 0.765, 0.42, 0.55, "pale"),
        Things(0.9, 1.35, 0.74, 0.05, 0.6, 1, 3),
        Things(0.03, 0.3, 0.74, 0.05, 0.6, 0, 1),
    ])],
    "cabinet": [Design(0.4, 0.25, 0.15, [
        Part("furniture", 0.02, 1.13, 0, 0.88, 0, 0.46, "wood", "cabinet", "brass"),
        Part("furniture", 0, 1.15, 0.88, 0.92, 0, 0.48, "wood", "wood"),
        Things(0.05, 1.1, 0.92, 0.05, 0.45, 3, 6),
    ])],
    "wardrobe": [Design(0.35, 0.08, 0.1, [
        Part("furniture", 0, 1.2, 0, 1.95, 0, 0.55, "wood", "cabinet", "brass"),
        Things(0.05, 1.15, 1.95, 0.1, 0.5, 0, 2),
    ])],
    "bookcase": [
        Design(0.3, 0.05, 0.1, _bookcase(5)),
        Design(0.3, 0.05, 0.1, [*_bookcase(3), Things(0.05, 0.95, 1.08, 0.02, 0.28, 1, 3)]),
    ],
    "tv stand": [Design(0.15, 0.15, 0.05, [
        Part("furniture", 0, 1.35, 0, 0.5, 0, 0.45, "wood", "cabinet"),
        Part("tv", 0.5, 0.85, 0.5, 0.53, 0.15, 0.35, "black"),
        Part("tv", 0.2, 1.15, 0.55, 1.1, 0.2, 0.26, "black", "screen", "black"),
        Things(0.02, 0.18, 0.5, 0.1, 0.4, 0, 1),
    ])],
    "kitchen": [Design(0.25, 0.03, 0.03, [
        Part("furniture", 0, 2.1, 0.08, 0.87, 0, 0.58, "wood", "cabinet", "steel"),
        Part("furniture", 0, 2.1, 0.87, 0.91, 0, 0.61, "stone"),
        Part("furniture", 0, 2.1, 1.45, 2.1, 0, 0.33, "wood", "cabinet", "steel"),
        Things(0.05, 2.05, 0.91, 0.1, 0.5, 4, 8),
    ])],
    "fridge": [Design(0.05, 0.1, 0.03, [
        Part("furniture", 0, 0.62, 0, 1.68, 0, 0.64, "steel", "cabinet", "metal")])],
    "night stand": [Design(0.1, 0.1, 0.1, [
        Part("furniture", 0, 0.46, 0, 0.48, 0, 0.4, "wood", "cabinet", "brass"),
        Part("objects", 0.2, 0.26, 0.48, 0.76, 0.14, 0.2, "bright"),
        Part("objects", 0.11, 0.35, 0.76, 0.98, 0.05, 0.29, "lampshade"),
        Part("books", 0.03, 0.21, 0.48, 0.53, 0.24, 0.39, "bright", "label"),
    ])],
    "floor lamp": [Design(0.1, 0.1, 0.1, [
        Part("objects", 0.05, 0.33, 0, 0.03, 0.06, 0.34, "metal"),
        Part("objects", 0.17, 0.21, 0, 1.35, 0.18, 0.22, "metal"),
        Part("objects", 0, 0.38, 1.3, 1.6, 0.01, 0.39, "lampshade", "fabric"),
    ])],
    "plant": [Design(0.2, 0.25, 0.2, [
        Part("objects", 0.1, 0.4, 0, 0.3, 0.1, 0.4, "cherry"),
        Part("objects", 0.08, 0.42, 0.3, 0.5, 0.05, 0.42, "leaves", "carpet"),
        Part("objects", 0, 0.26, 0.42, 0.72, 0.12, 0.45, "leaves", "carpet"),
        Part("objects", 0.2, 0.5, 0.46, 0.78, 0.02, 0.34, "leaves", "carpet"),
        Part("objects", 0.12, 0.36, 0.6, 0.98, 0.1, 0.38, "leaves", "carpet"),
    ])],
    "clutter": [
        Design(0.4, 0.4, 0.3, [Part("objects", 0, 0.6, 0, 0.38, 0, 0.45, "cardboard", "label")]),
        Design(0.3, 0.4, 0.3, [
            Part("objects", 0, 0.65, 0, 0.34, 0, 0.5, "bright", "label"),
            Part("objects", 0.06, 0.5, 0.34, 0.68, 0.04, 0.42, "bright", "label"),
        ]),
        Design(0.3, 0.3, 0.3, [
            Part("objects", 0, 0.7, 0, 0.3, 0, 0.55, "bright", "label"),
            Part("objects", 0.08, 0.6, 0.3, 0.58, 0.02, 0.46, "cardboard", "label"),
            Part("objects", 0.1, 0.45, 0.58, 0.95, 0.08, 0.38, "bright", "label"),
        ]),
    ],
    "rug": [Design(0.3, 0, 0.3, [Part("floor", 0, 1.85, 0, 0.012, 0, 1.3, "dye", "rug")])],
    "door": [
        Design(0, 0, 0, [Part("wall", 0, 0.92, 0, 2.06, 0, 0.03, "wood", "door", "brass")]),
        Design(0, 0, 0, [Part("wall", 0, 0.92, 0, 2.06, 0, 0.03, "white", "door", "metal")]),
    ],
    "window": [
        Design(0.3, 0.05, 0, [
            Part("window", 0.06, 1.44, 0.88, 2.1, 0, 0.03, "white", "window"),
            Part("window", 0, 1.5, 0.83, 0.88, 0, 0.14, "white"),
        ]),
        Design(0.3, 0.05, 0, [
            Part("window", 0.24, 1.56, 0.88, 2.1, 0, 0.03, "white", "window"),
            Part("window", 0.18, 1.62, 0.83, 0.88, 0, 0.14, "white"),
            Part("window", 0, 0.32, 0.7, 2.2, 0.05, 0.13, "cloth", "folds"),
            Part("window", 1.48, 1.8, 0.7, 2.2, 0.05, 0.13, "cloth", "folds"),
        ]),
    ],
    "painting": [
        Design(0.4, 0.07, 0, [Part("picture", 0, 0.8, 1.3, 1.9, 0, 0.035, "wood", "picture")]),
        Design(0.3, 0.07, 0, [Part("picture", 0, 0.55, 1.2, 1.95, 0, 0.035, "black", "picture")]),
    ],
    "notice board": [
        Design(0.4, 0.08, 0, [Part("objects", 0, 1, 1.15, 1.85, 0, 0.06, "bright", "label")])],
    "towel": [
        Design(0.4, 0.08, 0, [Part("objects", 0, 0.5, 0.9, 1.8, 0, 0.06, "bright", "stripes")])],
    "wall shelf": [Design(0.4, 0.08, 0, [
        Part("furniture", 0, 1, 1.4, 1.435, 0, 0.24, "wood", "wood"),
        Part("books", 0, 0.5, 1.435, 1.64, 0, 0.2, "pale", "books", chance=0.5),
        Things(0.55, 0.95, 1.435, 0.02, 0.2, 1, 3),
    ])],
    "wall cupboard": [Design(0.35, 0.05, 0, [
        Part("furniture", 0, 1.1, 1.4, 2.05, 0, 0.34, "wood", "cabinet", "steel")])],
    "wall tv": [
        Design(0.2, 0.05, 0, [Part("tv", 0, 1.1, 1.1, 1.73, 0, 0.07, "black", "screen", "black")])],
}
# fmt: on


def draw_colour(rng: Generator, palette: str) -> Colour:
    """A random colour of a palette; now and then wood is painted white."""
    if palette == "wood" and rng.random() < 0.15:
        palette = "white wood"
    limits = zip(rng.random(3).tolist(), PALETTES[palette], strict=True)
    return colorsys.hsv_to_rgb(*(low + r * (high - low) for r, (low, high) in limits))


def draw_piece(rng: Generator, name: str) -> Piece:
    """A piece of random size and colours after one of its DESIGNS."""
    *shares, parts = DESIGNS[name][rng.integers(len(DESIGNS[name]))]
    x, y, z = (1 + share * rng.uniform(-1, 1) for share in shares)
    colours: dict[str, Colour] = {}

    def colour(palette: str) -> Colour:
        if palette not in colours or palette in _ONE_COLOUR_EACH:
            colours[palette] = draw_colour(rng, palette)
        return colours[palette]

    boxes: list[Box] = []
    for part in parts:
        if isinstance(part, Things):
            left, right, height, back, front, least, most = part
            count = int(rng.integers(least, most + 1))
            boxes += _draw_things(rng, x * left, x * right, y * height, z * back, z * front, count)
        elif part.chance == 1 or rng.random() < part.chance:
            low = x * part.left, y * part.bottom, z * part.back
            high = x * part.right, y * part.top, z * part.front
            looks = colour(part.palette), part.texture, colour(part.accent)
            boxes.append(Box(part.label, low, high, *looks))
    right, top, front = (max(box.high[k] for box in boxes) for k in range(3))
    return Piece(boxes, min(box.low[1] for box in boxes), (right, top, front))


def _draw_things(
    rng: Generator, left: float, right: float, y: float, back: float, front: float, count: int
) -> list[Box]:
    """Objects and stacks of books, `count` in all, side by side on a surface at height y."""
    boxes: list[Box] = []
    slots = max(round(1.5 * count), 3)
    step = (right - left) / slots
    for slot in rng.permutation(slots)[:count].tolist():
        x, z = left + slot * step, back + rng.random() * max(0.0, front - back - 0.12)
        w, h, d = rng.uniform((0.5 * step, 0.1, 0.08), (step, 0.36, 0.25)).tolist()
        height, layers = y, 1
        if books := rng.random() < 0.15:
            w, h, d, layers = 0.17, 0.04, 0.22, int(rng.integers(1, 4))
        texture = "label" if books or rng.random() < 0.5 else "plain"
        for _ in range(layers):
            low, high = (x, height, z), (x + min(w, 0.4), height + h, min(z + d, front))
            colours = draw_colour(rng, "bright"), texture, draw_colour(rng, "bright")
            boxes.append(Box("books" if books else "objects", low, high, *colours))
            height += h
    return boxes
