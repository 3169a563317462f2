"""The figure of one image: the image, and each task's map in its colours, with their key below."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from emanet_jax.tasks.figures import legend
from emanet_jax.types import Task

_TILE = 560  # pixels of a tile's longer side
_NARROWEST = 300  # column, for the words above and below a tile
_MARGIN = 12
_TEXT = 15
_BALL = 56
_SHAPE = 1.6  # width to height that figures come near to
_OPACITY = 0.6  # of classes over the image


def tile_size(image_size: tuple[int, int]) -> tuple[int, int]:
    """(h, w) at which an image of `image_size` (h, w) stands in its figure."""
    scale = _TILE / max(image_size)
    h, w = (max(1, round(side * scale)) for side in image_size)
    return h, w


def figure(
    image: np.ndarray,
    maps: Mapping[str, np.ndarray],
    tasks: Sequence[Task],
    *,
    all_classes: bool = False,
) -> np.ndarray:
    """The image and, task by task, classes laid over it, quantities with a bar, or vectors.

    Args:
        image: (h, w, 3) uint8, of a `tile_size`.
        maps: {task: (h, w, k)} after the activation.
        tasks: to show.
        all_classes: in the legends, so that figures of the same size are alike; otherwise those
            that occur.

    Returns:
        uint8 (height, width, 3), both even.
    """
    h, w = image.shape[:2]
    width = max(w, _NARROWEST)
    cells = [("image", image, Image.new("RGB", (width, 1), "white"))]
    for task in tasks:
        values = maps[task.name]
        caption, tile = task.name, _colours(task, values)
        if task.class_names:
            tile = np.rint(_OPACITY * tile + (1 - _OPACITY) * image).astype(np.uint8)
            ids = range(len(task.class_names)) if all_classes else np.unique(values)
            key = legend(task, ids, width)
        elif task.limit is not None:
            caption += f": {values.min():.3g} to {values.max():.3g} {task.unit}".rstrip()
            key = _bar(task, task.limit, width)
        else:
            key = _ball(task, width)
        cells.append((caption, tile, key))

    step_x, top = width + _MARGIN, _TEXT + _MARGIN
    columns = _columns(len(cells), step_x, top + h + _MARGIN)
    rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
    heights = [top + h + 2 * _MARGIN + max(key.height for _, _, key in row) for row in rows]
    sides = (columns * step_x + _MARGIN, sum(heights) + _MARGIN)
    page = Image.new("RGB", (sides[0] + sides[0] % 2, sides[1] + sides[1] % 2), "white")
    draw = ImageDraw.Draw(page)
    y = _MARGIN // 2
    for row, height in zip(rows, heights, strict=True):
        for column, (caption, tile, key) in enumerate(row):
            x = _MARGIN + column * step_x
            draw.text((x, y), caption, "black", ImageFont.load_default(_TEXT))
            page.paste(Image.fromarray(tile), (x, y + top))
            page.paste(key, (x, y + top + h + _MARGIN // 2))
        y += height
    return np.asarray(page)


def _columns(count: int, step_x: int, step_y: int) -> int:
    """The number of `count` cells to put side by side: a good shape, few places left empty."""

    def penalty(columns: int) -> float:
        rows = -(-count // columns)
        shape, empty = columns * step_x / (rows * step_y), rows * columns / count - 1
        return abs(np.log(shape / _SHAPE)) + 2 * empty

    return min(range(1, count + 1), key=penalty)


def _colours(task: Task, values: np.ndarray) -> np.ndarray:
    """Colours of predictions, of which none is invalid, as labels of the same value can be."""
    return np.asarray(task.to_rgb(values)).astype(np.uint8)


def _bar(task: Task, limit: float, width: int) -> Image.Image:
    """The colours of 0 to `limit`, with numbers below."""
    font = ImageFont.load_default(_TEXT)
    picture = Image.new("RGB", (width, _TEXT + 2 * _MARGIN), "white")
    row = _colours(task, np.linspace(0, limit, width)[None, :, None])
    picture.paste(Image.fromarray(np.repeat(row, _MARGIN, 0)), (0, 0))
    draw = ImageDraw.Draw(picture)
    for fifth in range(6):
        words = f"{limit * fifth / 5:g}" + (f" {task.unit}" if fifth == 5 else "")
        x = (width - 1) * fifth / 5
        draw.line((x, _MARGIN, x, _MARGIN + 4), "black")
        left = np.clip(x - font.getlength(words) / 2, 0, width - font.getlength(words))
        draw.text((left, _MARGIN + 5), words, "black", font)
    return picture


def _ball(task: Task, width: int) -> Image.Image:
    """The colours of unit vectors, as a ball shows them."""
    side = (np.arange(4 * _BALL) + 0.5) / (2 * _BALL) - 1
    x, y = np.meshgrid(side, side)
    squares = (np.square(x) + np.square(y))[..., None]
    vectors = np.concatenate([x[..., None], y[..., None], -np.sqrt(np.maximum(0, 1 - squares))], -1)
    ball = np.where(squares <= 1, _colours(task, vectors), np.uint8(255))
    picture = Image.new("RGB", (width, _BALL), "white")
    picture.paste(Image.fromarray(ball).reduce(4), (0, 0))
    font = ImageFont.load_default(_TEXT)
    place = (_BALL + _MARGIN, _BALL // 2)
    ImageDraw.Draw(picture).text(place, "how a ball would look", "black", font, anchor="lm")
    return picture
