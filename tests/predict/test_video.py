"""Videos through a network: frames, rates, and ends before the end."""

import math
import subprocess
from fractions import Fraction

import imageio
import imageio_ffmpeg
import numpy as np
import pytest

from emanet_jax import inference
from emanet_jax.errors import UserError
from emanet_jax.predict import figures, loops, video
from tests.conftest import ROOT

RATE = 10
LIVE = ROOT.parent / "shared" / "cases" / "05_webm_no_rate" / "live.webm"


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
    network = inference.Predictor(linear, 3)
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
    class Interrupted(inference.Predictor):
        def raw(self, images):
            if int(images[0].mean()) > 100:  # the third batch
                raise KeyboardInterrupt
            return super().raw(images)

    path = tmp_path / "grey.mp4"
    assert loops.write_video(Interrupted(linear, 3), str(clip), path) == 6
    assert len(_read(path)[1]) == 6


def test_what_is_no_video_is_one_sentence(linear, clip, tmp_path, monkeypatch):
    network, path = inference.Predictor(linear, 1), tmp_path / "out.mp4"
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


def _encoded(path, times, *options):
    """Makes a video of 50 grey frames at times that an expression of N gives, in milliseconds."""
    source = ["-f", "lavfi", "-t", "2", "-i", "color=gray:size=64x48:rate=25"]
    uneven = ["-vf", f"settb=1/1000,setpts={times}", "-fps_mode", "passthrough"]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *source, *uneven]
    subprocess.run([*command, "-enc_time_base", "1/1000", *options, path], check=True)
    return path


RATE_OF_25 = bytes.fromhex("23e3838402625a00")  # a WebM's 40 ms a frame
STATED = {"1k": bytes.fromhex("23e38384000f4240"), "none": bytes.fromhex("ec86000000000000")}


def _live(path, stated, *options):
    """A WebM as a browser records it: no length, and no rate or a wrong one."""
    live = ["-f", "webm", "-live", "1"]
    _encoded(path, "N*41", *options, "-c:v", "libvpx", "-bsf:v", "setts=duration=1", *live)
    content = path.read_bytes()
    assert content.count(RATE_OF_25) == 1
    path.write_bytes(content.replace(RATE_OF_25, STATED[stated]))
    return path


@pytest.mark.parametrize("stated", [*STATED, "recorded"])
def test_a_video_without_a_rate_has_that_of_its_frames_times(linear, tmp_path, stated):
    if stated == "recorded" and not LIVE.exists():
        pytest.skip(f"{LIVE} is missing")
    source = LIVE if stated == "recorded" else _live(tmp_path / "live.webm", stated)
    for seconds, count in ((1, 24), (None, 49 if stated == "recorded" else 50)):
        with video.Frames(str(source), seconds) as frames:
            assert frames.rate == pytest.approx(1000 / 41) and frames.count == count
            assert sum(1 for _ in frames) == count
    network, path = inference.Predictor(linear, 3), tmp_path / "out.mp4"
    assert loops.write_video(network, str(source), path, seconds=1, every=10) == 3
    rate, found = _read(path)
    assert rate == pytest.approx(100 / 41, rel=1e-2) and len(found) == 3


def test_time_runs_as_in_a_video_of_uneven_frames(tmp_path):
    """A second of frames, two of rest, a second of frames: 4 s at the usual rate, not 8."""
    times = "N*40+2000*gt(N\\,24)"
    path = _encoded(tmp_path / "rest.mp4", times, "-c:v", "libx264", "-pix_fmt", "yuv420p")
    for seconds, count in ((None, 100), (2, 50)):
        with video.Frames(str(path), seconds) as frames:
            assert frames.rate == 25 and frames.count == count
            assert sum(1 for _ in frames) == count


def test_a_video_that_nothing_tells_the_rate_of_is_one_sentence(linear, tmp_path):
    path = _live(tmp_path / "one.webm", "none", "-frames:v", "1")
    with pytest.raises(
        UserError, match=r"one\.webm has no frame rate.*; give it one with ffmpeg -r"
    ):
        loops.write_video(inference.Predictor(linear, 1), str(path), tmp_path / "out.mp4")
    assert [x.name for x in tmp_path.iterdir()] == ["one.webm"]


@pytest.mark.parametrize(
    ("milliseconds", "rate"),
    [
        ([0, 33, 67, 100, 133, 167, 200], 30),  # rounded
        ([0, 40, 80, 81, 120, 160], 25),  # one that is not shown
        ([0, 40, 80, 5000, 5040], 25),  # a rest
        ([0, 30, 80, 120, 150, 200], 25),  # a shaking clock
        ([7], None),
        ([], None),
    ],
)
def test_the_rate_is_that_of_the_usual_interval(milliseconds, rate):
    found = video._rate([Fraction(time, 1000) for time in milliseconds])
    assert found == (None if rate is None else pytest.approx(rate, rel=0.02))


def test_a_rate_keeps_its_digits(linear, tmp_path):
    """Of one frame in 30, the rate is one that two digits do not hold."""
    path = _encoded(tmp_path / "long.mp4", "N*40", "-c:v", "libx264", "-pix_fmt", "yuv420p")
    loops.write_video(inference.Predictor(linear, 2), str(path), tmp_path / "out.mp4", every=30)
    with imageio.get_reader(tmp_path / "out.mp4", "FFMPEG") as reader:
        assert reader.get_meta_data()["duration"] == pytest.approx(2 * 30 / 25, abs=0.02)


def test_colours_of_a_video_change_slowly(linear, tmp_path):
    """Ten frames of a near wall, then a far one: the range follows, within seconds."""
    weights = linear.variables | {"depth": np.array([[9.0], [0.0], [0.0]], np.float32)}
    network = inference.Predictor(linear._replace(variables=weights), 4)
    raws = [network.raw([np.full((48, 64, 3), k, np.uint8)])[0] for k in [25] * 3 + [250] * 60]
    share = 1 - math.exp(-1 / (RATE * 2.0))
    ends = loops._adapted((), raws, network.tasks, share)
    again = loops._adapted((), raws[:5], network.tasks, share)
    again += loops._adapted(again[-1:], raws[5:], network.tasks, share)  # a batch after another
    assert again == ends
    highs = np.array([x["depth"][1] for x in ends])
    near, far = 9 * 25 / 255 + 0.05, 9 * 250 / 255 + 0.05
    np.testing.assert_allclose(highs[:3], near, atol=1e-3)
    steps = np.diff(highs[2:])
    assert steps.max() < 0.06 * (far - near) and (steps > 0).all()
    assert highs[2 + 20] == pytest.approx(near + (1 - 1 / math.e) * (far - near), rel=1e-3)
    assert highs[-1] > near + 0.9 * (far - near)
