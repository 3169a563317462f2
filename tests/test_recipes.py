"""Every data set's config trains and evaluates from files in the forms that people have."""

import json

import pytest

from emanet_jax.training import workdir
from tests.data.layouts import write_labeled, write_mtan
from tests.data.layouts_cityscapes import write_mtan_streets, write_official
from tests.data.layouts_pascal import write_pascal
from tests.test_main import run

NARROW = "--config.model.overrides={'features': 16, 'distilled': 8}"
TINY_HRNET = "model=ema_net,backbone=hrnet_tiny"

# Config and argument; what writes the files; flags; a metric of the result.
RECIPES = {
    "nyuv2 mtan": (
        f"nyuv2.py:{TINY_HRNET}",
        lambda root: write_mtan(root, 4, 2, (64, 96)),
        ["--config.data.image_size=(64,96)", NARROW],
        "normals/mean_deg",
    ),
    "nyuv2 labeled": (
        f"nyuv2.py:{TINY_HRNET}",
        lambda root: write_labeled(root / "nyu_depth_v2_labeled.mat", 12, (32, 64)),
        ["--config.data.layout=labeled", "--config.data.image_size=(64,64)", NARROW],
        "depth/rmse_m",
    ),
    "cityscapes mtan": (
        f"cityscapes.py:{TINY_HRNET}",
        lambda root: write_mtan_streets(root, 4, 2, (32, 64)),
        ["--config.data.image_size=(32,64)", NARROW],
        "depth/abs",
    ),
    "cityscapes official": (
        f"cityscapes.py:{TINY_HRNET}",
        lambda root: write_official(root, 4, 2, (64, 128)),
        [
            "--config.data.layout=official",
            "--config.data.image_size=(32,64)",
            "--config.data.classes=7",
            NARROW,
        ],
        "semseg/miou_percent",
    ),
    "pascal_context": (
        "pascal_context.py:model=ema_net,backbone=smallest",
        write_pascal,
        ["--config.data.image_size=(64,64)", NARROW, "--config.extension=tests/tiny.py"],
        "edge/odsf_percent",
    ),
    "pascal_context on Swin V2-T": (
        "pascal_context.py:model=ema_net,backbone=swin_v2_t",
        write_pascal,
        ["--config.data.image_size=(64,64)"],
        "saliency/maxf_percent",
    ),
}
SLOW = tuple(RECIPES.keys() - {"pascal_context"})  # test_main trains from NYUv2's folders


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in RECIPES]
)
def test_a_recipe_trains_from_files(name, tmp_path):
    config, write, changes, metric = RECIPES[name]
    (tmp_path / "files").mkdir()
    write(tmp_path / "files")
    status, out, err = run(
        f"--config=configs/{config}",
        f"--workdir={tmp_path / 'run'}",
        f"--config.data.manual_dir={tmp_path / 'files'}",
        f"--config.data.data_dir={tmp_path / 'records'}",
        "--config.model.pretrained=",
        "--config.epochs=1.0",
        "--config.batch_size=2",
        "--config.eval_batch_size=2",
        *changes,
    )
    assert status == 0, err
    assert "best checkpoint: " in out
    results = json.loads((tmp_path / "run" / workdir.RESULTS).read_text())
    assert metric in results and results["step"] > 0
