"""A checkout with the scripts of launch/, and the fake programs."""

import shutil
import subprocess

import pytest

from tests.conftest import ROOT
from tests.launch.programs import FAKE, PROGRAMS, SOURCES, without_git


@pytest.fixture
def project(tmp_path):
    """A git checkout with the scripts and one config, in a folder with a space in its name."""
    root = tmp_path / "a project"
    shutil.copytree(ROOT / "launch", root / "launch")
    (root / "configs").mkdir()
    (root / "configs" / "mine.py").write_text("")
    for name in SOURCES:
        (root / name).write_text("numpy\n")
    (root / ".venv" / "bin").mkdir(parents=True)
    (root / ".venv" / "installed.txt").write_text("numpy\n" * len(SOURCES))
    (root / ".venv" / "extra.txt").write_text("jax[cuda12]\n")
    (root / ".gitignore").write_text(".venv/\n")
    git = ("git", "-c", "user.name=a", "-c", "user.email=b@c")
    for words in (("init", "-q"), ("add", "."), ("commit", "-qm", "all")):
        subprocess.run([*git, *words], cwd=root, check=True, env=without_git())
    (tmp_path / "bin").mkdir()
    for program in PROGRAMS:
        (tmp_path / "bin" / program).write_text(FAKE)
        (tmp_path / "bin" / program).chmod(0o755)
    (tmp_path / "answers").mkdir()
    return root
