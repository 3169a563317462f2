"""The package in environments with nothing else: what installs, and what needs no TensorFlow."""

import ast
import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib

import numpy as np
import pytest
from PIL import Image

import emanet_jax
from emanet_jax.errors import EXTRAS
from tests.conftest import QUICK_COMPILATION, ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SELF = "emanet_jax"


def distributions(requirements: list[str]) -> set[str]:
    """The names of distributions, those of the package's own extras included."""
    names: set[str] = set()
    for requirement in requirements:
        name, extras = re.match(r"([\w.-]+)(?:\[([\w,-]+)\])?", requirement).groups()
        if name == PROJECT["name"]:
            optional = PROJECT["optional-dependencies"]
            names |= {x for extra in extras.split(",") for x in distributions(optional[extra])}
        else:
            names.add(name.lower().replace("_", "-"))
    return names


def imported() -> set[str]:
    """The top-level modules of others that the package imports, anywhere in it."""
    names = set()
    for path in (ROOT / "emanet_jax").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                names.add(node.module)
            elif isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
    return {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {SELF}


def test_every_library_that_is_imported_is_asked_for():
    """By the core, or by the extra that an error names."""
    providers = importlib.metadata.packages_distributions()
    core = distributions(PROJECT["dependencies"])
    for module in imported():
        if module in ("jax2onnx", "onnxruntime"):  # of requirements-onnx.txt
            continue
        names = {x.lower().replace("_", "-") for x in providers[module]}
        extra = EXTRAS.get(module)
        asked = distributions(PROJECT["optional-dependencies"][extra]) if extra else set()
        brought = {"jaxlib", "ml-dtypes", "protobuf"}  # by JAX, and by tensorflow-datasets
        assert names & (core | asked | brought) or module == "google", (module, names)


def test_all_has_every_extra_but_those_of_a_machine():
    extras = PROJECT["optional-dependencies"]
    (everything,) = extras["all"]
    assert set(re.search(r"\[(.*)\]", everything)[1].split(",")) == set(extras) - {
        *("all", "cuda", "tpu", "tensorflow")
    }


def test_the_public_names():
    assert set(emanet_jax.__all__) <= set(dir(emanet_jax))
    for name in emanet_jax.__all__:
        assert getattr(emanet_jax, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'bild'"):
        emanet_jax.bild  # noqa: B018


def test_the_public_names_load_without_any_extra():
    """In a process where none of the extras' libraries can be imported."""
    by_flax = {"msgpack", "orbax"}  # it brings these itself
    code = f"""
import sys
for name in {[*set(EXTRAS) - by_flax]}:
    sys.modules[name] = None
import emanet_jax
print(len([getattr(emanet_jax, name) for name in emanet_jax.__all__]))
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == f"{len(emanet_jax.__all__)}\n", done.stderr


def uv(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "uv", *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """The programs of an environment with a wheel of the package and its extra `train` alone."""
    root = tmp_path_factory.mktemp("installed")
    uv("build", "--quiet", "--wheel", "--out-dir", str(root), str(ROOT))
    (wheel,) = root.glob("*.whl")
    uv("venv", "--quiet", "--python", sys.executable, str(root / "venv"))
    constraints = ("--constraints", str(ROOT / "constraints.txt"))
    python = ("--python", str(root / "venv" / "bin" / "python"))
    uv("pip", "install", "--quiet", *python, *constraints, f"{wheel}[train]")
    return root / "venv" / "bin"


def run(environment, folder, program: str, *arguments: str) -> subprocess.CompletedProcess:
    """A program of the environment, in a folder that has nothing of the project."""
    return subprocess.run(
        [environment / program, *arguments],
        cwd=folder,
        env={
            **{"PATH": "/usr/bin:/bin", "JAX_PLATFORMS": "cpu", "HOME": str(folder)},
            "XLA_FLAGS": QUICK_COMPILATION,
        },
        capture_output=True,
        text=True,
    )


SMALL = (
    *("--config=synthrooms:model=hps,backbone=resnet_tiny", "--config.data.image_size=32x64"),
    *("--config.data.train_examples=4", "--config.data.val_examples=2", "--config.epochs=1"),
    *("--config.batch_size=4", "--config.eval_batch_size=2", "--config.optimizer.warmup_steps=0"),
    *("--config.tasks=depth", "--config.model.overrides={}"),
    "--config.checkpoint.best_metric=depth/rmse_m",
)


def test_train_predict_and_load_without_tensorflow_and_clu(environment, tmp_path):
    listed = run(environment, tmp_path, "python", "-c", "import tensorflow")
    assert "No module named 'tensorflow'" in listed.stderr
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(tmp_path / "photo.png")
    train = ("train", "--workdir=run", *SMALL)
    done = run(environment, tmp_path, "emanet-jax", *train)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == (
        "error: this needs tensorflow, which is not installed: pip install 'emanet-jax[clu]'; "
        "--config.writers=jsonl does without."
    )
    done = run(environment, tmp_path, "emanet-jax", *train, "--config.writers=jsonl")
    assert done.returncode == 0, done.stderr
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert any("eval/depth/rmse_m" in json.loads(row) for row in rows)
    predict = ("predict", "--workdir=run", "--images=photo.png", "--output=out")
    done = run(environment, tmp_path, "emanet-jax", *predict)
    assert done.returncode == 0, done.stderr
    code = (
        "import emanet_jax; emanet_jax.save_pretrained('run', 'saved');"
        "print(emanet_jax.load('saved')('photo.png')['depth'].shape)"
    )
    done = run(environment, tmp_path, "python", "-c", code)
    assert done.stdout == "(40, 50, 1)\n", done.stderr
    done = run(environment, tmp_path, "emanet-jax", "compare", "--workdirs=run", "--output=report")
    assert "pip install 'emanet-jax[compare]'" in done.stderr


@pytest.mark.parametrize("source", [str(ROOT), f"emanet-jax[train] @ git+{ROOT.as_uri()}"])
def test_it_installs_from_a_folder_and_from_git(environment, source):
    if "git+" in source and not (ROOT / ".git").exists():
        pytest.skip("this is no git checkout")
    python = ("--python", str(environment / "python"))
    uv("pip", "install", "--quiet", *python, "--no-deps", "--reinstall-package", SELF, source)
    done = run(environment, environment, "emanet-jax", "--version")
    assert done.stdout.strip() == emanet_jax.__version__, done.stderr
