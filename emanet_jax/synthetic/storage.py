"""Cupboards, shelves and kitchens of the synthetic rooms, made of boxes (see `parts`)."""

from numpy.random import Generator

from emanet_jax.synthetic.parts import Item, Part, bright, hsv, trinkets, wood_colour


def cabinet(rng: Generator) -> Item:
    """A sideboard or chest of drawers with things on top."""
    w, d, h = rng.uniform(0.7, 1.6), rng.uniform(0.4, 0.55), rng.uniform(0.7, 1.15)
    colour = wood_colour(rng)
    return [
        Part(
            "furniture", (-w / 2, 0, 0), (w / 2, h - 0.04, d), colour, "cabinet", (0.75, 0.72, 0.62)
        ),
        Part(
            "furniture", (-w / 2 - 0.02, h - 0.04, 0), (w / 2 + 0.02, h, d + 0.02), colour, "wood"
        ),
        *trinkets(rng, (-w / 2 + 0.05, w / 2 - 0.05), (0.06, d - 0.15), h, int(rng.integers(3, 7))),
    ]


def wardrobe(rng: Generator) -> Item:
    """A tall cupboard, sometimes with boxes on top."""
    w, d, h = rng.uniform(0.8, 1.7), rng.uniform(0.5, 0.6), rng.uniform(1.8, 2.1)
    body = Part(
        "furniture", (-w / 2, 0, 0), (w / 2, h, d), wood_colour(rng), "cabinet", (0.75, 0.72, 0.62)
    )
    return [
        body,
        *trinkets(rng, (-w / 2 + 0.05, w / 2 - 0.05), (0.1, 0.3), h, int(rng.integers(0, 3))),
    ]


def bookcase(rng: Generator) -> Item:
    """Shelves between side panels, filled with rows of books and some objects."""
    w, d, shelves = rng.uniform(0.7, 1.4), rng.uniform(0.26, 0.34), int(rng.integers(3, 6))
    pitch, thick, colour = rng.uniform(0.33, 0.38), 0.03, wood_colour(rng)
    h = shelves * pitch + thick
    dark = tuple(0.6 * c for c in colour)
    parts = [
        Part("furniture", (-w / 2, 0, 0), (-w / 2 + thick, h, d), colour, "wood"),
        Part("furniture", (w / 2 - thick, 0, 0), (w / 2, h, d), colour, "wood"),
        Part("furniture", (-w / 2, 0, 0), (w / 2, h, 0.02), dark, "wood"),
    ]
    for k in range(shelves + 1):
        parts.append(
            Part("furniture", (-w / 2, k * pitch, 0), (w / 2, k * pitch + thick, d), colour, "wood")
        )
    for k in range(shelves):
        y, left = k * pitch + thick, -w / 2 + thick
        end = left + (w - 2 * thick) * rng.uniform(0.35, 1.0)
        if rng.random() < 0.8:
            tall = pitch * rng.uniform(0.6, 0.85)
            parts.append(
                Part(
                    "books", (left, y, 0.03), (end, y + tall, d - 0.04), (0.85, 0.82, 0.74), "books"
                )
            )
        else:
            end = left
        if w / 2 - thick - end > 0.25:
            x = (end + 0.04, w / 2 - thick - 0.12)
            parts += trinkets(rng, x, (0.05, d - 0.15), y, 1)
    return parts


def tv_stand(rng: Generator) -> Item:
    """A low board with a television on it."""
    w, tv, h = rng.uniform(1.1, 1.6), rng.uniform(0.4, 0.62), rng.uniform(0.42, 0.6)
    black = (0.05, 0.05, 0.055)
    tall = 1.15 * tv
    return [
        Part("furniture", (-w / 2, 0, 0), (w / 2, h, 0.45), wood_colour(rng), "cabinet"),
        Part("tv", (-0.18, h, 0.15), (0.18, h + 0.03, 0.35), black),
        Part(
            "tv",
            (-tv, h + 0.05, 0.2),
            (tv, h + 0.05 + tall, 0.26),
            (0.05, 0.06, 0.08),
            "screen",
            black,
        ),
        *trinkets(rng, (-w / 2 + 0.03, -tv - 0.05), (0.1, 0.3), h, 1),
    ]


def kitchen(rng: Generator) -> Item:
    """Base units with a worktop, wall units above and things between them."""
    w, colour = rng.uniform(1.6, 2.6), wood_colour(rng)
    top = hsv(rng, (0.05, 0.12), (0.0, 0.25), (0.25, 0.75))
    return [
        Part(
            "furniture", (-w / 2, 0.08, 0), (w / 2, 0.87, 0.58), colour, "cabinet", (0.8, 0.8, 0.8)
        ),
        Part("furniture", (-w / 2, 0.87, 0), (w / 2, 0.91, 0.61), top, "plain"),
        Part(
            "furniture", (-w / 2, 1.45, 0), (w / 2, 2.1, 0.33), colour, "cabinet", (0.8, 0.8, 0.8)
        ),
        *trinkets(rng, (-w / 2 + 0.05, w / 2 - 0.05), (0.1, 0.4), 0.91, int(rng.integers(4, 8))),
    ]


def fridge(rng: Generator) -> Item:
    """A white or steel refrigerator."""
    h, colour = rng.uniform(1.5, 1.85), hsv(rng, (0.55, 0.6), (0.0, 0.06), (0.6, 0.92))
    return [Part("furniture", (-0.31, 0, 0), (0.31, h, 0.64), colour, "cabinet", (0.4, 0.4, 0.42))]


def night_stand(rng: Generator) -> Item:
    """A small cabinet with a lamp and a book."""
    colour, h, y = wood_colour(rng), rng.uniform(0.42, 0.55), rng.uniform(0.28, 0.34)
    shade = hsv(rng, (0.09, 0.14), (0.08, 0.3), (0.9, 1.0))
    return [
        Part("furniture", (-0.23, 0, 0), (0.23, h, 0.4), colour, "cabinet"),
        Part("objects", (-0.03, h, 0.14), (0.03, h + y, 0.2), bright(rng)),
        Part("objects", (-0.12, h + y - 0.05, 0.05), (0.12, h + y + 0.17, 0.29), shade),
        Part("books", (-0.2, h, 0.24), (-0.02, h + 0.05, 0.39), bright(rng), "label"),
    ]
