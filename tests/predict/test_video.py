"""Videos through a network: frames, rates, and ends before the end."""

import imageio
import numpy as np
import pytest

from emanet_jax import inference
from emanet_jax.errors import UserError
from emanet_jax.predict import figures, loops, video

RATE = 10


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A second of grey that grows brighter."""
    path = tmp_path_factory.mktemp("clip") / "grey.mp4"
    with video.writer(path, RATE) as out:
        for k in range(10):
            out.append_data(np.full((48, 64, 3), 25 * k, np.uint8))
    return path


def _read(path):
    """The rate, and the frames (n, h, w, 3)."""
    with imageio.get_reader(path, "FFMPEG") as reader:
        return reader.get_meta_data()["fps"], np.stack([*iter(reader)])


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({}, range(10)),
        ({"every": 4}, [0, 4, 8]),
        ({"seconds": 1, "every": 9}, [0, 9]),
    ],
)
def test_a_video_becomes_a_video_of_figures(linear, clip, tmp_path, options, kept):
    network = inference.AnySize(linear, 3)
    path, source = tmp_path / "out" / "grey.mp4", tmp_path / "any: ending.x"
    source.write_bytes(clip.read_bytes())
    assert loops.write_video(network, str(source), path, **options) == len(kept)
    rate, frames = _read(path)
    assert rate == pytest.approx(RATE / options.get("every", 1), rel=0.01)
    assert len(frames) == len(kept)
    h, w = figures.tile_size((48, 64))
    tiles = frames[:, 40 : 20 + h, 30:w].astype(int)  # of the picture itself
    np.testing.assert_allclose(tiles.mean((1, 2, 3)), [25 * k for k in kept], atol=6)
    assert [x.name for x in path.parent.iterdir()] == ["grey.mp4"]


def test_an_interrupted_video_is_whole(linear, clip, tmp_path):
    class Interrupted(inference.AnySize):
        def raw(self, images):
            if int(images[0].mean()) > 100:  # the third batch
                raise KeyboardInterrupt
            return super().raw(images)

    path = tmp_path / "grey.mp4"
    assert loops.write_video(Interrupted(linear, 3), str(clip), path) == 6
    assert len(_read(path)[1]) == 6


def test_what_is_no_video_is_one_sentence(linear, clip, tmp_path, monkeypatch):
    network, path = inference.AnySize(linear, 1), tmp_path / "out.mp4"
    (tmp_path / "bad.mp4").write_bytes(b"no video" * 99)
    (tmp_path / "half.mp4").write_bytes(clip.read_bytes()[:-900])
    for source, words in {
        "gone.mp4": "there is no such file",
        "bad.mp4": "cannot be read as a video",
        "half.mp4": "cannot be read as a video",
    }.items():
        with pytest.raises(UserError, match=f"--video=.*{source}.*{words}"):
            loops.write_video(network, str(tmp_path / source), path)
    with pytest.raises(UserError, match="would write over"):
        loops.write_video(network, str(clip), clip)
    assert len(_read(clip)[1]) == 10

    def no_camera(*_):
        raise IndexError("No (working) camera at <video0>.")

    monkeypatch.setattr(imageio, "get_reader", no_camera)
    with pytest.raises(UserError, match="--video=camera: no camera answers"):
        loops.write_video(network, "camera", path)
    assert not path.exists()


def test_a_video_that_cannot_be_written_is_one_sentence(clip, tmp_path):
    (tmp_path / "taken.mp4").mkdir()
    with (
        pytest.raises(UserError, match=r"taken\.mp4 cannot be written"),
        video.writer(tmp_path / "taken.mp4", RATE) as out,
    ):
        out.append_data(np.zeros((48, 64, 3), np.uint8))
    assert [path.name for path in tmp_path.iterdir()] == ["taken.mp4"]
