"""Videos and cameras as pictures, and pictures as a video, through imageio's ffmpeg."""

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
# It tells of every turned video.
logging.getLogger("imageio_ffmpeg").setLevel(logging.ERROR)
_WRITER = {"format": "FFMPEG", "macro_block_size": 2, "ffmpeg_log_level": "error"}


class Frames:
    """The frames of a video file, or of the first camera.

    Args:
        source: a file, or "camera".

    Attributes:
        rate: frames a second.
        count: of all frames, about; None for a camera.

    Raises:
        UserError: it cannot be opened.
    """

    def __init__(self, source: str) -> None:
        if source != CAMERA and not os.path.isfile(source):
            raise UserError(f"--video={source}: there is no such file.")
        try:
            about, self._frames = (_camera if source == CAMERA else _file)(source)
        except IndexError as error:  # imageio's word for it
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
    """What is known about a video file, and its frames."""
    # By its whole name, which cannot look like an address; imageio goes by a few endings.
    frames = imageio_ffmpeg.read_frames(os.path.abspath(source))
    about = next(frames)
    w, h = about["size"]

    def pictures() -> Generator[np.ndarray, None, None]:
        with contextlib.closing(frames):
            for frame in frames:
                yield np.frombuffer(frame, np.uint8).reshape(h, w, 3)

    return about, pictures()


def _camera(_: str) -> tuple[dict[str, Any], Generator[np.ndarray, None, None]]:
    """What is known about the first camera, and its frames."""
    reader = imageio.get_reader("<video0>", "FFMPEG")

    def pictures() -> Generator[np.ndarray, None, None]:
        with reader:
            yield from reader

    return reader.get_meta_data(), pictures()


@contextlib.contextmanager
def writer(path: Path, rate: float) -> Iterator["imageio.core.Format.Writer"]:
    """Something whose `append_data` takes frames (h, w, 3) uint8, h and w even, for an .mp4 file.

    The file is there, whole, when the `with` block has ended.

    Raises:
        UserError: it cannot be written.
    """
    part = path.with_name(f".{path.stem}.part.mp4")
    try:
        with imageio.get_writer(part, **_WRITER, fps=rate) as opened:
            yield opened
        # A full disk is noticed here alone: ffmpeg ends without its index, and nobody hears of it.
        imageio.get_reader(part, "FFMPEG").close()
        part.replace(path)
    except OSError as error:
        said = error.strerror or "ffmpeg could not finish it"
        raise UserError(f"--output: {path} cannot be written: {said}.") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
