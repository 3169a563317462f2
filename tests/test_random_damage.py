"""Files damaged at random: every reader gives what it can read, or one sentence."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from etils import epath

from emanet_jax import strict_json
from emanet_jax.compare import runs
from emanet_jax.config import read_config
from emanet_jax.data import files, nyuv2, pascal_context
from emanet_jax.errors import UserError
from emanet_jax.models.weights.reading import read_state_dict
from emanet_jax.tasks import tasks_for
from emanet_jax.training import environment, workdir, writers
from tests import tiny
from tests.data.layouts import write_labeled, write_mtan
from tests.data.layouts_cityscapes import official_name, official_paths, write_official
from tests.data.layouts_pascal import paths_of, write_pascal
from tests.data.settings import data_config
from tests.torch_files import save_torch

ROUNDS = 60
WEIGHTS = {"conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2), "bias": np.ones(2)}


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    root = tmp_path_factory.mktemp("pristine")
    write_mtan(root / "mtan", 1, 1)
    write_labeled(root / "nyuv2.mat", 3)
    write_official(root / "official", 1, 1)
    write_pascal(root / "pascal", 1, 1)
    save_torch(root / "zip.pth", WEIGHTS)
    save_torch(root / "stream.pth", WEIGHTS, old=True)
    np.savez(root / "x.npz", **WEIGHTS)
    header = b'{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    content = len(header).to_bytes(8, "little") + header + np.ones(2, np.float32).tobytes()
    (root / "x.safetensors").write_bytes(content)
    (root / workdir.CONFIG).write_text(workdir.to_json(tiny.get_config("backbone=hrnet_tiny")))
    rows = [{"step": step, "train/loss": 0.5} for step in range(5)]
    (root / workdir.METRICS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    results = {"step": 4, "semseg/miou_percent": 40.5, "depth/rmse_m": None}
    (root / workdir.RESULTS).write_text(json.dumps(results, indent=2))
    classes = {"step": 4, "semseg/iou_percent": {"bed": 40.5, "wall": None}}
    (root / workdir.PER_CLASS).write_text(json.dumps(classes, indent=2))
    (root / workdir.ENVIRONMENT).write_text(json.dumps([{"step": 0, "jax": "0.10.2"}], indent=2))
    return root


def _labeled(path: Path) -> None:
    data = data_config(path.parent, layout="labeled", manual_dir=str(path))
    config = nyuv2.builder(data, tasks_for("nyuv2")).builder_config
    for split in config.counts:
        list(config.examples(split))


SIZE = (32, 64)
# Each file, and what reads it.
READERS: dict[str, Callable[[Path], object]] = {
    "mtan/train/image/0.npy": lambda path: files.load_npy(path, (*SIZE, 3)),
    "mtan/train/label/0.npy": lambda path: files.load_npy(path, SIZE, integers=True),
    "nyuv2.mat": _labeled,
    "official/leftImg8bit": lambda path: files.load_picture(path, ("RGB",), "colours"),
    "official/disparity": lambda path: files.load_picture(path, ("I;16",), "disparities"),
    "pascal/JPEGImages": lambda path: files.load_picture(path, ("RGB",), "colours"),
    "pascal/pascal-context": lambda path: files.load_mat(path, "LabelMap"),
    "pascal/human_parts": lambda path: pascal_context.human_parts(path, (48, 64)),
    "pascal/ImageSets/Context/train.txt": pascal_context.read_ids,
    "zip.pth": read_state_dict,
    "stream.pth": read_state_dict,
    "x.npz": read_state_dict,
    "x.safetensors": read_state_dict,
    workdir.CONFIG: lambda path: read_config(path, str(path)),
    workdir.METRICS: lambda path: writers.read_scalars(epath.Path(path)),
    workdir.RESULTS: lambda path: runs.read_evaluation(epath.Path(path), strict_json.numbers),
    workdir.PER_CLASS: lambda path: runs.read_evaluation(epath.Path(path), runs.numbers_by_class),
    workdir.ENVIRONMENT: lambda path: environment.read(epath.Path(path).parent),
}


def file_of(root: Path, name: str) -> Path:
    folders = {
        "official/leftImg8bit": official_paths(
            root / "official", "train", official_name("train", 0)
        )["image"],
        "official/disparity": official_paths(root / "official", "train", official_name("train", 0))[
            "depth"
        ],
        "pascal/JPEGImages": paths_of(root / "pascal", "train", 0)["image"],
        "pascal/pascal-context": paths_of(root / "pascal", "train", 0)["edge"],
        "pascal/human_parts": paths_of(root / "pascal", "train", 0)["human_parts"],
    }
    return folders.get(name, root / name)


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Other bytes, fewer or more: mostly near the start, where headers are."""
    near = int(rng.choice([64, 400, len(content)]))
    place = int(rng.integers(min(near, len(content))))
    noise = rng.bytes(int(rng.integers(1, 9)))
    match rng.integers(4):
        case 0:
            return content[:place]
        case 1:
            return content[:place] + noise + content[place:]
        case 2:
            return content[:place] + content[place + len(noise) :]
    return content[:place] + noise + content[place + len(noise) :]


@pytest.mark.filterwarnings("ignore")  # readers may grumble at what they nevertheless read
@pytest.mark.parametrize("name", READERS)
def test_random_damage_is_one_sentence_or_harmless(pristine, tmp_path, name):
    source = file_of(pristine, name)
    path = tmp_path / source.name
    shutil.copy(source, path)
    READERS[name](path)  # whole, it can be read
    content, rng, refused = source.read_bytes(), np.random.default_rng(0), 0
    for round_ in range(ROUNDS):
        path.write_bytes(damaged(content, rng))
        try:
            READERS[name](path)
        except UserError as error:
            refused += 1
            assert str(path) in str(error) and "\n" not in str(error), round_
    assert refused > ROUNDS // 4
