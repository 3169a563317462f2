"""Source files: what a folder holds, pictures as people see them, ranges up to rounding."""

import ast
import io
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emanet_jax.data import files
from emanet_jax.errors import UserError
from tests.conftest import ROOT

PICTURE = np.random.default_rng(0).integers(0, 256, (5, 8, 3)).astype(np.uint8)
# What stands in the rows and columns of a file of each orientation, so that it shows `PICTURE`.
STORED = {
    1: PICTURE,
    2: PICTURE[:, ::-1],
    3: PICTURE[::-1, ::-1],
    4: PICTURE[::-1],
    5: PICTURE.transpose(1, 0, 2),
    6: np.rot90(PICTURE),
    7: PICTURE[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90(PICTURE, -1),
}


def exif(orientation: int) -> Image.Exif:
    data = Image.Exif()
    data[0x0112] = orientation
    return data


def test_a_listing_has_no_hidden_files(tmp_path):
    for name in ("b.png", "a.png", "._a.png", ".DS_Store", "Thumbs.db", "desktop.ini", "c.txt"):
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in files.listing(tmp_path)] == ["a.png", "b.png", "c.txt"]
    assert files.listing(tmp_path, ".png") == [tmp_path / "a.png", tmp_path / "b.png"]
    with pytest.raises(UserError, match=r"the folder .*gone is missing\.$"):
        files.listing(tmp_path / "gone")


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "I;16"])
def test_a_picture_is_turned_as_its_exif_data_say(tmp_path, orientation, mode):
    shown, stored = PICTURE, STORED[orientation]
    if mode != "RGB":
        shown, stored = shown[..., 0], stored[..., 0]
    if mode == "I;16":
        shown, stored = shown * np.uint16(257), stored * np.uint16(257)
    picture = Image.fromarray(np.ascontiguousarray(stored))
    if mode == "P":
        picture.putpalette(list(range(256)) * 3)
    path = tmp_path / "a.png"
    picture.save(path, exif=exif(orientation))
    assert np.array_equal(files.load_picture(path, (mode,), "pixels"), shown)


def test_a_tiff_file_is_turned_once(tmp_path):
    Image.fromarray(np.ascontiguousarray(STORED[6])).save(tmp_path / "a.tif", exif=exif(6))
    assert np.array_equal(files.load_picture(tmp_path / "a.tif", ("RGB",), "colours"), PICTURE)


def exif_of(*entries: tuple[int, int, int]) -> bytes:
    """EXIF data with these (tag, type, value)."""
    fields = b"".join(struct.pack(">HHII", tag, kind, 1, value) for tag, kind, value in entries)
    return b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">H", len(entries)) + fields + bytes(4)


TURNED = (0x0112, 3, 6 << 16)
# A whole number that is stored as a fraction, 0 / 0, cannot be written back by Pillow.
FRACTION = (0x0213, 5, 8 + 2 + 2 * 12)


@pytest.mark.parametrize(
    ("data", "turned"),
    [
        (exif_of(TURNED, FRACTION) + bytes(8), True),
        (exif_of((0x0112, 3, 9 << 16)), False),
        (exif_of((0x0112, 2, 6 << 16)), False),
        (b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", False),
        (b"Exif\0\0II\0\0\0\0", False),
        (b"Exif\0\0", False),
        (b"Exif\0\0nonsense that is no TIFF header", False),
    ],
)
@pytest.mark.filterwarnings("error")
def test_exif_data_that_cannot_be_read_or_written_leave_the_picture(tmp_path, data, turned):
    path = tmp_path / "a.jpg"
    smooth = np.full((16, 24, 3), 99, np.uint8)
    Image.fromarray(smooth).save(path, exif=data)
    shape = (24, 16, 3) if turned else (16, 24, 3)
    assert files.load_picture(path, ("RGB",), "colours").shape == shape


@pytest.mark.parametrize("share", [0.3, 0.7])  # of the pixels: an error of Pillow, and a warning
def test_too_many_pixels_are_one_sentence(tmp_path, monkeypatch, share):
    path = tmp_path / "a.png"
    Image.fromarray(PICTURE).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(share * 40))
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        with pytest.raises(UserError, match=r"a\.png cannot be read as a picture: .*exceeds limit"):
            files.load_picture(path, ("RGB",), "colours")
    assert not shown


def test_what_would_start_a_program_is_no_picture(tmp_path):
    content = io.BytesIO()
    Image.fromarray(PICTURE).save(content, "EPS")
    (tmp_path / "a.jpg").write_bytes(content.getvalue())
    with pytest.raises(UserError, match=r"a\.jpg cannot be read as a picture: cannot identify"):
        files.load_picture(tmp_path / "a.jpg", ("RGB",), "colours")


def test_pictures_are_opened_in_one_place():
    found = []
    for path in sorted((ROOT / "emanet_jax").rglob("*.py")):
        calls = (x for x in ast.walk(ast.parse(path.read_text())) if isinstance(x, ast.Call))
        found += [path.name for call in calls if ast.unparse(call.func) == "Image.open"]
    assert found == ["files.py"]


def test_fields_of_different_sizes_are_one_sentence_with_both():
    paths = {"image": Path("x/photo.jpg"), "semseg": Path("x/label.png")}
    image, label = np.zeros((40, 30, 3)), np.zeros((40, 30))
    files.check_sizes(paths, {"image": image, "semseg": label})
    with pytest.raises(UserError) as error:
        files.check_sizes(paths, {"image": image, "semseg": label.T})
    for words in ("x/label.png", "(30, 40)", "x/photo.jpg", "(40, 30)"):
        assert words in str(error.value)


def test_values_up_to_rounding_outside_are_clipped_and_others_named():
    def clipped(*values: float) -> list[float]:
        array = np.array(values, np.float32)
        return files.clip(Path("a.npy"), "values", array, 0, 1, rule="between 0 and 1").tolist()

    assert clipped(0.5, 1.0000001, -0.0000001, 1.0009, -0.0009) == [0.5, 1, 0, 1, 0]
    for value, shown in ((1.0011, "1.0011"), (-0.002, "-0.002"), (np.nan, "nan"), (7, "7")):
        with pytest.raises(
            UserError, match=rf"between 0 and 1, but the one at \(1,\) is {shown}\."
        ):
            clipped(0.5, value)
    with pytest.raises(UserError, match=r"is 1\.0000001\."):
        one = np.array([1.0000001], np.float32)
        files.check(Path("a.npy"), "values", one, one <= 1, "at most 1")
