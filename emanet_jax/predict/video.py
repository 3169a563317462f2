"""Frames of videos and cameras, and videos from frames, by imageio's ffmpeg."""

import contextlib
import itertools
import logging
import math
import os
import re
import subprocess
from collections.abc import Generator, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import imageio
import imageio_ffmpeg
import numpy as np

from emanet_jax.errors import UserError

CAMERA = "camera"
# Otherwise ffmpeg starts in a way that can hang beside JAX's threads (a fork that runs Python).
os.environ["IMAGEIO_FFMPEG_NO_PREVENT_SIGINT"] = "1"
logging.getLogger("imageio_ffmpeg").setLevel(logging.ERROR)  # it warns of every rotated video


def check_source(source: str) -> None:
    """Raises UserError unless a video is a file that is there, or "camera"."""
    if source != CAMERA and not os.path.isfile(source):
        raise UserError(f"--video={source}: there is no such file.")


class Frames:
    """The frames of a video file, or of the first camera.

    A file's come at an even rate that keeps its time: where they are unevenly spaced in the file,
    some come twice or not at all.

    Args:
        source: a file, or "camera".
        seconds: of the source to take; None: all.

    Attributes:
        rate: frames a second.
        count: of the frames to come, estimated; None if nothing tells.

    Raises:
        UserError: it cannot be opened, or nothing tells its frame rate.
    """

    def __init__(self, source: str, seconds: int | None = None) -> None:
        check_source(source)
        try:
            about, self._frames = _camera() if source == CAMERA else _file(source, seconds)
        except IndexError as error:  # imageio's error for a missing camera
            raise UserError(f"--video={CAMERA}: no camera answers.") from error
        except OSError as error:
            raise UserError(f"--video={source} cannot be read as a video.") from error
        self.rate = float(about["fps"])
        if not self.rate > 0:
            self._frames.close()
            raise UserError(
                f"--video={source} has no frame rate, and its frames have no times; give it one "
                f"with ffmpeg -r 25 -i {source} NEW.mp4."
            )
        ends = (about.get("duration", math.inf), math.inf if seconds is None else seconds)
        count = self.rate * min(end for end in ends if end > 0)
        self.count = max(1, round(count)) if count < math.inf else None
        self._taken = (
            self._frames if seconds is None else itertools.islice(self._frames, self.count)
        )

    def __iter__(self) -> Iterator[np.ndarray]:
        """(h, w, 3) uint8 each, turned as the file says."""
        return self._taken

    def __enter__(self) -> "Frames":
        return self

    def __exit__(self, *_: object) -> None:
        self._frames.close()


def _file(
    source: str, seconds: int | None
) -> tuple[dict[str, Any], Generator[np.ndarray, None, None]]:
    """The metadata of a video file, and its frames (h, w, 3) uint8 at the rate that it states."""
    path = os.path.abspath(source)  # cannot look like a URL
    times = _times(path, seconds)
    rate = _rate(times)
    # Not imageio itself, which takes a few endings only.
    frames = imageio_ffmpeg.read_frames(path, output_params=["-vf", f"fps={rate}"] if rate else [])
    about = next(frames)
    if rate:  # what the header says of it can be a guess, or missing
        length = times[-1] - times[0] + 1 / rate
        about |= {"fps": rate, "duration": about["duration"] or length}
    w, h = about["size"]

    def pictures() -> Generator[np.ndarray, None, None]:
        with contextlib.closing(frames):
            for frame in frames:
                yield np.frombuffer(frame, np.uint8).reshape(h, w, 3)

    return about, pictures()


def _times(path: str, seconds: int | None) -> list[Fraction]:
    """The times of a video file's packets in seconds, ascending; nothing is decoded."""
    end = [] if seconds is None else ["-t", str(seconds + 60)]  # enough to tell the rate from
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-v", "quiet", "-i", path]
    command += ["-an", "-sn", "-dn", "-c", "copy", *end, "-f", "framecrc", "-"]
    lines = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False).stdout
    base = re.search(r"^#tb 0: (\d+/\d+)$", lines, re.MULTILINE)
    # A line a packet: stream, time of decoding, time of showing, ...
    shown = re.findall(r"^0, *-?\d+, *(-?\d+),", lines, re.MULTILINE)
    return [Fraction(base[1]) * time for time in sorted(set(map(int, shown)))] if base else []


def _rate(times: Sequence[Fraction]) -> Fraction | None:
    """Frames a second of a video whose frames have these times; None for fewer than two.

    It is that of the usual interval: a pause, or two frames that are almost one, do not count.
    """
    intervals = sorted(later - earlier for earlier, later in itertools.pairwise(times))
    if not intervals:
        return None
    median = intervals[len(intervals) // 2]
    usual = [x for x in intervals if median / 2 <= x <= median * 3 / 2]
    return (len(usual) / sum(usual, Fraction(0))).limit_denominator(10_000)


def _camera() -> tuple[dict[str, Any], Generator[np.ndarray, None, None]]:
    """The metadata of the first camera, and its frames (h, w, 3) uint8."""
    reader = imageio.get_reader("<video0>", "FFMPEG")

    def pictures() -> Generator[np.ndarray, None, None]:
        with reader:
            yield from reader.iter_data()

    return reader.get_meta_data(), pictures()


@contextlib.contextmanager
def writer(path: Path, rate: float) -> Iterator["imageio.core.Format.Writer"]:
    """Opens an .mp4 file; its `append_data` takes frames (h, w, 3) uint8, h and w even.

    The file is there, whole, when the `with` block has ended.

    Raises:
        UserError: it cannot be written.
    """
    part = path.with_name(f".{path.stem}.part.mp4")
    try:
        opened = imageio.get_writer(
            part, format="FFMPEG", fps=rate, macro_block_size=2, ffmpeg_log_level="error"
        )
        with opened:
            yield opened
        # Only reading shows that the disk was full: ffmpeg then leaves out the index, silently.
        imageio.get_reader(part, "FFMPEG").close()
        part.replace(path)
    except OSError as error:
        reason = error.strerror or "ffmpeg could not finish it"
        raise UserError(f"--output: {path} cannot be written: {reason}.") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
