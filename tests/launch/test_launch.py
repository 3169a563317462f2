"""launch/local.sh: arguments, exit status, signals, any directory, and when it installs."""

import os
import shutil
import signal
import subprocess

import pytest

from tests.conftest import ROOT
from tests.launch.programs import SOURCES

# Stands in for python: notes what it is asked for, and "makes" an environment of itself.
FAKE_PYTHON = """#!/bin/sh
echo "$@" >> "$CALLS"
case "$*" in
  *"-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
  *"sys.version_info"*) exit "${TOO_OLD:-0}" ;;
esac
"""


@pytest.fixture
def project(tmp_path):
    """A copy of the script in a project with a space in its name, and a python of its own."""
    root = tmp_path / "a project"
    (root / "launch").mkdir(parents=True)
    shutil.copy(ROOT / "launch" / "local.sh", root / "launch")
    for name in SOURCES:
        (root / name).write_text("numpy\n")
    python = tmp_path / "python"
    python.write_text(FAKE_PYTHON)
    python.chmod(0o755)
    return root


def run(project, *args, **environment):
    return subprocess.run(
        [project / "launch" / "local.sh", *args],
        cwd="/",
        env={
            **os.environ,
            "PYTHON": str(project.parent / "python"),
            "CALLS": str(project.parent / "calls"),
            **environment,
        },
        capture_output=True,
        text=True,
    )


def installations(project) -> int:
    return (project.parent / "calls").read_text().count("-m venv")


def test_arguments_and_exit_status_pass_through_from_any_directory(project):
    done = run(project, "sh", "-c", 'printf "%s|" "$PWD" "$@"; exit 7', "sh", "a b", "*", "")
    assert done.returncode == 7
    assert done.stdout == f"{project}|a b|*||"
    assert run(project).returncode == 2


def test_installs_once_and_again_when_what_it_installs_changes(project):
    for count, name in enumerate(SOURCES, 1):
        for _ in range(2):
            assert run(project, "true").returncode == 0
        assert installations(project) == count
        (project / name).write_text("numpy\nscipy\n")
    assert run(project, "true").returncode == 0
    assert installations(project) == len(SOURCES) + 1


def test_the_environment_comes_first_on_the_path(project):
    done = run(project, "sh", "-c", "command -v python")
    assert done.stdout.strip() == str(project / ".venv" / "bin" / "python")


def test_large_pages_unless_the_environment_says_otherwise(project):
    command = ("sh", "-c", "echo $GLIBC_TUNABLES")
    assert run(project, *command, GLIBC_TUNABLES="").stdout.strip() == "glibc.malloc.hugetlb=1"
    assert run(project, *command, GLIBC_TUNABLES="a.b=1").stdout.strip() == "a.b=1"


def test_an_old_python_is_said_and_nothing_is_made(project):
    done = run(project, "true", TOO_OLD="1")
    assert done.returncode == 1 and "Python 3.11" in done.stderr
    assert not (project / ".venv").exists()


def test_signals_reach_the_command(project):
    run(project, "true")
    process = subprocess.Popen(
        [
            project / "launch" / "local.sh",
            "sh",
            "-c",
            "trap 'exit 5' TERM; echo on; sleep 30 & wait",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "on\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == 5
