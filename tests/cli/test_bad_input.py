"""Whatever is in the files: each one row, each failure one line with its name and reason, all others predicted."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from crystalpredict.prediction.rows import name_of
from tests.fuzz import complaint
from tests.io.test_entries import NO_LOOP, Entry, cell, cif, poscar
from tests.mutants import mutant, originals

GOOD = "Na Na 0 0 0 1"
HALF = "Cl Cl 0.5 0.5 0.5 1"
MOLECULE = '{"@class": "Molecule", "sites": [{"species": [{"element": "O", "occu": 1}], "xyz": [0, 0, 0]}]}'
IONS = (
    '{"lattice": {"matrix": [[4, 0, 0], [0, 4, 0], [0, 0, 4]]}, "sites": ['
    '{"species": [{"element": "Cs", "oxidation_state": 1, "occu": 1}], "abc": [0, 0, 0], "properties": {"magmom": 2}},'
    '{"species": [{"element": "Cl", "oxidation_state": -1, "spin": 5, "occu": 1}], "abc": [0.5, 0.5, 0.5]}]}'
)


def grid(cells: int) -> str:
    """A POSCAR of cells³ atoms of a simple cubic metal."""
    places = [f"{x / cells} {y / cells} {z / cells}" for x in range(cells) for y in range(cells) for z in range(cells)]
    return poscar("Po\n", str(cells**3), "\n".join(places), str(3.3 * cells))


# name: content, and a part of the error; an empty one where it is predicted, `warned` of
CASES: dict[str, tuple[str | bytes, str]] = {
    "empty.cif": ("", "empty file"),
    "blank.vasp": (" \n\n", "empty file"),
    "binary.cif": (bytes(range(256)), "binary file"),
    "picture.cif": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "binary file"),
    "page.cif": ("<!DOCTYPE html><html></html>", "web page"),
    "prose.cif": ("Dear colleague,\nthe file is attached.\n", "not a CIF, a POSCAR"),
    "loop cut off.cif": (cif(GOOD, "Cl Cl 0.5"), "broken CIF"),
    "file cut off.cif": (NO_LOOP, "no atoms"),
    "no cell.cif": (cif(box=""), "no unit cell"),
    "length zero.cif": (cif(box=cell(a="0")), "cell lengths"),
    "length negative.cif": (cif(box=cell(b="-3")), "cell lengths"),
    "length nan.cif": (cif(box=cell(c="nan")), "cell lengths"),
    "length huge.cif": (cif(box=cell(a="1e300")), "Å long"),
    "angles impossible.cif": (cif(box=cell(alpha="120", beta="120", gamma="120")), "no cell has these angles"),
    "angles flat.cif": (cif(box=cell(gamma="0.01")), "angles"),
    "cell flat.vasp": (poscar().replace("0 0 1\n", "0 1 0\n", 1), "check its lengths and angles"),
    "no atoms.vasp": (poscar(counts="0 0", rows=""), "counts"),
    "atoms on atoms.cif": (cif(GOOD, "K K 0 0 0 1"), "add up to 2"),
    "atoms close.cif": (cif(GOOD, "K K 0.01 0 0 1"), "Å apart"),
    "occupancy high.cif": (cif("Na Na 0 0 0 1.4", HALF), "add up to 1.4"),
    "occupancy none.cif": (cif("Na Na 0 0 0 0", HALF), "occupancy 0 at site 1"),
    "occupancy negative.cif": (cif("Na Na 0 0 0 -1", HALF), "occupancy -1 at site 1"),
    "element X.cif": (cif("X1 X 0 0 0 1"), "unknown element 'X'"),
    "element Lp.cif": (cif("Lp1 Lp 0 0 0 1"), "unknown element 'Lp'"),
    "element Md.cif": (cif("Md1 Md 0 0 0 1"), "H to Cf only"),
    "element Xx.vasp": (poscar(symbols="Cs Xx\n"), "Xx"),
    "elements unnamed.vasp": (poscar(symbols=""), "does not name its elements"),
    "counts huge.vasp": (poscar(counts="1 999999999"), "counts"),
    "molecule.json": (MOLECULE, "molecule without a lattice"),
    "deep.json": ("[" * 100_000, "broken JSON"),
    "deep too.json": ('{"a":' * 100_000, "broken JSON"),
    "entity.cif": ('<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>', "web page"),
    "molecule.xyz": ("2\n\nO 0 0 0\nH 0 0 1\n", "without a cell"),
    "packed and cut.cif.gz": (b"\x1f\x8b\x08\0" + b"\xff" * 40, "cannot be read"),
    # and what only looks bad
    "occupancy low.cif": (cif("Na Na 0 0 0 0.5", HALF), ""),
    "occupancy mixed.cif": (cif("Na Na 0 0 0 0.5", "K K 0 0 0 0.5", HALF), ""),
    "lefthanded.vasp": (poscar().replace("1 0 0\n0 1 0\n", "0 1 0\n1 0 0\n", 1), ""),
    "deuterium.cif": (cif("D1 D 0 0 0 1", "Li1 Li 0.5 0.5 0.5 1"), ""),
    "one atom.cif": (cif("Po Po 0 0 0 1", box=cell("3.3", "3.3", "3.3")), ""),
    "4096 atoms.vasp": (grid(16), ""),
    "labels twice.cif": (cif("Na Na 0 0 0 1", "Na Na 0.5 0.5 0.5 1"), ""),
    "crlf.cif": (cif().replace("\n", "\r\n"), ""),
    "utf-16.cif": (cif().encode("utf-16"), ""),
    "bom.cif": (cif().encode("utf-8-sig"), ""),
    "3≈π, gęś¼.cif": (cif(), ""),
    "ions.json": (IONS, ""),
    "vacuum.cif": (cif(box=cell(c="40")), ""),
    "atom alone.cif": (cif("Po Po 0 0 0 1", box=cell("30", "30", "30")), ""),
}


def test_every_kind_of_bad_input_is_one_row_with_its_reason_and_the_others_are_predicted(program, tmp_path) -> None:
    for name, (content, _) in CASES.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    (tmp_path / "directory.cif").mkdir()
    (tmp_path / "loop.cif").symlink_to(tmp_path / "loop.cif")
    (tmp_path / "two.cif").write_text(cif(name="a") + cif(name="b", box=cell(a="?")) + cif(name="c"))
    reasons = {name: [reason] for name, (_, reason) in CASES.items()}
    reasons |= {"directory.cif": ["a directory"], "loop.cif": ["cannot be read"], "two.cif": ["", "cell", ""]}
    reasons |= {"nowhere.cif": ["no such file"]}
    (tmp_path / "list").write_text("\n".join(str(tmp_path / name) for name in reasons) + "\n\n", encoding="utf-8")
    outcome = program("predict", f"@{tmp_path / 'list'}")
    assert outcome.code == 3
    wanted = [(str(tmp_path / name), part) for name, parts in reasons.items() for part in parts]
    assert [row["path"] for row in outcome.rows] == [path for path, _ in wanted]
    for row, (path, part) in zip(outcome.rows, wanted, strict=True):
        assert bool(row["error"]) == bool(part), (path, row["error"])
        assert part in row["error"], path
        assert (row["bandgap_eV"] == "") == bool(part), path
    said = [line for line in outcome.stderr.splitlines() if "Å, " not in line]
    failed = [row for row in outcome.rows if row["error"]]
    assert said[1:-1] == [
        f"crystalpredict: {name_of(row['path'], int(row['index']))}: {row['error']}" for row in failed
    ]


def test_labels_that_are_no_numbers_are_named_by_their_rows(program, tmp_path) -> None:
    labels = ["50", "nan", "-3", "inf", "80", "60"]
    rows = [f'{n},"{poscar(a=str(4 + n / 50))}",{label}' for n, label in enumerate(labels)]
    (tmp_path / "t.csv").write_text("id,poscar,bulk_modulus_GPa\n" + "\n".join(rows) + "\n")
    outcome = program("evaluate", tmp_path / "t.csv")
    assert outcome.code == 0
    not_positive = "bulk_modulus_GPa is not positive and has no logarithm (first: row 3)"
    for reason in ("no label (first: row 2)", not_positive, "bulk_modulus_GPa is infinite (first: row 4)"):
        assert f"1 row(s) not predicted: {reason}" in outcome.stderr
    assert "3 of 6 rows predicted" in outcome.stderr


@pytest.mark.skipif(os.name == "nt", reason="names of files")
def test_a_folder_of_mutants_is_predicted_by_the_whole_program(tmp_path) -> None:
    contents = [originals()]
    for number in range(140):
        (tmp_path / f"{number:03}.cif").write_bytes(mutant(contents, 11, number))
    command = [sys.executable, "-m", "crystalpredict", "predict", "-f", "csv", "--jobs", "2", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert done.returncode == 3
    assert sorted({Path(row["path"]).name for row in rows}) == sorted(path.name for path in tmp_path.iterdir())
    failed = [row for row in rows if row["error"]]
    assert 20 < len(failed) < len(rows) - 20
    assert [complaint(Entry(row["path"], 0, error=row["error"])) for row in failed] == [""] * len(failed)
    for row in rows:
        values = [row[name] for name in row if name[-2:] in ("eV", "om", "Pa", "90")]
        assert all(value == "" for value in values) if row["error"] else all(abs(float(v)) < 1e6 for v in values)
    lines = done.stderr.splitlines()
    assert lines[0].startswith("crystalpredict: model ")
    assert lines[1:-1] == [
        f"crystalpredict: {name_of(row['path'], int(row['index']))}: {row['error']}" for row in failed
    ]


@pytest.mark.skipif(os.name == "nt", reason="there are no alarms")
def test_a_structure_that_takes_too_long_is_an_error_in_every_command(program, tmp_path) -> None:
    count = 60_000
    plain = {"lattice": [300] * 3 + [90] * 3, "species": ["Cs"] * count}
    plain |= {"frac_coords": [[n / count, 0, 0] for n in range(count)]}
    (tmp_path / "t.jsonl").write_text(json.dumps({"structure": plain, "bandgap_eV": 1}) + "\n")
    limits = ("--timeout-per-file", "0.2", "--memory-per-process", "1", "-q")
    for command in ("predict", "embed", "evaluate", "finetune"):
        output = {"embed": ["-o", tmp_path / "a.csv"], "finetune": ["-o", tmp_path / "run"]}.get(command, [])
        outcome = program(command, tmp_path / "t.jsonl", *output, *limits)
        if command == "finetune":
            assert outcome.code == 2
            assert "no row has a structure to train on; the first: not read within 0.2 s" in outcome.stderr
        else:
            assert outcome.code == 4, outcome.stderr
    assert "not read within 0.2 s: raise --timeout-per-file" in (tmp_path / "a.csv").read_text()


@pytest.mark.parametrize(
    "option",
    [
        ("--timeout-per-file", "inf"), ("--timeout-per-file", "nan"), ("--timeout-per-file", "1e30"),
        ("--memory-per-process", "inf"), ("--memory-per-process", "0.1"), ("--batch-atoms", "9" * 30),
    ],
)  # fmt: skip
def test_a_number_that_no_machine_has_is_refused(program, examples, option: tuple[str, str]) -> None:
    outcome = program("predict", examples[0], *option)
    assert (outcome.code, outcome.stdout) == (2, "")
    assert "Traceback" not in outcome.stderr
    assert option[0] in outcome.stderr


def test_numbers_out_of_bounds_are_refused_with_the_bounds(program, examples) -> None:
    for option, said in (
        (("--batch-atoms", "0"), "--batch-atoms 0: give a number of atoms from 1 to 999,999,999,999, or auto"),
        (("--shard", "1/0", "-o", "x.csv"), "--shard 1/0: there is at least one shard"),
        (("--shard", "4/3", "-o", "x.csv"), "--shard 4/3: give a shard from 1/3 to 3/3"),
    ):
        outcome = program("predict", examples[0], *option)
        assert (outcome.code, said in outcome.stderr) == (2, True), outcome.stderr


def test_the_message_about_an_item_of_a_list_has_its_number(program, examples, tmp_path) -> None:
    path = tmp_path / "list.json"
    path.write_text(json.dumps([{"structure": Path(examples[0]).read_text()}, {"structure": "garbage"}, 5]))
    outcome = program("predict", path, "-t", "gap")
    assert outcome.code == 3
    lines = outcome.stderr.splitlines()[1:3]  # after that of the model
    assert [line.split(": ")[1] for line in lines] == [f"{path}#1", f"{path}#2"]
