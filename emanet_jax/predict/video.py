"""Frames of videos and cameras, and videos from frames, by imageio's ffmpeg."""

import contextlib
import logging
import math
import os
from collections.abc import Generator, Iterator
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

    Args:
        source: a file, or "camera".

    Attributes:
        rate: frames a second.
        count: of all frames, estimated; None for a camera.

    Raises:
        UserError: it cannot be opened.
    """

    def __init__(self, source: str) -> None:
        check_source(source)
        try:
            about, self._frames = _camera() if source == CAMERA else _file(source)
        except IndexError as error:  # imageio's error for a missing camera
            raise UserError(f"--video={CAMERA}: no camera answers.") from error
        except OSError as error:
            raise UserError(f"--video={source} cannot be read as a video.") from error
        self.rate = float(about["fps"])
        count = self.rate * about.get("duration", math.inf)
        self.count = round(count) if 0 < count < math.inf else None

    def __iter__(self) -> Iterator[np.ndarray]:
        """(h, w, 3) uint8 each, turned as the file says."""
        return self._frames

    def __enter__(self) -> "Frames":
        return self

    def __exit__(self, *_: object) -> None:
        self._frames.close()


def _file(source: str) -> tuple[dict[str, Any], Generator[np.ndarray, None, None]]:
    """The metadata of a video file, and its frames (h, w, 3) uint8."""
    # By its absolute path, which cannot look like a URL; imageio itself takes a few endings only.
    frames = imageio_ffmpeg.read_frames(os.path.abspath(source))
    about = next(frames)
    w, h = about["size"]

    def pictures() -> Generator[np.ndarray, None, None]:
        with contextlib.closing(frames):
            for frame in frames:
                yield np.frombuffer(frame, np.uint8).reshape(h, w, 3)

    return about, pictures()


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
