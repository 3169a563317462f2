"""What the documents say is run: every command, every piece of Python, every worked example."""

import json
import pathlib
import re
import runpy
import shlex
import shutil
import subprocess
from typing import NamedTuple

import imageio
import numpy as np
import pytest
from PIL import Image

from emanet_jax import balancing
from emanet_jax.__main__ import COMMANDS
from emanet_jax.data import pipeline
from emanet_jax.errors import UserError
from emanet_jax.tasks import DATASETS
from tests import forks
from tests.conftest import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
# Other files, as pages name them that the site has too.
REPOSITORY = "https://github.com/emanet-jax/emanet_jax/blob/main/"


class Block(NamedTuple):
    """A fenced piece of a page; `needs` is what a reader must have to run it."""

    page: pathlib.Path
    line: int
    language: str
    argument: str
    needs: str
    text: str


def blocks() -> list[Block]:
    pattern = re.compile(
        r"(?:<!-- needs: (?P<needs>.*?) -->\n)?"
        r'^```(?P<language>\w+)(?: title="(?P<argument>.*?)")?\n'
        r"(?P<text>.*?)^```$",
        re.MULTILINE | re.DOTALL,
    )
    return [
        Block(
            page,
            text.count("\n", 0, found.start()) + 1,
            found["language"],
            found["argument"] or "",
            found["needs"] or "",
            found["text"],
        )
        for page in PAGES
        for text in [page.read_text()]
        for found in pattern.finditer(text)
    ]


def name(block: Block) -> str:
    return f"{block.page.name}:{block.line}"


def of_page(page: str) -> list[Block]:
    return [block for block in blocks() if block.page.name == page]


def commands(block: Block) -> list[list[str]]:
    """The words of each command of a block, comments and line breaks undone."""
    lines = block.text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


# --- the worked examples of extending.md ---------------------------------------------------------


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    """A folder outside of the project with the files of extending.md, and the recipes."""
    root = tmp_path_factory.mktemp("outside")
    for block in of_page("extending.md"):
        if block.argument:
            (root / block.argument).write_text(block.text)
    (root / "configs").symlink_to(ROOT / "configs")
    return root


def workshop(root: pathlib.Path) -> None:
    """Files as the worked data set has them, larger than the network's images."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4)):
        for i in range(count):
            pictures = {
                "image": rng.integers(0, 256, (80, 120, 3), np.uint8),
                "label": rng.integers(0, 4, (80, 120), np.uint8),
                "depth": rng.integers(0, 8000, (80, 120), np.uint16),
            }
            for folder, pixels in pictures.items():
                path = root / split / folder / f"{i:04}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)


def python(root: pathlib.Path, *args: str) -> str:
    done = forks.python(*args, folder=root)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


TINY = "model=hps,backbone=segnet_tiny"


@pytest.mark.parametrize(
    "recipe, metrics",
    [
        (f"workshop.py:{TINY}", ("semseg/miou_percent", "depth/rmse_m")),
        (f"thermal.py:{TINY}", ("depth/rmse_m", "temperature/rmse_c")),
        ("light.py:backbone=resnet_tiny", ("semseg/miou_percent", "normals/mean_deg")),
    ],
    ids=["data set", "task", "network"],
)
def test_a_file_outside_of_the_package_is_all_it_takes(outside, tmp_path, recipe, metrics):
    """Two steps of training, and the run opened again without naming the file."""
    workshop(tmp_path / "workshop")
    workdir = f"--workdir={tmp_path / 'run'}"
    printed = python(
        *(outside, "-m", "emanet_jax.main", f"--config={recipe}", workdir),
        f"--config.data.manual_dir={tmp_path / 'workshop'}",
        f"--config.data.data_dir={tmp_path / 'records'}",
        "--config.data.image_size=(32, 64)",
        *("--config.data.train_examples=8", "--config.data.val_examples=4"),
        *("--config.batch_size=4", "--config.eval_batch_size=4", "--config.epochs=1.0"),
    )
    assert (tmp_path / "run" / "figure.png").exists()
    again = python(tmp_path, "-m", "emanet_jax.main", "--mode=eval", workdir)
    for metric in metrics:
        assert metric in printed and metric in again
    assert json.loads((tmp_path / "run" / "config.json").read_text())["extension"] == str(
        outside / recipe.partition(":")[0]
    )


def test_the_worked_data_set_checks_sizes_and_needs_the_labels_that_are_trained(
    outside, tmp_path, monkeypatch
):
    monkeypatch.setitem(DATASETS, "workshop", None)  # taken out again at the end
    code = runpy.run_path(str(outside / "workshop.py"))
    root = tmp_path / "workshop"
    workshop(root)
    data = code["get_config"](TINY).data
    data.manual_dir, data.data_dir, data.image_size = str(root), str(tmp_path / "built"), (32, 64)
    complete = pipeline.prepare(data)
    assert pipeline.prepare(data, code["TASKS"][:1]).data_dir == complete.data_dir

    path = root / "train" / "image" / "0003.png"
    photo, orientation = Image.open(path), Image.Exif()
    orientation[0x0112] = 6
    photo.save(path, exif=orientation)  # lies on its side, and its label stands
    words = r"0003\.png is of the size \(80, 120\) .*0003\.png, is of the size \(120, 80\)"
    with pytest.raises(UserError, match=words):
        pipeline.prepare(data)
    photo.transpose(Image.Transpose.ROTATE_90).save(path, exif=orientation)
    upright, again = (pipeline.load(x, "train")[3] for x in (complete, pipeline.prepare(data)))
    assert np.array_equal(upright["image"], again["image"])

    shutil.rmtree(root / "val" / "depth")
    (root / "val" / "image" / "._0000.png").write_bytes(b"Mac OS X")
    example = pipeline.load(pipeline.prepare(data, code["TASKS"][:1]), "val")[0]
    assert set(example) == {"image", "semseg", "image_id"}
    with pytest.raises(UserError, match=r"val/depth/0000\.png cannot be read"):
        pipeline.prepare(data)


def test_the_changed_task_takes_the_place_of_the_usual_one(outside):
    code = (
        "import runpy, emanet_jax; runpy.run_path('berhu.py');"
        "print([(task.name, task.loss.__name__) for task in emanet_jax.tasks_for('nyuv2')])"
    )
    assert "('depth', 'berhu'), ('normals', 'cosine')" in python(outside, "-c", code)


# --- commands ------------------------------------------------------------------------------------

LOCAL = "./launch/local.sh"
# What makes a documented training small.
SMALL = (
    *("--config.model.name=hps", "--config.model.backbone=smallest"),
    f"--config.extension={ROOT / 'tests' / 'tiny.py'}",
    "--config.model.overrides={}",
    "--config.data.image_size=(32, 64)",
    "--config.data.train_examples=8",
    "--config.data.val_examples=4",
    *("--config.batch_size=4", "--config.eval_batch_size=4", "--config.epochs=1.0"),
    "--config.optimizer.warmup_steps=1",
)
BASH = [block for block in blocks() if block.language == "bash"]


def test_every_way_to_need_something_is_known():
    """A block that no reader can run as it stands says what it takes."""
    assert {block.needs for block in BASH} == {
        "",
        "a browser",
        "a network connection",
        "a published checkpoint, and the data set's files",
        "an hour",
        "hardware",
        "the data set's files",
        "the files of the example above",
    }


def call_of(words: list[str]) -> list[str]:
    """A command's module, arguments behind it, if the command is one of the package's."""
    words = words[1:] if words[0] == LOCAL else words
    if words[0] == "emanet-jax":
        module, *flags = COMMANDS[words[1]]
        return [f"emanet_jax.{module}", *flags, *words[2:]]
    is_ours = words[:2] == ["python", "-m"] and words[2].startswith("emanet_jax.")
    return words[2:] if is_ours else []


@pytest.mark.parametrize("block", BASH, ids=name)
def test_documented_flags_exist(block, outside):
    """Every flag of every command, also of those that are not run here."""
    for words in commands(block):
        if call := call_of(words):
            code = (
                "import runpy, sys; from emanet_jax import cli\n"
                "cli.run = lambda command: cli._parse_flags(sys.argv)\n"
                "sys.argv = sys.argv[1:]\n"
                "runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
            )
            python(outside, "-c", code, *call)


def test_what_needs_nothing_runs(tmp_path):
    """README.md, index.md and results.md from top to bottom, in one folder, on a tiny network.

    Then the Python of these pages and of weights.md.
    """
    (tmp_path / "photos").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 70, 3), np.uint8)
    for photo in ("photo.jpg", "photos/a.jpg", "photos/garden.jpg"):
        Image.fromarray(pixels).save(tmp_path / photo)
    imageio.mimwrite(tmp_path / "walk.mp4", [pixels[:32, :64]] * 3, fps=5)
    for folder in ("emanet_jax", "configs"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    pages = [*of_page("README.md"), *of_page("index.md"), *of_page("results.md")]
    for block in pages:
        if block.language != "bash" or block.needs:
            continue
        for words in commands(block):
            if words == [LOCAL, "pytest"]:  # that is what runs here
                continue
            module, *flags = call_of(words)
            trains = module == "emanet_jax.main" and any("--config=" in w for w in flags)
            python(tmp_path, "-m", module, *flags, *(SMALL if trains else ()))
    expected = ["runs/quickstart/figure.png", "out/a.png", "out/garden.npz", "out/walk.mp4"]
    for path in [*expected, "report/report.html", "exported/metadata.json"]:
        assert (tmp_path / path).stat().st_size > 0
    code = [b for b in [*pages, *of_page("weights.md")] if b.language == "python" and not b.needs]
    printed = python(tmp_path, "-c", smaller("".join(b.text for b in code)))
    assert printed.startswith("(4, 6, 8, 10) (4, 8, 16, 32) [(1, 16, 24, 4),"), printed
    assert (tmp_path / "saved" / "rooms-ema-net" / "model.safetensors").exists()


SMALLER = {
    '"ema_net"': '"hps"',
    "hrnet_w18": "hrnet_tiny",
    "resnet50": "resnet_tiny",
    "288, 384": "64, 96",
    "(2, 64, 96, 3)": "(2, 32, 64, 3)",  # of the exported run
}


def smaller(code: str) -> str:
    """The code with networks and images that compile in no time."""
    for old, new in SMALLER.items():
        code = code.replace(old, new)
    return code


@pytest.mark.parametrize("block", [b for b in BASH if b.page.name == "clusters.md" and not b.needs])
def test_dry_runs_of_clusters_run(block):
    subprocess.run(["bash", "-euc", block.text], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize("page", ["concepts.md", "ctal.md", "networks.md", "nnx.md"])
def test_python_of_a_page_runs(page):
    """In one process, from top to bottom, with smaller networks."""
    code = "".join(b.text for b in of_page(page) if b.language == "python")
    python(ROOT, "-c", smaller(code))


# --- links ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = re.sub(r"`[^`\n]*`", "", page.read_text())
    for target in re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", text):
        assert (page.parent / target).exists(), target
        assert page.parent == ROOT or "/" not in target, f"{target} is outside of the site"
    for target in re.findall(rf"\({re.escape(REPOSITORY)}([^)#]+)[^)]*\)", text):
        assert (ROOT / target).exists(), target


# --- troubleshooting.md --------------------------------------------------------------------------

QUOTED = re.findall(r"^`(.*)`\n:", (ROOT / "docs" / "troubleshooting.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize("words", QUOTED)
def test_errors_that_are_explained_exist(words):
    code = "".join(path.read_text() for path in (ROOT / "emanet_jax").rglob("*.py"))
    assert words in re.sub(r'"\n\s*f?"', "", code)  # a sentence's parts joined


def test_every_way_to_balance_is_documented():
    page = (ROOT / "docs" / "balancing.md").read_text()
    rows = re.findall(r"^\| `(\w+)`.*\| (.*) \|$", page, re.MULTILINE)
    assert {name: sorted(re.findall(r"`(\w+)`", settings)) for name, settings in rows} == {
        name: sorted(method.settings()) for name, method in balancing.METHODS.items()
    }
