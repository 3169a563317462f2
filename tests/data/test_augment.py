"""Joint augmentation: what holds for every task, and the geometry behind depth and normals."""

import dataclasses

import numpy as np
import pytest

from emanet_jax import tasks as all_tasks
from emanet_jax.data import augment, camera
from emanet_jax.data.rooms import render_room

TASKS = all_tasks.tasks_for("synthrooms")
SIZE = (96, 128)


def sample_of(index: int, clean: bool = False, size=SIZE):
    room = render_room(0, index, size, clean=clean)
    return {"image": room["image"], "labels": {t.name: room[t.name] for t in TASKS}, "id": index}


def agreement(sample, view, roughness: float = 0.02, step: int = 4):
    """Angles (degrees) between stored normals and planes through the back-projected depth."""
    depth, normals = sample["labels"]["depth"], sample["labels"]["normals"]
    points = camera.back_project(depth.astype(np.float64), view)
    angles = []
    for top in range(0, SIZE[0] - 9, step):
        for left in range(0, SIZE[1] - 9, step):
            patch = np.s_[top : top + 9, left : left + 9]
            n = normals[patch].reshape(-1, 3)
            if n.any(-1).all() and (n @ n[0] > 0.9999).all() and (depth[patch] > 0).all():
                cloud = points[patch].reshape(-1, 3)
                cloud = cloud - cloud.mean(0)
                _, spread, axes = np.linalg.svd(cloud, full_matrices=False)
                if spread[2] < roughness * spread[1]:
                    angles.append(np.degrees(np.arccos(min(1, abs(axes[-1] @ n[0])))))
    return np.array(angles)


@pytest.mark.parametrize("clean", [True, False])
def test_mirroring_twice_is_the_identity(clean):
    sample = sample_of(0, clean)
    twice = augment.mirror(augment.mirror(sample, TASKS), TASKS)
    assert np.array_equal(twice["image"], sample["image"])
    assert twice["id"] == sample["id"]
    for task in TASKS:
        assert np.array_equal(twice["labels"][task.name], sample["labels"][task.name])


def test_a_mirrored_room_is_one_seen_by_the_mirrored_camera():
    sample = augment.mirror(sample_of(1, clean=True), TASKS)
    view = camera.intrinsics(SIZE)
    mirrored = view._replace(cx=SIZE[1] - 1 - view.cx)
    angles = agreement(sample, mirrored)
    assert len(angles) > 50
    assert angles.max() < 0.1
    assert agreement(sample, view).max() > 1  # the unmirrored camera does not fit


def test_a_zoomed_room_is_one_seen_by_a_longer_lens():
    factor, top, left = 1.5, 13, 22
    sample = augment.zoom(sample_of(1, clean=True), TASKS, factor, top, left)
    view = camera.intrinsics(SIZE)
    # Row i of the result shows row top + (i + 1/2) / factor - 1/2 of the source.
    longer = camera.Intrinsics(
        view.fx * factor,
        view.fy * factor,
        (view.cx - left + 0.5) * factor - 0.5,
        (view.cy - top + 0.5) * factor - 0.5,
    )
    # Nearest neighbours shift depths by up to half a pixel, so planes come out a little rough.
    angles, wrong = (agreement(sample, lens, roughness=0.15) for lens in (longer, view))
    assert len(angles) > 50
    assert np.median(angles) < 1.5
    assert np.median(wrong) > 3 * np.median(angles)


@pytest.mark.parametrize("factor", [1.2, 1.5])
def test_zoom_divides_depth_and_keeps_normals_unit(factor):
    sample = sample_of(2)
    zoomed = augment.zoom(sample, TASKS, factor, 0, 0)
    depth = zoomed["labels"]["depth"]
    assert set(np.unique(depth)) <= set(
        np.unique((sample["labels"]["depth"] / factor).astype(np.float32))
    )
    assert depth[0, 0] == sample["labels"]["depth"][0, 0] / np.float32(factor)
    length = np.linalg.norm(zoomed["labels"]["normals"].astype(np.float64), axis=-1)
    assert np.allclose(length[length > 0], 1, atol=1e-6)
    assert set(np.unique(zoomed["labels"]["semseg"])) <= set(np.unique(sample["labels"]["semseg"]))
    for name, label in zoomed["labels"].items():
        assert label.dtype == sample["labels"][name].dtype
        assert label.shape == sample["labels"][name].shape


def test_a_window_is_where_it_was_asked_for():
    h, w = 30, 40
    image = np.zeros((h, w, 3), np.float32)
    image[..., 0], image[..., 1] = np.arange(h)[:, None], np.arange(w)
    zoomed = augment.zoom({"image": image, "labels": {}}, (), 2.0, 10, 4)["image"]
    assert np.allclose(zoomed[0, 0, :2], (10, 4))  # clamped to the window
    assert np.allclose(zoomed[15, 21, :2], (10 + 15.5 / 2 - 0.5, 4 + 21.5 / 2 - 0.5))
    assert np.allclose(zoomed[-1, -1, :2], (24, 23))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_images_keep_their_type_and_range(dtype):
    image = np.random.default_rng(0).random((32, 64, 3))
    image = (255 * image).astype(np.uint8) if dtype == np.uint8 else image.astype(np.float32)
    zoomed = augment.zoom({"image": image, "labels": {}}, (), 1.2, 3, 5)["image"]
    assert zoomed.dtype == dtype
    assert zoomed.min() >= image.min()
    assert zoomed.max() <= image.max()


def test_bilinear_labels_ignore_invalid_neighbours():
    task = dataclasses.replace(TASKS[2], nearest=False)
    normals = np.zeros((4, 4, 3), np.float32)
    normals[:, 1:] = (0, 0.6, -0.8)
    zoomed = augment.zoom(
        {"image": np.zeros((4, 4, 3), np.uint8), "labels": {"normals": normals}},
        (task,),
        2.0,
        0,
        0,
    )["labels"]["normals"]
    valid = zoomed.any(-1)
    assert not valid[:, :2].any()
    assert valid[:, 2:].all()
    assert np.allclose(zoomed[valid], (0, 0.6, -0.8))


def test_augmentation_is_a_function_of_the_generator():
    sample = sample_of(3)
    runs = [
        augment.augment(sample, TASKS, np.random.default_rng(5), flip=True, scale_crop=True)
        for _ in range(2)
    ]
    assert np.array_equal(runs[0]["image"], runs[1]["image"])
    others = [
        augment.augment(sample, TASKS, np.random.default_rng(k), flip=True, scale_crop=True)
        for k in range(12)
    ]
    assert len({other["image"].tobytes() for other in others}) > 6


def test_nothing_is_augmented_unless_asked_for():
    sample = sample_of(3)
    for k in range(8):
        same = augment.augment(
            sample, TASKS, np.random.default_rng(k), flip=False, scale_crop=False
        )
        assert np.array_equal(same["image"], sample["image"])


def test_half_of_the_images_are_mirrored_and_all_scales_occur():
    image = np.tile(np.arange(64, dtype=np.float32)[:, None], (32, 1, 3))
    sample = {"image": image, "labels": {}}
    mirrored, steps = 0, set()
    for k in range(200):
        result = augment.augment(sample, (), np.random.default_rng(k), flip=True, scale_crop=True)
        step = result["image"][16, 33, 0] - result["image"][16, 32, 0]
        mirrored += step < 0
        steps.add(round(float(1 / abs(step)), 2))
    assert 70 < mirrored < 130
    assert steps == {1.0, 1.2, 1.5}


def test_augmentation_reads_the_task_record_and_no_names():
    """A task nobody has heard of is treated as its record says."""
    heat = dataclasses.replace(
        TASKS[1], name="heat", flip=lambda x: x + 1, zoom=lambda x, s: x * s, nearest=True
    )
    sample = {"image": np.zeros((32, 32, 3), np.uint8), "labels": {"heat": np.ones((32, 32, 1))}}
    assert (augment.mirror(sample, (heat,))["labels"]["heat"] == 2).all()
    assert (augment.zoom(sample, (heat,), 1.5, 0, 0)["labels"]["heat"] == 1.5).all()
