"""Procedural textures of the synthetic rooms: colour as a function of the place on a face."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Face(NamedTuple):
    """What a pattern is told about the n pixels that show it.

    Attributes:
        u: (n,) metres from the middle of the face, to the right (away on faces to the side).
        v: (n,) metres from the middle of the face, up (away on level faces).
        size: (n, 2) extent of the face in metres.
        colour: (n, 3) display RGB in [0, 1].
        accent: (n, 3) a second colour.
        phase: (n,) a random number in [0, 1), the same all over one box.
    """

    u: np.ndarray
    v: np.ndarray
    size: np.ndarray
    colour: np.ndarray
    accent: np.ndarray
    phase: np.ndarray


Pattern = Callable[[Face], np.ndarray]  # to unshaded display RGB (n, 3)

_TILE = 64


def _smooth_tile() -> np.ndarray:
    """A fixed, seamless (64, 64) noise of mean 0 and range about [-1, 1]."""
    noise = np.random.default_rng(20240501).standard_normal((_TILE, _TILE))
    rows = np.fft.fftfreq(_TILE)[:, None]
    columns = np.fft.fftfreq(_TILE)[None, :]
    spectrum = np.fft.fft2(noise) / (0.05 + np.hypot(rows, columns))
    spectrum[0, 0] = 0
    smooth = np.fft.ifft2(spectrum).real
    return (smooth / np.abs(smooth).max()).astype(np.float32)


_NOISE = _smooth_tile()


def noise(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Cloudy noise in about [-1, 1]; one unit of u or v is one cell of a repeating 64 x 64 tile."""
    return _NOISE[np.floor(v).astype(np.int32) % _TILE, np.floor(u).astype(np.int32) % _TILE]


def random(*keys: np.ndarray) -> np.ndarray:
    """Pseudo-random numbers in [0, 1), a pure function of the keys (arrays of equal shape)."""
    mixed = np.zeros(np.shape(keys[0]))
    for key, factor in zip(keys, (12.9898, 78.233, 37.719), strict=False):
        mixed = mixed + np.asarray(key, np.float64) * factor
    return np.abs(np.sin(mixed) * 43758.5453) % 1.0


def _scaled(colour: np.ndarray, gain: np.ndarray) -> np.ndarray:
    return colour * gain[:, None]


def _mix(first: np.ndarray, second: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return first + (second - first) * np.asarray(weight, np.float64)[:, None]


def _edge(f: Face) -> np.ndarray:
    """Distance in metres to the nearest edge of the face."""
    return np.minimum(f.size[:, 0] / 2 - np.abs(f.u), f.size[:, 1] / 2 - np.abs(f.v))


def plain(f: Face) -> np.ndarray:
    """One colour with faint blotches."""
    return _scaled(f.colour, 1 + 0.05 * noise(f.u * 30 + f.phase * 64, f.v * 30))


def wall(f: Face) -> np.ndarray:
    """Paint or striped paper above a skirting board; walls reach 1 m below the floor."""
    striped = (f.phase < 0.3) & ((f.u / 0.24) % 1 < 0.5)
    paper = _scaled(f.colour, 1 - 0.07 * striped + 0.025 * noise(f.u * 25, f.v * 25 + f.phase * 64))
    board = f.v + f.size[:, 1] / 2 < 1.09
    return np.where(board[:, None], f.accent, paper)


def planks(f: Face) -> np.ndarray:
    """Floor boards along v."""
    board = np.floor(f.u / 0.14)
    along = f.v / 1.3 + random(board, f.phase)
    tint = random(board, np.floor(along), f.phase)
    seam = ((f.u / 0.14) % 1 < 0.07) | (along % 1 < 0.012)
    grain = noise(f.u * 160 + board * 17, f.v * 12 + board * 29)
    return _scaled(f.colour, (0.84 + 0.26 * tint + 0.07 * grain) * np.where(seam, 0.7, 1))


def tiles(f: Face) -> np.ndarray:
    """Square tiles with joints."""
    side = 0.3 + 0.15 * (f.phase > 0.5)
    across, along = f.u / side, f.v / side
    tint = 0.95 + 0.1 * random(np.floor(across), np.floor(along), f.phase)
    joint = (across % 1 < 0.04) | (along % 1 < 0.04)
    checker = (f.phase > 0.75) & ((np.floor(across) + np.floor(along)) % 2 == 0)
    tile = np.where(checker[:, None], f.accent, f.colour)
    return np.where(joint[:, None], 0.75 * f.colour, _scaled(tile, tint))


def carpet(f: Face) -> np.ndarray:
    """Fine pile."""
    pile = noise(f.u * 220 + f.phase * 64, f.v * 220)
    worn = noise(f.u * 18, f.v * 18 + f.phase * 64)
    return _scaled(f.colour, 1 + 0.1 * pile + 0.06 * worn)


def rug(f: Face) -> np.ndarray:
    """A bordered rug with diamonds."""
    edge = _edge(f)
    diamond = (np.abs((f.u / 0.5) % 1 - 0.5) + np.abs((f.v / 0.5) % 1 - 0.5)) < 0.27
    dark = ((edge > 0.06) & (edge < 0.16)) | (diamond & (edge > 0.22))
    woven = np.where(dark[:, None], f.accent, f.colour)
    return _scaled(woven, 1 + 0.09 * noise(f.u * 200, f.v * 200))


def wood(f: Face) -> np.ndarray:
    """Grain along the longer side of the face."""
    lying = f.size[:, 0] >= f.size[:, 1]
    along, across = np.where(lying, f.u, f.v), np.where(lying, f.v, f.u)
    grain = noise(along * 9 + f.phase * 64, across * 130)
    return _scaled(f.colour, 1 + 0.12 * grain)


def cabinet(f: Face) -> np.ndarray:
    """Doors or drawers with gaps and knobs."""
    columns = np.maximum(np.round(f.size[:, 0] / 0.55), 1)
    drawers = (f.phase < 0.5) & (f.size[:, 1] < 1.3)
    rows = np.maximum(np.round(f.size[:, 1] / np.where(drawers, 0.24, 0.95)), 1)
    x, y = (f.u / f.size[:, 0] + 0.5) * columns, (f.v / f.size[:, 1] + 0.5) * rows
    wide, tall = f.size[:, 0] / columns, f.size[:, 1] / rows
    dx, dy = (x % 1 - 0.5) * wide, (y % 1 - 0.5) * tall
    gap = (wide / 2 - np.abs(dx) < 0.012) | (tall / 2 - np.abs(dy) < 0.012)
    panel = (wide / 2 - np.abs(dx) > 0.07) & (tall / 2 - np.abs(dy) > 0.06)
    knob = (np.abs(dx) < 0.05) & (np.abs(dy - 0.25 * tall) < 0.018)
    front = _scaled(wood(f), np.where(panel, 0.92, 1.0))
    front = _scaled(front, np.where(gap, 0.45, 1.0))
    return np.where(knob[:, None], f.accent, front)


def door(f: Face) -> np.ndarray:
    """A door leaf with four panels, a frame and a handle."""
    edge = _edge(f)
    dx, dy = np.abs(np.abs(f.u) - f.size[:, 0] / 4), np.abs(np.abs(f.v) - f.size[:, 1] / 4)
    ridge = np.maximum(dx - f.size[:, 0] * 0.13, dy - f.size[:, 1] * 0.16)
    shade = np.where(np.abs(ridge) < 0.014, 0.78, 1.0) * np.where(edge < 0.06, 1.06, 1.0)
    leaf = _scaled(f.colour, shade * np.where(np.abs(edge - 0.06) < 0.01, 0.6, 1.0))
    handle = (np.abs(f.u - f.size[:, 0] * 0.36) < 0.05) & (np.abs(f.v + 0.02) < 0.02)
    return np.where(handle[:, None], f.accent, leaf)


def books(f: Face) -> np.ndarray:
    """Upright spines of many colours with title bands; the gaps above low spines are dark."""
    spine = np.floor(f.u / 0.034 + 0.4 * noise(f.u * 8, f.phase * 64 + 0 * f.u))
    hue = random(spine, f.phase)
    rgb = 0.5 + 0.42 * np.cos(2 * np.pi * (hue[:, None] + np.array([0.0, 0.33, 0.62])))
    rgb = _scaled(rgb, 0.45 + 0.55 * random(spine * 3.1, f.phase))
    band = np.abs(f.v / f.size[:, 1] - 0.22) < 0.05
    gap = (f.u / 0.034 % 1 < 0.12) | (
        f.v / f.size[:, 1] + 0.5 > 0.82 + 0.3 * random(spine * 1.7, f.phase)
    )
    rgb = np.where(band[:, None], 0.35 * rgb + 0.6, rgb)
    return _scaled(rgb, np.where(gap, 0.25, 1.0))


def fabric(f: Face) -> np.ndarray:
    """Weave with soft folds."""
    folds = noise(f.u * 14 + f.phase * 64, f.v * 14)
    weave = noise(f.u * 260, f.v * 260 + f.phase * 64)
    return _scaled(f.colour, 1 + 0.1 * folds + 0.06 * weave)


def stripes(f: Face) -> np.ndarray:
    """Striped or checked cloth."""
    first = (f.u / 0.16 + f.phase) % 1 < 0.4
    second = (f.phase > 0.6) & ((f.v / 0.16 + f.phase) % 1 < 0.4)
    cloth = _mix(f.colour, f.accent, 0.65 * first + 0.35 * second)
    return _scaled(cloth, 1 + 0.08 * noise(f.u * 14 + f.phase * 64, f.v * 14))


def picture(f: Face) -> np.ndarray:
    """A frame, a white mount and a landscape or an abstract painting."""
    edge = _edge(f)
    x, y = f.u / f.size[:, 0], f.v / f.size[:, 1]
    hills = (
        y < 0.15 * np.sin(7 * x + f.phase * 40) + 0.1 * noise(x * 20 + f.phase * 64, 0 * x) - 0.1
    )
    hue = np.where(f.phase < 0.5, hills * 0.45, np.floor(4 * x + 9) * np.floor(3 * y + 7) * 0.37)
    light = 0.62 + 0.25 * y + 0.12 * noise(x * 40 + f.phase * 64, y * 40)
    wheel = np.cos(2 * np.pi * (hue[:, None] + f.phase[:, None] + np.array([0.0, 0.25, 0.5])))
    painting = _scaled(1 + 0.55 * wheel, light * 0.75)
    mount = np.where((edge < 0.075)[:, None], 0.93, painting)
    return np.where((edge < 0.03)[:, None], f.colour, mount)


def window(f: Face) -> np.ndarray:
    """Sky above a hazy garden behind panes, bars and sometimes half-drawn blinds."""
    edge = _edge(f)
    y = f.v / f.size[:, 1] + 0.5
    garden = y < 0.34 + 0.12 * noise(f.u * 9 + f.phase * 64, 0 * f.u)
    sky = _mix(np.full_like(f.colour, 0.97), np.tile([0.62, 0.8, 0.98], (len(f.u), 1)), y)
    leaves = _scaled(
        np.tile([0.5, 0.66, 0.42], (len(f.u), 1)), 1 + 0.35 * noise(f.u * 40, f.v * 40)
    )
    view = np.where(garden[:, None], leaves, sky)
    blind = (f.phase > 0.55) & (y > 1.4 - f.phase)
    slats = _scaled(np.full_like(f.colour, 0.9), np.where((f.v / 0.05) % 1 < 0.3, 0.72, 1.0))
    view = np.where(blind[:, None], slats, view)
    bars = (edge < 0.05) | (np.abs(f.u) < 0.025) | (np.abs(f.v - 0.1 * f.size[:, 1]) < 0.02)
    return np.where(bars[:, None], f.colour, view)


def screen(f: Face) -> np.ndarray:
    """A dark screen with a slanted reflection inside a bezel."""
    edge = _edge(f)
    shine = np.clip(1 - np.abs((f.u + 0.7 * f.v) / f.size[:, 0] - f.phase + 0.5) / 0.3, 0, 1)
    glass = _mix(f.colour, np.tile([0.3, 0.36, 0.46], (len(f.u), 1)), 0.12 + 0.5 * shine)
    return np.where((edge < 0.02)[:, None], f.accent, glass)


def label(f: Face) -> np.ndarray:
    """Packaging: a band and a patch in the accent colour."""
    x, y = f.u / f.size[:, 0], f.v / f.size[:, 1]
    patch = (np.abs(x) < 0.3) & (np.abs(y - 0.1) < 0.16) & (f.phase < 0.7)
    band = np.abs(y + 0.33) < 0.07
    return np.where((patch | band)[:, None], f.accent, f.colour)


# One row a pattern: its function and whether only a box's front (local +z) shows it.
PATTERNS: dict[str, tuple[Pattern, bool]] = {
    "plain": (plain, False),
    "wall": (wall, True),
    "planks": (planks, False),
    "tiles": (tiles, False),
    "carpet": (carpet, False),
    "rug": (rug, False),
    "wood": (wood, False),
    "cabinet": (cabinet, True),
    "door": (door, True),
    "books": (books, True),
    "fabric": (fabric, False),
    "stripes": (stripes, False),
    "picture": (picture, True),
    "window": (window, True),
    "screen": (screen, True),
    "label": (label, False),
}
