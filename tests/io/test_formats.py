"""Formats read to the letter, and files of strangers within bounds: no row lost, no library's words in a message."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase
import ase.io
import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from crystalpredict.crystals.crystal import ATOMIC_NUMBERS
from crystalpredict.io import table_formats as table_files
from crystalpredict.io import text as files
from crystalpredict.io.entries import Entry, Inline, read_entries
from crystalpredict.io.sources import sources_of

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
NACL = (EXAMPLES / "NaCl.cif").read_text()
ROCK_SALT = "0 0 0\n0 .5 .5\n.5 0 .5\n.5 .5 0\n.5 .5 .5\n.5 0 0\n0 .5 0\n0 0 .5\n"


def poscar(symbols: str, a: str = "5.64", rows: str = ROCK_SALT, scale: str = "1.0", mode: str = "Direct") -> str:
    return f"EA1 {a} Sym.group: 225\n{scale}\n{a} 0 0\n0 {a} 0\n0 0 {a}\n{symbols}\n4 4\n{mode}\n{rows}"


ONE, TWO = poscar("Na Cl"), poscar("Mg O", "4.21")
AT_REST = 8 * "0 0 0\n"


def read(text: str) -> list[Entry]:
    return list(read_entries(Inline("x", text), 5.0))


def formulas(text: str) -> list[str]:
    """The formula of each structure, or the error."""
    return [entry.error or entry.formula for entry in read(text)]


def rows_of(*paths: Path) -> list[Entry]:
    return [entry for source in sources_of(map(str, paths)) for entry in read_entries(source, 5.0)]


# POSCAR


@pytest.mark.parametrize(
    "between",
    [
        "", "\n\n", "\n" + AT_REST, "Cartesian\n" + AT_REST, "\n" + AT_REST.replace("0", "0.0"),
        "Lattice velocities and vectors\n 1\n" + 6 * "1. 0 0\n" + "\n" + AT_REST,
        "\n" + AT_REST + "\n1\n0.1E-2\n 0 0 0 0\n" + 24 * "0.1 0.2 0.3\n",
    ],
)  # fmt: skip
@pytest.mark.parametrize("scale", ["1.0", "1", "-74.6"])
def test_every_structure_of_gathered_poscars_is_a_row(between: str, scale: str) -> None:
    selective = ONE.replace("Direct", "Selective dynamics\nDirect").replace(".5\n", ".5 T T F\n")
    entries = read(ONE + between + poscar("Mg O", "4.21", scale=scale) + between + selective + between)
    assert [(entry.index, entry.formula, entry.n_atoms, entry.error) for entry in entries] == [
        (0, "NaCl", 8, ""), (1, "MgO", 8, ""), (2, "NaCl", 8, ""),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "broken",
    [
        TWO.replace("4.21 0 0", "4.21 x 0"), TWO.replace("4 4", "4 5"), TWO.replace("0 0 .5\n", ""), TWO[:60],
        TWO.replace("Mg O", "MG O"), TWO.replace("Mg O\n", ""), TWO.replace("Direct\n", ""), "5.3\n1.0\n4 0 0\n",
        TWO.replace(".5 .5 .5", ".5 .5 x"), TWO + "0 0 0\n",
    ],
)  # fmt: skip
def test_a_broken_poscar_among_others_costs_its_own_row(broken: str) -> None:
    first, error, last = formulas(ONE + broken.rstrip("\n") + "\n" + ONE)
    assert (first, last) == ("NaCl", "NaCl")
    assert "line " in error
    assert formulas(broken.rstrip("\n") + "\n" + ONE)[-1] == "NaCl"


def test_what_follows_a_poscar_is_no_structure() -> None:
    assert formulas(ONE + "\n 2 2 2\n 1.0 2.0 3.0 4.0 5.0\n 1. 2. 3.\naugmentation occupancies 1 2\n 0.1\n") == ["NaCl"]
    assert formulas(ONE + "\nA note of 2019\n") == ["NaCl"]
    steps = ONE.replace("Direct", "Direct configuration= 1") + "Direct configuration= 2\n" + ROCK_SALT
    assert formulas(steps) == ["NaCl"]
    varying = steps.partition("Direct configuration= 2")[0]
    assert formulas(varying + varying.replace("= 1", "= 2").replace("Na Cl", "Na Br")) == ["NaBr"]


def test_numbers_of_fortran_and_symbols_of_potcars() -> None:
    assert formulas(ONE.replace("5.64 0 0\n", "5.64D+00 0 0d0\n")) == ["NaCl"]
    assert formulas(ONE.replace("Na Cl", "Na_pv Cl_h/8a7b9c")) == ["NaCl"]
    for symbols in ("NA CL", "na cl", "Na X", "H.5 Cl"):
        (error,) = formulas(ONE.replace("Na Cl", symbols))
        assert "unknown element" in error
    for number in ("5_64", "\N{ARABIC-INDIC DIGIT THREE}.0"):
        assert "NaCl" not in formulas(ONE.replace("5.64 0 0\n", f"{number} 0 0\n"))
    labelled = ROCK_SALT.replace("\n", " Na\n", 4).replace("5\n", "5 Cl\n").replace("0\n", "0 Cl\n")
    assert formulas(ONE.replace("Na Cl\n", "").replace(ROCK_SALT, labelled)) == ["NaCl"]


# Other formats


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("<?xml version='1.0'?>\n<qes:espresso xmlns", "output of pw.x"),
        ("\n  Invoking FHI-aims ...\n", "ase convert -i aims-output"),
        ("TITL seed\nCELL 1.5 3 3 3 90 90 90\n", "ase convert -i res"),
        ("4 F\n Ga As\n 1 1 0 0 0\n", "ase convert -i gen"),
        ("CRYST1   10 10 10\nATOM   1", "ase convert -i proteindatabank"),
        ("PAW_PBE Na 08Apr2002\n 1.0\n", "POTCAR"),
    ],
)
def test_files_of_other_programs_are_named_with_a_way_to_convert_them(text: str, told: str) -> None:
    (error,) = formulas(text)
    assert told in error


def test_empty_lines_of_a_text_that_is_no_structure_take_no_time() -> None:
    started = time.monotonic()
    assert "not a CIF" in formulas("x" + 300_000 * "\n" + "x")[0]
    assert time.monotonic() - started < 20


INTERNALS = ("unpack", "index out of range", "Traceback", "NoneType", "could not convert", "reshape", "char ", "0x",
             "object is not", "invalid literal", "Expecting", "'pos'", "Errno", "Exceeds")  # fmt: skip
XYZ = '2\nLattice="4.1 0 0 0 4.1 0 0 0 4.1" Properties=species:S:1:pos:R:3\nCs 0 0 0\nCl 2.05 2.05 2.05\n'
PYMATGEN = Structure(Lattice.cubic(4.1), ["Cs", "Cl"], [[0, 0, 0], [0.5] * 3]).as_dict()
BROKEN: list[str] = [
    XYZ.replace("2.05 2.05 2.05", "2.05 2.05"), XYZ.replace("2.05 2.05 2.05", "a b c"),
    XYZ.replace("4.1 0 0 0", "4.1 0", 1),
    XYZ.replace("pos:R", "where:R"), XYZ.replace("species:S:1:", ""), XYZ.replace("species:S:1", "species:S:x"),
    XYZ.replace("Cs ", "0 "), XYZ.replace("Cs ", "OH "), XYZ.replace('4.1"', '4.1" Lattice="5 0 0 0 5 0 0 0 5"'),
    "[1, 2", '{"a": ' + 5000 * "9" + "}", 100_000 * "[", json.dumps(PYMATGEN | {"sites": 7}),
    json.dumps(PYMATGEN | {"sites": [{"species": [], "abc": [0, 0, 0]}]}), json.dumps(PYMATGEN | {"lattice": None}),
    json.dumps(PYMATGEN | {"sites": [{"species": [{"element": "Na"}], "abc": [0, 0, 0]}]}),
    json.dumps({"lattice": [4, 4, 4, 90, 90], "species": ["Na"], "frac_coords": [[0, 0, 0]]}),
    json.dumps({"lattice": [4] * 3 + [90] * 3, "species": ["NA"], "frac_coords": [[0, 0, 0]]}),
    json.dumps({"lattice": [4] * 3 + [90] * 3, "species": ["Na"], "frac_coords": []}),
    XYZ.replace("0 4.1 0", "4.1 0 0"), ONE.replace("0 5.64 0", "5.64 0 0").replace("Direct", "Cartesian"),
    json.dumps({"lattice_mat": [[1]], "elements": ["Na"], "coords": [[0, 0, 0]]}),
]  # fmt: skip


@pytest.mark.parametrize("text", BROKEN, ids=range(len(BROKEN)))
def test_no_message_has_a_library_s_words(text: str) -> None:
    (entry,) = read(text)
    assert entry.error != ""
    assert not any(words in entry.error for words in INTERNALS), entry.error


@pytest.mark.parametrize("content", [b'id,cif\n1,"data_', b"PAR1" + bytes(99), b'{"a": 1}\n{"a": \n', b"\x1f\x8b\x08"])
def test_no_message_of_a_table_has_a_library_s_words(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    errors = [entry.error for entry in rows_of(tmp_path / "t.csv")]
    assert any(errors)
    assert not any(words in error for words in INTERNALS for error in errors), errors


# Lists of JSON


def test_items_of_a_list_of_json_are_called_by_their_ids(tmp_path: Path) -> None:
    bare = {key: value for key, value in PYMATGEN.items() if key != "properties"}
    items: list[Any] = [
        {"material_id": "mp-1", "structure": bare}, {"entry_id": "e-2", "structure": bare, "energy": -1.0},
        {"structure": bare, "data": {"material_id": "mp-3"}}, {"structure": bare | {"properties": {"task_id": 4}}},
        {"jid": "J-5", "atoms": {"lattice_mat": np.eye(3).tolist(), "elements": ["Po"], "coords": [[0, 0, 0]]}},
        bare, {"id": "c-7", "cif": NACL}, {"material_id": None, "entry_id": "e-8", "structure": 7},
    ]  # fmt: skip
    (tmp_path / "l.json").write_text(json.dumps(items, indent=1))
    (tmp_path / "l.json.gz").write_bytes(gzip.compress(json.dumps(items).encode()))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("l.json", json.dumps(items))
    ends = ["#mp-1", "#e-2", "#mp-3", "#4", "#J-5", "", "#c-7", "#e-8"]
    for name, start in (("l.json", "l.json"), ("l.json.gz", "l.json.gz"), ("a.zip", "a.zip/l.json")):
        entries = rows_of(tmp_path / name)
        assert [entry.path.removeprefix(f"{tmp_path}/") for entry in entries] == [start + end for end in ends]
        assert [entry.formula for entry in entries] == ["CsCl"] * 4 + ["Po", "CsCl", "NaCl", ""] or entries[4].error
        assert entries[5].index == 5
    (tmp_path / "l.json").write_text(json.dumps(items)[:-20])
    assert [bool(entry.error) for entry in rows_of(tmp_path / "l.json")][:4] == [False] * 4
    assert "broken JSON" in rows_of(tmp_path / "l.json")[-1].error


def test_json_of_more_values_than_memory_has_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crystalpredict.io.json_text.MAX_JSON_VALUES", 1000)
    (tmp_path / "l.json").write_text("[" + ",".join(["[]"] * 1000) + "]")
    (tmp_path / "l.jsonl").write_text('{"a": [' + ",".join(["[]"] * 1000) + "]}\n" + json.dumps({"cif": NACL}))
    errors = [entry.error for entry in rows_of(tmp_path / "l.json", tmp_path / "l.jsonl")]
    assert [("more than 1,000 values" in error) for error in errors] == [True, True, False]


# Databases


def database(path: Path, rows: int = 4, **options: str) -> sqlite3.Connection:
    """A SQLite file with the columns of ase.db that matter, as ASE fills them."""
    connection = sqlite3.connect(path)
    for name, value in options.items():
        connection.execute(f"PRAGMA {name} = {value}")
    connection.execute(
        "CREATE TABLE systems (id INTEGER PRIMARY KEY AUTOINCREMENT, unique_id TEXT UNIQUE, numbers BLOB, "
        "positions BLOB, cell BLOB, pbc INTEGER, key_value_pairs TEXT, natoms INTEGER)"
    )
    numbers = np.array([ATOMIC_NUMBERS["Cs"], ATOMIC_NUMBERS["Cl"]], "<i4").tobytes()
    places, cell = np.array([[0, 0, 0], [2.05] * 3]).tobytes(), (np.eye(3) * 4.1).tobytes()
    for row in range(rows):
        connection.execute("INSERT INTO systems VALUES (?,?,?,?,?,7,'{}',2)", (None, f"u{row}", numbers, places, cell))
    connection.commit()
    return connection


BAD_ROWS = (
    "numbers = NULL", "positions = NULL, cell = NULL, pbc = NULL", "numbers = x'01'", "positions = x''",
    "cell = 'text'", "pbc = 'T'", "numbers = zeroblob(8)", "numbers = zeroblob(70000000)", "pbc = 3",
    "positions = (SELECT zeroblob(40) || x'000000000000f07f')",
)  # fmt: skip


@pytest.mark.parametrize("change", BAD_ROWS)
def test_a_bad_row_of_a_database_costs_that_row(tmp_path: Path, change: str) -> None:
    connection = database(tmp_path / "a.db")
    connection.execute(f"UPDATE systems SET {change} WHERE id = 2")
    connection.commit()
    connection.close()
    entries = rows_of(tmp_path / "a.db")
    assert [entry.path[-2:] for entry in entries] == ["#1", "#2", "#3", "#4"]
    assert [entry.formula for entry in entries] == ["CsCl", "", "CsCl", "CsCl"]
    assert entries[1].error != ""


def test_what_is_not_the_structure_of_a_row_does_not_matter(tmp_path: Path) -> None:
    connection = database(tmp_path / "a.db")
    connection.execute("UPDATE systems SET key_value_pairs = ? WHERE id = 2", ("[" * 100_000,))
    connection.commit()
    connection.close()
    assert [entry.formula for entry in rows_of(tmp_path / "a.db")] == ["CsCl"] * 4


def test_a_damaged_scheme_is_an_error_of_one_line(tmp_path: Path) -> None:
    database(tmp_path / "a.db").close()
    content = (tmp_path / "a.db").read_bytes()
    (tmp_path / "a.db").write_bytes(content.replace(b"CREATE TABLE systems", b"CREATE TABLE \xff\xfe#'ms"))
    assert [bool(entry.error) for entry in rows_of(tmp_path / "a.db")] == [True]


def test_a_view_without_end_is_no_table(tmp_path: Path) -> None:
    connection = database(tmp_path / "a.db")
    connection.execute("ALTER TABLE systems RENAME TO others")
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"
    connection.execute(f"CREATE VIEW systems AS {endless} SELECT others.* FROM others, n WHERE n.i < 0")
    connection.commit()
    connection.close()
    started = time.monotonic()
    (entry,) = rows_of(tmp_path / "a.db")
    assert "without a table" in entry.error
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("journal", ["delete", "wal", "persist"])
def test_a_database_is_read_and_never_written(tmp_path: Path, journal: str) -> None:
    connection = database(tmp_path / "a b#%?.db", journal_mode=journal)
    if journal != "wal":  # of which one that is open has its rows in another file
        connection.close()
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE mine (x)")
    other.commit()
    other.close()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert [entry.formula for entry in rows_of(tmp_path / "a b#%?.db")] == ["CsCl"] * 4
    (entry,) = rows_of(tmp_path / "other.db")
    assert "not an ASE database" in entry.error
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    connection.close()


def test_databases_that_are_none_say_so_without_ase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ase", None)
    (tmp_path / "text.db").write_text("hello")
    (tmp_path / "cut.db").write_bytes(b"SQLite format 3\0" + bytes(50))
    text, cut, missing = (rows_of(tmp_path / name)[0].error for name in ("text.db", "cut.db", "missing.db"))
    assert "not a SQLite file" in text
    assert "broken ASE database" in cut
    assert "no such file" in missing


# Archives


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 512)


def pax(**records: str) -> bytes:
    content = b""
    for key, value in records.items():
        body = f" {key.replace('__', '.')}={value}\n".encode()
        length = len(body) + 2
        content += f"{length + (length > 99)}".encode() + body if len(body) < 97 else b""
    return header("pax", len(content), tarfile.XHDTYPE) + padded(content)


GOOD = header("good.cif", len(NACL)) + padded(NACL.encode())
END = bytes(1024)
SPARSE = pax(GNU__sparse__map="0,0", GNU__sparse__size="268435456") + header("s.cif", 0)
OLD_SPARSE = bytearray(header("s.cif", 0, tarfile.GNUTYPE_SPARSE))


@pytest.mark.parametrize("kind", [".tar", ".tar.gz"])
def test_sparse_members_take_no_memory_and_cost_their_own_rows(tmp_path: Path, kind: str) -> None:
    content = GOOD + 40 * SPARSE + header("s.cif", 0, tarfile.GNUTYPE_SPARSE) + GOOD + END
    path = tmp_path / f"a{kind}"
    path.write_bytes(gzip.compress(content) if kind.endswith("gz") else content)
    sources = list(sources_of([str(path)]))
    assert [bool(source.error) for source in sources if isinstance(source, Inline)] == [False] + [True] * 41 + [False]
    assert sum(len(source.text) for source in sources if isinstance(source, Inline)) == 2 * len(NACL)


@pytest.mark.parametrize(
    "attack",
    [
        pax(size=18 * "9"), pax(size=30 * "9"), header("x", 2**28, tarfile.GNUTYPE_LONGNAME) + bytes(10**6),
        header("x", 2**28, tarfile.XHDTYPE) + bytes(10**6), header("x.cif", 2**60)[:512],
        pax(GNU__sparse__major="1", GNU__sparse__minor="0", GNU__sparse__name="x.cif") + header("x.cif", 10**7)
        + b"999999999\n" + bytes(10**6),
    ],
    ids=range(6),
)  # fmt: skip
def test_sizes_that_an_archive_states_are_not_believed(tmp_path: Path, attack: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(GOOD + attack + header("y.cif", 5) + padded(b"hello") + END)
    started = time.monotonic()
    entries = rows_of(tmp_path / "a.tar")
    assert entries[0].formula == "NaCl"
    assert all(entry.error for entry in entries[1:])
    assert len(entries) > 1
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_of_any_length_pass_in_every_kind_of_tar(tmp_path: Path, format: int) -> None:
    names = ["short.cif", "d/" * 60 + "long é.cif"]
    names += [] if format == tarfile.USTAR_FORMAT else ["n" * 300 + ".cif"]
    with tarfile.open(tmp_path / "a.tar", "w", format=format) as archive:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(NACL)
            archive.addfile(info, io.BytesIO(NACL.encode()))
    found = [(entry.path, entry.formula) for entry in rows_of(tmp_path / "a.tar")]
    assert found == [(f"{tmp_path}/a.tar/{name}", "NaCl") for name in names]


def test_members_of_a_zip_that_lie_cost_their_own_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("good.cif", NACL)
        archive.writestr("bomb.cif", bytes(2**26))
        archive.writestr("n" * 5000 + ".cif", NACL)
        link = zipfile.ZipInfo("link.cif")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    content = path.read_bytes()
    path.write_bytes(content.replace(struct.pack("<I", 2**26), struct.pack("<I", 9)))  # its stated size
    good, bomb, name, link_ = rows_of(path)
    assert (good.formula, good.error) == ("NaCl", "")
    assert bomb.error != ""
    assert "a name of 5004 characters" in name.error
    assert len(name.path) < 300
    assert "a link" in link_.error


def test_an_encrypted_member_is_named_so(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.cif", NACL)
    content = bytearray((tmp_path / "a.zip").read_bytes())
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "a.zip").write_bytes(content)
    assert "encrypted" in rows_of(tmp_path / "a.zip")[0].error


# What does not end


@pytest.mark.parametrize(
    ("name", "start"), [("t.csv.gz", b"id,cif\n"), ("t.jsonl.gz", b'{"cif": ""}\n'), ("t.xyz.gz", XYZ.encode())]
)
def test_empty_lines_without_end_are_refused(
    tmp_path: Path, name: str, start: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_files, "MAX_BLANK_LINES", 1000)
    monkeypatch.setattr("crystalpredict.io.xyz.MAX_BLANK_LINES", 1000)
    (tmp_path / name).write_bytes(gzip.compress(start + 2000 * b"\n" + start))
    assert "1,000 empty lines" in rows_of(tmp_path / name)[-1].error
    (tmp_path / name).write_bytes(gzip.compress(start + 500 * b"\n" + start))
    assert not any("empty lines" in entry.error for entry in rows_of(tmp_path / name))


@pytest.mark.parametrize("name", ["t.csv.gz", "t.jsonl.gz", "t.parquet.gz"])
def test_a_compressed_table_that_holds_too_much_is_a_bomb(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "BOMB_BYTES", 2**14)
    monkeypatch.setattr(files, "BOMB_RATIO", 2)
    start = {"csv": b"id,cif\n", "jsonl": b'{"cif": ""}\n', "parquet": b"PAR1"}[name.split(".")[1]]
    (tmp_path / name).write_bytes(gzip.compress(start + 2**17 * b"x\n"))
    assert "bomb" in rows_of(tmp_path / name)[-1].error


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.parquet", "a.zip", "a.tar.gz", "f.xyz", "d.db"])
def test_a_pipe_that_cannot_be_read_twice_is_refused_at_once(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    (entry,) = rows_of(tmp_path / name)
    assert "a pipe or a device" in entry.error


PREDICT = [sys.executable, "-m", "crystalpredict", "predict", "--jobs", "1"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
def test_structures_and_lists_may_come_from_pipes(tmp_path: Path) -> None:
    for name in ("a.cif", "list"):
        os.mkfifo(tmp_path / name)
    command = [*PREDICT, "-q", str(tmp_path / "a.cif"), f"@{tmp_path / 'list'}"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    (tmp_path / "list").write_text(f"{EXAMPLES / 'Si.vasp'}\n")
    (tmp_path / "a.cif").write_text(NACL)
    output, _ = running.communicate(timeout=300)
    assert [line.split(",")[2] for line in output.splitlines()[1:]] == ["NaCl", "Si"]


def wait_until_it_sleeps(process: int) -> None:
    """Return once a process has slept for a second, which one that begins never does, however busy the machine is."""
    if not Path("/proc/self/stat").exists():
        time.sleep(10)
        return
    asleep = 0
    while asleep < 20:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        asleep = asleep + 1 if state == "S" else 0
        time.sleep(0.05)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
@pytest.mark.parametrize("at", ["", "@"])
def test_ctrl_c_ends_the_wait_for_a_pipe(tmp_path: Path, at: str) -> None:
    os.mkfifo(tmp_path / "a.cif")
    command = [*PREDICT, f"{at}{tmp_path / 'a.cif'}"]
    reset: Callable[[], Any] = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=reset)
    wait_until_it_sleeps(running.pid)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=300)
    assert running.returncode == 130
    assert "Traceback" not in said


@pytest.mark.parametrize(("content", "null"), [(b"\n", False), (b"\0", True), (b"x", False), (b"x", True)])
def test_a_list_without_end_is_refused(tmp_path: Path, content: bytes, null: bool) -> None:
    from crystalpredict.errors import UsageError
    from crystalpredict.io.inputs import expand

    (tmp_path / "list").write_bytes(content * 1_100_000)
    with pytest.raises(UsageError, match="a list of paths"):
        list(expand([f"@{tmp_path / 'list'}"], null=null))


def test_the_cases_of_gathered_files(tmp_path: Path) -> None:
    shutil.copyfile(EXAMPLES / "Si.vasp", tmp_path / "POSCAR")
    with (tmp_path / "POSCAR").open("a") as file:
        file.write(ONE)
    assert [(entry.index, entry.formula) for entry in rows_of(tmp_path / "POSCAR")] == [(0, "Si"), (1, "NaCl")]


def test_shared_sites_of_json_are_added_and_words_are_no_truth() -> None:
    lattice = {"matrix": [[3, 0, 0], [0, 3, 0], [0, 0, 3]]}
    half = {"element": "Fe", "occu": 0.5}
    site = {"species": [half, half], "abc": [0, 0, 0]}
    (entry,) = read_entries(Inline("x.json", json.dumps({"lattice": lattice, "sites": [site]})), 6.0)
    assert entry.error == ""
    assert entry.crystal is not None
    assert entry.crystal.occupancies.sum() == pytest.approx(1)
    text = {"lattice_mat": lattice["matrix"], "elements": ["Fe"], "coords": [[0.5, 0, 0]], "cartesian": "False"}
    (entry,) = read_entries(Inline("x.json", json.dumps(text)), 6.0)
    assert "must be true or false" in entry.error


@pytest.mark.parametrize("name", ["occupancy", "Occupancy", "occupancies", "occ", "site_occupancy"])
def test_a_frame_with_a_column_of_occupancies_is_read_if_all_are_one(name: str, tmp_path) -> None:
    """ASE writes the arrays of atoms as columns; the column may stand before the others, too."""
    atoms = ase.Atoms("CsCl", [[0, 0, 0], [2, 2, 2]], cell=[4, 4, 4], pbc=True)
    plain = f'2\nLattice="4 0 0 0 4 0 0 0 4" Properties={name}:R:1:species:S:1:pos:R:3\n{{}} Cs 0 0 0\n1 Cl 2 2 2\n'
    for share in (1.0, 0.5, 0.0, float("nan")):
        atoms.set_array(name, np.array([1.0, share]))
        ase.io.write(tmp_path / "a.extxyz", atoms)
        (entry,) = read_entries(str(tmp_path / "a.extxyz"), 6.0)
        (other,) = read_entries(Inline("x.xyz", plain.format(share)), 6.0)
        if share == 1:
            assert (entry.error, other.error, entry.formula, other.formula) == ("", "", "CsCl", "CsCl")
            continue
        assert entry.error.startswith(f"occupancy {share:.8f} in line 4 of the frame: partly occupied sites")
        assert other.error.startswith(f"occupancy {share} in line 3 of the frame: partly occupied sites")


@pytest.mark.parametrize("pbc", ["TTF", "T T F", "F F F", "0 1 1"])
def test_a_frame_that_is_periodic_in_two_directions_is_refused(pbc: str) -> None:
    frame = f'1\nLattice="3 0 0 0 3 0 0 0 3" pbc="{pbc}"\nFe 0 0 0\n'
    (entry,) = read_entries(Inline("x.xyz", frame), 6.0)
    assert "periodic in all three directions" in entry.error
