"""A clone has the same bytes on every system, whatever git is set to do with the ends of lines."""

import subprocess

import pytest

from tests.conftest import ROOT
from tests.launch.programs import without_git


def git(*words, cwd=ROOT) -> str:
    done = subprocess.run(
        ["git", *words], cwd=cwd, env=without_git(), capture_output=True, text=True
    )
    if done.returncode and cwd == ROOT:
        pytest.skip(f"this is no git checkout ({done.stderr.strip()})")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_clone_with_autocrlf_has_the_same_bytes(tmp_path):
    tracked = git("ls-files").splitlines()
    clone = tmp_path / "clone"
    git("-c", "core.autocrlf=true", "clone", "-q", "--no-local", "--depth=1", ROOT.as_uri(), clone)
    # The attributes of this checkout, which may not be committed yet.
    (clone / ".gitattributes").write_bytes((ROOT / ".gitattributes").read_bytes())
    git("config", "core.autocrlf", "true", cwd=clone)
    git("rm", "-q", "-r", "--cached", ".", cwd=clone)
    git("reset", "-q", "--hard", "HEAD", cwd=clone)
    kinds = {}
    for path in tracked:
        if (clone / path).is_file():
            kinds.setdefault(path.rpartition(".")[2], []).append((clone / path).read_bytes())
    assert {"sh", "py", "json", "npz", "png", "mat", "txt", "yaml"} < set(kinds)
    for kind in set(kinds) - {"npz", "png", "mat"}:
        assert not any(b"\r" in content for content in kinds[kind]), kind
    assert all(content.startswith(b"\x89PNG\r\n") for content in kinds["png"])
    assert all(content.startswith(b"PK") for content in kinds["npz"])
