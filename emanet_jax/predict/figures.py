"""The figure of one image: the image, and each task's map in its colours, with their key below."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from emanet_jax.tasks.figures import Ends, ball, bar, colours, legend
from emanet_jax.types import Task

_TILE = 560  # pixels of a tile's longer side
_NARROWEST = 300  # column, for the words above and below a tile
_MARGIN = 12
_TEXT = 15
_SHAPE = 1.6  # width to height that figures come near to
_OPACITY = 3  # fifths, of classes over the image


def tile_size(image_size: tuple[int, int]) -> tuple[int, int]:
    """(h, w) at which an image of `image_size` (h, w) stands in its figure."""
    scale = _TILE / max(image_size)
    h, w = (max(1, round(side * scale)) for side in image_size)
    return h, w


def colour_ends(maps: Mapping[str, np.ndarray], tasks: Sequence[Task]) -> dict[str, Ends]:
    """Between which values the colours of an image's quantities run.

    A measurement's run over its own map, but for the outermost hundredths; the least width is a
    hundredth of the task's `limit`. A probability's run from 0 to the limit.

    Args:
        maps: {task: (h, w, k)} after the activation.
        tasks: of which those with a limit are quantities.
    """
    return {task.name: _ends(task, maps[task.name]) for task in tasks if task.limit is not None}


def _ends(task: Task, values: np.ndarray) -> Ends:
    assert task.limit is not None
    if not np.issubdtype(task.label_dtype, np.floating):  # labels of a probability are 0 and 1
        return 0.0, task.limit
    low, high = (float(x) for x in np.percentile(values, (1, 99)))
    missing = max(0.0, task.limit / 100 - (high - low))
    return low - missing / 2, high + missing / 2


def blend(old: Mapping[str, Ends], new: Mapping[str, Ends], share: float) -> dict[str, Ends]:
    """The ends of `old` moved by a share of their distance to those of `new`."""
    pairs = {name: zip(old[name], new[name], strict=True) for name in new}
    moved = {name: [x + share * (y - x) for x, y in pair] for name, pair in pairs.items()}
    return {name: (low, high) for name, (low, high) in moved.items()}


def figure(
    image: np.ndarray,
    maps: Mapping[str, np.ndarray],
    tasks: Sequence[Task],
    ends: Mapping[str, Ends],
    *,
    all_classes: bool = False,
) -> np.ndarray:
    """The image and, task by task, classes laid over it, quantities with a bar, or vectors.

    Args:
        image: (h, w, 3) uint8, of a `tile_size`.
        maps: {task: (h, w, k)} after the activation.
        tasks: to show.
        ends: of the colours of quantities, as `colour_ends` gives them.
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
        caption = task.name
        if task.class_names:
            tile = overlay(image, values, task)
            ids = range(len(task.class_names)) if all_classes else np.unique(values)
            key = legend(task, ids, width)
        elif task.limit is not None:
            caption += f": {values.min():.3g} to {values.max():.3g} {task.unit}".rstrip()
            tile = colours(task, values, ends[task.name])
            key = bar(task, ends[task.name], width)
        else:
            tile, key = colours(task, values), ball(task, width)
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


def overlay(image: np.ndarray, ids: np.ndarray, task: Task) -> np.ndarray:
    """The colours of classes (h, w, 1) over an image (h, w, 3) uint8 of the same size."""
    above = np.multiply(colours(task, ids), _OPACITY, dtype=np.uint16)
    below = np.multiply(image, 5 - _OPACITY, dtype=np.uint16)
    return ((above + below + 2) // 5).astype(np.uint8)  # rounded


def _columns(count: int, step_x: int, step_y: int) -> int:
    """The number of `count` cells to put side by side: a good shape, few places left empty."""

    def penalty(columns: int) -> float:
        rows = -(-count // columns)
        shape, empty = columns * step_x / (rows * step_y), rows * columns / count - 1
        return abs(np.log(shape / _SHAPE)) + 2 * empty

    return min(range(1, count + 1), key=penalty)
