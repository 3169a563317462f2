"""Where compiled programs are kept between runs."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

CODE = """
import sys
from emanet_jax import main
main._keep_compiled(sys.argv[1])
import jax
print(jax.config.jax_compilation_cache_dir)
"""


@pytest.mark.parametrize(
    ("environment", "workdir", "expected"),
    [
        ({}, "/somewhere/runs/one", "/somewhere/runs/.jax_cache"),
        ({"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}, "/somewhere/runs/one", "None"),
        ({}, "gs://bucket/runs/one", "None"),
        ({"JAX_COMPILATION_CACHE_DIR": "/elsewhere"}, "/somewhere/runs/one", "/elsewhere"),
    ],
)
def test_programs_are_kept_beside_the_workdir(environment, workdir, expected):
    ours = ("JAX_COMPILATION_CACHE_DIR", "XLA_FLAGS")
    rest = {key: x for key, x in os.environ.items() if key not in ours}
    done = subprocess.run(
        [sys.executable, "-c", CODE, workdir],
        cwd=ROOT,
        env={**rest, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == expected
