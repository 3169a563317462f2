"""Image grids for people: image, label and prediction of every task, in the tasks' colours."""

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from emanet_jax.types import Task

_TILE_WIDTH = 256  # pixels; small maps are enlarged to about this by nearest neighbour
_MARGIN = 6
_TEXT = 15
_BALL = 56

Ends = tuple[float, float]  # the values at the two ends of a quantity's colours


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


def colours(task: Task, values: np.ndarray, ends: Ends | None = None) -> np.ndarray:
    """Picture (h, w, 3) uint8 of predictions (h, w, k), none of which is invalid.

    A label of the same value can be invalid, and is black in `Task.colours`.

    Args:
        task: of the predictions.
        values: after the activation.
        ends: where a quantity's colours begin and end; None: at 0 and the task's limit.
    """
    if ends is not None:
        assert task.limit is not None
        low, high = ends
        values = (values - low) * (task.limit / (high - low))
    return np.asarray(task.to_rgb(values)).astype(np.uint8)


def bar(task: Task, ends: Ends, width: int) -> Image.Image:
    """The colours of a quantity from end to end, with numbers below."""
    low, high = ends
    font = ImageFont.load_default(_TEXT)
    picture = Image.new("RGB", (width, _TEXT + 4 * _MARGIN), "white")
    row = colours(task, np.linspace(low, high, width)[None, :, None], ends)
    picture.paste(Image.fromarray(np.repeat(row, 2 * _MARGIN, 0)), (0, 0))
    draw = ImageDraw.Draw(picture)
    step = (high - low) / 5
    digits = max(0, 1 - math.floor(math.log10(step)))  # behind the point: two of a step's
    for fifth in range(6):
        number = round(low + fifth * step, digits) + 0.0  # no -0
        words = f"{number:g}" + (f" {task.unit}" if fifth == 5 and task.unit else "")
        x = (width - 1) * fifth / 5
        draw.line((x, 2 * _MARGIN, x, 2 * _MARGIN + 4), "black")
        left = np.clip(x - font.getlength(words) / 2, 0, width - font.getlength(words))
        draw.text((left, 2 * _MARGIN + 5), words, "black", font)
    return picture


def ball(task: Task, width: int) -> Image.Image:
    """The colours of unit vectors, as a ball shows them."""
    side = (np.arange(4 * _BALL) + 0.5) / (2 * _BALL) - 1
    x, y = np.meshgrid(side, side)
    squares = (np.square(x) + np.square(y))[..., None]
    vectors = np.concatenate([x[..., None], y[..., None], -np.sqrt(np.maximum(0, 1 - squares))], -1)
    shown = np.where(squares <= 1, colours(task, vectors), np.uint8(255))
    picture = Image.new("RGB", (width, _BALL), "white")
    picture.paste(Image.fromarray(shown).reduce(4), (0, 0))
    font = ImageFont.load_default(_TEXT)
    place = (_BALL + 2 * _MARGIN, _BALL // 2)
    ImageDraw.Draw(picture).text(place, "how a ball would look", "black", font, anchor="lm")
    return picture
