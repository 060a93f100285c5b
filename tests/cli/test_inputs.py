"""What may be named on the command line: lists with strange names, directories, archives, tables."""

from __future__ import annotations

import io
import os
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from backports import zstd

from crystalpredict.errors import UsageError
from crystalpredict.io.inputs import expand
from tests.same import alike

CSCL = "CsCl\n4.1\n1 0 0\n0 1 0\n0 0 1\nCs Cl\n1 1\nDirect\n0 0 0\n0.5 0.5 0.5\n"


def written(path: Path, text: str = CSCL) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_archives_tables_and_frames_are_rows_of_one_run(program, tmp_path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("deep/POSCAR", CSCL)
    written(tmp_path / "t.csv", f'id,poscar\nx1,"{CSCL}"\n')
    frame = '2\nLattice="4.1 0 0 0 4.1 0 0 0 4.1"\nCs 0 0 0\nCl 2.05 2.05 2.05\n'
    written(tmp_path / "f.xyz", frame * 2)
    outcome = program("predict", tmp_path / "a.zip", tmp_path / "t.csv", tmp_path / "f.xyz")
    assert outcome.code == 0
    assert [(row["path"].removeprefix(f"{tmp_path}/"), row["index"]) for row in outcome.rows] == [
        ("a.zip/deep/POSCAR", "0"), ("t.csv#x1", "0"), ("f.xyz", "0"), ("f.xyz", "1"),
    ]  # fmt: skip
    assert all(alike(row["bandgap_eV"], outcome.rows[0]["bandgap_eV"]) for row in outcome.rows)


def test_a_database_of_ase_is_a_row_for_each_of_its_rows(program, tmp_path) -> None:
    from ase import Atoms
    from ase.db import connect

    cell = np.eye(3) * 4.1
    crystal = Atoms("CsCl", scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5]], cell=cell, pbc=True)
    with connect(tmp_path / "a.db") as database:
        database.write(crystal)
        database.write(Atoms("H2", positions=[[0, 0, 0], [0, 0, 0.7]], cell=cell, pbc=[True, True, False]))
        database.write(crystal.repeat(2), data={"note": "what else is there does not matter"})
    written(tmp_path / "none.db", "no database")
    written(tmp_path / "plain.vasp")
    with connect(tmp_path / "empty.db") as database:
        database.delete([database.write(crystal)])
    outcome = program(
        "predict", *(tmp_path / name for name in ("a.db", "none.db", "gone.db", "empty.db", "plain.vasp"))
    )
    assert outcome.code == 3
    rows = [(row["path"].rpartition("/")[2], row["error"]) for row in outcome.rows]
    assert [name for name, _ in rows] == ["a.db#1", "a.db#2", "a.db#3", "none.db", "gone.db", "empty.db", "plain.vasp"]
    first, slab, large, *broken, plain = outcome.rows
    assert alike(first["bandgap_eV"], large["bandgap_eV"])
    assert alike(first["bandgap_eV"], plain["bandgap_eV"])
    assert (first["n_atoms"], large["n_atoms"]) == ("2", "16")
    assert "periodic in all three directions" in slab["error"]
    assert [row["error"].partition(":")[0] for row in broken] == [
        "not an ASE database", "no such file", "an ASE database without rows",
    ]  # fmt: skip


def test_without_zstd_it_is_said_how_to_get_it(program, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("crystalpredict.io.text.zstd", None)
    (tmp_path / "b.cif.zst").write_bytes(zstd.compress(CSCL.encode()))
    (tmp_path / "c.csv.zst").write_bytes(zstd.compress(b"id,poscar\n"))
    outcome = program("predict", "--jobs", "1", *(tmp_path / name for name in ("b.cif.zst", "c.csv.zst")))
    assert outcome.code == 4
    assert all("pip install 'crystalpredict[zstd]'" in row["error"] for row in outcome.rows)


def test_zstd_is_unpacked_everywhere_and_a_part_of_it_is_an_error(program, tmp_path) -> None:
    packed = zstd.compress(CSCL.encode())
    (tmp_path / "a.vasp.zst").write_bytes(packed)
    (tmp_path / "cut.vasp.zst").write_bytes(packed[:-4])
    (tmp_path / "odd.vasp.zst").write_bytes(packed[:6] + b"\xff" * 20)
    (tmp_path / "t.csv.zst").write_bytes(zstd.compress(f'id,poscar\nx,"{CSCL}"\n'.encode()))
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        written(tmp_path / "POSCAR")
        archive.add(tmp_path / "POSCAR", "POSCAR")
    (tmp_path / "b.tar.zst").write_bytes(zstd.compress(content.getvalue()))
    names = ("a.vasp.zst", "cut.vasp.zst", "odd.vasp.zst", "t.csv.zst", "b.tar.zst")
    outcome = program("predict", *(tmp_path / name for name in names))
    assert outcome.code == 3
    assert [bool(row["error"]) for row in outcome.rows] == [False, True, True, False, False]
    assert all("cannot be read (" in row["error"] for row in outcome.rows if row["error"])
    assert len({row["bandgap_eV"] for row in outcome.rows}) == 2  # with that of the failures


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_names_with_spaces_and_line_ends_pass_in_lists_ended_by_null(program, tmp_path, monkeypatch) -> None:
    paths = [written(tmp_path / name) for name in (" a b\n.vasp", "c\r\n'd\".vasp", "e.vasp ")]
    listed = written(tmp_path / "list", "\0".join(paths))
    assert [row["path"] for row in program("predict", "-0", f"@{listed}").rows] == paths
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\0".join([*paths, ""]).encode())))
    outcome = program("predict", "--null", "-", tmp_path / "nowhere\n.cif")
    assert [row["path"] for row in outcome.rows] == [*paths, str(tmp_path / "nowhere\n.cif")]
    assert len(outcome.stderr.splitlines()) == 3  # the model, a failure, the summary


def test_a_list_ended_by_null_that_is_longer_than_a_block_keeps_every_name(tmp_path) -> None:
    names = [f"{number:0{1 + number % 300}}.cif" for number in range(3000)]
    assert list(expand(["@" + written(tmp_path / "list", "\0".join(names))], null=True)) == names


@pytest.mark.skipif(os.name == "nt" or sys.platform == "darwin", reason="names are Unicode there")
def test_names_that_are_no_utf8_pass_from_lists_and_directories(program, tmp_path) -> None:
    name = os.fsencode(tmp_path) + b"/caf\xe9.vasp"
    with open(name, "wb") as file:
        file.write(CSCL.encode())
    (tmp_path / "list").write_bytes(name + b"\n")
    for item in (f"@{tmp_path}/list", tmp_path):
        outcome = program("predict", item)
        assert outcome.code == 0
        assert outcome.rows[0]["path"] == str(tmp_path / "caf\\udce9.vasp")


def test_a_directory_is_in_the_order_of_whole_paths_and_listed_as_needed(tmp_path) -> None:
    names = ["a.cif", "a/b.cif", "a/b/POSCAR", "a.d/x.cif.xz", "a-b.zip", "b.cif/c.cif", "z/t.tar.gz"]
    for name in [*names, "t.csv", "._a.cif", "e/notes.txt"]:
        if name != "a/b.cif":
            written(tmp_path / name)
    names.remove("a/b.cif")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "itself.cif").symlink_to("itself.cif")
    (tmp_path / "link.cif").symlink_to("a.cif")
    names.append("link.cif")
    paths = expand([str(tmp_path)])
    assert next(paths) == str(tmp_path / "a-b.zip")
    (tmp_path / "z" / "later.cif").touch()
    assert list(paths) == sorted(str(tmp_path / name) for name in [*names, "z/later.cif"])[1:]


@pytest.mark.parametrize("name", ["results.json", "results.json.gz"])
def test_results_in_a_directory_are_no_inputs_of_the_next_run(program, tmp_path, name) -> None:
    structure = written(tmp_path / 'a"\\.vasp')
    (tmp_path / "broken.json").write_text('[{"path": "a.cif", "index"')
    (tmp_path / "empty.json").write_text("[\n]\n")
    (tmp_path / "evaluated.json").write_text('[\n  {"id": "mp-1", "row": 1, "bandgap_eV": 0.5}\n]\n')
    for run in range(2):
        outcome = program("predict", tmp_path, "-o", tmp_path / name, "--force")
        assert outcome.code == 3, run
        assert list(expand([str(tmp_path)])) == [structure, str(tmp_path / "broken.json")]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_directory_that_may_not_be_read_is_a_row(program, tmp_path) -> None:
    written(tmp_path / "in" / "a.vasp")
    written(tmp_path / "in" / "b" / "b.vasp")
    (tmp_path / "in" / "b").chmod(0)
    outcome = program("predict", tmp_path / "in")
    (tmp_path / "in" / "b").chmod(0o700)
    assert outcome.code == 3
    assert [row["path"].split("/")[-1] for row in outcome.rows] == ["a.vasp", "b"]


def test_an_input_that_stands_for_nothing_is_refused_at_once_wherever_it_stands(tmp_path) -> None:
    def inputs() -> Iterator[str]:
        yield written(tmp_path / "a.cif")
        yield str(tmp_path / "*.nothing")

    with pytest.raises(UsageError, match="matches no file"):
        expand(inputs())
    (tmp_path / "list").write_bytes("a.cif\n".encode("utf-16"))
    with pytest.raises(UsageError, match="UTF-16"):
        expand([f"@{tmp_path}/list"])


def test_a_link_to_nothing_is_a_row_with_an_error(program, tmp_path) -> None:
    written(tmp_path / "a.vasp")
    (tmp_path / "b.cif").symlink_to("../not-fetched/b.cif")
    outcome = program("predict", tmp_path)
    assert outcome.code == 3
    assert [bool(row["error"]) for row in outcome.rows] == [False, True]


def test_a_file_whose_name_begins_as_a_list_is_a_file(program, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "@odd.vasp")
    written(tmp_path / "odd.vasp")
    outcome = program("predict", "@odd.vasp", "odd.vasp")
    assert outcome.code == 0
    assert [row["path"] for row in outcome.rows] == ["@odd.vasp", "odd.vasp"]
