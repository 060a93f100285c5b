"""`predict --unrelaxed`, and the cells that it writes."""

from __future__ import annotations

import csv
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from pymatgen.core import Structure

from crystalpredict.cli import prediction_run
from crystalpredict.cli.interrupts import SIGNALS
from crystalpredict.errors import suppress_warnings
from crystalpredict.io.cell_writers import cif_name
from tests.same import alike

CHANGE, FORMATION = "volume_change_percent", "formation_energy_eV_per_atom"
EXAMPLES = Path("examples")
FILES = [EXAMPLES / "MgO.cif", EXAMPLES / "NaCl.cif", EXAMPLES / "Si.vasp"]


def read(path: Path) -> Structure:
    with suppress_warnings():
        return Structure.from_file(str(path))


def write(structure: Structure, path: Path) -> None:
    with suppress_warnings():
        structure.to(str(path))


@pytest.fixture
def stretched(tmp_path: Path) -> Path:
    """Cells 10 % too large."""
    folder = tmp_path / "cells"
    folder.mkdir()
    for path in FILES:
        structure = read(path)
        structure.scale_lattice(structure.volume * 1.1)
        write(structure, folder / f"{path.stem}.cif")
    return folder


def test_the_flag_adds_the_volume_change_and_its_interval(program, stretched: Path) -> None:
    rows = program("predict", stretched, "--unrelaxed").rows
    for row in rows:
        assert -14 < float(row[CHANGE]) < -5
        assert float(row[f"{CHANGE}_lo90"]) < float(row[CHANGE]) < float(row[f"{CHANGE}_hi90"])
        assert "would relax" not in row["warnings"]
    without = program("predict", stretched)
    assert CHANGE not in without.rows[0]
    assert sum("larger than it would relax to: see --unrelaxed" in row["warnings"] for row in without.rows) >= 2
    (asked,) = program("predict", FILES[0], "-t", "volume_change,bandgap").rows
    assert list(asked)[4] == CHANGE
    kept = program("predict", stretched, "--unrelaxed", "--where", f"{CHANGE} < -5", "--sort", FORMATION, "--top", "2")
    assert len(kept.rows) == 2


def test_cells_are_written_at_their_relaxed_volumes(program, stretched: Path, tmp_path: Path) -> None:
    outcome = program("predict", stretched, "--unrelaxed", "--write-relaxed", tmp_path / "relaxed")
    for row in outcome.rows:
        before, after = read(Path(row["path"])), read(tmp_path / "relaxed" / cif_name(row["path"], 0))
        assert after.volume / before.volume == pytest.approx(1 + float(row[CHANGE]) / 100, rel=1e-3)
        assert after.composition == before.composition
    again = program("predict", stretched, "--unrelaxed", "--write-relaxed", tmp_path / "relaxed")
    assert again.code == 2
    assert "not empty" in again.stderr
    assert program("predict", stretched, "--unrelaxed", "--write-relaxed", tmp_path / "relaxed", "--force").code == 0

    frames = tmp_path / "all.extxyz"
    assert program("predict", stretched, "--unrelaxed", "--write-relaxed", frames).code == 0
    frames_read = program("predict", frames, "--unrelaxed").rows
    assert [row["formula"] for row in frames_read] == [row["formula"] for row in outcome.rows]
    for row in frames_read:  # already there
        assert abs(float(row[CHANGE])) < 4
    assert program("predict", stretched, "--unrelaxed", "--write-relaxed", frames).code == 2


def test_equal_names_and_shared_sites(program, stretched: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    alloy = read(EXAMPLES / "NaCl.cif")
    alloy.replace_species({"Na": {"Na": 0.5, "K": 0.5}})
    write(alloy, other / "NaCl.cif")
    given = (stretched / "NaCl.cif", other / "NaCl.cif")
    assert program("predict", *given, "--unrelaxed", "--write-relaxed", tmp_path / "out").code == 0
    mixed = read(tmp_path / "out" / cif_name(str(other / "NaCl.cif"), 0))
    assert len(list((tmp_path / "out").rglob("NaCl.cif"))) == 2
    assert mixed.composition.get_atomic_fraction("K") == pytest.approx(0.25)
    outcome = program("predict", *given, "--unrelaxed", "--write-relaxed", tmp_path / "out.xyz")
    assert (outcome.code, len(outcome.rows)) == (3, 2)
    assert "no relaxed cell: sites that are shared or partly occupied" in outcome.stderr
    assert (tmp_path / "out.xyz").read_text().count("Lattice=") == 1


def test_names_of_cells_depend_on_the_source_alone(program, stretched: Path, tmp_path: Path, monkeypatch) -> None:
    assert str(cif_name("run1/POSCAR", 0)) == "run1/POSCAR.cif"
    assert str(cif_name("/data/a.cif", 2)) == "data/a#2.cif"
    assert str(cif_name("table.csv#7", 0)) == "table.csv#7.cif"
    names = {str(cif_name(path, 0)) for path in ("../a.cif", "a.cif", "a\n.cif", "a\udcff.cif", "中" * 200, "中" * 201)}
    assert len(names) == 6
    assert all(len(name.encode()) < 230 and ".." not in name for name in names)
    given = ("predict", stretched, "--unrelaxed", "--write-relaxed", tmp_path / "out")
    for shard in ("1/2", "2/2"):
        assert program(*given, "--shard", shard, "-o", tmp_path / f"{shard[0]}.csv").code == 0
    assert len(list((tmp_path / "out").rglob("*.cif"))) == 3
    twice = program("predict", FILES[0], FILES[1], FILES[0], "--unrelaxed", "--write-relaxed", tmp_path / "twice")
    assert len(list((tmp_path / "twice").rglob("*.cif"))) == len(twice.rows) == 3
    monkeypatch.chdir(stretched)
    own = program("predict", "MgO.cif", "--unrelaxed", "--write-relaxed", ".", "--force")
    assert own.code == 3
    assert "MgO.cif: no relaxed cell: its own CIF would be replaced" in own.stderr


def test_rows_are_the_same_from_the_cache_and_after_a_resume(program, stretched: Path, tmp_path: Path) -> None:
    given = ("predict", stretched, "--unrelaxed")
    plain = program(*given).rows
    first, second = (program(*given, "--cache", tmp_path / "cache").rows for _ in range(2))
    assert second == first
    assert alike(first, plain)
    assert program("predict", stretched, "--cache", tmp_path / "cache").rows != plain  # another model
    output = tmp_path / "out.csv"
    for shard in ("1/2", "2/2"):
        part = tmp_path / f"{shard[0]}.csv"
        assert program(*given, "--shard", shard, "-o", part).code == 0
    assert program("merge", tmp_path / "1.csv", tmp_path / "2.csv", "-o", output).code == 0
    assert alike(list(csv.DictReader(output.read_text().splitlines())), plain)


def test_a_model_of_the_settings_is_for_relaxed_structures(program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRYSTALPREDICT_MODEL", "crystalformer-mp-ensemble")
    assert CHANGE in program("predict", FILES[0], "--unrelaxed").rows[0]


@pytest.fixture
def handlers() -> Iterator[None]:
    """Restores the handlers of signals, which an interrupted run ignores until its process ends."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM to send")
@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("target", ["relaxed", "relaxed.extxyz"])
def test_what_an_interrupted_run_says_of_its_cells(program, stretched: Path, tmp_path, monkeypatch, target) -> None:
    """The signal comes while the cell of the second of three rows is written."""
    write, count = prediction_run.is_cell_written, 0

    def interrupted(*arguments) -> bool:
        nonlocal count
        count += 1
        if count == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return write(*arguments)

    monkeypatch.setattr(prediction_run, "is_cell_written", interrupted)
    output, cells = tmp_path / "out.csv", tmp_path / target
    given = ("predict", stretched, "--unrelaxed", "--write-relaxed", cells, "-o", output)
    outcome = program(*given)
    assert outcome.code == 130
    said = outcome.stderr.splitlines()[-1]
    left = {path.name for path in tmp_path.iterdir()} - {"cells", "relaxed"}
    if target == "relaxed":
        assert said.endswith(
            f"interrupted before the first rows; {cells} has cells without rows: replace them with --force"
        )
        assert len(list(cells.rglob("*.cif"))) == 2
        assert not left
        assert program(*given).code == 2
    else:
        assert said.endswith(f"interrupted: 2 rows are complete in {output}.interrupted and {cells}.interrupted")
        assert left == {"out.csv.interrupted", "relaxed.extxyz.interrupted"}
        assert (tmp_path / "out.csv.interrupted").read_text().count("\n") == 3
        assert (tmp_path / "relaxed.extxyz.interrupted").read_text().count("Lattice=") == 2
    assert program(*given, "--force").code == 0
    assert output.read_text().count("\n") == 4


def test_evaluate_and_hull_take_unrelaxed_structures(program, stretched: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("CRYSTALPREDICT_MODEL", "crystalformer-mp-ensemble")  # of relaxed structures: not used
    table, rows = tmp_path / "table.csv", tmp_path / "rows.csv"
    table.write_text("path,formation_energy\n" + "".join(f"{path},-2\n" for path in sorted(stretched.iterdir())))
    plain = program("predict", stretched, "--unrelaxed").rows
    outcome = program("evaluate", table, "--unrelaxed", "--predictions", rows)
    assert "model crystalformer-mp-unrelaxed" in outcome.stderr
    for row, predicted in zip(csv.DictReader(rows.read_text().splitlines()), plain, strict=True):
        assert float(row[f"{FORMATION}_predicted"]) == pytest.approx(float(predicted[FORMATION]), abs=2e-4)
    phases = {row["id"]: row for row in program("hull", "Mg-O", stretched, "--unrelaxed").rows}
    (own,) = (row for row in plain if "MgO" in row["path"])
    assert float(phases[own["path"]][FORMATION]) == pytest.approx(float(own[FORMATION]), abs=2e-4)
    for given in (("evaluate", table), ("hull", "Mg-O")):
        refused = program(*given, "--unrelaxed", "--model", "crystalformer-mp-ensemble")
        assert refused.code == 2
        assert "learnt from relaxed structures only" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--write-relaxed", "out"), "--write-relaxed needs --unrelaxed or --relax"),
        (("--unrelaxed", "--write-relaxed", "out", "--cache", "c"), "does not go with --cache"),
        (("--unrelaxed", "--model", "crystalformer-mp-ensemble"), "learnt from relaxed structures only"),
        (("--unrelaxed", "--write-relaxed", "examples/NaCl.cif"), "name a folder, or a file that ends in"),
        (
            ("--unrelaxed", "--write-relaxed", "a.extxyz", "-o", "o.csv", "--resume"),
            "goes with --resume only into a folder",
        ),
        (
            ("--unrelaxed", "--write-relaxed", "a.extxyz", "-o", "o.csv", "--shard", "1/2"),
            "goes with --shard only into a folder",
        ),
    ],
)
def test_what_does_not_go_together(program, arguments: tuple[str, ...], message: str) -> None:
    outcome = program("predict", FILES[0], *arguments)
    assert outcome.code == 2
    assert message in outcome.stderr
    assert len(outcome.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("option", ["--write-structures", "--copy-to"])
def test_relaxed_cells_share_no_place_with_other_files(program, tmp_path: Path, option: str) -> None:
    outcome = program(
        "predict", "examples/MgO.cif", "--unrelaxed", "--write-relaxed", tmp_path / "here", option, tmp_path / "here"
    )
    assert outcome.code == 2
    assert f"here: for {option}, too: give another name for --write-relaxed" in outcome.stderr
    assert not (tmp_path / "here").exists()
