"""Image files of every kind: finding them, reading them, names for their outputs."""

import io

import numpy as np
import pytest
from PIL import Image

from emanet_jax.data import files
from emanet_jax.errors import UserError
from emanet_jax.predict import photos

PICTURE = np.random.default_rng(0).integers(0, 256, (24, 36, 3)).astype(np.uint8)
GREY = PICTURE[..., 0]


def _encoded(image, kind, **options):
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def _oriented(number):
    exif = Image.Exif()
    exif[0x0112] = number
    return exif


def _transparent():
    """Half of the picture is transparent, and therefore white."""
    alpha = np.full(GREY.shape, 255, np.uint8)
    alpha[:, :18] = 0
    return Image.fromarray(np.dstack([PICTURE, alpha]))


_HALF_WHITE = np.concatenate([np.full_like(PICTURE[:, :18], 255), PICTURE[:, 18:]], 1)
_GREY3 = np.repeat(GREY[..., None], 3, -1)
_PALETTE = Image.fromarray(PICTURE).quantize(16)
_RGB = Image.fromarray(PICTURE)
PICTURES = {
    "png": (_encoded(_RGB, "PNG"), PICTURE),
    "webp": (_encoded(_RGB, "WEBP", lossless=True), PICTURE),
    "tiff": (_encoded(_RGB, "TIFF"), PICTURE),
    "bmp": (_encoded(_RGB, "BMP"), PICTURE),
    "grey": (_encoded(Image.fromarray(GREY), "PNG"), _GREY3),
    "bits": (_encoded(Image.fromarray(GREY > 99), "PNG"), np.where(_GREY3 > 99, 255, 0)),
    "palette": (_encoded(_PALETTE, "PNG"), np.asarray(_PALETTE.convert("RGB"))),
    "transparent": (_encoded(_transparent(), "PNG"), _HALF_WHITE),
    "transparent colour": (
        _encoded(Image.fromarray(np.where(GREY < 99, 7, GREY)), "PNG", transparency=7),
        np.where(_GREY3 < 99, 255, _GREY3),
    ),
    "16 bits": (_encoded(Image.fromarray(GREY.astype(np.uint16) * 257), "PNG"), _GREY3),
    "16 bits, tiff": (_encoded(Image.fromarray(GREY.astype(np.uint16) * 257), "TIFF"), _GREY3),
    "floats": (_encoded(Image.fromarray(GREY / np.float32(255)), "TIFF"), _GREY3),
    "turned": (_encoded(_RGB, "PNG", exif=_oriented(6)), np.rot90(PICTURE, -1)),
    "mirrored": (_encoded(_RGB, "PNG", exif=_oriented(2)), PICTURE[:, ::-1]),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_read_as_people_see_it(name, tmp_path):
    content, expected = PICTURES[name]
    path = tmp_path / "photo"  # the content tells the format
    path.write_bytes(content)
    found = files.read_photo(path)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("mode", "options"), [("RGB", {"quality": 98}), ("CMYK", {"quality": 98}), ("L", {})]
)
def test_jpeg(tmp_path, mode, options):
    smooth = Image.fromarray(PICTURE[:3, :4]).resize((40, 30), Image.Resampling.BICUBIC)
    smooth.convert(mode).save(tmp_path / "a.jpg", exif=_oriented(8), **options)
    expected = np.rot90(np.asarray(smooth.convert(mode).convert("RGB")).astype(int))
    assert np.abs(files.read_photo(tmp_path / "a.jpg") - expected).mean() < 4


_JPEG = _encoded(_RGB.resize((300, 200)), "JPEG")
_DEEP = Image.fromarray(np.full((4, 4), 1000, np.float32))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "cannot identify"),
        (b"no picture at all" * 9, "cannot identify"),
        (_JPEG[:200], ""),
        (_JPEG[: len(_JPEG) // 2], "truncated"),
        (PICTURES["png"][0][:700], "truncated"),
        (_encoded(_DEEP, "TIFF"), "1000"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "cannot identify"),  # a program
        (_encoded(_RGB.resize((300, 200)), "PNG"), "pixels"),  # too many
    ],
)
def test_what_is_no_picture_is_one_sentence(content, words, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 29_000 if words == "pixels" else 10**6)
    path = tmp_path / "bad.jpg"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"bad.jpg cannot be read as a picture: .*{words}") as found:
        files.read_photo(path)
    assert "\n" not in str(found.value) and str(found.value).count("bad.jpg") == 1


def test_photos_whose_exif_data_cannot_be_written_back_are_turned_all_the_same(tmp_path):
    """A whole number that is stored as the fraction 0 / 0; the tag before it says: turn."""
    entries = b"\x01\x12\0\x03\0\0\0\x01\0\x06\0\0" + b"\x02\x13\0\x05\0\0\0\x01\0\0\0\x22"
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x02" + entries + bytes(12)
    Image.fromarray(np.full((16, 24, 3), 99, np.uint8)).save(tmp_path / "a.jpg", exif=exif)
    assert files.read_photo(tmp_path / "a.jpg").shape == (24, 16, 3)


def test_numbers_up_to_rounding_outside_are_grey(tmp_path):
    floats = np.array([[-0.0000001, 0.5], [1, 1.0000001]], np.float32)
    Image.fromarray(floats).save(tmp_path / "a.tif")
    assert files.read_photo(tmp_path / "a.tif")[..., 0].tolist() == [[0, 128], [255, 255]]


def test_a_missing_file_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"gone\.png cannot be read as a picture: No such file"):
        files.read_photo(tmp_path / "gone.png")


def test_files_folders_and_globs(tmp_path):
    names = ("b.JPG", "a.png", "notes.txt", "c,d[1].webp", "inner/e.tif", "x[1],y/f.png")
    for name in (*names, ".hidden/g.png", "out/a.png", "inner/out/h.png", "text/only.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")

    def find(*values):
        found = photos.find([value.format(tmp_path) for value in values], tmp_path / "out")
        return [str(path.relative_to(tmp_path)) for path in found]

    below = ["inner/e.tif", "inner/out/h.png", "x[1],y/f.png"]
    assert find("{}") == ["a.png", "b.JPG", "c,d[1].webp", *below]
    assert find("{}/out") == ["out/a.png"]
    assert find("{}/*.t*") == ["notes.txt"]
    assert find("{}/**/*.t*") == ["inner/e.tif", "notes.txt", "text/only.txt"]
    assert find("{0}/a.png,{0}/inner", "{0}/*.png") == ["a.png", *below[:2]]
    assert find("{0}/a.png", "{0}/b.JPG", "{0}/inner") == ["a.png", "b.JPG", *below[:2]]
    assert find("{}/c,d[1].webp") == ["c,d[1].webp"]
    assert find("{0}/c,d[1].webp,{0}/a.png") == ["c,d[1].webp", "a.png"]
    assert find("{0}/x[1],y,{0}/b.JPG") == ["x[1],y/f.png", "b.JPG"]
    assert find("{0}/x[1],y/*.png,{0}/x[1],y/[e-g].*") == ["x[1],y/f.png"]
    # A folder without a picture stands for itself, as a file that is none.
    assert find("{0}/text,{0}/a.png,{0}/i*") == ["text", "a.png", *below[:2]]
    with pytest.raises(UserError, match=r"text is a folder without a picture\."):
        files.read_photo(tmp_path / "text")
    with pytest.raises(UserError, match=r"--images=.*/text holds no picture\."):
        find("{}/text")
    for name in ("._a.png", ".DS_Store", "Thumbs.db", "inner/._e.tif"):
        (tmp_path / name).write_bytes(b"")
    assert find("{}") == ["a.png", "b.JPG", "c,d[1].webp", *below]
    assert find("{}/**/*.tif") == ["inner/e.tif"]
    assert not [x for x in find("{}/*") if "._" in x or x == "Thumbs.db"]
    for value in ("{}/*.gif", "{}/a.png,", "{}/nowhere", "", "\0"):
        with pytest.raises(UserError, match="stands for no picture"):
            find(value)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["x/a.jpg"], ["a"]),
        (["x/a.jpg", "x/b.c.png"], ["a", "b.c"]),
        (["x/a.jpg", "y/a.jpg"], ["x/a", "y/a"]),
        (["x/a.jpg", "x/y/a.jpg"], ["a", "y/a"]),
        (["x/a.jpg", "x/a.png", "x/b.png"], ["a.jpg", "a.png", "b"]),
        (["x/a.jpg", "x/a.png", "x/a.jpg.bmp"], ["a.jpg", "a.png", "a.jpg.bmp"]),
    ],
)
def test_no_two_photos_share_a_name(files, expected, tmp_path):
    assert photos.names([tmp_path / name for name in files]) == expected
