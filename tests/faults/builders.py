"""Commands that must fail, and ways to damage what they read."""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.conftest import ROOT
from tests.faults.files import NETWORK

Damage = Callable[[Path], None]


@dataclasses.dataclass(frozen=True)
class Fault:
    """A command that must fail.

    Attributes:
        module: what `python -m` runs.
        arguments: of the command line, in a copy of the folder that `files` writes.
        words: regular expressions that the one sentence must contain.
        damage: done to the folder before.
        largest_file: bytes after which the disk is full.
    """

    module: str
    arguments: tuple[str, ...]
    words: tuple[str, ...]
    damage: Damage = lambda folder: None
    largest_file: int | None = None

    def but(self, *words: str, damage: Damage | None = None, full: int | None = None) -> "Fault":
        """The same command on other files."""
        return dataclasses.replace(
            self, words=words, damage=damage or self.damage, largest_file=full
        )


def train(*arguments: str) -> Fault:
    """Trains in the folder `new`; later arguments outdo the usual ones."""
    usual = [
        f"--config={ROOT}/tests/tiny.py:{NETWORK}",
        "--workdir=new",
        "--config.model.overrides={}",
        "--config.tasks=('depth',)",
        "--config.checkpoint.best_metric=depth/rmse_m",
        "--config.data.train_examples=8",
        "--config.data.val_examples=4",
    ]
    keys = {argument.partition("=")[0] for argument in arguments}
    kept = [argument for argument in usual if argument.partition("=")[0] not in keys]
    ordered = sorted((*kept, *arguments), key=lambda x: not x.startswith("--config="))
    return Fault("emanet_jax.main", tuple(ordered), ())


def data(layout: str, *arguments: str) -> Fault:
    """Checks a data set of real files."""
    dataset, settings = {
        "nyuv2": ("nyuv2", ["layout=mtan", "manual_dir=nyuv2", "image_size=(32,64)"]),
        "labeled": ("nyuv2", ["layout=labeled", "manual_dir=nyuv2.mat", "image_size=(32,64)"]),
        "official": (
            "cityscapes",
            ["layout=official", "manual_dir=official", "image_size=(64,128)"],
        ),
        "streets": ("cityscapes", ["layout=mtan", "manual_dir=streets", "image_size=(32,64)"]),
        "pascal": ("pascal_context", ["manual_dir=pascal", "image_size=(64,64)"]),
    }[layout]
    usual = [f"--config={ROOT}/configs/{dataset}.py", "--output=checked"]
    usual += [f"--config.data.{setting}" for setting in settings]
    keys = {argument.partition("=")[0] for argument in arguments}
    kept = [argument for argument in usual if argument.partition("=")[0] not in keys]
    return Fault("emanet_jax.data.check", (*kept, *arguments), ())


def command(name: str, *arguments: str) -> Fault:
    """`python -m emanet_jax.NAME` with these arguments alone."""
    return Fault(f"emanet_jax.{name}", arguments, ())


def written(path: str, content: bytes | str) -> Damage:
    """A file with other content, or a new one."""

    def damage(folder: Path) -> None:
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content.encode() if isinstance(content, str) else content)

    return damage


def garbage(path: str) -> Damage:
    """Random bytes in place of a file."""
    return written(path, np.random.default_rng(0).bytes(400))


def truncated(path: str, share: float = 0.5) -> Damage:
    """The first part of a file alone."""
    return lambda folder: os.truncate(folder / path, int((folder / path).stat().st_size * share))


def flipped(path: str) -> Damage:
    """One byte in the middle of a file is another."""

    def damage(folder: Path) -> None:
        content = bytearray((folder / path).read_bytes())
        content[len(content) // 2] ^= 255
        (folder / path).write_bytes(content)

    return damage


def removed(path: str) -> Damage:
    """No such file or folder."""

    def damage(folder: Path) -> None:
        place = folder / path
        shutil.rmtree(place) if place.is_dir() else place.unlink()

    return damage


def folder_at(path: str) -> Damage:
    """A folder where a file should be."""

    def damage(folder: Path) -> None:
        (folder / path).unlink(missing_ok=True)
        (folder / path).mkdir(parents=True)

    return damage


def file_at(path: str) -> Damage:
    """A file where a folder should be."""

    def damage(folder: Path) -> None:
        shutil.rmtree(folder / path, ignore_errors=True)
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text("mine")

    return damage


def linked(path: str, target: str) -> Damage:
    """A link; to its own name, one that never ends."""

    def damage(folder: Path) -> None:
        place = folder / path
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        place.unlink(missing_ok=True)
        place.symlink_to(target)

    return damage


def array(path: str, values: object) -> Damage:
    """Another array in a .npy file."""
    return lambda folder: np.save(folder / path, np.asarray(values))


def edited(path: str, **changes: object) -> Damage:
    """Other values in a JSON object; Ellipsis takes a key out."""

    def damage(folder: Path) -> None:
        content = {**json.loads((folder / path).read_text()), **changes}
        content = {key: value for key, value in content.items() if value is not ...}
        (folder / path).write_text(json.dumps(content))

    return damage


def value(setting: str, *words: str) -> Fault:
    """A value of the config on the command line."""
    return train(f"--config.{setting}").but(*words)


def importing(*arguments: str) -> Fault:
    """Makes a run of a file of weights."""
    given = {argument.partition("=")[0] for argument in arguments}
    usual = [x for x in ("--from=weights.npz", "--to=imported") if x.partition("=")[0] not in given]
    fault = train(*usual, *arguments)
    kept = tuple(x for x in fault.arguments if not x.startswith("--workdir"))
    return dataclasses.replace(fault, module="emanet_jax.convert", arguments=kept)
