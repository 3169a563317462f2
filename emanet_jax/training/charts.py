"""Pictures of numbers a class: confusion matrix and bars, legible from 2 to 40 classes."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from emanet_jax.types import Task

_TEXT = 15  # pixels
_MARGIN = 8
_ROW = 22
_BAR = 400
_FULL = np.array([8, 48, 107])  # the colour of 100 %
_NOTHING = (225, 225, 225)


def confusion_matrix(counts: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Shares of each label's pixels that were predicted as each class; rows are labels.

    Args:
        counts: (classes, classes) of pixels; rows are labels, columns predictions. The row of a
            class without pixels is grey.
        names: of the classes.

    Returns:
        uint8 (height, width, 3).
    """
    counts, n = np.asarray(counts, np.float64), len(names)
    totals = counts.sum(1, keepdims=True)
    shares = np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)
    cell = max(_ROW, min(40, 720 // n))
    font, small = ImageFont.load_default(_TEXT), ImageFont.load_default(12)
    longest = math.ceil(max(font.getlength(name) for name in names))
    left, top = longest + 2 * _MARGIN, longest + _TEXT + 4 * _MARGIN
    heading = "label's pixels (rows), % predicted as (columns)"
    width = max(left + n * cell, math.ceil(font.getlength(heading)) + _MARGIN) + _MARGIN
    sheet = Image.new("RGB", (width, top + n * cell + _MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, _MARGIN), heading, "black", font)
    for i, name in enumerate(names):
        middle = i * cell + cell // 2
        draw.text((left - _MARGIN, top + middle), name, "black", font, anchor="rm")
        across = Image.new("RGB", (longest, _TEXT + 4), "white")
        ImageDraw.Draw(across).text((0, _TEXT // 2 + 2), name, "black", font, anchor="lm")
        across = across.rotate(90, expand=True)
        sheet.paste(across, (left + middle - across.width // 2, top - _MARGIN // 2 - longest))
        for j, share in enumerate(shares[i]):
            x, y = left + j * cell, top + i * cell
            colour = _NOTHING if math.isnan(share) else _shade(share)
            draw.rectangle((x, y, x + cell - 2, y + cell - 2), fill=colour)
            if share >= 0.005:
                ink = "white" if share > 0.5 else "black"
                place = (x + cell // 2 - 1, y + cell // 2)
                draw.text(place, f"{100 * share:.0f}", ink, small, anchor="mm")
    return np.asarray(sheet)


def _shade(share: float) -> tuple[int, ...]:
    return tuple(int(c) for c in np.rint(255 + share * (_FULL - 255)))


def bars(percentages: np.ndarray, task: Task, title: str) -> np.ndarray:
    """A bar from 0 to 100 % and a number a class, in the classes' colours.

    Args:
        percentages: (classes,); NaN for a class that has no value.
        task: over these classes.
        title: above the bars.

    Returns:
        uint8 (height, width, 3).
    """
    font = ImageFont.load_default(_TEXT)
    left = math.ceil(max(font.getlength(name) for name in task.class_names)) + 2 * _MARGIN
    top = _TEXT + 3 * _MARGIN
    size = (left + _BAR + 60, top + len(percentages) * _ROW + _MARGIN)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, _MARGIN), title, "black", font)
    rows = zip(task.class_names, percentages, strict=True)
    for index, (name, value) in enumerate(rows):
        y = top + index * _ROW
        draw.text((left - _MARGIN, y + _ROW // 2), name, "black", font, anchor="rm")
        end = left
        if not math.isnan(value):
            end += round(_BAR * value / 100)
            colour = tuple(int(c) for c in task.colours(np.full((1, 1, 1), index))[0, 0])
            draw.rectangle((left, y + 2, end, y + _ROW - 4), fill=colour, outline="black")
        text = "none" if math.isnan(value) else f"{value:.1f}"
        draw.text((end + _MARGIN, y + _ROW // 2), text, "black", font, anchor="lm")
    return np.asarray(sheet)
