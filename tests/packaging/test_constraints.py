"""What the tests run with is pinned, to the last package."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
POTENTIALS = {"chgnet", "sevenn"}  # extras that the tests run without


def needed() -> set[str]:
    """Names of all packages that this one needs here, with all of its extras, and that those need."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = [each for name, each in project["project"]["optional-dependencies"].items() if name not in POTENTIALS]
    waiting = [
        *project["project"]["dependencies"],
        *project["build-system"]["requires"],
        *(r for e in extras for r in e),
    ]
    found: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        requirement = Requirement(waiting.pop())
        name, wanted = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if name == "crystalpredict" or (name, wanted) in found:
            continue
        found.add((name, wanted))
        for text in metadata.requires(name) or []:
            marker = Requirement(text).marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *wanted)):
                waiting.append(text)
    return {name for name, _ in found}


def pinned() -> dict[str, str]:
    """Versions by name in constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = (re.fullmatch(r"([\w.-]+)==([\w.+!-]+)", line) for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(pair[1]): pair[2] for pair in pairs if pair}


def test_every_package_that_is_needed_is_pinned() -> None:
    assert needed() - pinned().keys() == set()
    assert len(needed()) > 40


def test_the_page_on_security_lists_every_direct_dependency_with_its_pin() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    texts = [*project["dependencies"], *(text for extra in project["optional-dependencies"].values() for text in extra)]
    direct = {canonicalize_name(Requirement(text).name) for text in texts} - {"crystalpredict"} - POTENTIALS
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8").partition("| package |")[2]
    listed = dict(re.findall(r"^\| ([\w-]+) \| ([\w.]+) \|", page, re.MULTILINE))
    assert listed == {name: pinned()[name] for name in direct}
