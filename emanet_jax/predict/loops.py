"""Photos and videos through a trained network: figures and arrays on disk."""

import contextlib
import functools
import itertools
import logging
import math
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from emanet_jax.data import files, geometry
from emanet_jax.errors import UserError
from emanet_jax.inference import Predictor, Raw
from emanet_jax.predict import figures, formats, photos
from emanet_jax.tasks.figures import Ends
from emanet_jax.types import Task

_LOG = logging.getLogger(__name__)
_THREADS = min(8, os.cpu_count() or 1)  # that read, resize and compress
# Seconds in which a video's colours come 63 % nearer to what is seen, as a camera's exposure does.
_ADAPTATION = 2.0

Item = TypeVar("Item")


def write_photos(
    network: Predictor,
    paths: Sequence[Path],
    output: Path,
    save: Collection[str] = ("figure", "npz"),
) -> list[Path]:
    """Writes the files of every photo into a folder, each whole or not at all.

    Args:
        network: that predicts.
        paths: of the photos, as `photos.find` gives them.
        output: folder, made if need be.
        save: kinds of files, as `formats.encoders` has them.

    Returns:
        The photos that could not be read; each has been named in a line of its own.

    Raises:
        UserError: there is nothing to write, or a file cannot be written, or would be written over
            one of the photos or over another's.
    """
    encoders = formats.encoders(network.tasks, save)
    if not encoders:
        raise UserError(
            f"--save={','.join(save)} leaves nothing to write: none of the run's tasks, "
            f"{', '.join(task.name for task in network.tasks)}, has classes or, for png, metres."
        )
    stems = dict(zip(paths, photos.names(paths), strict=True))
    inputs, taken = set(map(os.path.realpath, paths)), set[Path]()
    for stem, ending in itertools.product(stems.values(), encoders):
        path = output / f"{stem}{ending}"
        if os.path.realpath(path) in inputs:
            raise UserError(
                f"--output={output} would write over the photo {path}; choose another folder."
            )
        if path in taken:
            raise UserError(
                f"--output={output} would get {path} from two photos; leave one of them out."
            )
        taken.add(path)

    def read(path: Path) -> np.ndarray | None:
        try:
            return files.read_photo(path)
        except UserError as error:
            _LOG.warning("left out: %s", error)
            return None

    def finish(path: Path, photo: np.ndarray, raw: Raw) -> None:
        maps_at = functools.cache(functools.partial(network.maps, raw))
        for ending, encode in encoders.items():
            _write(output / f"{stems[path]}{ending}", encode(photo, maps_at))

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
    network: Predictor, source: str, path: Path, *, every: int = 1, seconds: int | None = None
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
    from emanet_jax.predict import video  # needs imageio, which photos can spare

    if os.path.realpath(path) == os.path.realpath(source):
        raise UserError(f"--output={path.parent} would write over {source}; choose another folder.")

    def draw(frame: np.ndarray, raw: Raw, ends: Mapping[str, Ends]) -> np.ndarray:
        size = figures.tile_size(frame.shape[:2])
        tile, maps = geometry.resize_image(frame, size), network.maps(raw, size)
        return figures.figure(tile, maps, network.tasks, ends, all_classes=True)

    written = 0
    with video.Frames(source, seconds) as frames:
        total = None if frames.count is None else -(-frames.count // every)
        share = 1 - math.exp(-every / (frames.rate * _ADAPTATION))
        ends: list[Mapping[str, Ends]] = []  # of the batch's frames
        _make_folder(path.parent)
        with (
            ThreadPoolExecutor(_THREADS) as pool,
            video.writer(path, frames.rate / every) as out,
            _progress("frame", total) as progress,
            _until_interrupted(),
        ):
            for batch in _batches(itertools.islice(frames, 0, None, every), network.batch_size):
                raws = network.raw(batch)
                ends = _adapted(ends[-1:], raws, network.tasks, share)
                for drawn in pool.map(draw, batch, raws, ends):
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


def _adapted(
    before: Sequence[Mapping[str, Ends]], raws: Sequence[Raw], tasks: Sequence[Task], share: float
) -> list[Mapping[str, Ends]]:
    """The ends of the colours of frames, which follow what is seen by a share a frame.

    Args:
        before: the last frame's ends; () at the beginning.
        raws: of the frames.
        tasks: of the network.
        share: as in `figures.blend`.
    """
    ends = list(before)
    for raw in raws:
        own = figures.colour_ends({name: after for name, (_, after) in raw.items()}, tasks)
        ends.append(figures.blend(ends[-1], own, share) if ends else own)
    return ends[len(before) :]


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
