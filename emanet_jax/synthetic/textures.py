"""Procedural textures of the rooms: colour as a function of the place on a face."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Face(NamedTuple):
    """The n pixels that show one texture.

    Attributes:
        u: (n,) metres from the middle of the face, to the right (away on faces to the side).
        v: (n,) metres from the middle of the face, up (away on level faces).
        w: (n,) width of the face in metres.
        h: (n,) height of the face in metres.
        colour: (3, n) display RGB in [0, 1].
        accent: (3, n) a second colour.
        phase: (n,) a random number in [0, 1), the same all over one box.
    """

    u: np.ndarray
    v: np.ndarray
    w: np.ndarray
    h: np.ndarray
    colour: np.ndarray
    accent: np.ndarray
    phase: np.ndarray

    @property
    def edge(self) -> np.ndarray:
        """Distance in metres to the nearest edge of the face."""
        return np.minimum(self.w / 2 - np.abs(self.u), self.h / 2 - np.abs(self.v))


Texture = Callable[[Face], np.ndarray]  # to display RGB (3, n) before shading


def _seamless_noise(size: int = 64) -> np.ndarray:
    """A fixed cloudy tile (size, size) of mean 0 and range about [-1, 1]."""
    white = np.random.default_rng(20240501).standard_normal((size, size))
    frequency = np.fft.fftfreq(size)
    spectrum = np.fft.fft2(white) / (0.05 + np.hypot(frequency[:, None], frequency))
    spectrum[0, 0] = 0
    smooth = np.fft.ifft2(spectrum).real
    return (smooth / np.abs(smooth).max()).astype(np.float32)


_NOISE = _seamless_noise()


def _noise(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Cloudy noise in about [-1, 1]; one unit of u or v is one cell of the repeating tile."""
    return _NOISE[np.floor(v).astype(np.int32) % 64, np.floor(u).astype(np.int32) % 64]


def _hash(*keys: np.ndarray) -> np.ndarray:
    """Pseudo-random numbers in [0, 1), a pure function of the keys (up to three, one shape)."""
    mixed = sum(key * factor for key, factor in zip(keys, (12.9898, 78.233, 37.719), strict=False))
    return np.abs(np.sin(mixed) * 43758.5453) % 1.0


def _column(*rgb: float) -> np.ndarray:
    return np.array(rgb, np.float32)[:, None]


def _mottled(coarse: float, depth: float, fine: float = 0, faint: float = 0) -> Texture:
    """One colour with blotches of `coarse` and `fine` cells per metre: paint, carpet, cloth."""

    def texture(f: Face) -> np.ndarray:
        gain = 1 + depth * _noise(f.u * coarse + f.phase * 64, f.v * coarse)
        return f.colour * (gain + faint * _noise(f.u * fine, f.v * fine) if faint else gain)

    return texture


def wall(f: Face) -> np.ndarray:
    """Paint or striped paper above a skirting board; walls reach 1 m below the floor."""
    striped = (f.phase < 0.3) & ((f.u / 0.24) % 1 < 0.5)
    paper = f.colour * (1 - 0.07 * striped + 0.025 * _noise(f.u * 25, f.v * 25 + f.phase * 64))
    return np.where(f.v + f.h / 2 < 1.09, f.accent, paper)


def planks(f: Face) -> np.ndarray:
    """Floor boards along v."""
    board = np.floor(f.u / 0.14)
    along = f.v / 1.3 + _hash(board, f.phase)
    tint = _hash(board, np.floor(along), f.phase)
    seam = ((f.u / 0.14) % 1 < 0.07) | (along % 1 < 0.012)
    grain = _noise(f.u * 160 + board * 17, f.v * 12 + board * 29)
    return f.colour * ((0.84 + 0.26 * tint + 0.07 * grain) * np.where(seam, 0.7, 1))


def tiles(f: Face) -> np.ndarray:
    """Square tiles with joints, some laid like a chessboard."""
    side = 0.3 + 0.15 * (f.phase > 0.5)
    x, y = f.u / side, f.v / side
    dark = (f.phase > 0.75) & ((np.floor(x) + np.floor(y)) % 2 == 0)
    tint = 0.95 + 0.1 * _hash(np.floor(x), np.floor(y), f.phase)
    joint = (x % 1 < 0.04) | (y % 1 < 0.04)
    return np.where(dark, f.accent, f.colour) * np.where(joint, 0.75, tint)


def rug(f: Face) -> np.ndarray:
    """A bordered rug with diamonds."""
    edge = f.edge
    diamond = np.abs((f.u / 0.5) % 1 - 0.5) + np.abs((f.v / 0.5) % 1 - 0.5) < 0.27
    woven = ((edge > 0.06) & (edge < 0.16)) | (diamond & (edge > 0.22))
    return np.where(woven, f.accent, f.colour) * (1 + 0.09 * _noise(f.u * 200, f.v * 200))


def wood(f: Face) -> np.ndarray:
    """Grain along the longer side of the face."""
    lying = f.w >= f.h
    along, across = np.where(lying, f.u, f.v), np.where(lying, f.v, f.u)
    return f.colour * (1 + 0.12 * _noise(along * 9 + f.phase * 64, across * 130))


def cabinet(f: Face) -> np.ndarray:
    """Doors or drawers with gaps and knobs."""
    drawers = (f.phase < 0.5) & (f.h < 1.3)
    columns = np.maximum(np.round(f.w / 0.55), 1)
    rows = np.maximum(np.round(f.h / np.where(drawers, 0.24, 0.95)), 1)
    w, h = f.w / columns, f.h / rows
    x, y = ((f.u / w + columns / 2) % 1 - 0.5) * w, ((f.v / h + rows / 2) % 1 - 0.5) * h
    edge = np.minimum(w / 2 - np.abs(x), h / 2 - np.abs(y))
    knob = (np.abs(x) < 0.05) & (np.abs(y - 0.25 * h) < 0.018)
    front = wood(f) * np.where(edge < 0.012, 0.45, np.where(edge > 0.065, 0.92, 1))
    return np.where(knob, f.accent, front)


def door(f: Face) -> np.ndarray:
    """A door leaf with four panels, a frame and a handle."""
    edge = f.edge
    ridge = np.maximum(
        np.abs(np.abs(f.u) - f.w / 4) - f.w * 0.13, np.abs(np.abs(f.v) - f.h / 4) - f.h * 0.16
    )
    dark = np.where(np.abs(ridge) < 0.014, 0.78, np.where(np.abs(edge - 0.06) < 0.01, 0.6, 1))
    handle = (np.abs(f.u - f.w * 0.36) < 0.05) & (np.abs(f.v + 0.02) < 0.02)
    return np.where(handle, f.accent, f.colour * dark)


def books(f: Face) -> np.ndarray:
    """Upright spines of many colours with title bands; the gaps above low spines are dark."""
    spine, y = np.floor(f.u / 0.034 + 0.4 * _noise(f.u * 8, f.phase * 64)), f.v / f.h
    wheel = np.cos(2 * np.pi * (_hash(spine, f.phase) + _column(0.0, 0.33, 0.62)))
    rgb = (0.5 + 0.42 * wheel) * (0.45 + 0.55 * _hash(spine * 3.1, f.phase))
    rgb = np.where(np.abs(y - 0.22) < 0.05, 0.35 * rgb + 0.6, rgb)
    gap = (f.u / 0.034 % 1 < 0.12) | (y > 0.32 + 0.3 * _hash(spine * 1.7, f.phase))
    return rgb * np.where(gap, 0.25, 1)


def stripes(f: Face) -> np.ndarray:
    """Striped or checked cloth."""
    first = (f.u / 0.16 + f.phase) % 1 < 0.4
    second = (f.phase > 0.6) & ((f.v / 0.16 + f.phase) % 1 < 0.4)
    cloth = f.colour + (f.accent - f.colour) * (0.65 * first + 0.35 * second)
    return cloth * (1 + 0.08 * _noise(f.u * 14 + f.phase * 64, f.v * 14))


def picture(f: Face) -> np.ndarray:
    """A frame, a white mount and a landscape or an abstract painting."""
    edge, x, y = f.edge, f.u / f.w, f.v / f.h
    ridge = 0.15 * np.sin(7 * x + f.phase * 40) + 0.1 * _noise(x * 20 + f.phase * 64, 0 * x) - 0.1
    blocks = np.floor(4 * x + 9) * np.floor(3 * y + 7) * 0.37
    hue = np.where(f.phase < 0.5, 0.45 * (y < ridge), blocks) + f.phase
    light = 0.46 + 0.19 * y + 0.09 * _noise(x * 40 + f.phase * 64, y * 40)
    painting = (1 + 0.55 * np.cos(2 * np.pi * (hue + _column(0.0, 0.25, 0.5)))) * light
    return np.where(edge < 0.03, f.colour, np.where(edge < 0.075, 0.93, painting))


def window(f: Face) -> np.ndarray:
    """Sky above a hazy garden behind panes, bars and sometimes half-drawn blinds."""
    y = f.v / f.h + 0.5
    sky = 0.97 - _column(0.35, 0.17, -0.01) * y
    leaves = _column(0.5, 0.66, 0.42) * (1 + 0.35 * _noise(f.u * 40, f.v * 40))
    view = np.where(y < 0.34 + 0.12 * _noise(f.u * 9 + f.phase * 64, 0 * f.u), leaves, sky)
    slats = np.where((f.v / 0.05) % 1 < 0.3, 0.65, 0.9)
    view = np.where((f.phase > 0.55) & (y > 1.4 - f.phase), slats, view)
    bars = (f.edge < 0.05) | (np.abs(f.u) < 0.025) | (np.abs(f.v - 0.1 * f.h) < 0.02)
    return np.where(bars, f.colour, view)


def screen(f: Face) -> np.ndarray:
    """A dark screen with a slanted reflection inside a bezel."""
    shine = np.clip(1 - np.abs((f.u + 0.7 * f.v) / f.w - f.phase + 0.5) / 0.3, 0, 1)
    glass = f.colour + (_column(0.3, 0.36, 0.46) - f.colour) * (0.12 + 0.5 * shine)
    return np.where(f.edge < 0.02, f.accent, glass)


def label(f: Face) -> np.ndarray:
    """Packaging: a band and a patch in the accent colour."""
    x, y = f.u / f.w, f.v / f.h
    patch = (np.abs(x) < 0.3) & (np.abs(y - 0.1) < 0.16) & (f.phase < 0.7)
    return np.where(patch | (np.abs(y + 0.33) < 0.07), f.accent, f.colour)


TEXTURES: dict[str, Texture] = {
    "plain": _mottled(30, 0.05),
    "carpet": _mottled(18, 0.06, 220, 0.1),
    "fabric": _mottled(14, 0.1, 260, 0.06),
    "folds": _mottled(14, 0.09),
    "cushion": lambda f: 1.12 * TEXTURES["fabric"](f),
    "dark wood": lambda f: 0.6 * wood(f),
    **{f.__name__: f for f in (wall, planks, tiles, rug, wood, cabinet, door, books, stripes)},
    **{f.__name__: f for f in (picture, window, screen, label)},
}
# Only the front of a box shows these; its other faces are plain.
FRONT_ONLY = ("wall", "cabinet", "door", "books", "picture", "window", "screen")
