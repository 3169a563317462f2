"""The speed of the input pipeline on records of each layout, for `benchmarks.input_pipeline`."""

import argparse
import functools
import itertools
import pathlib
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from emanet_jax.config import default_config
from emanet_jax.tasks import tasks_for
from emanet_jax.types import Task


class Layout(NamedTuple):
    """The sizes and types of a data set's records, and how its recipe augments them."""

    dataset: str
    sizes: tuple[tuple[int, int], ...]  # of the examples, in turn
    image_dtype: str
    image_size: tuple[int, int]  # of a batch
    augment: dict[str, Any]


MTAN = {"flip": True, "scale_crop": True}
PASCAL = {
    "flip": True,
    "scale": (0.5, 2.0),
    "max_class_share": 0.75,
    "brightness": 0.125,
    "contrast": 0.5,
    "saturation": 0.5,
    "hue": 0.1,
}
LAYOUTS = {
    "synthrooms": Layout("synthrooms", ((64, 96),), "uint8", (64, 96), {"flip": True}),
    "nyuv2": Layout("nyuv2", ((288, 384),), "float32", (288, 384), MTAN),
    "cityscapes_mtan": Layout("cityscapes", ((128, 256),), "float32", (128, 256), MTAN),
    "cityscapes": Layout("cityscapes", ((512, 1024),), "uint8", (512, 1024), MTAN),
    "pascal_context": Layout(
        "pascal_context", ((375, 500), (500, 375), (333, 500)), "uint8", (512, 512), PASCAL
    ),
}


class Row(NamedTuple):
    """A line of the table."""

    layout: str
    cache: bool
    threads: int
    images_per_second: float
    cpu_ms: float  # of all threads, an image; other programs on the machine hardly change it
    waiting: float  # share of the time of training


def example(layout: Layout, tasks: Sequence[Task], index: int) -> dict[str, Any]:
    """A room with the fields of a data set: image, every task's label, image_id."""
    from emanet_jax.synthetic import render_room

    room = render_room(0, index, layout.sizes[index % len(layout.sizes)])
    # Flat walls would be compressed to nothing, and read faster than what a sensor saw.
    noise = np.random.default_rng(index).normal(1, 0.01, room["normals"].shape)
    room["normals"] = (room["normals"] * noise).astype(np.float32)
    image = room["image"] if layout.image_dtype == "uint8" else np.float32(room["image"] / 255)
    fields = {"image": image, "image_id": str(index)}
    for task in tasks:
        classes = len(task.class_names) or 2
        ids = np.where(room["semseg"] == 255, 255, room["semseg"] % classes).astype(np.uint8)
        fields[task.name] = ids if task.label_dtype == np.uint8 else room[task.name]
    return fields


def build(name: str, examples: int, folder: pathlib.Path) -> Any:
    """The TFDS builder of a layout's records."""
    import tensorflow_datasets as tfds
    from absl import logging

    from emanet_jax.data import records

    tfds.disable_progress_bar()
    logging.set_verbosity(logging.ERROR)
    layout = LAYOUTS[name]
    tasks = tasks_for(layout.dataset)

    config = records.RecordsConfig(
        dataset="rooms",
        version="1.0.0",
        name=name,
        counts={"train": examples},
        examples=lambda _: records.read_ahead(
            functools.partial(example, layout, tasks), range(examples)
        ),
        image_size=layout.sizes[0] if len(layout.sizes) == 1 else None,
        image_dtype=layout.image_dtype,
        tasks=tasks,
    )
    return records.build(
        lambda: records.RecordsBuilder(config=config, data_dir=str(folder)), folder / "rooms"
    )


def speed(
    batches: Iterator[dict], batch_size: int, skip: int, seconds: float
) -> tuple[float, float]:
    """Images a second and CPU milliseconds an image when nothing else is done.

    The first `skip` batches, which lie ready, do not count.
    """
    for _ in range(skip):
        next(batches)
    start, cpu = time.perf_counter(), time.process_time()
    for count in itertools.count(1):
        next(batches)
        taken = time.perf_counter() - start
        if taken > seconds:
            images = batch_size * count
            return images / taken, 1000 * (time.process_time() - cpu) / images


def waiting(batches: Iterator[dict], step_seconds: float, seconds: float) -> float:
    """The share of its time that a loop of such steps waits for the next batch."""
    waited = total = 0.0
    while total < seconds:
        start = time.perf_counter()
        next(batches)
        waited += time.perf_counter() - start
        time.sleep(step_seconds)
        total += time.perf_counter() - start
    return waited / total


def measure(name: str, args: argparse.Namespace, folder: pathlib.Path) -> Iterator[Row]:
    """Rows of one layout: without and with the cache, for each number of threads."""
    from emanet_jax.data import augmentation, pipeline

    layout = LAYOUTS[name]
    settings = ConfigDict({**default_config().augment.to_dict(), **layout.augment})
    builder = build(name, args.examples, folder)
    for cache in (False, True):
        dataset = pipeline.train_dataset(
            pipeline.load(builder, "train", cache=cache),
            tasks_for(layout.dataset),
            batch_size=args.batch_size,
            seed=0,
            augmentation=augmentation.from_config(settings),
            image_size=layout.image_size,
        )
        for threads in args.threads:
            with pipeline.train_batches(dataset, 0, threads, args.prefetch) as batches:
                ready = threads + max(threads, args.prefetch)
                images, cpu_ms = speed(batches, args.batch_size, ready, args.seconds)
                share = waiting(batches, args.step_ms / 1000, args.seconds)
            yield Row(name, cache, threads, images, cpu_ms, share)
