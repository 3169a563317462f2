"""Items of the synthetic rooms are a handful of boxes; here is what all of them share.

An item's local frame, in metres: the origin lies on the floor in the middle of its back, x runs
along the wall, y up, z out of the wall. Colours are display RGB in [0, 1]; each class has its own
palette, so that looks and class go together about as loosely as in real rooms.
"""

import colorsys
from typing import NamedTuple

from numpy.random import Generator

from emanet_jax.tasks.palettes import NYU13

CLASS = {name: index for index, name in enumerate(NYU13)}

Colour = tuple[float, float, float]


class Part(NamedTuple):
    """An axis-aligned box in the local frame of its item."""

    label: str
    low: tuple[float, float, float]
    high: tuple[float, float, float]
    colour: Colour
    pattern: str = "plain"
    accent: Colour = (0.9, 0.9, 0.88)


Item = list[Part]


def hsv(
    rng: Generator,
    hue: tuple[float, float],
    saturation: tuple[float, float],
    value: tuple[float, float],
) -> Colour:
    """A random colour between limits of hue, saturation and value, each in [0, 1]."""
    limits = zip(rng.random(3).tolist(), (hue, saturation, value), strict=True)
    return colorsys.hsv_to_rgb(*(low + r * (high - low) for r, (low, high) in limits))


def wood_colour(rng: Generator) -> Colour:
    """Light beech to dark walnut, now and then white."""
    if rng.random() < 0.15:
        return hsv(rng, (0.08, 0.12), (0.02, 0.1), (0.8, 0.92))
    return hsv(rng, (0.045, 0.1), (0.35, 0.68), (0.3, 0.75))


def bright(rng: Generator) -> Colour:
    """A strong colour: things that people buy."""
    return hsv(rng, (0, 1), (0.35, 0.8), (0.35, 0.9))


def pale(rng: Generator) -> Colour:
    """A light colour: linen, paper."""
    return hsv(rng, (0, 1), (0.05, 0.3), (0.75, 0.95))


def legs(label: str, w: float, d: float, h: float, thick: float, colour: Colour) -> Item:
    """Four posts of height h under a w x d footprint."""
    return [
        Part(label, (x, 0, z), (x + thick, h, z + thick), colour)
        for x in (-w / 2, w / 2 - thick)
        for z in (0.0, d - thick)
    ]


def trinkets(
    rng: Generator, x: tuple[float, float], z: tuple[float, float], y: float, count: int
) -> Item:
    """Small objects and stacks of books on a surface at height y that spans x and z."""
    slots = max(round(1.5 * count), 3)
    step = (x[1] - x[0]) / slots
    parts: Item = []
    for slot in rng.permutation(slots)[:count]:
        left, back = x[0] + slot * step, rng.uniform(z[0], max(z[0], z[1] - 0.12))
        if rng.random() < 0.18:
            parts += _book_stack(rng, left, back, y)
        else:
            w, d = rng.uniform(0.5, 1.0) * min(step, 0.4), min(rng.uniform(0.08, 0.25), z[1] - back)
            high = (left + w, y + rng.uniform(0.08, 0.35), back + max(d, 0.04))
            pattern = "label" if rng.random() < 0.5 else "plain"
            parts.append(Part("objects", (left, y, back), high, bright(rng), pattern, bright(rng)))
    return parts


def _book_stack(rng: Generator, left: float, back: float, y: float) -> Item:
    parts: Item = []
    for _ in range(rng.integers(1, 4)):
        top = y + rng.uniform(0.025, 0.055)
        w, d = rng.uniform(0.15, 0.2), rng.uniform(0.19, 0.24)
        parts.append(
            Part("books", (left, y, back), (left + w, top, back + d), bright(rng), "label")
        )
        y = top
    return parts
