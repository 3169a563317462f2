"""Lamps, clutter, rugs and what hangs on the walls of the synthetic rooms, made of boxes."""

from numpy.random import Generator

from emanet_jax.synthetic.parts import Item, Part, bright, hsv, pale, trinkets, wood_colour


def floor_lamp(rng: Generator) -> Item:
    """A pole with a pale shade."""
    metal, shade = (0.25, 0.24, 0.24), hsv(rng, (0.09, 0.14), (0.08, 0.3), (0.92, 1.0))
    return [
        Part("objects", (-0.14, 0, 0.06), (0.14, 0.03, 0.34), metal),
        Part("objects", (-0.018, 0, 0.182), (0.018, 1.35, 0.218), metal),
        Part("objects", (-0.19, 1.3, 0.01), (0.19, 1.6, 0.39), shade, "fabric"),
    ]


def clutter(rng: Generator) -> Item:
    """Cartons, bags and toys in a heap on the floor."""
    parts, y, w = [], 0.0, rng.uniform(0.35, 0.75)
    for _ in range(rng.integers(1, 4)):
        h, d = rng.uniform(0.18, 0.45), w * rng.uniform(0.6, 1.0)
        carton = rng.random() < 0.3
        colour = hsv(rng, (0.07, 0.1), (0.4, 0.55), (0.55, 0.75)) if carton else bright(rng)
        x = rng.uniform(-0.06, 0.06)
        parts.append(
            Part(
                "objects",
                (x - w / 2, y, 0.05),
                (x + w / 2, y + h, 0.05 + d),
                colour,
                "label",
                pale(rng),
            )
        )
        y, w = y + h, w * rng.uniform(0.6, 0.95)
    return parts


def plant(rng: Generator) -> Item:
    """A pot with a block of leaves."""
    h = rng.uniform(0.5, 1.0)
    green = hsv(rng, (0.25, 0.4), (0.5, 0.8), (0.25, 0.5))
    return [
        Part(
            "objects",
            (-0.14, 0, 0.06),
            (0.14, 0.3, 0.34),
            hsv(rng, (0.02, 0.08), (0.4, 0.7), (0.4, 0.7)),
        ),
        Part("objects", (-0.25, 0.38, 0.02), (0.25, 0.3 + h, 0.45), green, "carpet"),
        Part("objects", (-0.14, 0.3, 0.1), (0.14, 0.4 + h, 0.34), green, "carpet"),
    ]


def rug(rng: Generator) -> Item:
    """A thin rug: floor."""
    w, d = rng.uniform(1.4, 2.4), rng.uniform(1.0, 1.7)
    colour, accent = hsv(rng, (0, 1), (0.2, 0.6), (0.35, 0.75)), pale(rng)
    return [Part("floor", (-w / 2, 0, 0), (w / 2, 0.012, d), colour, "rug", accent)]


def window(rng: Generator) -> Item:
    """Panes in a frame with a sill, often with curtains."""
    w, low, high = rng.uniform(0.9, 1.9), rng.uniform(0.75, 1.0), rng.uniform(2.0, 2.2)
    frame = (0.93, 0.93, 0.92)
    parts = [
        Part("window", (-w / 2, low, 0), (w / 2, high, 0.03), frame, "window"),
        Part("window", (-w / 2 - 0.06, low - 0.05, 0), (w / 2 + 0.06, low, 0.14), frame),
    ]
    if rng.random() < 0.6:
        cloth = hsv(rng, (0, 1), (0.1, 0.55), (0.55, 0.92))
        bottom = rng.choice([0.05, low - 0.12])
        for x in (-w / 2 - 0.24, w / 2 - 0.06):
            parts.append(
                Part(
                    "window",
                    (x, bottom, 0.05),
                    (x + 0.3, high + 0.1, 0.13),
                    cloth,
                    "stripes",
                    cloth,
                )
            )
    return parts


def painting(rng: Generator) -> Item:
    """A framed picture at eye height."""
    w, h, y = rng.uniform(0.4, 1.0), rng.uniform(0.4, 0.8), rng.uniform(1.45, 1.7)
    frame = wood_colour(rng) if rng.random() < 0.7 else (0.08, 0.08, 0.08)
    return [Part("picture", (-w / 2, y - h / 2, 0), (w / 2, y + h / 2, 0.035), frame, "picture")]


def wall_object(rng: Generator) -> Item:
    """A clock, mirror, notice board or coat: objects on the wall."""
    w, h, y = rng.uniform(0.3, 1.3), rng.uniform(0.4, 1.0), rng.uniform(1.3, 1.6)
    return [
        Part(
            "objects",
            (-w / 2, y - h / 2, 0),
            (w / 2, y + h / 2, 0.06),
            bright(rng),
            "label",
            pale(rng),
        )
    ]


def wall_tv(rng: Generator) -> Item:
    """A flat television on the wall."""
    w, black = rng.uniform(0.45, 0.65), (0.05, 0.05, 0.055)
    return [
        Part("tv", (-w, 1.1, 0), (w, 1.1 + 1.12 * w, 0.07), (0.05, 0.06, 0.08), "screen", black)
    ]


def door(rng: Generator) -> Item:
    """A closed door: wall."""
    colour = wood_colour(rng) if rng.random() < 0.5 else (0.9, 0.89, 0.86)
    return [Part("wall", (-0.46, 0, 0), (0.46, 2.06, 0.03), colour, "door", (0.7, 0.66, 0.5))]


def wall_shelf(rng: Generator) -> Item:
    """A board on the wall with things and a row of books on it."""
    w, y, colour = rng.uniform(0.6, 1.4), rng.uniform(1.35, 1.6), wood_colour(rng)
    parts = [Part("furniture", (-w / 2, y, 0), (w / 2, y + 0.035, 0.24), colour, "wood")]
    middle = rng.uniform(-w / 4, w / 4)
    if rng.random() < 0.5:
        tall = y + rng.uniform(0.2, 0.28)
        paper = (0.85, 0.82, 0.74)
        parts.append(Part("books", (-w / 2, y + 0.035, 0), (middle, tall, 0.2), paper, "books"))
    return parts + trinkets(rng, (middle + 0.03, w / 2 - 0.1), (0.02, 0.1), y + 0.035, 2)


def wall_cupboard(rng: Generator) -> Item:
    """A cupboard on the wall."""
    w, y, h = rng.uniform(0.7, 1.5), rng.uniform(1.35, 1.5), rng.uniform(0.5, 0.75)
    return [Part("furniture", (-w / 2, y, 0), (w / 2, y + h, 0.34), wood_colour(rng), "cabinet")]
