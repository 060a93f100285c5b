"""Workflows, templates and hooks are well formed, and what they name exists."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from pre_commit.clientlib import load_config

import crystalpredict

ROOT = Path(__file__).resolve().parents[2]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = [path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml"]


def read(path: Path) -> Any:
    """YAML as GitHub reads it: `on` is a key, not a truth value."""
    return yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows(path: Path) -> None:
    workflow = read(path)
    assert workflow["name"] == path.stem
    assert workflow["on"]
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert set(job.get("needs", "").split()) <= workflow["jobs"].keys()
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step)
            assert "uses" not in step or re.fullmatch(r"[\w-]+/[\w-]+@(v\d+|release/v\d+)", step["uses"])
            for target in re.findall(r"^make (.*)", step.get("run", ""), re.MULTILINE):
                assert all(f"\n{name}:" in MAKEFILE for name in target.split())


def test_the_tests_run_on_every_python_that_the_package_names() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = [text.rpartition(" ")[2] for text in project["classifiers"] if "Python :: 3." in text]
    matrix = read(ROOT / ".github" / "workflows" / "tests.yml")["jobs"]["tests"]["strategy"]["matrix"]
    assert matrix == {"os": ["ubuntu-latest", "macos-latest"], "python": named}


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_forms_of_issues(path: Path) -> None:
    form = read(path)
    assert form["name"]
    assert form["description"]
    assert {item["type"] for item in form["body"]} <= {"markdown", "textarea", "input", "dropdown", "checkboxes"}
    names = [item["id"] for item in form["body"] if item["type"] != "markdown"]
    assert len(names) == len(set(names)) > 1


def test_hooks_run_what_make_lint_and_make_types_run() -> None:
    hooks = load_config(str(ROOT / ".pre-commit-config.yaml"))["repos"][0]["hooks"]
    for hook in hooks:
        program = " ".join(hook["entry"].removeprefix(".venv/bin/").split()[:2]).removesuffix(" --force-exclude")
        assert f"$(BIN)/{program}" in MAKEFILE
        assert hook["language"] in ("system", "unsupported")  # the same; pre-commit renames it


def test_make_help_lists_the_five_commands_first() -> None:
    printed = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    listed = [line.split()[0] for line in printed.splitlines()]
    assert listed[:5] == ["demo", "test", "check", "docs", "bench"]
    assert set(listed) == set(re.findall(r"^\.PHONY: (.*)", MAKEFILE, re.MULTILINE)[0].split())


def test_files_that_a_contributor_is_sent_to_exist() -> None:
    table = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("| to add |")[2].partition("## Rules")[0]
    assert table.count("\n| a") == 6
    paths = set()
    for cell in re.findall(r"^\| an? .*\| (.*) \|$", table, re.MULTILINE):
        room = ""
        for name in re.findall(r"`([\w/]+(?:\.py|/))`", cell):
            room = name.rpartition("/")[0] or room
            paths.add(name if "/" in name else f"{room}/{name}".lstrip("/"))
    assert len(paths) > 15
    source = ROOT / "src" / "crystalpredict"
    assert not [path for path in paths if not (source / path).exists()]


def test_the_version_is_one_everywhere() -> None:
    assert read(ROOT / "CITATION.cff")["version"] == crystalpredict.__version__
    headings = re.findall(r"^## \[(.*?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == crystalpredict.__version__
