"""What the documents say is run: every command, every piece of Python, every worked example."""

import pathlib
import re
import shlex
import shutil
import subprocess
import sys
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from tests.conftest import ROOT

PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


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
        r"(?:<!-- needs: (?P<needs>.*?) -->\n)?^```(?P<language>\w+) ?(?P<argument>.*?)\n"
        r"(?P<text>.*?)^```$",
        re.MULTILINE | re.DOTALL,
    )
    return [
        Block(
            page,
            text.count("\n", 0, found.start()) + 1,
            found["language"],
            found["argument"],
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


def apply_diff(root: pathlib.Path, text: str) -> None:
    """Puts a diff of a page into a copy of the project; its `@@` need no line numbers."""
    path = root / re.search(r"^\+\+\+ b/(.*)$", text, re.MULTILINE)[1]
    content = path.read_text()
    for hunk in re.split(r"^@@.*\n", text, flags=re.MULTILINE)[1:]:
        lines = hunk.splitlines()
        old, new = (
            "".join(f"{line[1:]}\n" for line in lines if line[:1] in (" ", "", sign))
            for sign in ("-", "+")
        )
        assert content.count(old) == 1, f"{path} does not have, once:\n{old}"
        content = content.replace(old, new)
    path.write_text(content)


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A copy of the project with everything that extending.md adds."""
    root = tmp_path_factory.mktemp("extended")
    for folder in ("emanet_jax", "configs"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for block in of_page("extending.md"):
        if block.language == "diff":
            apply_diff(root, block.text)
        elif block.argument:
            (root / block.argument).write_text(block.text)
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
    done = subprocess.run([sys.executable, *args], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_worked_data_set_and_network_train(extended, tmp_path):
    workshop(tmp_path / "workshop")
    printed = python(
        *(extended, "-m", "emanet_jax.main"),
        "--config=configs/workshop.py:model=light,backbone=hrnet_tiny",
        f"--config.data.manual_dir={tmp_path / 'workshop'}",
        f"--config.data.data_dir={tmp_path / 'records'}",
        f"--workdir={tmp_path / 'run'}",
        "--config.model.overrides={'features': 8}",
        *("--config.batch_size=4", "--config.eval_batch_size=4", "--config.epochs=1.0"),
    )
    assert "semseg/miou_percent" in printed and "depth/rmse_m" in printed
    assert (tmp_path / "run" / "panel.png").exists()


def test_the_worked_task_is_a_whole_task(extended):
    printed = python(
        extended,
        "-c",
        "import numpy as np; from emanet_jax.tasks import temperature; task = temperature();"
        "label = np.array([[[20.0], [-300.0]]]); print(task.valid(label).ravel(),"
        "task.metric_names()[0], task.colours(label).shape, float(task.loss(label + 2, label,"
        "task.valid(label))))",
    )
    assert printed.split() == ["[", "True", "False]", "rmse_c", "(1,", "2,", "3)", "2.0"]


@pytest.mark.parametrize("block", [b for b in blocks() if b.language == "diff"], ids=name)
def test_diffs_fit_the_code(block, tmp_path):
    path = re.search(r"^\+\+\+ b/(.*)$", block.text, re.MULTILINE)[1]
    (tmp_path / path).parent.mkdir(parents=True)
    shutil.copy(ROOT / path, tmp_path / path)
    apply_diff(tmp_path, block.text)
    compile((tmp_path / path).read_text(), path, "exec")


# --- troubleshooting.md --------------------------------------------------------------------------

QUOTED = re.findall(r"^`(.*)`\n:", (ROOT / "docs" / "troubleshooting.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize("words", QUOTED)
def test_errors_that_are_explained_exist(words):
    code = "".join(path.read_text() for path in (ROOT / "emanet_jax").rglob("*.py"))
    assert words in re.sub(r'"\n\s*f?"', "", code)  # a sentence's parts joined
