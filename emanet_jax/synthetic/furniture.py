"""Beds, seats and tables of the synthetic rooms, made of boxes (see `parts`)."""

from numpy.random import Generator

from emanet_jax.synthetic.parts import Item, Part, bright, hsv, legs, pale, trinkets, wood_colour


def bed(rng: Generator) -> Item:
    """Headboard, mattress, cover and pillows; the head is at the wall."""
    w, d, top = rng.uniform(1.0, 1.9), rng.uniform(1.9, 2.1), rng.uniform(0.42, 0.6)
    frame, cover, accent = (
        wood_colour(rng),
        hsv(rng, (0.5, 0.95), (0.2, 0.6), (0.5, 0.9)),
        pale(rng),
    )
    pattern = "stripes" if rng.random() < 0.6 else "fabric"
    parts = [
        Part("bed", (-w / 2, 0, 0), (w / 2, top + rng.uniform(0.3, 0.6), 0.07), frame, "wood"),
        Part("bed", (-w / 2, 0.08, 0.07), (w / 2, top - 0.18, d), frame, "wood"),
        Part("bed", (-w / 2 + 0.03, top - 0.18, 0.07), (w / 2 - 0.03, top, d - 0.02), (0.88,) * 3),
        Part(
            "bed",
            (-w / 2 - 0.03, top - 0.3, 0.62),
            (w / 2 + 0.03, top + 0.04, d + 0.02),
            cover,
            pattern,
            accent,
        ),
    ]
    for x in (-w / 4, w / 4) if w > 1.3 else (0.0,):
        colour = pale(rng)
        parts.append(
            Part("objects", (x - 0.28, top, 0.1), (x + 0.28, top + 0.14, 0.48), colour, "fabric")
        )
    if rng.random() < 0.5:
        parts += trinkets(rng, (-w / 2 + 0.1, w / 2 - 0.1), (0.8, d - 0.3), top + 0.04, 2)
    return parts


def sofa(rng: Generator) -> Item:
    """Seat, back, arms and cushions."""
    w, d = rng.uniform(1.5, 2.3), rng.uniform(0.8, 0.95)
    colour = hsv(rng, (0.0, 0.62), (0.15, 0.7), (0.25, 0.6))
    seat, back, arm = 0.42, rng.uniform(0.75, 0.9), 0.6
    parts = [
        Part("sofa", (-w / 2, 0.06, 0.0), (w / 2, back, 0.26), colour, "fabric"),
        Part("sofa", (-w / 2, 0.06, 0.2), (w / 2, seat - 0.12, d), colour, "fabric"),
        Part("sofa", (-w / 2, 0.06, 0.2), (-w / 2 + 0.2, arm, d), colour, "fabric"),
        Part("sofa", (w / 2 - 0.2, 0.06, 0.2), (w / 2, arm, d), colour, "fabric"),
    ]
    seats = 3 if w > 1.9 else 2
    wide = (w - 0.42) / seats
    lighter = tuple(min(1.0, 1.12 * c) for c in colour)
    for k in range(seats):
        x = -w / 2 + 0.21 + k * wide
        parts.append(
            Part(
                "sofa",
                (x, seat - 0.12, 0.25),
                (x + wide - 0.015, seat + 0.03, d + 0.02),
                lighter,
                "fabric",
            )
        )
    for _ in range(rng.integers(1, 4)):
        x = rng.uniform(-w / 2 + 0.25, w / 2 - 0.65)
        parts.append(
            Part(
                "objects",
                (x, seat + 0.03, 0.26),
                (x + 0.4, seat + 0.38, 0.42),
                bright(rng),
                "stripes" if rng.random() < 0.5 else "fabric",
                pale(rng),
            )
        )
    return parts


def chair(rng: Generator) -> Item:
    """Four legs, seat and back; or an armchair-like office chair on a column."""
    w, d, seat, back = 0.46, 0.48, 0.46, rng.uniform(0.82, 1.0)
    if rng.random() < 0.35:
        colour = hsv(rng, (0, 1), (0.1, 0.6), (0.1, 0.35))
        metal = (0.2, 0.2, 0.22)
        return [
            Part("chair", (-0.26, 0.03, 0.2), (0.26, 0.09, 0.26), metal),
            Part("chair", (-0.03, 0.03, 0.0), (0.03, 0.09, 0.5), metal),
            Part("chair", (-0.035, 0.09, 0.2), (0.035, seat - 0.08, 0.27), metal),
            Part("chair", (-0.25, seat - 0.08, 0.0), (0.25, seat, 0.48), colour, "fabric"),
            Part("chair", (-0.23, seat + 0.08, -0.02), (0.23, back + 0.05, 0.05), colour, "fabric"),
        ]
    colour = hsv(rng, (0.0, 0.08), (0.5, 0.85), (0.3, 0.6)) if rng.random() < 0.7 else bright(rng)
    seat_colour = colour if rng.random() < 0.5 else hsv(rng, (0, 1), (0.2, 0.7), (0.3, 0.8))
    return [
        *legs("chair", w, d, seat, 0.045, colour),
        Part("chair", (-w / 2, seat - 0.03, 0), (w / 2, seat + 0.03, d), seat_colour, "fabric"),
        Part("chair", (-w / 2, seat, 0), (-w / 2 + 0.045, back, 0.04), colour),
        Part("chair", (w / 2 - 0.045, seat, 0), (w / 2, back, 0.04), colour),
        Part("chair", (-w / 2, back - 0.3, 0.005), (w / 2, back, 0.035), colour, "wood"),
    ]


def table(rng: Generator, w: float, d: float, h: float, objects: int) -> Item:
    """A top on four legs with things on it."""
    colour = wood_colour(rng)
    return [
        *legs("table", w, d, h - 0.04, 0.06, colour),
        Part(
            "table", (-w / 2 - 0.02, h - 0.05, -0.02), (w / 2 + 0.02, h, d + 0.02), colour, "wood"
        ),
        *trinkets(rng, (-w / 2 + 0.05, w / 2 - 0.05), (0.06, d - 0.2), h, objects),
    ]


def dining_table(rng: Generator) -> Item:
    """A large table; the chairs come with the room's layout."""
    return table(rng, rng.uniform(1.1, 1.7), rng.uniform(0.75, 0.95), 0.74, int(rng.integers(3, 8)))


def coffee_table(rng: Generator) -> Item:
    """A low table."""
    return table(rng, rng.uniform(0.7, 1.1), rng.uniform(0.45, 0.6), 0.42, int(rng.integers(1, 4)))


def desk(rng: Generator) -> Item:
    """A table with a computer screen, drawers and clutter."""
    w, d, h = rng.uniform(1.1, 1.6), rng.uniform(0.6, 0.75), 0.74
    drawers = Part(
        "furniture",
        (w / 2 - 0.45, 0, 0.05),
        (w / 2 - 0.06, h - 0.06, d - 0.03),
        wood_colour(rng),
        "cabinet",
    )
    x, black = rng.uniform(-w / 4, 0.0), (0.06, 0.06, 0.07)
    monitor = [
        Part("objects", (x - 0.1, h, 0.15), (x + 0.1, h + 0.02, 0.3), black),
        Part("objects", (x - 0.025, h, 0.2), (x + 0.025, h + 0.15, 0.23), black),
        Part(
            "objects",
            (x - 0.26, h + 0.1, 0.23),
            (x + 0.26, h + 0.42, 0.26),
            (0.16, 0.2, 0.3),
            "screen",
            black,
        ),
        Part("objects", (x - 0.22, h, 0.42), (x + 0.22, h + 0.025, 0.55), (0.75, 0.75, 0.74)),
    ]
    return [*table(rng, w, d, h, int(rng.integers(2, 5))), drawers, *monitor]
