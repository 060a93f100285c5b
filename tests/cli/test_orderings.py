"""`predict --orderings`."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from tests.disordered import rock_salt

MEAN = "bandgap_orderings_mean_eV"


@pytest.fixture
def alloys(tmp_path: Path) -> list[Path]:
    """CIFs of three disordered crystals and an ordered one."""
    found = [tmp_path / f"{number}.cif" for number in range(3)]
    for path, share in zip(found, (0.25, 0.5, 0.75), strict=True):
        path.write_text(rock_salt(share))
    return [*found, Path("examples/NaCl.cif").absolute()]


def test_columns_in_every_format_and_in_conditions(program, alloys: list[Path], tmp_path: Path) -> None:
    given = ("predict", *alloys, "--orderings", "3", "-t", "bandgap", "-q")
    rows = program(*given).rows
    names = list(rows[0])
    assert names[4:11] == [
        "bandgap_eV", "bandgap_eV_lo90", "bandgap_eV_hi90", MEAN, "bandgap_orderings_lo_eV", "bandgap_orderings_hi_eV",
        "orderings",
    ]  # fmt: skip
    assert [row["orderings"] for row in rows] == ["3", "3", "3", "0"]
    for row in rows[:3]:
        assert 1 < float(row["bandgap_orderings_lo_eV"]) <= float(row[MEAN]) <= float(row["bandgap_orderings_hi_eV"])
    assert rows[3][MEAN] == ""
    lines = [json.loads(line) for line in program(*given, "-f", "jsonl").stdout.splitlines()]
    assert [line[MEAN] and f"{line[MEAN]:.4f}" for line in lines] == [row[MEAN] or None for row in rows]
    table = program(*given, "-f", "table").stdout
    assert ("mean of" in table, "nan" in table) == (True, False)
    chosen = program(
        *given, "--where", "orderings > 0 and bandgap > 0", "--sort", "-bandgap_orderings_mean", "--top", "2"
    )
    assert [row["path"] for row in chosen.rows] == [
        row["path"] for row in sorted(rows[:3], key=lambda row: -float(row[MEAN]))[:2]
    ]


def test_resumed_runs_and_shards_give_the_same_rows(program, alloys: list[Path], tmp_path: Path) -> None:
    given = ("predict", *alloys, "--orderings", "2", "-t", "bandgap", "-q")
    whole = tmp_path / "whole.csv"
    assert program(*given, "-o", whole).code == 0
    for shard in ("1/2", "2/2"):
        assert program(*given, "--shard", shard, "-o", tmp_path / f"{shard[0]}.csv").code == 0
    assert program("merge", tmp_path / "1.csv", tmp_path / "2.csv", "-o", tmp_path / "merged.csv").code == 0
    merged, expected = (
        list(csv.DictReader(path.read_text().splitlines())) for path in (tmp_path / "merged.csv", whole)
    )
    assert [row["orderings"] for row in merged] == [row["orderings"] for row in expected]
    assert [row[MEAN] for row in merged] == [row[MEAN] for row in expected]
    other = (
        *given[:-5],
        "--orderings",
        "3",
        "-t",
        "bandgap",
        "-q",
        "--shard",
        "2/2",
        "-o",
        tmp_path / "2.csv",
        "--force",
    )
    assert program(*other).code == 0
    assert program("merge", tmp_path / "1.csv", tmp_path / "2.csv", "-o", tmp_path / "mixed.csv").code == 2


@pytest.mark.parametrize("wrong", [("--cache", "auto"), ("--relax", "ase.calculators.emt:EMT"), ("--scheduler", "x")])
def test_wrong_usage(program, alloys: list[Path], wrong: tuple[str, str]) -> None:
    outcome = program("predict", alloys[0], "--orderings", "3", *wrong)
    assert (outcome.code, "--orderings does not go with" in outcome.stderr) == (2, True)
    assert program("predict", alloys[0], "--orderings", "101").code == 2
    assert program("predict", alloys[0], "--orderings", "-1").code == 2
