"""Image files of any format: finding them, and names for their outputs."""

import collections
import glob
import os
from collections.abc import Sequence
from pathlib import Path

from emanet_jax.data import files
from emanet_jax.errors import UserError


def find(values: Sequence[str], output: Path | None = None) -> list[Path]:
    """The files that --images names, each once: files, folders and globs, with commas between.

    A folder stands for the files in it and below with the ending of a picture, in the order of
    their paths; one without any stands for itself, which is no picture when it is read. Names that
    exist are taken as they are, with commas and brackets.

    Args:
        values: of the flag.
        output: folder that is not searched.

    Raises:
        UserError: a name stands for nothing, or all of them together for no file.
    """
    found: list[str] = []
    for value in values:
        parts = value.split(",")
        while parts:
            # A comma may belong to a name: the longest name that stands for something.
            for count in range(len(parts), 0, -1):
                named = ",".join(parts[:count])
                paths = _matches(named)
                if paths:
                    break
            else:
                raise UserError(
                    f"--images={named} stands for no picture; give a file, a folder or a glob such "
                    "as 'photos/*.jpg', or several of them with commas between."
                )
            found += [x for path in paths for x in _pictures(path, output)]
            del parts[:count]
    if not any(map(os.path.isfile, found)):
        raise UserError(f"--images={','.join(values)} holds no picture.")
    return [Path(path) for path in dict.fromkeys(map(os.path.abspath, found))]


def _matches(name: str) -> list[str]:
    """The paths that exist and are named so, or match a glob."""
    name = os.path.expanduser(name)
    if os.path.exists(name):
        return [name]
    # Folders of the glob may have brackets in their names.
    parts = Path(name).parts
    folder = ""
    while parts and os.path.exists(os.path.join(folder, parts[0])):
        folder, parts = os.path.join(folder, parts[0]), parts[1:]
    found = glob.glob(os.path.join(glob.escape(folder), *parts), recursive=True)
    return sorted(x for x in found if not files.is_hidden(os.path.basename(x)))


def _pictures(path: str, output: Path | None) -> list[str]:
    """The pictures in a folder and below, or the folder itself if there are none; a file as it is.

    Raises:
        UserError: a folder cannot be read.
    """
    if not os.path.isdir(path):
        return [path]

    def refuse(error: OSError) -> None:
        raise UserError(f"--images={error.filename} cannot be read: {error.strerror}.") from error

    pictures = []
    for folder, below, inside in os.walk(path, onerror=refuse):
        below[:] = [x for x in below if not _is_left_out(os.path.join(folder, x), output)]
        pictures += [os.path.join(folder, x) for x in inside if _is_picture(x)]
    return sorted(pictures) or [path]


def _is_picture(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in files.PICTURES and not files.is_hidden(name)


def _is_left_out(folder: str, output: Path | None) -> bool:
    """Whether a search does not enter a folder: it is hidden, or gets the pictures of this run."""
    hidden = files.is_hidden(os.path.basename(folder))
    return hidden or (output is not None and os.path.realpath(folder) == os.path.realpath(output))


def names(paths: Sequence[Path]) -> list[str]:
    """A name without ending for each file's outputs; all differ.

    It is the file's path below the folder that all share; with the ending where files differ in
    nothing else.
    """
    root = os.path.commonpath([path.parent for path in paths])
    whole = [str(path.relative_to(root)) for path in paths]
    stems = [os.path.splitext(name)[0] for name in whole]
    count = collections.Counter(stems)
    short = [stem if count[stem] == 1 else name for stem, name in zip(stems, whole, strict=True)]
    return short if len(set(short)) == len(short) else whole
