"""The site: every page has its place, every public name is described, and it builds."""

import importlib.util
import re
import subprocess
import sys

import pytest
import yaml

import emanet_jax
from tests.conftest import ROOT

DOCS = ROOT / "docs"


def pages(nav) -> list[str]:
    """The files of a list of entries, at any depth."""
    if isinstance(nav, str):
        return [nav]
    entries = nav if isinstance(nav, list) else nav.values()
    return [page for entry in entries for page in pages(entry)]


NAV = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]


def test_every_page_has_one_place():
    assert sorted(pages(NAV)) == sorted(
        path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")
    )


def test_every_public_name_is_described():
    """By a directive for its module, which names it or leaves none out."""
    text = "".join(path.read_text() for path in DOCS.glob("api_*.md"))
    directives = re.findall(r"^::: (\S+)\n(?:    options:\n      members: \[(.*)\]\n)?", text, re.M)
    members = {module: names.split(", ") for module, names in directives}
    table = re.findall(r"`(\w+)`", (DOCS / "api.md").read_text())
    for name, module in emanet_jax._MODULES.items():
        assert members[module] == [""] or name in members[module], name
        assert name in table, name


@pytest.mark.skipif(not importlib.util.find_spec("mkdocs"), reason="mkdocs is not installed")
def test_it_builds(tmp_path):
    """Strictly: a link that leads nowhere, or a page without a place, is an error."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for page in pages(NAV):
        folder = tmp_path / page.removesuffix(".md").removesuffix("index")
        content = (folder / "index.html").read_text()
        words = re.sub(r"(?s)<(script|pre|code)\b.*?</\1>|<[^>]+>", "", content)
        for raw in ("```", "|---", "]("):  # Markdown that was not understood
            assert raw not in words, (page, raw)
    assert 'id="emanet_jax.inference.load"' in (tmp_path / "api_trained/index.html").read_text()
    for picture in DOCS.glob("*.png"):
        assert (tmp_path / picture.name).exists()
