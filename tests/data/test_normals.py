"""Normals from depth: exact on planes, right on rooms with and without noise, invalid at steps."""

import numpy as np
import pytest

from emanet_jax import camera
from emanet_jax.data.normals import DISPARITY_STEP, normals_from_depth
from tests.data import kinect

SIZE = (120, 160)


def plane_depth(normal, distance, image_size=SIZE, view=None):
    """Depth of the plane normal . X = -distance."""
    return -distance / (camera.rays(image_size, view) @ np.asarray(normal, np.float64))


@pytest.mark.parametrize(
    ("normal", "rows"),
    [
        ((0, 0, -1), slice(0, 120)),
        ((0, -1, 0), slice(80, 120)),
        ((0, 1, 0), slice(0, 40)),
        ((0.6, 0, -0.8), slice(0, 120)),
        ((-0.48, -0.36, -0.8), slice(0, 120)),
    ],
    ids=["wall ahead", "floor", "ceiling", "left wall", "tilted"],
)
def test_a_plane_has_its_normal_everywhere(normal, rows):
    depth = plane_depth(normal, 1.3)
    known = np.zeros(SIZE, bool)
    known[rows] = True
    assert (depth[known] > 0).all()
    normals = normals_from_depth(np.where(known, depth, 0)[..., None])
    assert normals.dtype == np.float32
    assert normals.shape == (*SIZE, 3)
    assert kinect.angles(normals[known], np.array(normal)).max() < 0.01
    assert not normals[~known].any()


def test_another_camera():
    view = camera.Intrinsics(200.0, 210.0, 70.0, 65.0)
    depth = plane_depth((0.6, 0, -0.8), 2.0, view=view)
    errors = kinect.angles(normals_from_depth(depth, view=view), np.array((0.6, 0, -0.8)))
    assert errors.max() < 0.01
    others = kinect.angles(normals_from_depth(depth), np.array((0.6, 0, -0.8)))
    assert np.median(others) > 2


def test_a_corner_keeps_two_planes_apart():
    walls = (0.6, 0, -0.8), (-0.6, 0, -0.8)
    depths = [plane_depth(normal, 2.0) for normal in walls]
    left = depths[0] < depths[1]
    normals = normals_from_depth(np.minimum(*depths))
    exact = np.where(left[..., None], *walls)
    errors = kinect.angles(normals, exact)
    assert np.median(errors) < 0.01
    assert (errors > 5).mean() < 0.05  # the crease itself
    assert normals.any(-1).all()  # is no step


def test_both_sides_of_a_step_are_invalid_and_the_rest_is_not():
    depth = np.full(SIZE, 3.0)
    depth[:, 80:] = 2.0
    normals = normals_from_depth(depth)
    expected = np.ones(SIZE, bool)
    expected[:, 79:81] = False
    assert np.array_equal(normals.any(-1), expected)
    assert np.allclose(normals[expected], (0, 0, -1), atol=1e-6)


def test_a_step_is_seen_in_the_filled_depth():
    depth = np.full(SIZE, 3.0)
    depth[:, 80:] = 2.0
    measured = np.ones(SIZE, bool)
    measured[:, 60:80] = False
    valid = normals_from_depth(depth, measured).any(-1)
    assert not valid[:, 60:81].any()
    assert valid[:, :60].all()
    assert valid[:, 81:].all()


def test_what_was_not_measured_neither_has_nor_changes_normals():
    depth = plane_depth((0.6, 0, -0.8), 2.0)
    measured = np.random.default_rng(0).random(SIZE) > 0.3
    filled = np.where(measured, depth, depth * 1.02)
    normals = normals_from_depth(filled, measured)
    assert not normals[~measured].any()
    errors = kinect.angles(normals[measured], np.array((0.6, 0, -0.8)))
    assert errors.max() < 0.01
    believed = normals_from_depth(filled)
    assert kinect.angles(believed, np.array((0.6, 0, -0.8))).max() > 0.05


def test_too_few_or_no_pixels_are_invalid():
    assert not normals_from_depth(np.zeros(SIZE)).any()
    depth = np.zeros(SIZE)
    depth[60, 80] = depth[20, 30:100] = 2.0  # a point; a line
    assert not normals_from_depth(depth).any()


def test_the_noise_is_a_kinects():
    """Rounded disparity, and an error that grows with the square of the distance."""
    spread = {}
    for z in (1.0, 2.0, 4.0):
        noisy = kinect.kinect(np.random.default_rng(0), np.full(SIZE, z))
        steps = 1 / noisy / DISPARITY_STEP
        assert np.allclose(steps, np.rint(steps), atol=1e-6)
        spread[z] = noisy.std()
    assert 0.001 < spread[1.0] < 0.003
    assert spread[2.0] / spread[1.0] == pytest.approx(4, rel=0.15)
    assert spread[4.0] / spread[2.0] == pytest.approx(4, rel=0.15)


@pytest.fixture(scope="module")
def rooms():
    return [kinect.make_room(index, (480, 640)) for index in range(3)]


def _errors(rooms, noisy):
    errors, shares = [], []
    for index, room in enumerate(rooms):
        depth, measured = room.depth, None
        if noisy:
            depth, measured = kinect.kinect(np.random.default_rng(index), depth), room.measured
        normals = normals_from_depth(depth, measured)
        valid = normals.any(-1)
        inner = kinect.inner(room, 6)
        errors.append(kinect.angles(normals, room.normals)[valid & inner])
        shares.append(valid[inner & room.measured].mean())
        length = np.linalg.norm(normals[valid].astype(np.float64), axis=-1)
        assert np.allclose(length, 1, atol=1e-6)
        assert ((normals * camera.rays((480, 640))).sum(-1)[valid] < 0).all()
    assert np.mean(shares) > 0.98
    return np.concatenate(errors)


def test_rooms_without_noise(rooms):
    errors = _errors(rooms, noisy=False)
    assert np.median(errors) < 0.05
    assert np.mean(errors < 2) > 0.99


def test_rooms_seen_by_a_kinect(rooms):
    errors = _errors(rooms, noisy=True)
    assert np.median(errors) < 2
    assert np.mean(errors < 11.25) > 0.98
