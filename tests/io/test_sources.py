"""Archives, tables, XYZ and compressed files: what they hold, one source after the other, whatever is wrong."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pymatgen.core import Structure

from crystalpredict.io import archives
from crystalpredict.io import text as files
from crystalpredict.io.entries import Entry, read_entries
from crystalpredict.io.sources import sources_of

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
NACL, GAAS, SI = ((EXAMPLES / name).read_text() for name in ("NaCl.cif", "GaAs.cif", "Si.vasp"))
FRAME = """2
Lattice="4.1 0 0 0 4.1 0 0 0 4.1" Properties=species:S:1:pos:R:3:forces:R:3 energy=-3.5 pbc="T T T"
Cs 0 0 0 0.1 0.2 0.3
Cl 2.05 2.05 2.05 0 0 0
"""


def read(*paths: str | Path, column: str | None = None) -> list[Entry]:
    """Entries of files, named as on the command line."""
    return [
        entry for source in sources_of([str(path) for path in paths], column) for entry in read_entries(source, 5.0)
    ]


def told(entries: list[Entry], folder: Path) -> list[tuple[str, int, str, str]]:
    return [(entry.path.removeprefix(f"{folder}/"), entry.index, entry.formula, entry.error) for entry in entries]


def zipped(path: Path, **members: str | bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def tarred(path: Path, mode: str, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


# Compressed files


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_a_compressed_file_is_unpacked_whatever_its_name(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "a.cif"
    path.write_bytes(pack(NACL.encode()))
    assert told(read(path), tmp_path) == [("a.cif", 0, "NaCl", "")]
    path.write_bytes(pack(NACL.encode())[:-20])
    (entry,) = read(path)
    assert "cannot be read" in entry.error


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_a_compressed_file_that_unpacks_to_too_much_is_refused(
    tmp_path: Path, pack: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 2**20)
    path = tmp_path / "a.cif.gz"
    path.write_bytes(pack(b" " * 2**24))
    (entry,) = read(path)
    assert "too large" in entry.error


# Archives


def test_members_of_a_zip_are_rows_in_its_order(tmp_path: Path) -> None:
    path = zipped(
        tmp_path / "a.zip",
        **{"b/z é.cif": NACL, "notes.txt": "x", "b/a.cif.gz": gzip.compress(GAAS.encode()), "POSCAR": SI,
           "bad.cif": "nonsense", "__MACOSX/b.cif": "x", "b/._a.cif": "x", "in.zip": b"PK"},
    )  # fmt: skip
    entries = told(read(path), tmp_path)
    assert [entry[:3] for entry in entries] == [
        ("a.zip/b/z é.cif", 0, "NaCl"), ("a.zip/b/a.cif.gz", 0, "GaAs"), ("a.zip/POSCAR", 0, "Si"),
        ("a.zip/bad.cif", 0, ""), ("a.zip/in.zip", 0, ""),
    ]  # fmt: skip
    assert "archive inside an archive" in entries[-1][3]
    assert [entry[3] for entry in entries[:3]] == [""] * 3
    assert sorted(item.name for item in tmp_path.iterdir()) == ["a.zip"]


@pytest.mark.parametrize(
    ("name", "mode"),
    [("a.tar", "w"), ("a.tar.gz", "w:gz"), ("a.tgz", "w:gz"), ("a.tar.bz2", "w:bz2"), ("a.TAR.XZ", "w:xz")],
)
def test_members_of_a_tar_are_rows_in_its_order(tmp_path: Path, name: str, mode: str) -> None:
    path = tarred(tmp_path / name, mode, {"z.cif": NACL.encode(), "x.dat": b"\0" * 99, "../a.cif": GAAS.encode()})
    assert told(read(path), tmp_path) == [(f"{name}/z.cif", 0, "NaCl", ""), (f"{name}/../a.cif", 0, "GaAs", "")]


def test_links_in_a_tar_are_errors_and_lead_nowhere(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        link = tarfile.TarInfo("a.cif")
        link.type, link.linkname = tarfile.SYMTYPE, str(EXAMPLES / "NaCl.cif")
        archive.addfile(link)
    (entry,) = read(tmp_path / "a.tar")
    assert "a link" in entry.error


def test_a_damaged_archive_costs_its_own_row_alone(tmp_path: Path) -> None:
    whole = tarred(tmp_path / "whole.tar", "w", {f"{n}.cif": NACL.encode() for n in range(9)}).read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "cut.zip").write_bytes(zipped(tmp_path / "x.zip", a=NACL * 9).read_bytes()[:-30])
    (tmp_path / "none.tar.gz").write_bytes(b"nonsense")
    (tmp_path / "empty.zip").write_bytes(zipped(tmp_path / "y.zip", notes="x").read_bytes())
    names = ["cut.tar", "cut.zip", "none.tar.gz", "empty.zip", "nowhere.zip", "whole.tar"]
    entries = told(read(*(tmp_path / name for name in names)), tmp_path)
    failed = {path: error for path, _, _, error in entries if error}
    assert list(failed)[-4:] == ["cut.zip", "none.tar.gz", "empty.zip", "nowhere.zip"]
    assert "cut off" in failed["cut.tar"]
    assert all("\n" not in error for error in failed.values())
    good = [path for path, _, formula, _ in entries if formula == "NaCl"]
    assert good[:3] == [f"cut.tar/{n}.cif" for n in range(3)]
    assert good[-9:] == [f"whole.tar/{n}.cif" for n in range(9)]


def test_a_damaged_member_of_a_zip_costs_its_own_row_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.cif", NACL)
        archive.writestr("b.cif", GAAS)
    path.write_bytes(path.read_bytes().replace(b"_cell_length_a", b"_cell_length_x", 1))
    one, two = read(path)
    assert "CRC" in one.error
    assert two.formula == "GaAs"


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "tar.xz"])
def test_a_bomb_is_refused_in_one_line(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "BOMB_BYTES", 2**20)
    monkeypatch.setattr(files, "BOMB_RATIO", 20)
    path, zeros = tmp_path / f"a.{kind}", b" " * 2**19
    members = {f"{n}.cif": zeros for n in range(50)}
    if kind == "zip":
        zipped(path, **members)
    else:
        tarred(path, f"w:{kind[4:]}", members)
    entries = read(path)
    assert len(entries) < 20
    assert entries[-1].path == str(path)
    assert "bomb" in entries[-1].error


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_a_member_that_is_too_large_is_not_unpacked(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_FILE_BYTES", 10_000)
    path, members = tmp_path / f"a.{kind}", {"a.cif": b" " * 10_001, "b.cif": NACL.encode()}
    if kind == "zip":
        zipped(path, **members)
    else:
        tarred(path, "w:gz", members)
    one, two = read(path)
    assert (one.path, "too large" in one.error, two.formula) == (f"{path}/a.cif", True, "NaCl")


# Tables


def csv_of(rows: list[list[str]]) -> str:
    import csv

    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


def test_structures_in_a_csv_are_named_by_their_ids(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(csv_of([["material_id", "cif"], ["mp-1", NACL], ["", GAAS], ["mp-3", ""], ["mp-4"]]))
    assert told(read(path), tmp_path) == [
        ("t.csv#mp-1", 0, "NaCl", ""), ("t.csv#row 2", 0, "GaAs", ""),
        ("t.csv#mp-3", 0, "", "no structure in the column cif"),
        ("t.csv#4", 0, "", "1 fields where the header has 2: check delimiters and quotes"),
    ]  # fmt: skip


def test_paths_in_a_table_are_relative_to_it_and_keep_their_names(tmp_path: Path) -> None:
    (tmp_path / "a.cif").write_text(NACL)
    (tmp_path / "t.csv").write_text("id,path\n1,a.cif\n2,b.cif\n")
    entries = told(read(tmp_path / "t.csv"), tmp_path)
    assert [entry[:3] for entry in entries] == [("a.cif", 0, "NaCl"), ("b.cif", 0, "")]
    assert "no such file" in entries[1][3]


def test_lines_of_json_may_hold_structures_or_be_them(tmp_path: Path) -> None:
    structure: dict[str, Any] = json.loads(Structure.from_str(SI, fmt="poscar").to_json())
    jarvis = {"lattice_mat": [[4.1, 0, 0], [0, 4.1, 0], [0, 0, 4.1]], "elements": ["Cs", "Cl"],
              "coords": [[0, 0, 0], [0.5, 0.5, 0.5]]}  # fmt: skip
    plain = {
        "id": "p",
        "lattice": [4.1, 4.1, 4.1, 90, 90, 90],
        "species": ["Cs", "Cl"],
        "frac_coords": [[0, 0, 0], [0.5] * 3],
    }
    lines = [{"id": "a", "structure": structure}, structure, {"jid": "j", "atoms": jarvis}, jarvis, plain, {"id": "e"}]
    path = tmp_path / "t.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join([*map(json.dumps, lines), "{nonsense", "3"]).encode()))
    entries = told(read(path), tmp_path)
    assert [entry[:3] for entry in entries] == [
        ("t.jsonl.gz#a", 0, "Si"), ("t.jsonl.gz#2", 0, "Si"), ("t.jsonl.gz#j", 0, "CsCl"),
        ("t.jsonl.gz#4", 0, "CsCl"), ("t.jsonl.gz#p", 0, "CsCl"), ("t.jsonl.gz#e", 0, ""),
        ("t.jsonl.gz#7", 0, ""), ("t.jsonl.gz#8", 0, ""),
    ]  # fmt: skip


def test_structures_in_parquet_and_in_a_column_named_by_the_user(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    write_table(pyarrow.table({"id": ["a", "b"], "text": [NACL, GAAS]}), tmp_path / "t.parquet")
    assert [entry[:3] for entry in told(read(tmp_path / "t.parquet", column="text"), tmp_path)] == [
        ("t.parquet#a", 0, "NaCl"), ("t.parquet#b", 0, "GaAs"),
    ]  # fmt: skip
    (entry,) = read(tmp_path / "t.parquet")
    assert "--structure-column" in entry.error
    for name, pack in (("t.parquet.gz", gzip.compress), ("t.parquet.xz", lzma.compress)):
        packed = pack((tmp_path / "t.parquet").read_bytes())
        (tmp_path / name).write_bytes(packed)
        assert [entry.formula for entry in read(tmp_path / name, column="text")] == ["NaCl", "GaAs"]
        (tmp_path / name).write_bytes(packed[:-9])
        (entry,) = read(tmp_path / name, column="text")
        assert "cannot be read (the compressed file is cut off" in entry.error


def test_names_of_columns_do_not_make_a_row_a_structure(tmp_path: Path) -> None:
    row = {"id": "q", "lattice": "cubic", "sites": "8", "cif": NACL}
    (tmp_path / "t.csv").write_text(csv_of([list(row), list(row.values())]))
    (tmp_path / "t.jsonl").write_text(json.dumps(row | {"lattice": {"a": 4}, "sites": []}))
    assert [read(tmp_path / name)[0].formula for name in ("t.csv", "t.jsonl")] == ["NaCl", "NaCl"]


@pytest.mark.parametrize("others", [{"structure": "rocksalt"}, {"atoms": 8}, {"cif": None}, {"poscar": ""}])
def test_words_under_the_names_of_structures_make_no_row_less_a_structure(
    tmp_path: Path, others: dict[str, Any]
) -> None:
    row = {"lattice": [4.1] * 3 + [90] * 3, "species": ["Cs", "Cl"], "frac_coords": [[0, 0, 0], [0.5] * 3]}
    (tmp_path / "t.jsonl").write_text(json.dumps({"id": "a", **others, **row}))
    assert [entry[:3] for entry in told(read(tmp_path / "t.jsonl"), tmp_path)] == [("t.jsonl#a", 0, "CsCl")]


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", "empty"), (b"a,b\n1,2\n", "no column of structures"), (b"cif\n", "without rows"),
        (b'id,cif\n1,"data_', "broken CSV"), (b"\0\1", "binary"), (b"PAR1nonsense", "Parquet"),
    ],
)  # fmt: skip
def test_what_is_no_table_of_structures_is_one_row_with_the_reason(tmp_path: Path, content: bytes, error: str) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    (entry,) = read(tmp_path / "t.csv")
    assert entry.path == str(tmp_path / "t.csv")
    assert error in entry.error
    assert str(tmp_path) not in entry.error


# Extended XYZ


def test_frames_of_an_xyz_file_are_rows_with_their_number_as_index(tmp_path: Path) -> None:
    path = tmp_path / "t.extxyz.bz2"
    other = FRAME.replace("Cl", "Br").replace("\n", "\r\n")
    path.write_bytes(bz2.compress((FRAME + other + FRAME + "\n\n").encode()))
    assert told(read(path), tmp_path) == [
        ("t.extxyz.bz2", 0, "CsCl", ""), ("t.extxyz.bz2", 1, "CsBr", ""), ("t.extxyz.bz2", 2, "CsCl", ""),
    ]  # fmt: skip
    unnamed = tmp_path / "frames"
    unnamed.write_text(FRAME + other)
    assert [entry.formula for entry in read(unnamed)] == ["CsCl", "CsBr"]


def test_columns_of_xyz_may_stand_in_any_order_and_elements_be_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.xyz"
    path.write_text('2\nProperties=pos:R:3:Z:I:1 Lattice="4 0 0 0 4 0 0 0 4"\n0 0 0 11\n2 2 2 17\n')
    (entry,) = read(path)
    assert (entry.formula, entry.n_atoms, entry.crystal and entry.crystal.positions[1].tolist()) == (
        "NaCl",
        2,
        [2.0] * 3,
    )


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("2\nwater\nH 0 0 0\nO 0 0 1\n", "without a cell"),
        (FRAME.replace('pbc="T T T"', 'pbc="T T F"'), "periodic in all three"),
        (FRAME.replace('pbc="T T T"', 'pbc="1 1 0"'), "periodic in all three"),
        (FRAME.replace('pbc="T T T"', "pbc=[1,0,1]"), "periodic in all three"),
        (FRAME.replace("2.05 2.05 2.05", "2.05 x 2.05"), "broken XYZ"),
        (FRAME.replace("Cs ", "Qq "), "unknown element"),
        (FRAME.replace("4.1 0 0 0 4.1", "4.1 0 0 4.1"), "broken XYZ"),
        (FRAME[:-30], "cut off"),
        (FRAME.replace("2\n", "3\n", 1), "cut off"),
        ("999999999999\nx\n", "number of atoms"),
        ("nonsense\n", "number of atoms"),
        ("", "empty file"),
    ],
)
def test_a_broken_frame_is_a_row_with_the_reason(tmp_path: Path, text: str, error: str) -> None:
    (tmp_path / "a.xyz").write_text(FRAME + text if text else "")
    entries = read(tmp_path / "a.xyz")
    assert error in entries[-1].error
    assert [entry.index for entry in entries] == list(range(len(entries)))
    assert entries[0].formula == ("CsCl" if text else "")


def test_sources_come_as_they_are_asked_for(tmp_path: Path) -> None:
    def names() -> Iterator[str]:
        yield str(EXAMPLES / "NaCl.cif")
        raise AssertionError("asked for too early")

    assert next(sources_of(names())) == str(EXAMPLES / "NaCl.cif")


def test_two_columns_of_one_name_are_an_error_where_one_of_them_is_needed(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    for names in (["id", "cif", "cif"], ["id", "cif", "id"]):
        path.write_text(csv_of([names, ["mp-1", NACL, GAAS]]))
        ((_, _, _, error),) = told(read(path), tmp_path)
        assert "2 columns are called" in error
    path.write_text(csv_of([["id", "note", "cif", "note"], ["mp-1", "a", NACL, "b"]]))
    assert told(read(path), tmp_path) == [("t.csv#mp-1", 0, "NaCl", "")]


@pytest.mark.parametrize("comment", ["", "data_source=mp "])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_xyz_of_any_encoding_and_comment_is_xyz(tmp_path: Path, encoding: str, comment: str) -> None:
    path = tmp_path / "a.xyz"
    path.write_text(f'1\n{comment}Lattice="3 0 0 0 3 0 0 0 3"\nPo 0 0 0\n', encoding=encoding)
    assert told(read(path), tmp_path) == [("a.xyz", 0, "Po", "")]
    path.rename(tmp_path / "a.extxyz.txt")
    assert told(read(tmp_path / "a.extxyz.txt"), tmp_path)[0][2] == "Po"
