"""PASCAL-Context's five tasks: an error of the files is one sentence that names it."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from emanet_jax.data import pipeline
from emanet_jax.errors import UserError
from tests.data.layouts_pascal import bands_of, config_of, paths_of, person, scene, write_pascal
from tests.data.refused import refused


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    return write_pascal(tmp_path_factory.mktemp("pristine"))


@pytest.fixture
def root(pristine, tmp_path):
    return shutil.copytree(pristine, tmp_path / "pascal")


SIZE = scene("train", 1)["label"].shape
OTHER = (32, 32)
PICTURE_ERRORS = {
    "grey image": ("image", np.zeros(SIZE, np.uint8), r"format L .* \(RGB\)"),
    "class 21": ("semseg", np.full(SIZE, 21, np.uint8), r"0 to 20 or 255 .* \(0, 0\) is 21"),
    "colour classes": ("semseg", np.zeros((*SIZE, 3), np.uint8), "format RGB .* class ids"),
    "small classes": ("semseg", np.zeros(OTHER, np.uint8), r"size \(32, 32\) .* \(64, 40\)"),
    "grey normals": ("normals", np.zeros(SIZE, np.uint8), "format L .* normals"),
    "small normals": ("normals", np.zeros((*OTHER, 3), np.uint8), r"size \(32, 32\)"),
    "colour saliency": ("saliency", np.zeros((*SIZE, 3), np.uint8), "format RGB .* grey values"),
    "saliency of bits": ("saliency", np.zeros(SIZE, bool), "format 1 .* grey values"),
    "small saliency": ("saliency", np.zeros(OTHER, np.uint8), r"size \(32, 32\)"),
}


@pytest.mark.parametrize("error", PICTURE_ERRORS)
def test_errors_in_a_picture(root, tmp_path, error):
    field, content, words = PICTURE_ERRORS[error]
    path = paths_of(root, "train", 1)[field]
    Image.fromarray(content).save(path)
    refused(config_of(root, tmp_path), path, words)


BANDS = bands_of(SIZE)
MATLAB_ERRORS = {
    "no LabelMap": ("edge", {"labels": np.ones(SIZE)}, "no variable 'LabelMap'"),
    "class 460": ("edge", {"LabelMap": np.full(SIZE, 460)}, "whole, 0 to 459, .* is 460"),
    "class 1.5": ("edge", {"LabelMap": np.full(SIZE, 1.5)}, "is 1.5"),
    "small LabelMap": ("edge", {"LabelMap": np.ones(OTHER)}, r"size \(32, 32\) .* \(64, 40\)"),
    "text": ("edge", {"LabelMap": "text"}, r"LabelMap has the shape \(\)"),
    "deep LabelMap": ("edge", {"LabelMap": np.ones((*SIZE, 2))}, r"shape \(64, 40, 2\)"),
    "part named by numbers": (
        "human_parts",
        {"anno": {"objects": person(BANDS, names=(np.ones(3),))}},
        "part named '.*' but it must be one of",
    ),
    "deep mask": (
        "human_parts",
        {"anno": {"objects": person(np.stack([BANDS] * 2, 2))}},
        r"mask of a person's head is of the size \(64, 40, 2\)",
    ),
    "no anno": ("human_parts", {"annotation": 1.0}, "no variable 'anno'"),
    "anno of numbers": ("human_parts", {"anno": np.ones(3)}, "no field 'objects'"),
    "objects of numbers": ("human_parts", {"anno": {"objects": 3.0}}, "no field 'class'"),
    "person without parts' field": (
        "human_parts",
        {"anno": {"objects": {"class": "person"}}},
        "no field 'parts'",
    ),
    "unknown part": (
        "human_parts",
        {"anno": {"objects": person(BANDS, names=("tail",))}},
        "part named 'tail' but it must be one of head, leye",
    ),
    "small mask": (
        "human_parts",
        {"anno": {"objects": person(bands_of(OTHER))}},
        r"size \(32, 32\)",
    ),
}


@pytest.mark.parametrize("error", MATLAB_ERRORS)
def test_errors_in_a_matlab_file(root, tmp_path, error):
    field, content, words = MATLAB_ERRORS[error]
    path = paths_of(root, "train", 1)[field]
    savemat(path, content)
    refused(config_of(root, tmp_path), path, words)


def test_a_newer_matlab_file(root, tmp_path):
    path = paths_of(root, "train", 1)["edge"]
    path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(400))
    refused(config_of(root, tmp_path), path, "is a MATLAB 7.3 file")


@pytest.mark.parametrize("kind", ["a quarter", "three quarters", "empty", "text"])
@pytest.mark.parametrize("field", ["image", "semseg", "edge", "human_parts"])
def test_files_that_cannot_be_read(root, tmp_path, kind, field):
    path = paths_of(root, "val", 0)[field]
    size = path.stat().st_size
    if kind == "text":
        path.write_text("not what it should be")
    else:
        os.truncate(path, {"a quarter": size // 4, "three quarters": 3 * size // 4}.get(kind, 0))
    refused(config_of(root, tmp_path), path, "cannot be read as a")


@pytest.mark.parametrize("field", ["image", "semseg", "normals", "saliency", "edge", "human_parts"])
def test_a_missing_file(root, tmp_path, field):
    path = paths_of(root, "train", 2)[field]
    path.unlink()
    refused(config_of(root, tmp_path), path, "cannot be read")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read"),
        ("\n", "is empty"),
        ("2010_000001\n2010_000001\n", "names '2010_000001' twice"),
        ("2010_000001\n2008_000001\n", "names '2008_000001', which train.txt has too"),
        ("2010_000001\n2010_000009\n", "2010_000009.* cannot be read"),
    ],
)
def test_errors_in_the_list_of_ids(root, tmp_path, content, words):
    path = root / "ImageSets" / "Context" / "val.txt"
    path.unlink()
    if content is not None:
        path.write_text(content)
    refused(config_of(root, tmp_path), root, words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"manual_dir": ""}, "manual_dir is empty; give the folder that holds"),
        ({"manual_dir": "/no/such/folder"}, "there is no folder /no/such/folder"),
        ({"image_size": (500, 500)}, r"\(500, 500\) but needs multiples of 32"),
        ({"negate_normals": "w"}, "negate_normals is 'w'"),
        ({"classes": 60}, "classes is 60 but pascal_context has"),
        ({"layout": "mtan"}, "layout is 'mtan'; choose from pascal_mt"),
    ],
)
def test_errors_in_the_config(pristine, tmp_path, changes, words):
    config = config_of(pristine, tmp_path).copy_and_resolve_references()
    config.update(changes)
    with pytest.raises(UserError, match=words):
        pipeline.prepare(config)
