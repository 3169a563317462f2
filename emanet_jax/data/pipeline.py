"""From built records to batches, with Grain: any position is reached at once.

The training stream is an endless sequence of samples, reshuffled every epoch; global batch i holds
its samples [i B, (i + 1) B) and process p of n gets rows [p b, (p + 1) b) of it, b = B / n. All
randomness depends on the seed and a sample's position in that stream alone, so neither the number
of processes nor threads nor an interruption changes a batch.
"""

import contextlib
import logging
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grain
import numpy as np
from ml_collections import ConfigDict

from emanet_jax import menu
from emanet_jax.data import geometry
from emanet_jax.data.augmentation import Augmentation, augment
from emanet_jax.data.geometry import Sample
from emanet_jax.errors import UserError
from emanet_jax.tasks.registry import DatasetSpec, spec_of, tasks_for
from emanet_jax.types import Batch, Examples, Task

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

_LOG = logging.getLogger(__name__)

# So many that no run sees the end; with an endless stream Grain cannot make batches of one.
_EPOCHS = 2**32


def prepare(data: ConfigDict, tasks: Sequence[Task] | None = None) -> "tfds.core.DatasetBuilder":
    """Builds the data set of config.data if it is not there yet; checks its shards.

    Several processes may call this at once: one builds, the others wait.

    Args:
        data: config.data.
        tasks: that the records must have labels of; they may have more. None: all.

    Raises:
        UserError: unknown data set, wrong or missing source file, damaged shard.
    """
    from emanet_jax.data import records  # imports TFDS

    spec = checked_spec(data)
    folder = Path(data.data_dir).expanduser() / spec.name
    needed = tasks_for(spec.name, classes=data.classes) if tasks is None else tuple(tasks)

    def make() -> "tfds.core.DatasetBuilder":
        builder = spec.make_builder(data, needed)
        if builder.name != spec.name:
            raise UserError(
                f"the builder of data set '{spec.name}' is named '{builder.name}': the names must "
                "be the same."
            )
        return builder

    builder = records.build(make, folder)
    counts = {split: info.num_examples for split, info in builder.info.splits.items()}
    for split, official in spec.splits.items():
        if counts.get(split) != official:
            _LOG.warning(
                "%s: split '%s' of %s has %d images; officially there are %d.",
                *(data.manual_dir, split, spec.name, counts.get(split, 0), official),
            )
    return builder


def checked_spec(data: ConfigDict) -> DatasetSpec:
    """The data set that config.data names.

    Raises:
        UserError: there is none, or it has no such layout, size or folder of records.
    """
    spec = spec_of(data.dataset)
    menu.check_layout(data.dataset, data.layout)
    if any(side < 32 or side % 32 for side in data.image_size):
        raise UserError(
            f"config.data.image_size is {tuple(data.image_size)} but needs multiples of 32."
        )
    if "://" in data.data_dir:
        raise UserError(
            f"config.data.data_dir is {data.data_dir}, but records are read from a disk: give a "
            "folder, such as one where the bucket is mounted."
        )
    return spec


def load(builder: "tfds.core.DatasetBuilder", split: str, *, cache: bool = False) -> Examples:
    """The examples of a split by index; `cache` decodes all of them into memory first."""
    from emanet_jax.data import records

    source = records.Source(builder, split)
    return [source[i] for i in range(len(source))] if cache else source


def train_dataset(
    source: Examples,
    tasks: Sequence[Task],
    *,
    batch_size: int,
    seed: int,
    augmentation: Augmentation,
    image_size: tuple[int, int],
    first_sample: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.MapDataset:
    """The endless training stream; item i is this process's share of global batch i.

    Args:
        source: examples by index.
        tasks: whose labels a batch holds.
        batch_size: of the global batch.
        seed: decides the order and the augmentation.
        augmentation: the random changes.
        image_size: (h, w) of a batch; examples may have others.
        first_sample: of batch 0, by its position in the stream.
        process_index: which process this is.
        process_count: how many share a batch.

    Raises:
        UserError: the batch cannot be shared evenly, or there are no examples.
    """
    rows = _rows_per_process(batch_size, process_count)
    if not len(source):
        raise UserError(f"{source}: there is nothing to train on.")
    _, noise_seed = _seeds(seed)

    def augmented(position: int, example: dict[str, Any]) -> Sample:
        rng = np.random.default_rng((noise_seed, position))
        return augment(_sample(example, tasks), tasks, rng, augmentation, image_size)

    stream = _ordered(source, seed).map_with_index(augmented)[first_sample:]
    return stream.batch(rows)[process_index::process_count]


def image_ids(source: Examples, first_sample: int, *, batch_size: int, seed: int) -> list[str]:
    """The images of a batch of `train_dataset` by its first sample; reads the examples again."""
    stream = _ordered(source, seed)
    return [stream[first_sample + i]["image_id"] for i in range(batch_size)]


@contextlib.contextmanager
def train_batches(
    dataset: grain.MapDataset, start: int = 0, threads: int = 4, prefetch: int = 4
) -> Iterator[Iterator[Batch]]:
    """Opens an iterator of batches from position `start` on; reading ends with the `with` block.

    Args:
        dataset: of `train_dataset`.
        start: index of the first batch.
        threads: that read and augment; 0 reads in the caller's thread.
        prefetch: batches to hold ready.
    """
    options = grain.ReadOptions(
        num_threads=threads, prefetch_buffer_size=max(prefetch, threads) if threads else 0
    )
    iterator = iter(dataset[start:].to_iter_dataset(options))
    try:
        yield iterator
    finally:
        # An open thread iterator keeps the interpreter from ending.
        iterator.close()


def eval_batches(
    source: Examples,
    tasks: Sequence[Task],
    *,
    batch_size: int,
    image_size: tuple[int, int],
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 4,
) -> Generator[Batch]:
    """Every image exactly once, in order, not augmented; the last batch is padded.

    Images that are smaller than `image_size` are padded to it as in training. All processes get
    equally many batches; padding images have zeros, every label ignored and mask False.

    Raises:
        UserError: the batch cannot be shared evenly, or an image is larger than `image_size`.
    """
    rows = _rows_per_process(batch_size, process_count)
    padding = _padding(source[0], tasks, image_size)

    def sample(index: int) -> Sample:
        return _whole(source[index], tasks, image_size) if index < len(source) else padding

    padded = -(-len(source) // batch_size) * batch_size
    dataset = grain.MapDataset.range(padded).map(sample).batch(rows)[process_index::process_count]
    with train_batches(dataset, threads=threads, prefetch=threads) as batches:
        yield from batches


def _seeds(seed: int) -> tuple[int, int]:
    """The seeds of the order and of the augmentation.

    One epoch's order in Grain depends on seed + epoch: spread seeds, or neighbours would overlap.
    """
    order, noise = np.random.SeedSequence(seed).generate_state(2)
    return int(order), int(noise)


def _ordered(source: Examples, seed: int) -> grain.MapDataset:
    return grain.MapDataset.source(source).shuffle(seed=_seeds(seed)[0]).repeat(_EPOCHS)


def _rows_per_process(batch_size: int, process_count: int) -> int:
    if batch_size < 1 or batch_size % process_count:
        raise UserError(
            f"a global batch of {batch_size} cannot be shared by {process_count} processes: "
            "choose a positive multiple of their number."
        )
    return batch_size // process_count


def _sample(example: dict[str, Any], tasks: Sequence[Task]) -> Sample:
    labels = {task.name: example[task.name] for task in tasks}
    return {"image": example["image"], "labels": labels, "mask": np.True_}


def _whole(example: dict[str, Any], tasks: Sequence[Task], image_size: tuple[int, int]) -> Sample:
    h, w, _ = example["image"].shape
    if h > image_size[0] or w > image_size[1]:
        raise UserError(
            f"image {example['image_id']} is {h}x{w}, larger than config.data.image_size, "
            f"{image_size}: evaluation never cuts, so give a size that holds every image."
        )
    return geometry.pad(_sample(example, tasks), tasks, image_size)


def _padding(example: dict[str, Any], tasks: Sequence[Task], image_size: tuple[int, int]) -> Sample:
    def filled(values: np.ndarray, fill: float) -> np.ndarray:
        return np.full((*image_size, values.shape[-1]), fill, values.dtype)

    labels = {task.name: filled(example[task.name], task.ignore) for task in tasks}
    return {"image": filled(example["image"], 0), "labels": labels, "mask": np.False_}
