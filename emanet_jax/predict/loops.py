"""Photos and videos through a trained network: figures and arrays on disk."""

import contextlib
import io
import itertools
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from emanet_jax.data import geometry
from emanet_jax.errors import UserError
from emanet_jax.inference import AnySize, Raw
from emanet_jax.predict import figures, photos, video

_LOG = logging.getLogger(__name__)
_THREADS = min(8, os.cpu_count() or 1)  # that read, resize and compress

Item = TypeVar("Item")


def write_photos(
    network: AnySize,
    paths: Sequence[Path],
    output: Path,
    *,
    with_figures: bool = True,
    with_arrays: bool = True,
) -> list[Path]:
    """Writes NAME.png and NAME.npz of every photo into a folder, each whole or not at all.

    NAME.npz holds, at the photo's size, {task: (h, w) or (h, w, k)}: class ids as uint8, all else
    as float32.

    Args:
        network: that predicts.
        paths: of the photos, as `photos.find` gives them.
        output: folder, made if need be.
        with_figures: write the .png files, a `figures.figure` each.
        with_arrays: write the .npz files.

    Returns:
        The photos that could not be read; each has been named in a line of its own.

    Raises:
        UserError: a file cannot be written, or would be written over one of the photos.
    """
    encoders = {".png": _png} if with_figures else {}
    encoders |= {".npz": _npz} if with_arrays else {}
    stems = dict(zip(paths, photos.names(paths), strict=True))
    inputs = set(map(os.path.realpath, paths))
    for stem, ending in itertools.product(stems.values(), encoders):
        path = output / f"{stem}{ending}"
        if os.path.realpath(path) in inputs:
            raise UserError(
                f"--output={output} would write over the photo {path}; choose another folder."
            )

    def read(path: Path) -> np.ndarray | None:
        try:
            return photos.read(path)
        except UserError as error:
            _LOG.warning("left out: %s", error)
            return None

    def finish(path: Path, photo: np.ndarray, raw: Raw) -> None:
        for ending, encode in encoders.items():
            _write(output / f"{stems[path]}{ending}", encode(network, photo, raw))

    _make_folder(output)
    left_out = []
    with _progress("photo", len(paths)) as progress, ThreadPoolExecutor(_THREADS) as pool:
        for batch in _batches(paths, network.batch_size):
            opened = dict(zip(batch, pool.map(read, batch), strict=True))
            left_out += [path for path, photo in opened.items() if photo is None]
            good = {path: photo for path, photo in opened.items() if photo is not None}
            if good:
                maps = network.raw(list(good.values()))
                list(pool.map(finish, good, good.values(), maps))
            progress.update(len(batch))
    return left_out


def write_video(
    network: AnySize, source: str, path: Path, *, every: int = 1, seconds: int | None = None
) -> int:
    """Writes an .mp4 file with the figure of every frame; Ctrl-C ends it early, and whole.

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
        return _figure(network, frame, raw, all_classes=True)

    written = 0
    with video.Frames(source) as frames:
        last = None if seconds is None else max(1, round(seconds * frames.rate))
        counts = [count for count in (frames.count, last) if count is not None]
        total = -(-min(counts) // every) if counts else None
        _make_folder(path.parent)
        with (
            ThreadPoolExecutor(_THREADS) as pool,
            video.writer(path, frames.rate / every) as out,
            _progress("frame", total) as progress,
            _until_interrupted(),
        ):
            for batch in _batches(itertools.islice(frames, 0, last, every), network.batch_size):
                for drawn in pool.map(draw, batch, network.raw(batch)):
                    out.append_data(drawn)
                written += len(batch)
                progress.update(len(batch))
    if not written:
        raise UserError(f"--video={source} holds no frames.")
    return written


@contextlib.contextmanager
def _progress(unit: str, total: int | None) -> Iterator[tqdm]:
    """A progress bar, above which the package's log lines are printed."""
    with (
        logging_redirect_tqdm([logging.getLogger("emanet_jax")]),
        tqdm(total=total, unit=unit, mininterval=1) as progress,
    ):
        yield progress


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


def _figure(
    network: AnySize, image: np.ndarray, raw: Raw, *, all_classes: bool = False
) -> np.ndarray:
    size = figures.tile_size(image.shape[:2])
    tile, maps = geometry.resize_image(image, size), network.maps(raw, size)
    return figures.figure(tile, maps, network.tasks, all_classes=all_classes)


def _png(network: AnySize, photo: np.ndarray, raw: Raw) -> bytes:
    content = io.BytesIO()
    Image.fromarray(_figure(network, photo, raw)).save(content, "PNG")
    return content.getvalue()


def _npz(network: AnySize, photo: np.ndarray, raw: Raw) -> bytes:
    maps = network.maps(raw, photo.shape[:2])
    arrays = {name: x[..., 0] if x.shape[-1] == 1 else x for name, x in maps.items()}
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)  # type: ignore[arg-type]  # NumPy's own keywords
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
