"""The house rule: imports point one way; device code needs JAX, Flax and Optax only."""

import ast
import pathlib
import subprocess
import sys

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "emanet_jax"

# What each part may import of the package; data and models never import each other.
ALLOWED = {
    "errors": set(),
    "ops": set(),
    "palettes": set(),
    "losses": {"ops"},
    "metrics": {"losses", "ops"},
    "boundaries": {"metrics"},
    "tasks": {"boundaries", "errors", "losses", "metrics", "ops", "palettes"},
    "data": {"cli", "errors", "palettes", "settings", "summaries", "tasks", "data"},
    "models": {"cli", "errors", "ops", "tasks", "models"},
    "convert": {"convert", "errors", "models"},
    "optim": {"errors", "ops"},
    "settings": {"errors"},
    "parallel": {"errors"},
    "balancing": {"balancing", "errors"},
    "sharing": {"balancing", "errors"},
    "gradients": {"balancing", "losses", "ops", "sharing"},
    "steps": {"balancing", "gradients", "metrics", "ops", "tasks"},
    "stop": set(),
    "checkpoint": {"errors", "parallel", "steps", "workdir"},
    "environment": {"errors", "workdir"},
    "workdir": {"errors", "parallel"},
    "charts": {"tasks"},
    "writers": {"errors", "workdir"},
    "summaries": {"tasks"},
    "cli": {"errors", "settings"},
    "main": {"cli", "errors", "evaluation", "parallel", "train"},
}
# Above all the rest, so that they may import anything.
JOINERS = {
    "train",
    "evaluation",
    "compare",
    "experiment",
    "export",
    "findings",
    "logs",
    "bad_steps",
    "replay",
    "inference",
    "predict",
}
COMMANDS = {"convert/__main__.py", "convert/runs.py"}  # likewise
WITHOUT_TENSORFLOW = [
    "models",
    "losses",
    "metrics",
    "tasks",
    "balancing",
    "steps",
    "optim",
    "convert",
    "parallel",
    "stop",
]
HEAVY = {"tensorflow", "tensorflow_datasets", "clu", "grain", "matplotlib", "PIL"}


def imported_parts(path: pathlib.Path) -> set[str]:
    """Top-level parts of the package that a file imports, type-checking imports left out."""
    tree = ast.parse(path.read_text())
    typing_only = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and getattr(block.test, "id", "") == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    names = set()
    for node in set(ast.walk(tree)) - typing_only:
        if isinstance(node, ast.ImportFrom) and node.module == "emanet_jax":
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("emanet_jax."):
            names.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            names |= {a.name.split(".")[1] for a in node.names if a.name.startswith("emanet_jax.")}
    return names


def part_of(path: pathlib.Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_imports_point_one_way(path):
    part = part_of(path)
    if part == "__init__":
        assert not imported_parts(path)
    elif part not in JOINERS and str(path.relative_to(PACKAGE)) not in COMMANDS:
        assert imported_parts(path) <= ALLOWED[part], f"{part} imports too much"


def test_device_code_imports_without_tensorflow():
    modules = ", ".join(f"emanet_jax.{name}" for name in WITHOUT_TENSORFLOW)
    code = f"import sys, {modules}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not HEAVY & set(done.stdout.split())


# Commands that print their help before anything slow is loaded, and those whose packages need JAX.
LOAD_NOTHING = ("main", "predict", "replay", "compare", "export")
LOAD_JAX = ("convert", "data.check", "models")
SLOW = {"jax", "tensorflow", "tensorflow_datasets", "clu", "grain", "orbax"}


@pytest.mark.parametrize("command", LOAD_NOTHING + LOAD_JAX)
def test_help_loads_nothing_that_is_slow(command):
    code = (
        f"import runpy, sys; sys.argv = ['{command}', '--help']\n"
        f"try: runpy.run_module('emanet_jax.{command}', run_name='__main__', alter_sys=True)\n"
        "except SystemExit: print('loaded:', *sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    usage, loaded = done.stdout.split("loaded:")
    assert "  --workdir: " in usage or "  --output: " in usage or "  --model: " in usage, usage
    assert SLOW & set(loaded.split()) <= ({"jax"} if command in LOAD_JAX else set())
