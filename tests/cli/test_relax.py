"""`predict --relax`, with EMT of ASE, a potential of metals that needs no weights."""

from __future__ import annotations

import csv
import inspect
import json
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

import crystalpredict
from crystalpredict import Relaxation
from crystalpredict.cli.predict import predict
from crystalpredict.errors import suppress_warnings
from crystalpredict.io.cell_writers import cif_name
from crystalpredict.prediction.relaxation_by_potential import Relaxer

pytest.importorskip("ase")

RELAX = ("--relax", "ase.calculators.emt:EMT")
FORMATION, CHANGE = "formation_energy_eV_per_atom", "volume_change_percent"
LENGTHS = (3.5, 3.7, 3.6)  # Å; copper has 3.59 by EMT


def copper(length: float) -> Structure:
    """The primitive cell."""
    half = length / 2
    return Structure(Lattice([[0, half, half], [half, 0, half], [half, half, 0]]), ["Cu"], [[0, 0, 0]])


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    """Cells of copper, and one of rock salt in the middle, which EMT does not cover."""
    folder = tmp_path / "cells"
    folder.mkdir()
    for number, length in enumerate(LENGTHS):
        copper(length).to(str(folder / f"{2 * number}.vasp"), "poscar")
    (folder / "1.cif").write_bytes(Path("examples/NaCl.cif").read_bytes())
    return folder


def test_rows_and_cells_are_those_of_the_relaxed_crystals(program, cells: Path, tmp_path: Path) -> None:
    out = tmp_path / "relaxed"
    given = ("predict", cells, *RELAX, "-t", "formation_energy,volume_change", "--write-relaxed", out)
    outcome = program(*given, "--relax-force", "0.005")
    assert outcome.code == 3
    good = [row for row in outcome.rows if not row["error"]]
    assert [Path(row["path"]).name for row in good] == ["0.vasp", "2.vasp", "4.vasp"]
    assert "cannot be relaxed: the potential ase.calculators.emt:EMT failed" in outcome.rows[1]["error"]
    assert not list(out.rglob("1.cif"))
    for row, length in zip(good, LENGTHS, strict=True):
        with suppress_warnings():
            volume = Structure.from_file(str(out / cif_name(row["path"], 0))).volume
        assert volume == pytest.approx(3.59**3 / 4, rel=5e-3)
        assert float(row[CHANGE]) == pytest.approx(100 * (4 * volume / length**3 - 1), abs=0.02)
        assert row["warnings"] == ""
    frames = program("predict", cells, *RELAX, "--write-relaxed", tmp_path / "all.extxyz")
    assert (frames.code, (tmp_path / "all.extxyz").read_text().count("Lattice=")) == (3, 3)


def test_what_is_not_converged_says_so_and_is_kept_apart(program, cells: Path) -> None:
    rows = program("predict", cells / "2.vasp", *RELAX, "--relax-steps", "2").rows
    assert "not relaxed: forces of up to" in rows[0]["warnings"]
    assert "after 2 steps" in rows[0]["warnings"]
    rows = program("predict", cells / "2.vasp", *RELAX, "--relax-seconds", "1e-6").rows
    assert "after 0 steps in 1e-06 s" in rows[0]["warnings"]
    assert rows[0]["error"] == ""


@pytest.mark.slow
def test_a_table_a_resumed_run_shards_and_the_cache_give_the_same_rows(
    program, cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "table.jsonl"
    lines = [{"id": str(length), "structure": copper(length).as_dict()} for length in (3.5, 3.7, 3.6, 3.8)]
    table.write_text("\n".join(map(json.dumps, lines)))
    given = ("predict", table, *RELAX, "-t", "formation_energy", "-q")
    plain = program(*given).rows
    assert [row["error"] for row in plain] == [""] * 4

    real, relaxed = Relaxer.relaxed, []

    def interrupted(self, crystal):
        relaxed.append(1)
        if len(relaxed) == 3:
            raise KeyboardInterrupt
        return real(self, crystal)

    output, cache = tmp_path / "out.csv", tmp_path / "cache"
    with monkeypatch.context() as patch:
        patch.setattr(Relaxer, "relaxed", interrupted)
        assert program(*given, "-o", output, "--cache", cache).code == 130
    assert len((tmp_path / "out.csv.part").read_text().splitlines()) == 3  # the header and two rows
    for other in (
        (),
        ("--relax", "ase.calculators.lj:LennardJones"),
        (*RELAX, "--relax-steps", "9"),
        (*RELAX, "--unrelaxed"),
    ):
        refused = program("predict", table, "-t", "formation_energy", *other, "-o", output, "--resume")
        assert (refused.code, "its relaxation differs" in refused.stderr) == (2, True)

    computed = []
    find = Relaxer._relax
    monkeypatch.setattr(Relaxer, "_relax", lambda self, start: computed.append(start) or find(self, start))
    assert program(*given, "-o", output, "--cache", cache, "--resume").code == 0
    assert list(csv.DictReader(output.read_text().splitlines())) == plain
    assert len(computed) == 2
    assert program(*given, "--cache", cache, "--write-relaxed", tmp_path / "kept").rows == plain
    assert len(list((tmp_path / "kept").rglob("*.cif"))) == 4
    assert len(computed) == 2  # the others come from the cache

    for shard in ("1/2", "2/2"):
        assert program(*given, "--shard", shard, "-o", tmp_path / f"{shard[0]}.csv", "--cache", cache).code == 0
    assert program("merge", tmp_path / "1.csv", tmp_path / "2.csv", "-o", tmp_path / "merged.csv").code == 0
    assert (tmp_path / "merged.csv").read_bytes() == output.read_bytes()
    other = (*given, "--relax-force", "0.2", "--shard", "2/2", "-o", tmp_path / "2.csv", "--force")
    assert program(*other).code == 0
    assert program("merge", tmp_path / "1.csv", tmp_path / "2.csv", "-o", tmp_path / "mixed.csv").code == 2


def test_with_unrelaxed_the_default_model_predicts_what_starts_from_the_predicted_crystal(
    program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = []
    real = Relaxer._relax
    monkeypatch.setattr(Relaxer, "_relax", lambda self, start: starts.append(start) or real(self, start))
    cell = tmp_path / "sheared.vasp"
    Structure(Lattice([[2.1, 1.9, 0], [1.8, 0, 1.8], [0, 1.9, 2.0]]), ["Cu"], [[0, 0, 0]]).to(str(cell), "poscar")
    (row,) = crystalpredict.predict([cell], unrelaxed=True)
    assert row["strain_percent"] > 2
    monkeypatch.setenv("CRYSTALPREDICT_MODEL", "crystalformer-mp-ensemble")
    outcome = program("predict", cell, *RELAX, "--unrelaxed")
    assert CHANGE not in outcome.rows[0]
    assert "model crystalformer-mp-ensemble" in outcome.stderr
    assert row.relaxed is not None
    np.testing.assert_allclose(starts[0].lattice, row.relaxed.lattice, atol=1e-4)


def test_what_a_potential_prints_is_not_among_the_rows(
    program, cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "installed"
    folder.mkdir()
    (folder / "noisy_potential.py").write_text(
        "from ase.calculators.emt import EMT\nprint('noise of importing')\nclass Noisy(EMT):\n"
        "    def calculate(self, *given):\n        print('noise')\n        super().calculate(*given)\n"
    )
    monkeypatch.syspath_prepend(folder)
    noisy = program("predict", cells, "--relax", "noisy_potential:Noisy")
    assert "noise" not in noisy.stdout + noisy.stderr
    assert len(noisy.rows) == 4


def test_the_options_have_the_defaults_of_python() -> None:
    options = inspect.signature(predict).parameters
    for name in ("force", "steps", "seconds"):
        assert options[f"relax_{name}"].default == getattr(Relaxation, name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--relax", "emt"), "give chgnet, sevenn or module:function"),
        (("--relax", "no_such:f"), "no module no_such is installed"),
        (("--relax-steps", "7"), "--relax-steps needs --relax"),
        (("--relax-force", "0.1"), "--relax-force needs --relax"),
        ((*RELAX, "--model", "crystalformer-mp-unrelaxed"), "is for structures that are not relaxed"),
        ((*RELAX, "--write-relaxed", "examples/NaCl.cif"), "name a folder, or a file that ends in"),
    ],
)
def test_wrong_usage_is_one_line(program, arguments: tuple[str, ...], message: str) -> None:
    outcome = program("predict", "examples/NaCl.cif", *arguments)
    assert (outcome.code, outcome.stdout) == (2, "")
    assert message in outcome.stderr
    assert len(outcome.stderr.strip().splitlines()) == 1
