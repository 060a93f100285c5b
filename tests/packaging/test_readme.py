"""What the README and the documentation show is what the program does."""

import json
import re
from pathlib import Path

import pytest

from crystalpredict.checkpoints.registry import default_model
from scripts.card import coverage, errors, metrics_of_default, readme_table, sizes
from scripts.examples_table import table

ROOT = Path(__file__).resolve().parents[2]
NUMBER = re.compile(r"-?\d+\.?\d*")


def test_the_readmes_table_is_what_the_bundled_model_predicts() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = [line for line in readme.splitlines() if re.search(r"\(`\S+`\)", line)]
    made = [line for line in table().splitlines() if "(`" in line]
    assert len(shown) == len(made) == 14
    for one, two in zip(shown, made, strict=True):
        assert NUMBER.sub("#", one) == NUMBER.sub("#", two)
        numbers = [[float(x) for x in NUMBER.findall(line.split("|", 2)[2])] for line in (one, two)]
        assert numbers[0] == pytest.approx(numbers[1], abs=0.011, rel=0.011)


def test_the_readmes_errors_are_those_of_the_models_card() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    card = (default_model().folder / "README.md").read_text(encoding="utf-8")
    metrics = metrics_of_default()
    assert readme_table(metrics) in readme
    assert errors(metrics) in card
    assert sizes(metrics) in card
    assert coverage(metrics) in card
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", card)
    assert len(pictures) == 15
    assert all((default_model().folder / picture).is_file() for picture in pictures)
    weights = json.loads((default_model().folder / "config.json").read_text(encoding="utf-8"))["weights_sha256"]
    for report in metrics.values():
        assert [model["sha256"] for model in report["models"]] == [weights]  # measured with these weights


def errors_of(model: str) -> list[float]:
    """Mean absolute errors of a bundled model: gap, formation energy, energy above hull, log10 of the moduli."""
    scores = [
        score
        for report in json.loads((ROOT / "models" / model / "metrics.json").read_text(encoding="utf-8")).values()
        for score in report["scores"]
    ]
    found = {score["property"]: score["mae"] for score in scores if score["unit"] != "GPa"}
    return [found[name] for name in ("bandgap", "formation_energy", "e_above_hull", "bulk_modulus", "shear_modulus")]


def test_errors_of_other_models_are_rounded_from_their_metrics() -> None:
    """In the README the five of both; in docs/accuracy.md gap and formation energy of all three, beside the paper's."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    accuracy = (ROOT / "docs" / "accuracy.md").read_text(encoding="utf-8")
    names = ("crystalformer-mp", "crystalformer-mp-ensemble", "crystalframer-mp")
    stated: list[tuple[str, float]] = []
    for name in names[1:]:
        shown = re.search(rf"--model {name}`[^(]*\(([^;]*);", readme)
        assert shown, name
        stated += zip(re.findall(r"\d\.\d+", shown[1]), errors_of(name), strict=True)
    for row, place in (("formation energy, eV/atom", 1), ("band gap, eV", 0)):
        line = next(line for line in accuracy.splitlines() if line.startswith(f"| {row} |") and "; " in line)
        ours = re.findall(r"\d\.\d+", line.split("|")[2])
        stated += zip(ours, (errors_of(name)[place] for name in names), strict=True)
    assert len(stated) == 16
    wrong = [(text, value) for text, value in stated if f"{value:.{len(text) - 2}f}" != text]
    assert not wrong


def test_the_two_commands_and_the_links_exist() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text()
    for command in ("demo", "test"):
        assert f"make {command}" in readme
        assert f"\n{command}:" in makefile
    for page in [*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md"))]:
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert link.startswith("http") or (page.parent / link).exists(), f"{page.name}: {link}"
