"""Says what a data set holds and what of it looks wrong, before a network is trained on it.

    python -m emanet_jax.data.check --config=configs/nyuv2.py --output=checks/nyuv2 \\
        --config.data.manual_dir=/data/nyuv2

Builds the records as training does if they are not there, reads every example once, prints a table
for every split, and writes a sheet of pictures, SPLIT.png, for each. Whatever looks wrong is one
line, and the exit status is then 1.
"""

import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from absl import flags
from ml_collections import ConfigDict
from PIL import Image

from emanet_jax import cli
from emanet_jax.config import check_config
from emanet_jax.data import geometry, registry
from emanet_jax.data.statistics import Field, Split
from emanet_jax.errors import UserError
from emanet_jax.tasks import figures, tasks_for
from emanet_jax.types import Task

_LOG = logging.getLogger(__name__)

_COMPARED = 64  # images of a split whose fields are compared with each other
_PROGRESS = 10.0  # seconds between two lines
_TILE_WIDTH = 512  # pixels, at most, of a picture on the sheets


def inspect(split: str, source: Sequence[Mapping], tasks: Sequence[Task]) -> Split:
    """Reads every example of a split once; in memory are sums only.

    Args:
        split: its name, for lines of progress.
        source: examples {"image": (h, w, 3), TASK: (h, w, k)}.
        tasks: whose labels to look at.
    """
    found = Split(tasks)
    compared = set(evenly(len(source), _COMPARED))
    start = said = time.monotonic()
    for index in range(len(source)):
        found.update(source[index], index in compared)
        now = time.monotonic()
        if now - said > _PROGRESS:
            said, left = now, (now - start) / (index + 1) * (len(source) - index - 1)
            _LOG.info("%s: %d of %d images, %.0f s left", split, index + 1, len(source), left)
    return found


def evenly(count: int, wanted: int) -> list[int]:
    """Up to `wanted` of the numbers 0 to count - 1, evenly spread."""
    return sorted({int(k) for k in np.linspace(0, count - 1, min(count, wanted))})


def faults(splits: Mapping[str, Split], expected: Mapping[str, int]) -> list[str]:
    """What looks wrong in a data set, "SPLIT: sentence" or "SPLIT/FIELD: sentence" each.

    Args:
        splits: what `inspect` found.
        expected: number of images by split.
    """
    counts = {split: found.fields["image"].images for split, found in splits.items()}
    lines = []
    if counts != dict(expected) and sorted(counts.values()) == sorted(expected.values()):
        lines.append(f"the splits are exchanged: {_words(counts)} instead of {_words(expected)}")
    else:
        for split, count in expected.items():
            found = counts.get(split, 0)
            if found != count:
                lines.append(f"{split}: there are {found} images where {count} are expected")
    return lines + [f"{name}/{fault}" for name, split in splits.items() for fault in split.faults()]


def report(split: str, found: Split) -> str:
    """The table of a split."""
    lines = [f"{split}: {found.fields['image'].images} images"]
    rows = [("field", "shape", "type", "range", "invalid", "images without")]
    rows += [_row(name, field) for name, field in found.fields.items()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  " + "  ".join(cells).rstrip())
    for name, field in found.fields.items():
        if field.classes.any():
            shares = [f"{n} {100 * share:.1f}" for n, share in field.class_shares().items()]
            lines.append(f"  {name}, % of the valid pixels: {', '.join(shares)}")
    for name, mean in found.surface_normals().items():
        lines.append(f"  mean normal of {name}: ({', '.join(f'{x:.2f}' for x in mean)})")
    median = found.agreement.median()
    if not np.isnan(median):
        axes = zip("xyz", found.agreement.correlations(), strict=True)
        text = ", ".join(f"{axis} {r:.2f}" for axis, r in axes)
        lines.append(
            f"  normals against normals from depth: median angle {median:.1f} degrees, "
            f"correlation {text}"
        )
    return "\n".join(lines)


def _row(name: str, field: Field) -> tuple[str, ...]:
    shapes = ["x".join(map(str, shape)) for shape, _ in field.shapes.most_common(1)]
    if len(field.shapes) > 1:
        shapes.append(f"and {len(field.shapes) - 1} others")
    ends = "none" if field.low is None else f"{field.low.min():.4g} to {field.high.max():.4g}"
    invalid = f"{100 * field.invalid_share:.1f} %"
    return name, " ".join(shapes), ", ".join(field.dtypes), ends, invalid, str(field.without)


def sheet(source: Sequence[Mapping], tasks: Sequence[Task], count: int) -> np.ndarray:
    """Images and labels of up to `count` examples, evenly spread: uint8 (height, width, 3)."""
    examples = [source[k] for k in evenly(len(source), count)]
    size = tuple(np.max([example["image"].shape[:2] for example in examples], axis=0))
    samples = [
        geometry.pad(
            {"image": x["image"], "labels": {t.name: x[t.name] for t in tasks}}, tasks, size
        )
        for x in examples
    ]
    step = -(-size[1] // _TILE_WIDTH)
    thin = np.s_[::step, ::step]
    images = np.stack([x["image"][thin] for x in samples])
    labels = {t.name: np.stack([x["labels"][t.name][thin] for x in samples]) for t in tasks}
    return figures.image_grid(images, labels, {}, tasks)


def expected_counts(data: ConfigDict, given: Sequence[str]) -> dict[str, int]:
    """Images by split: as given, SPLIT=COUNT each, or those of the data set.

    Raises:
        UserError: something else is given.
    """
    # Procedural data sets have as many images as the config asks for; for others that is 0.
    asked = {"train": data.train_examples, "val": data.val_examples}
    counts = {
        split: asked[split] or official
        for split, official in registry.spec_for(data).splits.items()
    }
    for part in given:
        split, _, count = part.partition("=")
        if split not in counts or not count.isdecimal():
            raise UserError(
                f"--expect={part} is not understood; it must be SPLIT=COUNT with SPLIT one of "
                f"{', '.join(counts)}, as in --expect=train=795,val=654."
            )
        counts[split] = int(count)
    return counts


def check(config: ConfigDict, output: Path, images: int, given: Sequence[str] = ()) -> list[str]:
    """Builds, reads, prints, draws; returns what looks wrong.

    Raises:
        UserError: the data cannot be built, or the sheets not be written.
    """
    from emanet_jax.data import pipeline  # Grain loads slowly

    check_config(config)
    data = config.data
    tasks = tasks_for(data.dataset, classes=data.classes)
    expected = expected_counts(data, given)
    if images < 1:
        raise UserError(f"--images={images}: it must be at least 1.")
    builder = pipeline.prepare(data)
    splits = {}
    for split in builder.info.splits:
        source = pipeline.load(builder, split)
        splits[split] = inspect(split, source, tasks)
        print(report(split, splits[split]))
        try:
            output.mkdir(parents=True, exist_ok=True)
            Image.fromarray(sheet(source, tasks, images)).save(output / f"{split}.png")
        except OSError as error:
            raise UserError(f"--output={output} cannot be written: {error.strerror}.") from error
        print(f"  pictures: {output / f'{split}.png'}\n")
    found = faults(splits, expected)
    for line in found:
        print(f"wrong: {line}.")
    if not found:
        print("Nothing looks wrong.")
    return found


def _words(counts: Mapping[str, int]) -> str:
    return " and ".join(f"{split} {count}" for split, count in counts.items())


def main() -> None:
    """The command line."""
    config = cli.define_config()
    output = flags.DEFINE_string("output", "data_check", "Folder for the pictures.")
    images = flags.DEFINE_integer("images", 8, "Rows of a sheet of pictures.")
    expect = flags.DEFINE_list(
        "expect", [], "Images by split if they are not the data set's own: train=8,val=4."
    )

    def command() -> int:
        if config.value is None:
            raise UserError("--config is missing, such as --config=configs/nyuv2.py.")
        place = Path(os.path.expanduser(output.value))
        return int(bool(check(config.value, place, images.value, expect.value)))

    cli.run(command)


if __name__ == "__main__":
    main()
