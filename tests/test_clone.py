"""A clone has the same bytes on every system, whatever git is set to do with the ends of lines."""

import subprocess

import pytest

from tests.conftest import ROOT
from tests.launch.programs import without_git


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="this is no git checkout")
def test_a_clone_with_autocrlf_has_unix_lines_and_whole_binaries(tmp_path):
    clone = tmp_path / "clone"
    subprocess.run(
        ["git", "-c", "core.autocrlf=true", "clone", "-q", "--depth=1", ROOT.as_uri(), clone],
        env=without_git(),
        check=True,
    )
    files = [path for path in clone.rglob("*") if path.is_file() and ".git" not in path.parts]
    assert {".ipynb", ".mat", ".npz", ".png", ".py", ".sh", ".yaml"} < {x.suffix for x in files}
    for path in files:
        content = path.read_bytes()
        if b"\0" in content:
            assert content == (ROOT / path.relative_to(clone)).read_bytes(), path
        else:
            assert b"\r" not in content, path
