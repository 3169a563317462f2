"""The files around the code agree with it and with each other: addresses, versions, workflows."""

import json
import re
import tomllib

import pytest
import yaml

import emanet_jax
from emanet_jax import hub
from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REPOSITORY, SITE = (PROJECT["urls"][key] for key in ("Repository", "Documentation"))
GITHUB = ROOT / ".github"
WORKFLOWS = sorted(GITHUB.glob("workflows/*.yml"))
TEXTS = [
    *(path for path in ROOT.iterdir() if path.suffix in (".md", ".yml", ".yaml", ".cff", ".toml")),
    *(
        path
        for folder in (".github", "docs", "emanet_jax", "launch", "configs")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".md", ".yml", ".yaml", ".py", ".sh", ".ipynb", ".j2")
    ),
]


def load(name: str):
    return yaml.safe_load((ROOT / name).read_text())


# --- addresses -----------------------------------------------------------------------------------


def test_every_address_of_the_project_is_that_of_pyproject():
    owner = REPOSITORY.removeprefix("https://github.com/")
    patterns = {
        r"https://github\.com/[\w.-]+/emanet_jax\b": REPOSITORY,
        r"https://[\w.-]+\.github\.io/\w+\b": SITE,
        r"https://colab\.research\.google\.com/github/[\w.-]+/\w+\b": (
            f"https://colab.research.google.com/github/{owner}"
        ),
    }
    for path in TEXTS:
        for pattern, address in patterns.items():
            assert set(re.findall(pattern, path.read_text())) <= {address}, path


def test_what_needs_an_address_has_it():
    assert hub.HOMEPAGE == REPOSITORY
    citation, site = load("CITATION.cff"), load("mkdocs.yml")
    assert (citation["repository-code"], citation["url"]) == (REPOSITORY, SITE)
    assert (site["repo_url"], site["site_url"]) == (REPOSITORY, SITE)
    assert PROJECT["urls"]["Changelog"] == f"{REPOSITORY}/blob/main/CHANGELOG.md"
    cells = json.loads((ROOT / "launch" / "colab.ipynb").read_text())["cells"]
    assert f'REPOSITORY = "{REPOSITORY}"' in "".join(x for cell in cells for x in cell["source"])
    notebook = REPOSITORY.removeprefix("https://github.com/") + "/blob/main/launch/colab.ipynb"
    assert f"colab.research.google.com/github/{notebook}" in "".join(cells[0]["source"])
    assert REPOSITORY in (ROOT / "README.md").read_text()


# --- versions ------------------------------------------------------------------------------------


def test_versions_agree():
    assert load("CITATION.cff")["version"] == emanet_jax.__version__
    (newest,) = re.findall(r"\A# Changelog\n\n## (\S+)", (ROOT / "CHANGELOG.md").read_text())
    assert newest in ("Unreleased", emanet_jax.__version__)


def test_pre_commit_runs_the_tested_ruff():
    (constraint,) = re.findall(
        r"^ruff==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE
    )
    ruff, local = load(".pre-commit-config.yaml")["repos"]
    assert ruff["rev"] == f"v{constraint}"
    assert [hook["id"] for hook in ruff["hooks"]] == ["ruff-check", "ruff-format"]
    assert local["hooks"][0]["entry"].split()[-1] == "mypy"


def test_the_papers_are_cited():
    urls = {paper["url"] for paper in load("CITATION.cff")["references"]}
    assert urls == {f"https://arxiv.org/abs/{number}" for number in ("2401.11124", "2201.10649")}
    for paper in load("CITATION.cff")["references"]:
        assert paper["title"] and paper["authors"] and paper["year"]


# --- GitHub --------------------------------------------------------------------------------------


def test_the_workflows_are_there():
    assert [path.stem for path in WORKFLOWS] == ["ci", "docs", "release"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_is_whole(path):
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow[True]  # "on", which YAML takes for a truth value
    for job in workflow["jobs"].values():
        assert job["runs-on"] and job.get("needs", "build") in workflow["jobs"] | {"build": None}
        for step in job["steps"]:
            assert ("run" in step) != ("uses" in step), step
            if "uses" in step:
                assert re.fullmatch(r"[\w.-]+/[\w./-]+@[\w./-]+", step["uses"])
            for word in re.findall(r"(?:\./|tests/)[\w./-]+|constraints\.txt", step.get("run", "")):
                assert (ROOT / word).exists(), word


def test_continuous_integration_runs_all_checks():
    steps = load(".github/workflows/ci.yml")["jobs"]["all"]["steps"]
    assert "./.ci/run" in [step.get("run") for step in steps]


def test_a_release_is_published_without_a_token():
    jobs = load(".github/workflows/release.yml")["jobs"]
    assert jobs["publish"]["permissions"] == {"id-token": "write"}
    assert jobs["publish"]["environment"]["name"] == "pypi"
    assert load(".github/workflows/release.yml")[True] == {"push": {"tags": ["v*"]}}


@pytest.mark.parametrize("name", ["bug", "feature"])
def test_an_issue_form_is_whole(name):
    form = load(f".github/ISSUE_TEMPLATE/{name}.yml")
    assert form["name"] and form["description"]
    fields = [field["id"] for field in form["body"]]
    assert len(set(fields)) == len(fields)
    for field in form["body"]:
        assert field["type"] in ("textarea", "input", "dropdown", "checkboxes")
        assert field["attributes"]["label"]


def test_the_other_templates_are_there():
    for link in load(".github/ISSUE_TEMPLATE/config.yml")["contact_links"]:
        assert link["name"] and link["about"] and link["url"].startswith((REPOSITORY, SITE))
    assert ".ci/run" in (GITHUB / "pull_request_template.md").read_text()
