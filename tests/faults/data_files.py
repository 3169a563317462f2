"""Files of data sets and of weights that are missing, damaged or something else."""

import shutil
from pathlib import Path

import numpy as np

from tests.data.layouts_cityscapes import official_name, official_paths
from tests.faults.builders import (
    Damage,
    array,
    data,
    file_at,
    flipped,
    folder_at,
    garbage,
    importing,
    linked,
    removed,
    truncated,
    written,
)

_NYU, _MAT, _STREETS, _PASCAL = data("nyuv2"), data("labeled"), data("streets"), data("pascal")
_SIZE = (32, 64)
_PNG = {
    field: str(path)
    for field, path in official_paths(Path("official"), "train", official_name("train", 1)).items()
}
_IDS = "pascal/ImageSets/Context/train.txt"


def _weights(change) -> Damage:
    def damage(folder: Path) -> None:
        with np.load(folder / "weights.npz") as weights:
            changed = {name: change(x) for name, x in weights.items()}
        np.savez(folder / "weights.npz", **changed)

    return damage


DATA_FILES = {
    "no folder": data("nyuv2", "--config.data.manual_dir=nowhere").but("no folder .*nowhere"),
    "a name too long": data("nyuv2", f"--config.data.manual_dir={'a' * 300}").but(
        "no folder .*aaa"
    ),
    "npy empty": _NYU.but("depth/1.npy.*EOF", damage=written("nyuv2/train/depth/1.npy", "")),
    "npy binary": _NYU.but("depth/0.npy.*magic", damage=garbage("nyuv2/val/depth/0.npy")),
    "npy in part": _NYU.but("normal/1.npy", damage=truncated("nyuv2/val/normal/1.npy")),
    "npy a folder": _NYU.but("label/0.npy.*Is a dir", damage=folder_at("nyuv2/val/label/0.npy")),
    "npy a loop": _NYU.but("label/0.npy.*links", damage=linked("nyuv2/val/label/0.npy", "0.npy")),
    "npy of NaN": _NYU.but(
        "image/1.npy: values must be finite",
        damage=array("nyuv2/train/image/1.npy", np.full((*_SIZE, 3), np.nan)),
    ),
    "npy of objects": _NYU.but(
        "image/1.npy.*[Oo]bject", damage=array("nyuv2/train/image/1.npy", np.array([{}], object))
    ),
    "npy of class 13": _NYU.but(
        "label/1.npy: classes.*is 13", damage=array("nyuv2/train/label/1.npy", np.full(_SIZE, 13))
    ),
    "npy of another name": _NYU.but(
        "label/².npy: the name", damage=written("nyuv2/train/label/².npy", "")
    ),
    "npy gone": _NYU.but("label/1.npy is missing", damage=removed("nyuv2/train/label/1.npy")),
    "npy of another size": data("nyuv2", "--config.data.image_size=(64,64)").but("the two must"),
    "mat in part": _MAT.but("nyuv2.mat.*truncated", damage=truncated("nyuv2.mat")),
    "mat binary": _MAT.but("nyuv2.mat.*signature", damage=garbage("nyuv2.mat")),
    "mat of MATLAB 5": _MAT.but(
        "it is a MATLAB 5 file", damage=written("nyuv2.mat", b"MATLAB 5.0 MAT-file".ljust(200))
    ),
    "mat gone": _MAT.but("there is no file .*nyuv2.mat", damage=removed("nyuv2.mat")),
    "png in part": data("official").but(
        "disparity.png.*truncated", damage=truncated(_PNG["depth"])
    ),
    "png binary": data("official").but(
        "leftImg8bit.png cannot be read", damage=garbage(_PNG["image"])
    ),
    "png gone": data("official").but("labelIds.png is missing", damage=removed(_PNG["semseg"])),
    "png too small": data("official", "--config.data.image_size=(128,256)").but("choose a size"),
    "streets binary": _STREETS.but(
        "label_19/2.npy", damage=garbage("streets/train/label_19/2.npy")
    ),
    "streets a file": _STREETS.but("train/depth is missing", damage=file_at("streets/train/depth")),
    "ids gone": _PASCAL.but("train.txt.*No such file", damage=removed(_IDS)),
    "ids in UTF-16": _PASCAL.but("train.txt.*utf-8", damage=written(_IDS, b"\xff\xfe2\x00")),
    "ids empty": _PASCAL.but("train.txt is empty", damage=written(_IDS, "\r\n\r\n")),
    "ids of paths": _PASCAL.but("train.txt names '../x'", damage=written(_IDS, "../x\n")),
    "ids a folder": _PASCAL.but("train.txt.*Is a directory", damage=folder_at(_IDS)),
    "jpg in part": _PASCAL.but(
        "2008_000001.jpg.*truncated", damage=truncated("pascal/JPEGImages/2008_000001.jpg")
    ),
    "jpg in grey": _PASCAL.but(
        "2008_000001.jpg has pixels of the format L",
        damage=lambda folder: shutil.copy(
            folder / "pascal/sal_distill/2008_000001.png",
            folder / "pascal/JPEGImages/2008_000001.jpg",
        ),
    ),
    "parts, a bit": _PASCAL.but(
        "2008_000000.mat cannot be", damage=flipped("pascal/human_parts/2008_000000.mat")
    ),
}

WEIGHTS = {
    "gone": importing("--from=gone.pth").but("there is no file gone.pth"),
    "of another ending": importing("--from=nyuv2.mat").but("nyuv2.mat has no known ending"),
    "npz in part": importing().but("weights.npz cannot be read", damage=truncated("weights.npz")),
    "npz empty": importing().but("weights.npz.*No data", damage=written("weights.npz", "")),
    "npz of whole numbers": importing().but(
        "not floating-point", damage=_weights(lambda x: x.astype(int))
    ),
    "npz of other shapes": importing().but("shapes", damage=_weights(lambda x: x[None])),
    "npz of others": importing().but(
        "missing.*surplus \\['x'\\]", damage=lambda folder: np.savez(folder / "weights.npz", x=1.0)
    ),
    "pth, a bit": importing("--from=weights.pth").but(
        "weights.pth cannot be read", damage=flipped("weights.pth")
    ),
    "pth a loop": importing("--from=loop.pth").but(
        "no file loop.pth", damage=linked("loop.pth", "loop.pth")
    ),
    "safetensors binary": importing("--from=x.safetensors").but(
        "x.safetensors cannot be read", damage=garbage("x.safetensors")
    ),
}
