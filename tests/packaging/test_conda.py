"""The conda recipe requires what the package requires, and tests what exists."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import crystalpredict

ROOT = Path(__file__).resolve().parents[2]
RECIPE: dict[str, Any] = yaml.safe_load((ROOT / "conda" / "recipe.yaml").read_text(encoding="utf-8"))
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
NAMES = {"torch": "pytorch"}  # packages that conda-forge has under another name


def as_conda(texts: list[str]) -> set[str]:
    """Requirements of pyproject.toml as conda writes them."""
    found = [Requirement(text) for text in texts]
    return {f"{NAMES.get(canonicalize_name(each.name), each.name)} {each.specifier}" for each in found}


def test_the_requirements_are_those_of_the_package() -> None:
    python = PROJECT["project"]["requires-python"].removeprefix(">=")
    assert RECIPE["context"] == {"version": crystalpredict.__version__, "python_min": python}
    run = set(RECIPE["requirements"]["run"])
    assert run == {"python >=${{ python_min }}", *as_conda(PROJECT["project"]["dependencies"])}
    host = set(RECIPE["requirements"]["host"])
    assert host == {"python ${{ python_min }}.*", "pip", *as_conda(PROJECT["build-system"]["requires"])}


def test_what_the_recipe_says_of_the_package_is_so() -> None:
    assert RECIPE["package"]["name"] == PROJECT["project"]["name"]
    about, urls = RECIPE["about"], PROJECT["project"]["urls"]
    assert about["summary"] == PROJECT["project"]["description"]
    assert about["license"] == PROJECT["project"]["license"]
    assert (ROOT / about["license_file"]).is_file()
    assert (about["homepage"], about["documentation"]) == (urls["Homepage"], urls["Documentation"])
    ((name, call),) = PROJECT["project"]["scripts"].items()
    assert RECIPE["build"]["python"]["entry_points"] == [f"{name} = {call}"]
    (files,) = [test["files"]["recipe"] for test in RECIPE["tests"] if "files" in test]
    assert [name for name in files if not (ROOT / "conda" / name).is_file()] == []
    assert (ROOT / "conda" / "NaCl.cif").read_bytes() == (ROOT / "examples" / "NaCl.cif").read_bytes()
