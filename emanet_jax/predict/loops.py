"""Photos and videos through a trained network: sheets and arrays on disk."""

import contextlib
import io
import itertools
import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from emanet_jax.data import resize
from emanet_jax.errors import UserError
from emanet_jax.inference import AnySize, Raw
from emanet_jax.predict import photos, sheets, video

_LOG = logging.getLogger(__name__)
_PROGRESS = 5.0  # seconds between two lines
_THREADS = min(8, os.cpu_count() or 1)  # that read, resize and compress

Item = TypeVar("Item")


def write_photos(
    network: AnySize,
    paths: Sequence[Path],
    output: Path,
    *,
    panels: bool = True,
    arrays: bool = True,
) -> list[Path]:
    """Writes NAME.png and NAME.npz of every photo into a folder, each whole or not at all.

    NAME.npz holds, at the photo's size, {task: (h, w) or (h, w, k)}: class ids as uint8, all else
    as float32.

    Args:
        network: that predicts.
        paths: of the photos, as `photos.find` gives them.
        output: folder, made if need be.
        panels: write the .png files, a `sheets.sheet` each.
        arrays: write the .npz files.

    Returns:
        The photos that could not be read; each has been named in a line of its own.

    Raises:
        UserError: a file cannot be written, or would be written over one of the photos.
    """
    endings = [".png"] * panels + [".npz"] * arrays
    places = {
        path: [output / f"{name}{ending}" for ending in endings]
        for path, name in zip(paths, photos.names(paths), strict=True)
    }
    keep = set(map(os.path.realpath, paths))
    for place in itertools.chain(*places.values()):
        if os.path.realpath(place) in keep:
            raise UserError(
                f"--output={output} would write over the photo {place}; choose another folder."
            )

    def read(path: Path) -> np.ndarray | None:
        try:
            return photos.read(path)
        except UserError as error:
            _LOG.warning("left out: %s", error)
            return None

    def finish(path: Path, photo: np.ndarray, raw: Raw) -> None:
        contents = {".png": lambda: _panel(network, photo, raw)} | {
            ".npz": lambda: _arrays(network.maps(raw, photo.shape[:2]))
        }
        for place in places[path]:
            _write(place, contents[place.suffix]())

    _make_folder(output)
    left_out = []
    progress = Progress("photos", len(paths))
    with ThreadPoolExecutor(_THREADS) as pool:
        for batch in _batches(paths, network.batch_size):
            opened = dict(zip(batch, pool.map(read, batch), strict=True))
            left_out += [path for path, photo in opened.items() if photo is None]
            good = {path: photo for path, photo in opened.items() if photo is not None}
            if good:
                maps = network.raw(list(good.values()))
                list(pool.map(finish, good, good.values(), maps))
            progress.add(len(batch))
    return left_out


def write_video(
    network: AnySize, source: str, path: Path, *, every: int = 1, seconds: int | None = None
) -> int:
    """Writes an .mp4 file with the sheet of every frame; Ctrl-C ends it early, and whole.

    Args:
        network: that predicts.
        source: a video file, or "camera".
        path: of the file to write.
        every: take the first of so many frames; time runs as in the source.
        seconds: of the source to take; None: all.

    Returns:
        The number of frames.

    Raises:
        UserError: the source cannot be read, or the file not be written.
    """
    if os.path.realpath(path) == os.path.realpath(source):
        raise UserError(f"--output={path.parent} would write over {source}; choose another folder.")

    def draw(frame: np.ndarray, raw: Raw) -> np.ndarray:
        size = sheets.tile_size(frame.shape[:2])
        maps = network.maps(raw, size)
        return sheets.sheet(resize.smooth(frame, size), maps, network.tasks, all_classes=True)

    written = 0
    with video.Frames(source) as frames, ThreadPoolExecutor(_THREADS) as pool:
        last = None if seconds is None else max(1, round(seconds * frames.rate))
        counts = [count for count in (frames.count, last) if count is not None]
        total = -(-min(counts) // every) if counts else None
        progress = Progress("frames", total)
        _make_folder(path.parent)
        with video.writer(path, frames.rate / every) as out, _until_interrupted():
            for batch in _batches(itertools.islice(frames, 0, last, every), network.batch_size):
                for drawn in pool.map(draw, batch, network.raw(batch)):
                    out.append_data(drawn)
                written += len(batch)
                progress.add(len(batch))
    if not written:
        raise UserError(f"--video={source} holds no frames.")
    return written


class Progress:
    """A line on how far work has come, every few seconds.

    Args:
        what: is counted.
        total: of all; None: nobody knows.
    """

    def __init__(self, what: str, total: int | None) -> None:
        self._what, self._total = what, total
        self._done = 0
        self._said = time.monotonic()
        self._first: tuple[float, int] | None = None  # when the first were done, with compilation

    def add(self, count: int) -> None:
        """So many more are done."""
        self._done += count
        now = time.monotonic()
        self._first = self._first or (now, self._done)
        if now - self._said < _PROGRESS:
            return
        self._said = now
        words = f"{self._done} of {self._total}" if self._total else f"{self._done}"
        seconds, new = now - self._first[0], self._done - self._first[1]
        left = ""
        if self._total and new:
            left = f", {max(0, self._total - self._done) * seconds / new:.0f} s left"
        _LOG.info("%s %s%s", words, self._what, left)


@contextlib.contextmanager
def _until_interrupted() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        _LOG.info("Interrupted: the video ends here.")


def _batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    items = iter(items)
    while batch := list(itertools.islice(items, size)):
        yield batch


def _panel(network: AnySize, photo: np.ndarray, raw: Raw) -> bytes:
    size = sheets.tile_size(photo.shape[:2])
    drawn = sheets.sheet(resize.smooth(photo, size), network.maps(raw, size), network.tasks)
    content = io.BytesIO()
    Image.fromarray(drawn).save(content, "PNG")
    return content.getvalue()


def _arrays(maps: Mapping[str, np.ndarray]) -> bytes:
    content = io.BytesIO()
    np.savez_compressed(
        content, **{n: x[..., 0] if x.shape[-1] == 1 else x for n, x in maps.items()}
    )
    return content.getvalue()


def _write(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all."""
    _make_folder(path.parent)
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    except OSError as error:
        raise UserError(f"--output: {path} cannot be written: {error.strerror}.") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output: {path} cannot be made: {error.strerror}.") from error
