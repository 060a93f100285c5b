"""`--convention` of `predict` and `hull`."""

from __future__ import annotations

from pathlib import Path

import pytest

from crystalpredict.checkpoints.registry import default_model
from crystalpredict.io.from_pymatgen import composition_of_formula
from crystalpredict.prediction.conventions import shift_to
from crystalpredict.prediction.pipeline import Pipeline
from crystalpredict.stability.conventions import Convention
from tests.cli.conftest import Program

NACL = "examples/NaCl.cif"
FORMATION = "formation_energy_eV_per_atom"
SHIFT = {each: shift_to(each, composition_of_formula("NaCl")) for each in Convention}


def predicted(program: Program, *arguments: str | Path) -> float:
    return float(program("predict", NACL, "-t", "formation_energy", *arguments).rows[0][FORMATION])


def test_formation_energies_are_of_the_convention_and_2018_is_the_default(program: Program) -> None:
    plain = predicted(program)
    for convention in Convention:
        assert predicted(program, "--convention", convention) == pytest.approx(plain + SHIFT[convention], abs=2e-4)
    assert SHIFT[Convention.uncorrected] > 0.25


def test_a_cache_and_a_resumed_run_keep_conventions_apart(program: Program, tmp_path: Path) -> None:
    cache = ("--cache", tmp_path / "cache")
    first, other = predicted(program, *cache), predicted(program, *cache, "--convention", "uncorrected")
    assert other == pytest.approx(first + SHIFT[Convention.uncorrected], abs=2e-4)
    assert predicted(program, *cache) == first
    facts = [Pipeline(default_model().folder, convention=convention).facts for convention in Convention]
    assert [each["convention"] for each in facts] == ["mp2018", "mp2020", "uncorrected"]  # what --resume compares


def test_a_phase_diagram_is_of_the_convention(program: Program) -> None:
    energies = {}
    for convention in Convention:
        rows = program("hull", "Na-Cl", NACL, "--convention", convention, "-f", "csv").rows
        energies[convention] = {row["source"]: float(row[FORMATION]) for row in rows if row["formula"] == "NaCl"}
        assert {float(row[FORMATION]) for row in rows if row["formula"] in ("Na", "Cl2")} >= {0.0}
    for convention in Convention:
        for source in ("reference", "predicted"):
            wanted = energies[Convention.mp2018][source] + SHIFT[convention]
            assert energies[convention][source] == pytest.approx(wanted, abs=2e-4)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["predict", NACL, "--convention", "mp2021"], "mp2018"),
        (["hull", "Na-Cl", "--convention", "MP"], "mp2018"),
        (["predict", NACL, "--convention", "mp2020", "--scheduler", "tcp://x:1"], "--scheduler does not go with"),
    ],
)
def test_what_makes_no_sense_is_one_line(program: Program, arguments: list[str], said: str) -> None:
    outcome = program(*arguments)
    assert outcome.code == 2
    assert said in outcome.stderr
