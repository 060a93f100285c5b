"""`crystalpredict hull`, and the options of `predict` that choose the hull."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

NACL = "examples/NaCl.cif"


def test_a_system_is_shown_with_its_stable_phases_first(program) -> None:
    outcome = program("hull", "Li-Fe-O", "--within", "0.01")
    assert outcome.code == 0
    energies = [float(row["e_above_hull_eV_per_atom"]) for row in outcome.rows]
    assert energies == sorted(energies)
    assert energies[0] == 0
    assert max(energies) <= 0.01
    stable = {row["formula"] for row in outcome.rows if not row["decomposes_to"]}
    assert {"Fe2O3", "Li2O", "LiFeO2", "O2"} <= stable
    assert "Li-O-Fe: " in outcome.stderr or "stable" in outcome.stderr


def test_an_element_whose_ground_state_is_not_known_is_drawn_at_0(program, tmp_path) -> None:
    known = tmp_path / "known.csv"
    known.write_text("id,formula,formation_energy\nhot,Fe,0.1\nmine,FeO,-1\n")
    options = ("--entries", known, "--no-reference", "--plot", tmp_path / "feo.html", "--within", "1")
    rows = program("hull", "Fe-O", *options).rows
    assert [(row["formula"], row["id"]) for row in rows] == [("Fe", ""), ("FeO", "mine"), ("O2", ""), ("Fe", "hot")]
    assert float(rows[-1]["e_above_hull_eV_per_atom"]) == 0.1
    assert "plotly" in (tmp_path / "feo.html").read_text().lower()


def test_a_formula_is_decomposed(program) -> None:
    outcome = program("hull", "LiFe3O5", "-f", "jsonl", "--within", "0")
    assert "LiFe3O5: the hull is at -1." in outcome.stderr
    assert " + " in outcome.stderr
    assert all(json.loads(line)["decomposes_to"] == "" for line in outcome.stdout.splitlines())


def test_structures_take_part_with_their_predicted_energies(program, tmp_path) -> None:
    output = tmp_path / "diagram.csv"
    outcome = program("hull", NACL, "-o", output, "--plot", tmp_path / "diagram.png")
    assert outcome.code == 0
    rows = {row["id"]: row for row in csv.DictReader(output.read_text().splitlines())}
    own = rows[NACL]
    predicted = program("predict", NACL, "-t", "formation_energy,hull_distance").rows[0]
    assert own["source"] == "predicted"
    for column in ("formation_energy_eV_per_atom", "hull_distance_eV_per_atom"):
        assert float(own[column]) == pytest.approx(float(predicted[column]), abs=2e-4)
    assert float(own["formation_energy_eV_per_atom_lo90"]) < float(own["formation_energy_eV_per_atom"])
    assert (tmp_path / "diagram.png").read_bytes().startswith(b"\x89PNG")
    assert program("hull", NACL, "-o", output).code == 2  # not without --force


def test_entries_of_one_s_own(program, tmp_path) -> None:
    known = tmp_path / "known.csv"
    known.write_text("id,formula,formation_energy\nmine,NaCl,-3\n")
    rows = {row["id"]: row for row in program("hull", "Na-Cl", "--entries", known, "-f", "csv").rows}
    assert rows["mine"]["source"] == "entries"
    assert "mp-22862" not in rows  # of the same composition, and higher
    alone = program("hull", "Na-Cl", "--entries", known, "--no-reference").rows
    assert [row["formula"] for row in alone if row["id"]] == ["NaCl"]
    row = program("predict", NACL, "-t", "decomposes_to", "--entries", known).rows[0]
    assert row["decomposes_to"] == "NaCl (mine)"
    assert program("predict", NACL, "-t", "decomposes_to", "--no-reference").rows[0]["decomposes_to"] == (
        "0.500 Na + 0.500 Cl"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["hull", "Na-Qq"], "no element 'Qq'"),
        (["hull", "nofile.cif"], "is not a formula: write it as in Fe2O3; a system is written as Li-Fe-O"),
        (["hull", "Na-Cl", "--plot", "x.bmp"], "no format for this suffix"),
        (["hull", "Na", "--plot", "x.png"], "a picture needs a system of 2 to 4 elements"),
        (["hull", "H-He-Li-Be-B-C-N-O-F-Ne-Na-Mg-Al"], "a system of 13 elements"),
        (["hull", "Na-Cl", "-o", "x.parquet"], "CSV or JSON"),
        (["predict", NACL, "--entries", "pyproject.toml"], "broken JSON"),
        (["predict", NACL, "--entries", "missing.csv"], "does not exist"),
        (["evaluate", "x.csv", "-t", "hull_distance"], "no such file|derived from the formation energy"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_one_line(program, arguments: list[str], said: str) -> None:
    outcome = program(*arguments)
    assert outcome.code == 2
    assert any(part in outcome.stderr for part in said.split("|"))
    assert not Path("x.png").exists()


def test_an_element_without_compounds_says_so(program) -> None:
    outcome = program("hull", "Ar")
    assert outcome.code == 0
    assert "no compound of these elements" in outcome.stderr


def test_texts_are_columns_of_every_format_and_of_the_cache(program, tmp_path) -> None:
    chosen = ("-t", "decomposes_to,e_above_hull")
    csv_row = program("predict", NACL, *chosen).rows[0]
    assert csv_row["decomposes_to"] == "NaCl (mp-22862)"
    lines = program("predict", NACL, *chosen, "-f", "jsonl").stdout
    assert json.loads(lines)["decomposes_to"] == "NaCl (mp-22862)"
    for _ in range(2):
        assert program("predict", NACL, *chosen, "--cache", tmp_path / "cache").rows[0] == csv_row
    assert "1 from the cache" in program("predict", NACL, *chosen, "--cache", tmp_path / "cache").stderr
    where = "decomposes_to == 'NaCl (mp-22862)'"
    assert len(program("predict", "examples", *chosen, "--where", where).rows) == 1
    assert "NaCl (mp-22862)" in program("predict", NACL, *chosen, "-f", "table").stdout
