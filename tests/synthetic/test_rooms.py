"""Synthetic rooms: exact geometry, all classes, a recording's gaps, no hidden state."""

import dataclasses
import warnings

import numpy as np
import pytest

from emanet_jax import camera
from emanet_jax.synthetic import render, render_room, scene, sensor
from emanet_jax.tasks.palettes import NYU13

SIZE = (48, 64)
# Shares of the pixels of NYUv2's test set; the rest is unlabelled.
NYUV2_SHARES = {
    **{"bed": 0.041, "books": 0.007, "ceiling": 0.013, "chair": 0.033, "floor": 0.098},
    **{"furniture": 0.139, "objects": 0.121, "picture": 0.022, "sofa": 0.031, "table": 0.035},
    **{"tv": 0.004, "wall": 0.236, "window": 0.051},
}


@pytest.fixture(scope="module")
def rooms():
    return [render_room(3, index, SIZE) for index in range(60)]


def planar_patches(labels, normals):
    """3 x 3 patches (top, left) that show one class and one valid normal."""
    h, w, _ = labels.shape
    for top in range(0, h - 2, 3):
        for left in range(0, w - 2, 3):
            patch = np.s_[top : top + 3, left : left + 3]
            n, classes = normals[patch].reshape(9, 3), labels[patch].ravel()
            if n.any(-1).all() and (n == n[0]).all() and (classes == classes[0]).all():
                yield patch, n[0]


def plane_fit(points):
    """Unit normal towards the camera and the largest distance of a point from the plane."""
    centred = points - points.mean(0)
    normal = np.linalg.svd(centred)[2][-1]
    normal = -normal if normal @ points.mean(0) > 0 else normal
    return normal, np.abs(centred @ normal).max()


@pytest.mark.parametrize("size", [SIZE, (96, 128), (64, 96)])
def test_depth_normals_and_rays_agree(size):
    room = render_room(0, 5, size)
    points = camera.back_project(room["depth"].astype(np.float64))
    valid = room["depth"] > 0
    normals = np.where(valid, room["normals"], 0)
    errors, distances = [], []
    for patch, stored in planar_patches(room["semseg"], normals):
        fitted, distance = plane_fit(points[patch].reshape(9, 3))
        if distance < 1e-5:  # two parallel faces, a door on its wall say, are no one plane
            errors.append(np.degrees(np.arccos(np.clip(fitted @ stored, -1, 1))))
        distances.append(distance)
    assert len(errors) > 50
    assert np.mean(np.array(distances) < 1e-5) > 0.9
    assert np.max(errors) < 0.05
    assert np.median(errors) < 0.01


def test_clean_depth_lies_on_the_planes_of_the_normals_to_the_last_bit_of_float32():
    room = render_room(1, 2, SIZE, clean=True)
    points = camera.back_project(room["depth"].astype(np.float64))
    offset = (points * room["normals"]).sum(-1)  # n . X is constant on a face
    same = (room["normals"][:, 1:] == room["normals"][:, :-1]).all(-1)
    step = np.abs(np.diff(offset, axis=1))[same]
    # Pixels of one face, or of a parallel one that stands out by at least 1 cm.
    assert ((step < 2e-6) | (step > 5e-3)).all()
    assert (step < 2e-6).mean() > 0.9


def test_normals_are_unit_vectors_towards_the_camera(rooms):
    for room in rooms:
        normals = room["normals"].astype(np.float64)
        length = np.linalg.norm(normals, axis=-1)
        assert np.allclose(length[length > 0], 1, atol=1e-6)
        assert ((normals * camera.rays(SIZE)).sum(-1) <= 0).all()


def level_view(room, height, boxes):
    """The room with some of its boxes, seen from its middle along +z by a level camera."""
    kept = scene.Boxes(**{name: values[boxes] for name, values in vars(room.boxes).items()})
    view = np.diag([1.0, -1.0, 1.0])
    return dataclasses.replace(room, boxes=kept, eye=np.array([0.0, height, 0.0]), view=view)


@pytest.mark.parametrize(
    ("height", "row", "normal"),
    [(1.2, 24, [0, 0, -1]), (0.4, 47, [0, 1, 0]), (2.2, 0, [0, -1, 0])],
    ids=["wall ahead", "floor", "ceiling"],
)
def test_an_empty_room_seen_straight_on(height, row, normal):
    room = level_view(
        scene.draw_room(np.random.default_rng(0)), height, boxes=slice(None, scene.SHELL)
    )
    hits = render.cast(room, SIZE)
    assert np.allclose(hits.normals[:, row, 32], normal)
    _, y, z = room.eye + hits.points[:, row, 32]
    _, top, depth = room.extent
    distances = {"wall": z - depth / 2, "floor": y, "ceiling": y - top}
    key = "wall" if normal[2] else ("floor" if normal[1] > 0 else "ceiling")
    assert np.isclose(distances[key], 0, atol=1e-6)
    assert np.isclose(hits.depth[row, 32], z)


@pytest.mark.parametrize("above", [0.0, 1e-9, -1e-9, 1e-7, -1e-7, 1e-4])
def test_rays_along_a_face_meet_what_lies_behind_it(above, monkeypatch):
    """The eye is level with the tops of boxes, and some rays are exactly parallel to the axes."""
    rays = camera.rays(SIZE)
    rays -= [*rays[24, 32, :2], 0]
    monkeypatch.setattr(camera, "rays", lambda size: rays)
    full = scene.draw_room(np.random.default_rng(0))
    tops = (full.boxes.centres + full.boxes.halves)[:, 1]
    levels = np.unique(tops[(tops > 0.05) & (tops < 2.3)])
    assert len(levels) > 20
    for level in levels:
        room = level_view(full, level + above, boxes=slice(None))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            hits = render.cast(room, SIZE)
        assert hits.depth.min() > 0
        assert hits.depth.max() < 5
        assert hits.facing.min() > 0


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (17, 200), (33, 65), (64, 96), (121, 79)])
def test_any_size_renders_without_a_warning(size):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for index in range(12):
            room = render_room(2, index, size, clean=True)
            assert room["image"].shape == (*size, 3)
            assert (room["depth"] > 0).all()
            assert np.allclose(np.linalg.norm(room["normals"], axis=-1), 1, atol=1e-6)
            assert np.isfinite(render_room(2, index, size)["depth"]).all()


def test_intrinsics_are_nyus_and_scale_with_the_size():
    assert camera.intrinsics((480, 640)) == (518.858, 519.470, 325.582, 253.736)
    assert np.allclose(camera.intrinsics((96, 128)), np.array(camera.intrinsics((480, 640))) / 5)
    assert np.allclose(camera.rays((480, 640))[0, 0], [-325.582 / 518.858, -253.736 / 519.47, 1])


def test_same_arguments_same_room_and_other_arguments_another():
    first, second = render_room(7, 1, SIZE), render_room(7, 1, SIZE)
    assert all(np.array_equal(first[k], second[k]) for k in first)
    for other in (render_room(7, 2, SIZE), render_room(8, 1, SIZE)):
        assert not np.array_equal(first["image"], other["image"])


def test_the_same_room_is_seen_at_every_size():
    small = render_room(0, 4, (48, 64), clean=True)
    large = render_room(0, 4, (96, 128), clean=True)
    assert (small["semseg"] == large["semseg"][::2, ::2]).mean() > 0.999
    assert np.allclose(small["depth"], large["depth"][::2, ::2], rtol=1e-6, atol=1e-6) or (
        np.isclose(small["depth"], large["depth"][::2, ::2], rtol=1e-5).mean() > 0.999
    )


def test_types_shapes_and_every_class(rooms):
    kinds = {
        "image": (3, "uint8"),
        "semseg": (1, "uint8"),
        "depth": (1, "f4"),
        "normals": (3, "f4"),
    }
    for name, (channels, dtype) in kinds.items():
        assert rooms[0][name].shape == (*SIZE, channels)
        assert rooms[0][name].dtype == dtype
    labels = np.concatenate([room["semseg"].ravel() for room in rooms])
    assert set(np.unique(labels)) == {*range(len(NYU13)), 255}


def test_class_shares_are_near_those_of_nyuv2():
    rooms = [scene.draw_room(np.random.default_rng((3, index))) for index in range(200)]
    labels = np.stack([room.boxes.labels[render.cast(room, (24, 32)).box] for room in rooms])
    shares = np.bincount(labels.ravel(), minlength=256)[: len(NYU13)] / np.sum(labels != 255)
    for name, share in zip(NYU13, shares, strict=True):
        real = NYUV2_SHARES[name] / sum(NYUV2_SHARES.values())
        if real > 0.02:
            assert 0.5 * real < share < 1.6 * real, name
        else:
            assert 0.2 * real < share < 3 * real, name


def test_a_recording_has_gaps_and_a_clean_room_has_none(rooms):
    missing = np.mean([np.mean(room["depth"] == 0) for room in rooms])
    unlabelled = np.mean([np.mean(room["semseg"] == 255) for room in rooms])
    blind = np.mean([np.mean(~room["normals"].any(-1)) for room in rooms])
    assert 0.03 < missing < 0.2
    assert missing < blind < 0.25
    assert 0.05 < unlabelled < 0.25
    for room in rooms:  # no normal without depth
        assert not (room["normals"].any(-1, keepdims=True) & (room["depth"] == 0)).any()
    clean = render_room(3, 0, SIZE, clean=True)
    assert (clean["depth"] > 0).all()
    assert clean["normals"].any(-1).all()
    seen = rooms[0]["depth"] > 0
    assert np.array_equal(rooms[0]["depth"][seen], clean["depth"][seen])


def test_depth_is_metric_and_inside_a_room(rooms):
    depth = np.concatenate([room["depth"].ravel() for room in rooms])
    assert depth[depth > 0].min() > 0.1
    assert depth.max() < 10
    assert 1.5 < depth[depth > 0].mean() < 4


def test_looks_tell_classes_apart(rooms):
    """Colour and height alone recall far more of the classes than chance, in rooms never seen."""
    pixels, labels = [], []
    for room in rooms:
        y = np.broadcast_to(np.arange(SIZE[0])[:, None, None] / SIZE[0], (*SIZE, 1))
        known = room["semseg"][..., 0] != 255
        pixels.append(np.concatenate([room["image"] / 255.0, y], -1)[known][::11])
        labels.append(room["semseg"][known][::11, 0])
    seen, classes = np.concatenate(pixels[:45]), np.concatenate(labels[:45])
    new, truth = np.concatenate(pixels[45:])[::7], np.concatenate(labels[45:])[::7]
    nearest = np.array([classes[np.argmin(((seen - x) ** 2).sum(-1))] for x in new])
    recalls = [np.mean(nearest[truth == k] == k) for k in np.unique(truth)]
    assert np.mean(recalls) > 2 / len(NYU13)


@pytest.mark.parametrize("h", [48, 96, 240])
def test_only_pixels_near_borders_stay_unlabelled(h):
    instances = np.zeros((h, 2 * h), int)
    instances[:, h:] = 1
    lost = sensor.unlabelled(np.random.default_rng(0), instances)
    rows, columns = np.nonzero(lost)
    assert 0.2 * h < len(set(rows)) < h  # with gaps along the border
    assert (np.abs(columns - h + 0.5) <= max(1, h / 100)).all()


def test_the_shadow_of_a_near_object_lies_on_the_far_surface_beside_it():
    depth = np.full((96, 128), 4.0)
    depth[:, 60:90] = 1.0
    facing, shiny = np.ones_like(depth), np.zeros(depth.shape, bool)
    lost = sensor.invalid_depth(np.random.default_rng(0), depth, facing, shiny, focal=104.0)
    width = 104 * 0.075 * (1 / 1.0 - 1 / 4.0)  # difference of the disparities in pixels
    assert lost[:, 60 - int(width) : 60].all()
    assert lost[:, 64:86].mean() < 0.05
    assert lost[:, 95:120].mean() < 0.05


def test_glass_is_mostly_without_depth_and_far_or_grazing_surfaces_are_entirely():
    depth, facing = np.full((96, 128), 3.0), np.ones((96, 128))
    glass = np.zeros((96, 128), bool)
    depth[:20], facing[20:40], glass[40:60] = 9.0, 0.05, True
    lost = sensor.invalid_depth(np.random.default_rng(1), depth, facing, glass, focal=104.0)
    assert lost[:40].all()
    assert 0.5 < lost[40:60].mean() < 1
    assert lost[60:, 5:-5].mean() < 0.05
