"""Installs what a run needs into the Python that runs this, where JAX is there already: Colab.

    python launch/install.py

An accelerator's JAX stays as it is where requirements.txt allows its version; otherwise one for the
accelerator of this machine is installed. TensorFlow, too, stays as it is.
"""

import glob
import importlib.metadata
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping

from packaging.requirements import Requirement

ROOT = pathlib.Path(__file__).parent.parent


def wanted(lines: Iterable[str], installed: Mapping[str, str], accelerator: str) -> list[str]:
    """What to ask pip for.

    Args:
        lines: of requirements.txt; those from "# Development" on are left out.
        installed: versions by name.
        accelerator: JAX's name for it, "cuda12" or "tpu"; "" for a CPU.
    """
    found = []
    for line in lines:
        if line.startswith("# Development"):
            break
        text = line.split("#")[0].strip()
        if not text:
            continue
        asked = Requirement(text)
        if asked.marker is not None and not asked.marker.evaluate():
            continue
        name = "tensorflow" if asked.name == "tensorflow-cpu" else asked.name
        version = installed.get(name)
        if name in ("jax", "tensorflow") and version and version in asked.specifier:
            found.append(f"{name}=={version}")
        elif name == "jax" and accelerator:
            found.append(f"jax[{accelerator}]{asked.specifier}")
        else:
            found.append(text)
    return found


def accelerator() -> str:
    """JAX's name for this machine's accelerator; "" if there is none."""
    if shutil.which("nvidia-smi"):
        return "cuda12"
    return "tpu" if glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*") else ""


def main() -> None:
    """Runs pip; exits with its status."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    installed = {x.name.lower(): x.version for x in importlib.metadata.distributions()}
    command = [sys.executable, "-m", "pip", "install", "--quiet"]
    sys.exit(subprocess.call([*command, *wanted(lines, installed, accelerator())]))


if __name__ == "__main__":
    main()
