"""Before JAX starts: four fake CPU devices, quick compilation, the persistent compilation cache."""

import os
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent

# Compiling dominates the tests: without LLVM's optimisations it takes 2/3 of the CPU time.
QUICK_COMPILATION = "--xla_backend_optimization_level=0"

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

# Parameters of a test that what it compiles depends on: such tests share a process.
COMPILED_BY = ("folder", "name", "backbone", "variant", "network")


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups in the same hook
def pytest_collection_modifyitems(items):
    """Groups for pytest-xdist: a file a core, and of the menu's tests a network a core."""
    for item in items:
        params = item.callspec.params if hasattr(item, "callspec") else {}
        compiled = [str(params[key]) for key in COMPILED_BY if key in params]
        group = "-".join([item.path.name, *compiled])
        item.add_marker(pytest.mark.xdist_group(group))
