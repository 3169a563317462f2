"""Image grids for people: image, label and prediction of every task, in the tasks' colours."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from emanet_jax.types import Task

_TILE_WIDTH = 256  # pixels; small maps are enlarged to about this by nearest neighbour
_MARGIN = 6
_TEXT = 15


def image_grid(
    images: np.ndarray,
    labels: Mapping[str, np.ndarray],
    predictions: Mapping[str, np.ndarray],
    tasks: Sequence[Task],
) -> np.ndarray:
    """Draws a captioned grid, one row per image, with the legend of class colours below.

    Args:
        images: (n, h, w, 3) uint8 or in [0, 1].
        labels: {task: (n, h, w, k)}.
        predictions: {task: (n, h, w, k)} after the task's activation; {} for labels alone.
        tasks: the columns, a label and a prediction each.

    Returns:
        uint8 (height, width, 3).
    """
    if images.dtype != np.uint8:
        images = np.round(255 * np.clip(images, 0, 1)).astype(np.uint8)
    kinds = {"label": labels, "prediction": predictions} if predictions else {"label": labels}
    titles = ["image"] + [f"{task.name} {kind}" for task in tasks for kind in kinds]
    rows = [
        [image] + [t.colours(maps[t.name][i]) for t in tasks for maps in kinds.values()]
        for i, image in enumerate(images)
    ]
    height, width = images.shape[1:3]
    factor = max(1, round(_TILE_WIDTH / width))
    step_x, step_y = width * factor + _MARGIN, height * factor + _MARGIN
    top = _TEXT + 2 * _MARGIN
    width_of_all = len(titles) * step_x
    legends = [
        legend(task, range(len(task.class_names)), width_of_all)
        for task in tasks
        if task.class_names
    ]
    grid_height = top + len(rows) * step_y + sum(x.height + _MARGIN for x in legends)
    grid = Image.new("RGB", (len(titles) * step_x + _MARGIN, grid_height), "white")
    draw = ImageDraw.Draw(grid)
    for column, title in enumerate(titles):
        draw.text(
            (_MARGIN + column * step_x, _MARGIN), title, "black", ImageFont.load_default(_TEXT)
        )
    for r, row in enumerate(rows):
        for column, tile in enumerate(row):
            size = (width * factor, height * factor)
            enlarged = Image.fromarray(tile).resize(size, Image.Resampling.NEAREST)
            grid.paste(enlarged, (_MARGIN + column * step_x, top + r * step_y))
    y = top + len(rows) * step_y
    for swatches in legends:
        grid.paste(swatches, (_MARGIN, y))
        y += swatches.height + _MARGIN
    return np.asarray(grid)


def legend(task: Task, ids: Iterable[int], width: int) -> Image.Image:
    """Swatches with the names of classes, flowing over as many lines as `width` pixels ask for."""
    font = ImageFont.load_default(_TEXT)
    places, x, y = [], 0, 0
    for index in ids:
        length = int(font.getlength(task.class_names[index])) + _TEXT + 3 * _MARGIN
        if x and x + length > width:
            x, y = 0, y + _TEXT + _MARGIN
        places.append((index, x, y))
        x += length
    swatches = Image.new("RGB", (width, y + _TEXT + _MARGIN), "white")
    draw = ImageDraw.Draw(swatches)
    for index, x, y in places:
        colour = tuple(int(c) for c in task.colours(np.full((1, 1, 1), index))[0, 0])
        draw.rectangle((x, y + 2, x + _TEXT - 2, y + _TEXT), fill=colour)
        draw.text((x + _TEXT + _MARGIN, y), task.class_names[index], "black", font)
    return swatches
