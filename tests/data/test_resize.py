"""Resizing: exact centres for labels, areas for images, by hand and against the definition."""

import numpy as np
import pytest

from emanet_jax.data import resize


def test_nearest_takes_the_pixel_under_the_centre():
    rows = np.arange(480)[:, None] * np.ones((1, 640), int)
    taken = resize.nearest(rows, (288, 384))[:, 0]
    # Centres 5/6, 2.5, 4 1/6, 5 5/6, 7.5 of the old pixels' sides.
    assert taken[:6].tolist() == [0, 2, 4, 5, 7, 9]
    assert resize.nearest(rows, (480, 640)) is not rows
    assert np.array_equal(resize.nearest(rows, (480, 640)), rows)
    columns = np.arange(3)[None, :, None] * np.ones((2, 1, 1), int)
    assert resize.nearest(columns, (2, 6))[0, :, 0].tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("image_size", [(288, 384), (37, 64), (96, 200), (1, 1)])
def test_nearest_is_never_further_than_half_a_pixel(image_size):
    h, w = 96, 128
    place = np.stack(np.meshgrid(np.arange(h), np.arange(w), indexing="ij"), -1)
    taken = resize.nearest(place, image_size)
    for axis, (old, new) in enumerate(zip((h, w), image_size, strict=True)):
        centres = (np.arange(new) + 0.5) * old / new - 0.5
        found = taken[:, 0, 0] if axis == 0 else taken[0, :, 1]
        assert np.abs(found - centres).max() <= 0.5 + 1e-9


def test_smaller_images_are_means_over_areas():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (48, 64, 3)).astype(np.uint8)
    halved = image.reshape(24, 2, 32, 2, 3).mean((1, 3))
    assert np.abs(resize.smooth(image, (24, 32)) - halved).max() <= 0.5
    # By 3 / 5: every new pixel is the mean of 5 x 5 parts of a picture enlarged threefold.
    enlarged = image[:45, :60].repeat(3, 0).repeat(3, 1)
    means = enlarged.reshape(27, 5, 36, 5, 3).mean((1, 3))
    found = resize.smooth(image[:45, :60], (27, 36))
    assert found.dtype == np.uint8
    assert np.abs(found - means).max() <= 0.5 + 1e-3


def test_larger_images_are_bilinear():
    ramp = np.broadcast_to(np.arange(0, 200, 20, dtype=np.uint8)[None, :, None], (4, 10, 3))
    found = resize.smooth(ramp, (8, 20))[0, :, 0]
    assert found[:5].tolist() == [0, 5, 15, 25, 35]
    assert found[-2:].tolist() == [175, 180]


def test_the_same_size_changes_nothing():
    image = np.random.default_rng(0).integers(0, 256, (32, 64, 3)).astype(np.uint8)
    assert np.array_equal(resize.smooth(image, (32, 64)), image)
