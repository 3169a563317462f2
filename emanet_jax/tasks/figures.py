"""Pictures for people: image | label | prediction of every task, in the tasks' own colours."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from emanet_jax.types import Task

_TILE_WIDTH = 256  # pixels; small maps are enlarged to about this by nearest neighbour
_MARGIN = 6
_TEXT = 15


def panel(
    images: np.ndarray,
    labels: Mapping[str, np.ndarray],
    predictions: Mapping[str, np.ndarray],
    tasks: Sequence[Task],
) -> np.ndarray:
    """A captioned sheet, one row an image, with the legend of class colours below.

    Args:
        images: (n, h, w, 3) uint8 or in [0, 1].
        labels: {task: (n, h, w, k)}.
        predictions: {task: (n, h, w, k)} after the task's activation; {}: labels alone.
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
    sheet_height = top + len(rows) * step_y + sum(x.height + _MARGIN for x in legends)
    sheet = Image.new("RGB", (len(titles) * step_x + _MARGIN, sheet_height), "white")
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        draw.text(
            (_MARGIN + column * step_x, _MARGIN), title, "black", ImageFont.load_default(_TEXT)
        )
    for r, row in enumerate(rows):
        for column, tile in enumerate(row):
            tile = Image.fromarray(tile).resize((width * factor, height * factor), Image.NEAREST)
            sheet.paste(tile, (_MARGIN + column * step_x, top + r * step_y))
    y = top + len(rows) * step_y
    for picture in legends:
        sheet.paste(picture, (_MARGIN, y))
        y += picture.height + _MARGIN
    return np.asarray(sheet)


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
    picture = Image.new("RGB", (width, y + _TEXT + _MARGIN), "white")
    draw = ImageDraw.Draw(picture)
    for index, x, y in places:
        colour = tuple(int(c) for c in task.colours(np.full((1, 1, 1), index))[0, 0])
        draw.rectangle((x, y + 2, x + _TEXT - 2, y + _TEXT), fill=colour)
        draw.text((x + _TEXT + _MARGIN, y), task.class_names[index], "black", font)
    return picture
