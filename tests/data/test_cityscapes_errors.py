"""Cityscapes in both layouts: an error of the files is one sentence that names it."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from emanet_jax.data import pipeline
from emanet_jax.errors import UserError
from tests.data.layouts_cityscapes import (
    FULL,
    config_of,
    official_name,
    official_paths,
    write_mtan_streets,
    write_official,
)
from tests.data.refused import refused
from tests.data.settings import SIZE


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pristine")
    write_official(folder / "official", 4, 2, FULL)
    write_mtan_streets(folder / "mtan", 12, 2, SIZE)
    return folder


@pytest.fixture(params=["official", "mtan"])
def layout(request):
    return request.param


@pytest.fixture
def roots(pristine, tmp_path):
    return shutil.copytree(pristine, tmp_path / "cityscapes")


# Errors of one file: the field, the content written in its place, and words of the message.
OFFICIAL_ERRORS = {
    "8-bit disparity": ("depth", np.zeros(FULL, np.uint8), r"format L .* 16 bits \(I;16\)"),
    "colour disparity": ("depth", np.zeros((*FULL, 3), np.uint8), "format RGB .* 16 bits"),
    "small disparity": ("depth", np.zeros((32, 64), np.uint16), r"size \(32, 64\) .* \(64, 128\)"),
    "small labels": ("semseg", np.zeros((32, 64), np.uint8), r"size \(32, 64\) .* \(64, 128\)"),
    "16-bit labels": ("semseg", np.zeros(FULL, np.uint16), r"format I;16 .* 8 bits \(L\)"),
    "colour labels": ("semseg", np.zeros((*FULL, 3), np.uint8), "format RGB"),
    "id 34": ("semseg", np.full(FULL, 34, np.uint8), r"0 and 33, .* at \(0, 0\) is 34"),
    "train ids": ("semseg", np.full(FULL, 255, np.uint8), "is 255"),
    "grey image": ("image", np.zeros(FULL, np.uint8), r"format L .* \(RGB\)"),
    "image with alpha": ("image", np.zeros((*FULL, 4), np.uint8), "format RGBA"),
    "small image": (
        "image",
        np.zeros((32, 64, 3), np.uint8),
        r"size \(64, 128\) .* image.* \(32, 64\)",
    ),
}


@pytest.mark.parametrize("error", OFFICIAL_ERRORS)
def test_errors_in_an_official_file(roots, tmp_path, error):
    field, content, words = OFFICIAL_ERRORS[error]
    path = official_paths(roots / "official", "train", official_name("train", 3))[field]
    Image.fromarray(content).save(path)
    refused(config_of(roots / "official", tmp_path), path, words)


@pytest.mark.parametrize("kind", ["truncated", "empty", "garbage", "folder"])
@pytest.mark.parametrize("field", ["image", "semseg", "depth"])
def test_files_that_are_no_pictures(roots, tmp_path, kind, field):
    path = official_paths(roots / "official", "val", official_name("val", 1))[field]
    if kind == "truncated":
        os.truncate(path, path.stat().st_size // 2)
    elif kind == "folder":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes({"empty": b"", "garbage": b"not a picture at all"}[kind])
    refused(config_of(roots / "official", tmp_path), path, "cannot be read as a picture")


@pytest.mark.parametrize("field", ["image", "semseg", "depth"])
def test_a_missing_official_file(roots, tmp_path, field):
    path = official_paths(roots / "official", "train", official_name("train", 1))[field]
    path.unlink()
    refused(config_of(roots / "official", tmp_path), path, "is missing: every image needs")


@pytest.mark.parametrize("folder", ["leftImg8bit/val", "gtFine/train", "disparity/val"])
@pytest.mark.parametrize("how", ["missing", "empty"])
def test_a_missing_official_folder(roots, tmp_path, folder, how):
    place = roots / "official" / folder
    shutil.rmtree(place)
    if how == "empty":
        place.mkdir()
    words = "is missing" if how == "missing" else "holds no CITY/"
    refused(config_of(roots / "official", tmp_path), place, words)


LABEL = np.zeros(SIZE, np.float32)
MTAN_ERRORS = {
    "class 19": ("label_19", LABEL + 19, "classes must be whole, 0 to 18 .* is 19"),
    "class 0.5": ("label_19", LABEL + 0.5, "is 0.5"),
    "class -2": ("label_19", LABEL - 2, "is -2"),
    "disparity 2": ("depth", LABEL[..., None] + 2, "between 0 and 1 .* is 2"),
    "negative disparity": ("depth", LABEL[..., None] - 1, "between 0 and 1 .* is -1"),
    "raw codes": ("depth", np.full((*SIZE, 1), 7000, np.uint16), "type uint16"),
    "infinite": ("depth", LABEL[..., None] + np.inf, "finite"),
    "image up to 255": ("image", np.full((*SIZE, 3), 255.0), "between 0 and 1, .* is 255"),
    "another shape": ("image", np.zeros((3, *SIZE)), r"\(3, 32, 64\) .* \(32, 64, 3\)"),
}


@pytest.mark.parametrize("error", MTAN_ERRORS)
def test_errors_in_an_mtan_file(roots, tmp_path, error):
    field, content, words = MTAN_ERRORS[error]
    path = roots / "mtan" / "train" / field / "10.npy"
    np.save(path, content)
    refused(config_of(roots / "mtan", tmp_path), path, words)


def test_a_class_of_19_is_none_of_7(roots, tmp_path):
    path = roots / "mtan" / "val" / "label_7" / "0.npy"
    np.save(path, LABEL + 7)
    refused(config_of(roots / "mtan", tmp_path, classes=7), path, "0 to 6")


def test_a_missing_mtan_file(roots, tmp_path):
    path = roots / "mtan" / "train" / "depth" / "4.npy"
    path.unlink()
    refused(config_of(roots / "mtan", tmp_path), path, "must hold the same numbers")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"manual_dir": ""}, "manual_dir is empty; give the folder that holds"),
        ({"manual_dir": "/no/such/folder"}, "there is no folder /no/such/folder"),
        ({"image_size": (48, 96)}, r"image_size is \(48, 96\) but needs multiples of 32"),
        ({"image_size": (96, 128)}, r"\(96, 128\)"),
        ({"classes": 13}, "classes is 13 but cityscapes has"),
        ({"layout": "tar"}, "layout is 'tar'; choose from mtan, official"),
    ],
)
def test_errors_in_the_config(pristine, layout, tmp_path, changes, words):
    with pytest.raises(UserError, match=words):
        pipeline.prepare(config_of(pristine / layout, tmp_path, **changes))
