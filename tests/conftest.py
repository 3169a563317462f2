"""Before JAX starts: four fake CPU devices, quick compilation, a cache, checks of shapes."""

import os
import pathlib
import sys

import jaxtyping
import pytest

ROOT = pathlib.Path(__file__).parent.parent

# Compiling dominates the tests: without LLVM's optimisations it takes 2/3 of the CPU time.
QUICK_COMPILATION = "--xla_backend_optimization_level=0"

# Python compiles the libraries once, not in each of the many processes.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=4",
        QUICK_COMPILATION,
    ]
)
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# Modules whose annotations of types and shapes hold wherever a test runs their functions.
CHECKED_SHAPES = (
    "emanet_jax.models.affinity",
    "emanet_jax.models.ctal",
    "emanet_jax.training.steps",
    "emanet_jax.tasks.boundaries",
    "emanet_jax.tasks.losses",
    "emanet_jax.tasks.metrics",
)
jaxtyping.install_import_hook(CHECKED_SHAPES, "beartype.beartype")

# The menu's tests, and the parameters that what they compile depends on: tests that agree in them
# share a process.
OF_THE_MENU = ("models", "test_configs", "test_convert")
COMPILED_BY = ("folder", "name", "backbone", "variant")


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups in the same hook
def pytest_collection_modifyitems(items):
    """Groups for pytest-xdist: a file a core, and of the menu's tests a network a core."""
    for item in items:
        of_the_menu = {item.path.parent.name, item.path.stem} & set(OF_THE_MENU)
        params = item.callspec.params if of_the_menu and hasattr(item, "callspec") else {}
        compiled = [str(params[key]) for key in COMPILED_BY if key in params]
        group = "-".join([item.path.name, *compiled])
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item, nextitem):
    """Frees what a group has compiled, of which the next one needs nothing: gigabytes in all."""
    groups = [next(x.iter_markers("xdist_group")) if x else None for x in (item, nextitem)]
    if groups[0] != groups[1] and "jax" in sys.modules:
        sys.modules["jax"].clear_caches()
