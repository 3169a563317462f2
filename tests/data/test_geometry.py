"""Mirroring, zooming, padding: what holds for every task, and the geometry of depth and normals."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from emanet_jax import camera
from emanet_jax import tasks as all_tasks
from emanet_jax.data import geometry
from emanet_jax.synthetic import render_room

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
    for top in range(0, depth.shape[0] - 9, step):
        for left in range(0, depth.shape[1] - 9, step):
            patch = np.s_[top : top + 9, left : left + 9]
            n = normals[patch].reshape(-1, 3)
            if n.any(-1).all() and (n @ n[0] > 0.9999).all() and (depth[patch] > 0).all():
                cloud = points[patch].reshape(-1, 3)
                cloud = cloud - cloud.mean(0)
                _, spread, axes = np.linalg.svd(cloud, full_matrices=False)
                if spread[2] < roughness * spread[1]:
                    # Signed: the normal of the plane that points to the camera at the origin.
                    plane = axes[-1] * -np.sign(axes[-1] @ points[top, left])
                    angles.append(np.degrees(np.arccos(np.clip(plane @ n[0], -1, 1))))
    return np.array(angles)


@pytest.mark.parametrize("clean", [True, False])
def test_mirroring_twice_is_the_identity(clean):
    sample = sample_of(0, clean)
    twice = geometry.mirror(geometry.mirror(sample, TASKS), TASKS)
    assert np.array_equal(twice["image"], sample["image"])
    assert twice["id"] == sample["id"]
    for task in TASKS:
        assert np.array_equal(twice["labels"][task.name], sample["labels"][task.name])


def test_a_mirrored_room_is_one_seen_by_the_mirrored_camera():
    sample = geometry.mirror(sample_of(1, clean=True), TASKS)
    view = camera.intrinsics(SIZE)
    mirrored = view._replace(cx=SIZE[1] - 1 - view.cx)
    angles = agreement(sample, mirrored)
    assert len(angles) > 50
    assert angles.max() < 0.1
    assert agreement(sample, view).max() > 1  # the unmirrored camera does not fit


@pytest.mark.parametrize(
    "factor, top, left, size",
    [(1.5, 20, 33, SIZE), (1.2, 0, 25, SIZE), (2.0, 61, 100, (96, 112)), (0.75, 10, 4, (62, 90))],
)
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_zoomed_room_is_one_seen_by_another_lens(factor, top, left, size, mirrored):
    source = sample_of(0, clean=True)  # a room with large planes in all of these windows
    sample = geometry.zoom(source, TASKS, factor, top, left, size)
    view = camera.intrinsics(SIZE)
    # Column j of the result shows column (left + j + 1/2) / factor - 1/2 of the source, so the ray
    # through it, (column - cx) / fx, is (j - cx') / (factor fx) with this centre cx'.
    lens = camera.Intrinsics(
        view.fx * factor,
        view.fy * factor,
        (view.cx + 0.5) * factor - 0.5 - left,
        (view.cy + 0.5) * factor - 0.5 - top,
    )
    # Depth divided by the factor is the room scaled by it: the same angles everywhere.
    wrong_lens = view
    if mirrored:
        sample = geometry.mirror(sample, TASKS)
        lens, wrong_lens = (c._replace(cx=size[1] - 1 - c.cx) for c in (lens, wrong_lens))
    # Nearest neighbours shift depths by up to half a pixel, so planes come out a little rough.
    angles, wrong = (agreement(sample, x, roughness=0.3) for x in (lens, wrong_lens))
    assert len(angles) > 80
    assert np.median(angles) < 0.7
    assert np.median(wrong) > 5 * np.median(angles)


def test_a_window_is_where_it_was_asked_for():
    """A picture of its own column numbers."""
    factor, top, left, size = 1.6, 31, 18, (50, 70)
    columns = np.arange(128.0)
    image = np.broadcast_to(columns[None, :, None], (96, 128, 3)).astype(np.float32)
    sample = {"image": image, "labels": {}}
    zoomed = geometry.zoom(sample, (), factor, top, left, size)["image"]
    expected = (left + np.arange(70) + 0.5) / factor - 0.5
    assert np.allclose(zoomed[..., 0], expected, atol=1e-4)


@pytest.mark.parametrize("factor", [0.6, 1.2, 1.5])
def test_zoom_divides_depth_and_keeps_normals_unit(factor):
    sample = sample_of(2)
    size = (min(96, int(96 * factor)), min(128, int(128 * factor)))
    zoomed = geometry.zoom(sample, TASKS, factor, 0, 0, size)
    depth = zoomed["labels"]["depth"]
    values = np.unique((sample["labels"]["depth"] / factor).astype(np.float32))
    assert set(np.unique(depth)) <= set(values)
    length = np.linalg.norm(zoomed["labels"]["normals"].astype(np.float64), axis=-1)
    assert np.allclose(length[length > 0], 1, atol=1e-6)
    assert set(np.unique(zoomed["labels"]["semseg"])) <= set(np.unique(sample["labels"]["semseg"]))
    for name, label in zoomed["labels"].items():
        assert label.dtype == sample["labels"][name].dtype
        assert label.shape == (*size, sample["labels"][name].shape[-1])


def test_zoom_multiplies_disparity():
    disparity = all_tasks.disparity()
    label = np.linspace(0.1, 0.5, 96, dtype=np.float32)[:, None, None] * np.ones((96, 128, 1), "f4")
    label[10] = 0
    sample = {"image": np.zeros((*SIZE, 3), np.uint8), "labels": {disparity.name: label}}
    zoomed = geometry.zoom(sample, (disparity,), 2.0, 40, 0, SIZE)["labels"][disparity.name]
    rows = np.rint((40 + np.arange(96) + 0.5) / 2 - 0.5).astype(int)
    assert np.allclose(zoomed[:, 0], 2 * label[rows, 0])


def test_a_factor_of_one_only_cuts():
    sample = sample_of(3)
    window = geometry.zoom(sample, TASKS, 1.0, 5, 9, (40, 50))
    assert np.array_equal(window["image"], sample["image"][5:45, 9:59])
    for task in TASKS:
        assert np.array_equal(window["labels"][task.name], sample["labels"][task.name][5:45, 9:59])


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("factor", [0.5, 1.2])
def test_images_keep_their_type_and_range(dtype, factor):
    image = np.random.default_rng(0).random((32, 64, 3))
    image = (255 * image).astype(np.uint8) if dtype == np.uint8 else image.astype(np.float32)
    zoomed = geometry.zoom({"image": image, "labels": {}}, (), factor, 3, 5, (10, 20))["image"]
    assert zoomed.dtype == dtype
    assert image.min() <= zoomed.min() <= zoomed.max() <= image.max()


def test_bilinear_labels_ignore_invalid_neighbours():
    normals = np.zeros((4, 4, 3), np.float32)
    normals[:, 1:] = (0, 0.6, -0.8)
    sample = {"image": np.zeros((4, 4, 3), np.uint8), "labels": {"normals": normals}}
    zoomed = geometry.zoom(sample, (TASKS[2],), 2.0, 0, 0, (4, 4))["labels"]["normals"]
    valid = zoomed.any(-1)
    assert not valid[:, :2].any()
    assert valid[:, 2:].all()
    assert np.allclose(zoomed[valid], (0, 0.6, -0.8))


def test_bilinear_labels_may_have_any_ignore_value():
    heat = dataclasses.replace(TASKS[1], name="heat", ignore=-1, nearest=False, zoom=lambda x, _: x)
    label = np.full((6, 6, 1), 3, np.float32)
    label[2, 2] = -1
    sample = {"image": np.zeros((6, 6, 3), np.uint8), "labels": {"heat": label}}
    zoomed = geometry.zoom(sample, (heat,), 2.0, 0, 0, (12, 12))["labels"]["heat"]
    assert np.array_equal(zoomed == -1, np.kron(label == -1, np.ones((2, 2, 1), bool)))
    assert np.allclose(zoomed[zoomed != -1], 3)


@pytest.mark.parametrize("dataset", ["synthrooms", "pascal_context"])
def test_padding_is_invalid_for_every_task_and_changes_no_metric(dataset):
    tasks = all_tasks.tasks_for(dataset)
    rng = np.random.default_rng(0)
    h, w, size = 20, 24, (32, 32)
    labels = {}
    for task in tasks:
        classes = len(task.class_names) or 2
        values = rng.integers(0, classes, (h, w, task.label_channels)) + (task.ignore == 0)
        labels[task.name] = values.astype(task.label_dtype)
    image = rng.integers(0, 256, (h, w, 3)).astype(np.uint8)
    padded = geometry.pad({"image": image, "labels": labels}, tasks, size)
    assert padded["image"].shape == (*size, 3)
    assert np.array_equal(padded["image"][:h, :w], image)
    assert (padded["image"][h:] == geometry.PADDING_COLOUR).all()
    assert (padded["image"][:, w:] == geometry.PADDING_COLOUR).all()
    for task in tasks:
        label = padded["labels"][task.name]
        valid = task.valid(label)
        assert label.dtype == task.label_dtype
        assert not valid[h:].any()
        assert not valid[:, w:].any()
        assert np.array_equal(label[:h, :w], labels[task.name])
        prediction = jnp.asarray(rng.standard_normal((1, *size, task.channels)), jnp.float32)
        values = [
            task.metric(task.activation(p), x, task.valid(x)).compute()
            for p, x in (
                (prediction, jnp.asarray(label[None])),
                (prediction[:, :h, :w], jnp.asarray(labels[task.name][None])),
            )
        ]
        assert values[0] == pytest.approx(values[1], rel=1e-5, nan_ok=True)


def test_padding_of_float_images_is_the_same_colour():
    sample = {"image": np.zeros((2, 2, 3), np.float32), "labels": {}}
    padded = geometry.pad(sample, (), (2, 3))["image"]
    assert padded.dtype == np.float32
    assert np.allclose(padded[:, 2] * 255, geometry.PADDING_COLOUR)


def test_the_moves_read_the_task_record_and_no_names():
    """A task nobody has heard of is treated as its record says."""
    heat = dataclasses.replace(
        TASKS[1], name="heat", flip=lambda x: x + 1, zoom=lambda x, s: x * s, nearest=True
    )
    sample = {"image": np.zeros((32, 32, 3), np.uint8), "labels": {"heat": np.ones((32, 32, 1))}}
    assert (geometry.mirror(sample, (heat,))["labels"]["heat"] == 2).all()
    zoomed = geometry.zoom(sample, (heat,), 1.5, 0, 0, (32, 32))
    assert (zoomed["labels"]["heat"] == 1.5).all()


def test_nearest_takes_the_pixel_under_the_centre():
    rows = np.arange(480)[:, None] * np.ones((1, 640), int)
    taken = geometry.resize_label(rows, (288, 384))[:, 0]
    # Centres 5/6, 2.5, 4 1/6, 5 5/6, 7.5 of the old pixels' sides.
    assert taken[:6].tolist() == [0, 2, 4, 5, 7, 9]
    assert geometry.resize_label(rows, (480, 640)) is not rows
    assert np.array_equal(geometry.resize_label(rows, (480, 640)), rows)
    columns = np.arange(3)[None, :, None] * np.ones((2, 1, 1), int)
    assert geometry.resize_label(columns, (2, 6))[0, :, 0].tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("image_size", [(288, 384), (37, 64), (96, 200), (1, 1)])
def test_nearest_is_never_further_than_half_a_pixel(image_size):
    h, w = 96, 128
    place = np.stack(np.meshgrid(np.arange(h), np.arange(w), indexing="ij"), -1)
    taken = geometry.resize_label(place, image_size)
    for axis, (old, new) in enumerate(zip((h, w), image_size, strict=True)):
        centres = (np.arange(new) + 0.5) * old / new - 0.5
        chosen = taken[:, 0, 0] if axis == 0 else taken[0, :, 1]
        assert np.abs(chosen - centres).max() <= 0.5 + 1e-9


def test_smaller_images_are_means_over_areas():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (48, 64, 3)).astype(np.uint8)
    halved = image.reshape(24, 2, 32, 2, 3).mean((1, 3))
    assert np.abs(geometry.resize_image(image, (24, 32)) - halved).max() <= 0.5
    # By 3 / 5: every new pixel is the mean of 5 x 5 parts of a picture enlarged threefold.
    enlarged = image[:45, :60].repeat(3, 0).repeat(3, 1)
    means = enlarged.reshape(27, 5, 36, 5, 3).mean((1, 3))
    resized = geometry.resize_image(image[:45, :60], (27, 36))
    assert resized.dtype == np.uint8
    assert np.abs(resized - means).max() <= 0.5 + 1e-3


def test_larger_images_are_bilinear():
    ramp = np.broadcast_to(np.arange(0, 200, 20, dtype=np.uint8)[None, :, None], (4, 10, 3))
    resized = geometry.resize_image(ramp, (8, 20))[0, :, 0]
    assert resized[:5].tolist() == [0, 5, 15, 25, 35]
    assert resized[-2:].tolist() == [175, 180]


def test_the_same_size_changes_nothing():
    image = np.random.default_rng(0).integers(0, 256, (32, 64, 3)).astype(np.uint8)
    assert np.array_equal(geometry.resize_image(image, (32, 64)), image)
