"""Batches: the same in every process and after every interruption; every image exactly once."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from emanet_jax.data import pipeline
from emanet_jax.errors import UserError
from emanet_jax.synthetic import render_room
from emanet_jax.tasks import tasks_for
from tests.conftest import ROOT
from tests.data.settings import SIZE, data_config, make_augmentation

TASKS = tasks_for("synthrooms")


@pytest.fixture(scope="module")
def builder(tmp_path_factory):
    return pipeline.prepare(data_config(tmp_path_factory.mktemp("data")))


@pytest.fixture(scope="module")
def train(builder):
    return pipeline.load(builder, "train")


PLAIN = make_augmentation()
RANDOM = make_augmentation(flip=True, scale_crop=True)


def stream(source, batch_size=4, seed=0, augmentation=RANDOM, size=SIZE, **processes):
    return pipeline.train_dataset(
        source,
        TASKS,
        batch_size=batch_size,
        seed=seed,
        augmentation=augmentation,
        image_size=size,
        **processes,
    )


def leaves(batch):
    return {"image": batch["image"], "mask": batch["mask"], **batch["labels"]}


def digest(batch) -> str:
    values = leaves(batch)
    return hashlib.sha256(b"".join(values[k].tobytes() for k in sorted(values))).hexdigest()


def test_a_batch_has_the_shapes_and_types_of_the_contract(train):
    batch = stream(train)[0]
    assert set(batch) == {"image", "labels", "mask"}
    assert (batch["image"].shape, batch["image"].dtype) == ((4, *SIZE, 3), np.uint8)
    for task in TASKS:
        label = batch["labels"][task.name]
        assert (label.shape, label.dtype) == ((4, *SIZE, task.label_channels), task.label_dtype)
    assert batch["mask"].dtype == bool
    assert batch["mask"].all()


def test_a_subset_of_tasks_gives_their_labels_alone(train):
    depth = tasks_for("synthrooms", ["depth"])
    dataset = pipeline.train_dataset(
        train, depth, batch_size=2, seed=0, augmentation=RANDOM, image_size=SIZE
    )
    assert list(dataset[0]["labels"]) == ["depth"]


def test_every_epoch_shows_every_image_once_in_another_order(train):
    plain = stream(train, batch_size=5, augmentation=PLAIN)
    names = {train[i]["image"].tobytes(): i for i in range(10)}
    order = [names[image.tobytes()] for k in range(6) for image in plain[k]["image"]]
    epochs = [order[i : i + 10] for i in (0, 10, 20)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_batches_run_across_the_end_of_an_epoch(train):
    """Ten images in batches of four: no image is dropped."""
    fours, fives = stream(train, 4, augmentation=PLAIN), stream(train, 5, augmentation=PLAIN)
    first = np.concatenate([fours[k]["image"] for k in range(5)])
    second = np.concatenate([fives[k]["image"] for k in range(4)])
    assert np.array_equal(first, second)


def test_a_later_epoch_is_augmented_anew(train):
    pictures = {stream(train, 10)[k]["image"].tobytes() for k in range(4)}
    assert len(pictures) == 4
    images = np.concatenate([stream(train, 10)[k]["image"] for k in range(12)])
    assert len({image.tobytes() for image in images}) > 30


def test_seeds_matter_and_neighbouring_seeds_share_no_epoch(train):
    orders = {
        (seed, k): stream(train, 10, seed, PLAIN)[k]["image"].tobytes()
        for seed in (0, 1)
        for k in range(3)
    }
    assert len(set(orders.values())) == 6


@pytest.mark.parametrize("count", [2, 4, 8])  # 8: one image each
def test_processes_together_make_the_batch_of_one(train, count):
    whole = stream(train, 8)
    shares = [stream(train, 8, process_index=p, process_count=count) for p in range(count)]
    for k in (0, 1, 2, 7):
        for name, value in leaves(whole[k]).items():
            parts = np.concatenate([leaves(share[k])[name] for share in shares])
            assert np.array_equal(parts, value)


def test_any_position_is_reached_at_once(train):
    dataset = stream(train)
    assert digest(dataset[10**9]) == digest(stream(train)[10**9])
    assert digest(dataset[10**9]) != digest(dataset[10**9 + 1])


@pytest.mark.parametrize("threads", [0, 2])
def test_reading_from_a_position_is_reading_on(train, threads):
    dataset = stream(train)
    with pipeline.train_batches(dataset, 0, threads, 2) as batches:
        uninterrupted = [digest(next(batches)) for _ in range(6)]
    with pipeline.train_batches(dataset, 3, threads, 3) as batches:
        resumed = [digest(next(batches)) for _ in range(3)]
    assert resumed == uninterrupted[3:]
    assert uninterrupted == [digest(dataset[k]) for k in range(6)]


_READ = """
import sys
sys.path.insert(0, {root!r})
from tests.data.settings import data_config
from tests.data.test_pipeline import digest, pipeline, stream
source = pipeline.load(pipeline.prepare(data_config({data_dir!r})), "train")
with pipeline.train_batches(stream(source), {start}, 2, 2) as batches:
    print("digests", *(digest(next(batches)) for _ in range(3)))
print("imported", sorted({{"tensorflow", "clu"}} & set(sys.modules)))
"""


def test_a_new_process_reads_the_same_without_tensorflow_and_ends(builder, train):
    data_dir = str(builder.data_path.parents[2])
    program = _READ.format(root=str(ROOT), data_dir=data_dir, start=5)
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr
    expected = " ".join(digest(stream(train)[k]) for k in (5, 6, 7))
    assert f"digests {expected}" in run.stdout
    assert "imported []" in run.stdout


def test_fewer_images_than_a_batch(train):
    batch = stream(train, batch_size=24)[0]
    assert batch["image"].shape[0] == 24


def test_a_cached_source_gives_the_same_batches(builder, train):
    cached = pipeline.load(builder, "train", cache=True)
    assert isinstance(cached, list)
    assert digest(stream(cached)[3]) == digest(stream(train)[3])


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_evaluation_covers_every_image_once(train, batch_size, count):
    batch_size *= count
    shares = [
        list(
            pipeline.eval_batches(
                train,
                TASKS,
                batch_size=batch_size,
                image_size=SIZE,
                process_index=p,
                process_count=count,
            )
        )
        for p in range(count)
    ]
    assert len({len(share) for share in shares}) == 1
    rows = [
        (image, batch["mask"][i], {name: label[i] for name, label in batch["labels"].items()})
        for step in zip(*shares, strict=True)
        for batch in step
        for i, image in enumerate(batch["image"])
    ]
    assert len(rows) == -(-10 // batch_size) * batch_size
    for i, (image, real, labels) in enumerate(rows):
        assert real == (i < 10)
        if real:
            assert np.array_equal(image, train[i]["image"])
            assert all(np.array_equal(labels[t.name], train[i][t.name]) for t in TASKS)
        else:
            assert not image.any()
            assert not any(t.valid(labels[t.name]).any() for t in TASKS)


def test_an_abandoned_evaluation_stops_reading(train):
    batches = pipeline.eval_batches(train, TASKS, batch_size=2, image_size=SIZE)
    next(batches)
    batches.close()
    with pytest.raises(StopIteration):
        next(batches)


SIZES = ((30, 50), (64, 20), (32, 64), (17, 64), (40, 90))


@pytest.fixture(scope="module")
def varied():
    """Rooms of several sizes, as the photographs of PASCAL are."""
    return [
        {**render_room(0, i, size, clean=True), "image_id": f"room {i}"}
        for i, size in enumerate(SIZES)
    ]


@pytest.mark.parametrize("scale", [(1.0, 1.0), (0.5, 2.0)])
def test_images_of_any_size_make_a_training_batch(varied, scale):
    dataset = stream(varied, 5, augmentation=make_augmentation(scale=scale), size=(32, 64))
    for k in range(4):
        batch = dataset[k]
        assert batch["image"].shape == (5, 32, 64, 3)
        assert all(batch["labels"][t.name].shape[:3] == (5, 32, 64) for t in TASKS)
        valid = TASKS[0].valid(batch["labels"]["semseg"])
        assert valid.any((1, 2, 3)).all()
        assert not valid.all()


def test_evaluation_pads_smaller_images_and_counts_every_pixel(varied):
    batches = list(pipeline.eval_batches(varied, TASKS, batch_size=2, image_size=(64, 96)))
    assert sum(batch["mask"].sum() for batch in batches) == len(varied)
    rows = [{k: v[i] for k, v in leaves(batch).items()} for batch in batches for i in range(2)]
    for example, row in zip(varied, rows, strict=False):
        h, w, _ = example["image"].shape
        assert np.array_equal(row["image"][:h, :w], example["image"])
        for task in TASKS:
            valid = task.valid(row[task.name])
            assert np.array_equal(row[task.name][:h, :w], example[task.name])
            assert valid.sum() == task.valid(example[task.name]).sum()


def test_evaluation_refuses_an_image_that_it_would_have_to_cut(varied):
    batches = pipeline.eval_batches(varied, TASKS, batch_size=1, image_size=(64, 64))
    with pytest.raises(UserError, match=r"image room 4 is 40x90, larger than .*\(64, 64\)"):
        list(batches)


def test_errors_are_named(train):
    with pytest.raises(UserError, match=r"batch of 6 cannot be shared by 4"):
        stream(train, 6, process_count=4)
    with pytest.raises(UserError, match="nothing to train on"):
        stream([])
    with pytest.raises(UserError, match="batch of 0"):
        next(pipeline.eval_batches(train, TASKS, batch_size=0, image_size=SIZE))
