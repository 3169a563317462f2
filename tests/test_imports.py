"""The house rule: imports point one way; device code needs JAX, Flax and Optax only."""

import ast
import pathlib
import subprocess
import sys

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "emanet_jax"

# From the ground up; a folder or a module imports only those above it in this list, and itself.
ORDER = (
    ("errors", "locks", "ops", "camera", "strict_json"),
    ("menu",),
    ("types",),
    ("config",),
    ("cli",),
    ("tasks",),
    ("balancing", "synthetic"),
    ("models", "data"),
    ("cpu",),
    ("network",),
    ("training",),
    ("saved",),
    ("inference",),
    ("hub",),
    ("main", "sweep", "predict", "compare", "export", "convert", "__main__"),
)
WITHOUT_TENSORFLOW = ("models.registry", "tasks", "balancing", "training.steps", "convert", "cpu")
HEAVY = {"tensorflow", "tensorflow_datasets", "clu", "grain", "matplotlib", "PIL"}


def name_of(path: pathlib.Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


MODULES = {name_of(path): path for path in PACKAGE.rglob("*.py")}


def imports(module: str) -> set[str]:
    """Modules of the package that a module imports, anywhere in it, for types alone too."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in MODULES else node.module for name in names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name in MODULES} - {module}


IMPORTS = {module: imports(module) for module in MODULES}


def part_of(module: str) -> str:
    """The folder or the module directly below the package."""
    return ".".join(module.split(".")[1:2])


def test_no_import_leads_back():
    done = set()

    def visit(module, path):
        assert module not in path, f"circle: {' -> '.join([*path, module])}"
        if module not in done:
            for other in IMPORTS[module]:
                visit(other, [*path, module])
            done.add(module)

    for module in MODULES:
        visit(module, [])


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_point_one_way(module):
    floors = {part: floor for floor, parts in enumerate(ORDER) for part in parts}
    part = part_of(module)
    if part:
        others = {part_of(other) for other in IMPORTS[module]} - {part, ""}
        upwards = [other for other in others if floors[other] >= floors[part]]
        assert not upwards, f"{module} imports {upwards}"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_the_package_never_imports_recipes(module):
    text = MODULES[module].read_text()
    for node in ast.walk(ast.parse(text)):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        assert not any(name.split(".")[0] in ("configs", "benchmarks") for name in names), module


def loaded(code: str) -> set[str]:
    """The modules that are loaded after a piece of code."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print('loaded:', *sys.modules)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split("loaded:")[-1].split())


def test_device_code_imports_without_tensorflow():
    modules = ", ".join(f"emanet_jax.{name}" for name in WITHOUT_TENSORFLOW)
    assert not HEAVY & loaded(f"import {modules}")


def test_ctal_loads_no_backbone():
    names = loaded("import emanet_jax.models.ctal")
    assert "emanet_jax.models.ctal" in names
    assert not any("backbones" in name or "networks" in name for name in names)
