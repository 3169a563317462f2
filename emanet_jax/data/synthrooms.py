"""Synthetic rooms as a data set: procedural scenes with exact ground truth, no download."""

from collections.abc import Iterator, Sequence
from typing import Any

from ml_collections import ConfigDict

from emanet_jax.data import records
from emanet_jax.errors import UserError
from emanet_jax.synthetic import render_room
from emanet_jax.tasks import tasks_for
from emanet_jax.types import Task

# Number of each split's first room: no room is in both.
FIRST = {"train": 0, "val": 1_000_000}


def builder(data: ConfigDict, _: Sequence[Task]) -> records.RecordsBuilder:
    """The builder for config.data: its keys image_size, train_examples, val_examples, seed.

    Rooms have the labels of all tasks, whichever are trained.

    Raises:
        UserError: a count or seed that cannot be rendered.
    """
    h, w = data.image_size
    counts = {"train": data.train_examples, "val": data.val_examples}
    for split, count in counts.items():
        if not 1 <= count <= 1_000_000:
            raise UserError(
                f"config.data.{split}_examples is {count} but must be between 1 and 1000000."
            )
    if data.seed < 0:
        raise UserError(f"config.data.seed is {data.seed} but must be at least 0.")

    def examples(split: str) -> Iterator[dict[str, Any]]:
        for index in range(FIRST[split], FIRST[split] + counts[split]):
            room = render_room(data.seed, index, (h, w))
            yield {**room, "image_id": f"{data.seed}/{index}"}

    config = records.RecordsConfig(
        dataset="synthrooms",
        version="2.0.0",
        name=f"{h}x{w}_{counts['train']}_{counts['val']}_seed{data.seed}",
        counts=counts,
        examples=examples,
        image_size=(h, w),
        image_dtype="uint8",
        tasks=tasks_for("synthrooms"),
    )
    return records.RecordsBuilder(config=config, data_dir=data.data_dir)
