"""A screen's files: columns of tables that are kept, elements, structures and copies of the hits, duplicates."""

from __future__ import annotations

import csv
import io
import json
import tarfile
import zipfile
from pathlib import Path

import pytest

from crystalpredict.io.cell_writers import with_keys
from tests.same import alike

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
NAMES = ("NaCl", "MgO", "SrTiO3", "CaF2", "GaAs", "MoS2")
FAST = ("-q", "--jobs", "1", "--target", "bandgap")
TABLE_COLUMNS = ["mp id", "measured", "input_formula", "tags"]


def row_of(name: str, number: int) -> dict[str, object]:
    return {
        "mp id": f"00{number}", "measured": number / 2 if number else None, "formula": f"F{number}",
        "tags": '["a", "b"]' if number % 2 else "x\r\ny, z", "cif": (EXAMPLES / f"{name}.cif").read_text(),
    }  # fmt: skip


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    """Six structures and a broken one, with four other columns, as CSV, JSON lines, JSON and Parquet."""
    pandas = pytest.importorskip("pandas")
    folder = tmp_path_factory.mktemp("table")
    rows = [row_of(name, number) for number, name in enumerate(NAMES)] + [{**row_of("ZnO", 9), "cif": "nonsense"}]
    frame = pandas.DataFrame(rows)
    frame.to_csv(folder / "t.csv", index=False)
    (folder / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "t.json").write_text(json.dumps(rows))
    frame.to_parquet(folder / "t.parquet")
    return folder / "t.csv"


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# columns of tables


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".json", ".parquet"])
def test_columns_of_a_table_are_kept_in_every_format(program, table, tmp_path, suffix) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    source = table.with_suffix(suffix)
    for ending in (".csv", ".json", ".jsonl", ".parquet"):
        assert program("predict", source, *FAST, "-o", tmp_path / f"o{ending}").code == 3
    rows = json.loads((tmp_path / "o.json").read_text())
    assert list(rows[0])[-5:] == ["error", *TABLE_COLUMNS]
    assert rows == [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert rows == parquet.read_table(tmp_path / "o.parquet").to_pylist()
    as_text = read_csv(tmp_path / "o.csv")
    assert [row["tags"] for row in rows] == [row["tags"] for row in as_text]
    assert [row["measured"] for row in rows] == [None, 0.5, 1.0, 1.5, 2.0, 2.5, 4.5]
    assert [row["mp id"] for row in as_text] == [f"00{number}" for number in (*range(6), 9)]  # of the broken row, too
    assert [row["input_formula"] for row in rows] == [f"F{number}" for number in (*range(6), 9)]
    assert [row["formula"] for row in rows] == [*NAMES, None]


def test_keep_names_columns_or_none(program, table) -> None:
    some = program("predict", table, *FAST, "--keep", "tags,measured")
    assert list(some.rows[0])[-3:] == ["error", "tags", "measured"]
    assert list(program("predict", table, *FAST, "--keep", "none").rows[0])[-1] == "error"
    wrong = program("predict", table, *FAST, "--keep", "measurd")
    assert wrong.code == 2
    assert wrong.stderr.strip() == "crystalpredict: error: --keep measurd: no such column: did you mean 'measured'?"


def test_kept_columns_choose_and_sort_rows(program, table) -> None:
    chosen = program(
        "predict", table, *FAST, "--where", "measured >= 0.5 and contains(tags, 'x')", "--sort", "-measured"
    )
    assert [row["formula"] for row in chosen.rows] == ["GaAs", "SrTiO3"]
    top = program("predict", table, *FAST, "--where", 'column("mp id") != "004"', "--sort", "-measured", "--top", "2")
    assert [row["formula"] for row in top.rows] == ["MoS2", "CaF2"]


def test_what_cannot_match_is_not_computed(program, table, monkeypatch) -> None:
    from crystalpredict.prediction.predictor import Predictor

    computed = []
    real = Predictor.predictions

    def spy(self, entries):
        entries = list(entries)
        computed.extend(entry.formula for entry in entries if entry.neighbors)
        return real(self, entries)

    monkeypatch.setattr(Predictor, "predictions", spy)
    run = program("predict", table, *FAST[1:], "--exclude-elements", "F", "--where", "measured > 0.6 and gap > 0.5")
    assert computed == ["NaCl", "SrTiO3", "GaAs", "MoS2"]  # of NaCl nothing is measured, but that is no reason
    assert {row["formula"] for row in run.rows} <= set(computed)
    assert "4 predicted, 1 failed" in run.stderr
    assert "2 not computed (no match)" in run.stderr
    assert [row["formula"] for row in program("predict", table, *FAST, "--chemsys", "Mg-O,As-Ga").rows] == [
        "MgO",
        "GaAs",
    ]


def test_a_structure_that_was_not_computed_is_not_cached(program, table, tmp_path) -> None:
    cache = ("--cache", tmp_path / "cache")
    chosen = program("predict", table, *FAST, *cache, "--elements", "O")
    assert [row["formula"] for row in chosen.rows] == ["MgO", "SrTiO3"]
    every = program("predict", table, *FAST, *cache).rows
    assert [bool(row["bandgap_eV"]) for row in every] == [True] * 6 + [False]
    again = program("predict", table, *FAST[1:], *cache, "--elements", "O")
    assert (again.rows, "7 from the cache" in again.stderr) == (chosen.rows, True)


def test_kept_columns_come_back_after_an_interruption_in_shards_and_from_a_cache(
    program, table, tmp_path, monkeypatch
) -> None:
    from crystalpredict.io import reader as reading
    from crystalpredict.prediction.predictor import Predictor

    whole = tmp_path / "whole.csv"
    assert program("predict", table, *FAST, "-o", whole).code == 3
    for _ in range(2):
        again = tmp_path / "cached.csv"
        assert program("predict", table, *FAST, "-o", again, "--cache", tmp_path / "cache", "--force").code == 3
        assert alike(again.read_bytes(), whole.read_bytes())
    for ending in (".csv", ".jsonl"):
        shards = [tmp_path / f"{number}{ending}" for number in (1, 2)]
        for number, path in enumerate(shards, start=1):
            program("predict", table, *FAST, "-o", path, "--shard", f"{number}/2")
        assert program("merge", *shards, "-o", tmp_path / f"all{ending}").code == 0
        chosen = program("merge", *shards, "--where", "measured > 1 and contains(tags, 'b')", "--exclude-elements", "S")
        assert chosen.stdout.count("F3") == 1
        assert "F5" not in chosen.stdout
    assert alike((tmp_path / "all.csv").read_bytes(), whole.read_bytes())
    pytest.importorskip("pyarrow")
    assert program("merge", *shards, "-o", tmp_path / "all.parquet").code == 0
    monkeypatch.setattr(reading, "WINDOW_ENTRIES", 2)
    real = Predictor.predictions

    def stop(self, entries):
        if entries[0].formula == "SrTiO3":
            raise KeyboardInterrupt
        return real(self, entries)

    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "predictions", stop)
        assert program("predict", table, *FAST, "-o", tmp_path / "r.csv", "--resume").code == 130
    assert program("predict", table, *FAST, "-o", tmp_path / "r.csv", "--keep", "tags", "--resume").code == 2
    assert program("predict", table, *FAST, "-o", tmp_path / "r.csv", "--resume").code == 3
    assert alike((tmp_path / "r.csv").read_bytes(), whole.read_bytes())


def test_a_text_among_numbers_is_no_number_in_parquet(program, tmp_path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    cif = (EXAMPLES / "ZnO.cif").read_text().replace('"', "'")
    rows = "".join(f'{number},"{cif}"\n' for number in [*range(1000), "unknown"])
    (tmp_path / "t.csv").write_text("n,cif\n" + rows)
    where = ("--where", "index == 0 and not (n < 998)")  # two are computed, and the last one never matches
    assert program("predict", tmp_path / "t.csv", *FAST, *where, "-o", tmp_path / "o.csv").code == 0
    assert [row["n"] for row in read_csv(tmp_path / "o.csv")] == ["998", "999"]
    where = ("--where", 'contains(path, "#1001") or n == 7')
    assert program("predict", tmp_path / "t.csv", *FAST, *where, "-o", tmp_path / "o.parquet").code == 0
    found = parquet.read_table(tmp_path / "o.parquet").to_pylist()
    assert [row["n"] for row in found] == [7, None]
    assert found[1]["warnings"] == ["n: 'unknown' is not of the kind of this column"]


# structures and copies


def test_hits_are_written_with_their_predictions(program, table, tmp_path) -> None:
    ase_io, ase_db = pytest.importorskip("ase.io"), pytest.importorskip("ase.db")
    chosen = ("--where", "gap > 0.5", "--sort", "-gap", "--top", "3")
    for name in ("hits.extxyz", "hits.db", "cells"):
        run = program("predict", table, *FAST, *chosen, "--write-structures", tmp_path / name)
        assert run.code == 3
    rows = run.rows
    frames = ase_io.read(tmp_path / "hits.extxyz", index=":")
    with ase_db.connect(tmp_path / "hits.db") as database:
        kept = [(row.toatoms(), row.key_value_pairs, row.data) for row in database.select()]
    assert len(frames) == len(kept) == len(rows) == 3
    for row, frame, (atoms, pairs, data) in zip(rows, frames, kept, strict=True):
        for found in (frame.info, pairs):
            assert found["bandgap_eV"] == pytest.approx(float(row["bandgap_eV"]))
            assert found["reduced_formula"] == row["formula"]
            assert found["source"] == row["path"]
            assert str(found.get("measured", "")) == row["measured"]
        assert frame.get_chemical_formula() == atoms.get_chemical_formula()
        assert data["crystalpredict"]["mp id"] == row["mp id"]  # 004, which a key-value pair has as a number
    for name in ("hits.extxyz", "hits.db", "cells"):
        again = program("predict", tmp_path / name, *FAST, "--sort", "-gap").rows
        assert [row["formula"] for row in again] == [row["formula"] for row in rows]
        for one, two in zip(again, rows, strict=True):
            assert float(one["bandgap_eV"]) == pytest.approx(float(two["bandgap_eV"]), abs=2e-3)
    text = next((tmp_path / "cells").rglob("*.cif")).read_text()
    assert "_crystalpredict_bandgap_eV " in text


def test_files_of_hits_are_copied_with_safe_names(program, tmp_path) -> None:
    cif = (EXAMPLES / "NaCl.cif").read_bytes()
    inputs = tmp_path / "in"
    inputs.mkdir()
    (inputs / "a.cif").write_bytes(cif)
    (inputs / "b.cif").write_bytes((EXAMPLES / "ZnO.cif").read_bytes())
    with tarfile.open(inputs / "x.tar", "w") as archive:
        for content in (cif, cif + b"\n# another\n"):
            member = tarfile.TarInfo("../../up.cif")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    with zipfile.ZipFile(inputs / "y.zip", "w") as archive:
        archive.writestr("deep/c.cif", cif)
    (inputs / "frames.xyz").write_text('2\nLattice="4.1 0 0 0 4.1 0 0 0 4.1"\nNa 0 0 0\nCl 2.05 2.05 2.05\n' * 2)
    out = tmp_path / "out"
    options = (*FAST, "--elements", "Na", "--copy-to", out)
    assert program("predict", inputs, *options).code == 0
    copies = sorted(path for path in out.rglob("*") if path.is_file())
    assert len(copies) == 6
    assert not any(path.name == "b.cif" for path in copies)
    assert sum(path.read_bytes() == cif for path in copies) == 3
    assert sum(path.name.endswith(".xyz") for path in copies) == 2
    assert not (tmp_path / "up.cif").exists()
    refused = program("predict", inputs, *options)
    assert refused.code == 2
    assert "not empty" in refused.stderr
    assert program("predict", inputs, *options, "--force").code == 0
    assert sorted(path for path in out.rglob("*") if path.is_file()) == copies
    assert program("predict", out, *FAST).code == 0


def test_rows_of_a_table_are_copied_as_files(program, table, tmp_path) -> None:
    assert program("predict", table, *FAST, "--where", "gap > 4", "--copy-to", tmp_path / "out").code == 3
    copies = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert {path.read_text() for path in copies} == {
        (EXAMPLES / f"{name}.cif").read_text() for name in ("NaCl", "CaF2", "MgO")
    }
    assert all(path.suffix == ".cif" for path in copies)


def test_a_shard_and_a_cache_write_hits_too(program, table, tmp_path) -> None:
    cache = ("--cache", tmp_path / "cache")
    for number in (1, 2):
        hits = ("--write-structures", tmp_path / "cells", "--copy-to", tmp_path / "copies")
        options = ("--shard", f"{number}/2", "-o", tmp_path / f"{number}.csv", *hits, *cache)
        assert program("predict", table, *FAST, *options).code in (0, 3)
    for name in ("cells", "copies"):
        assert len(list((tmp_path / name).rglob("*.cif"))) == 6
    known = program("predict", table, *FAST, *cache, "--write-structures", tmp_path / "all.extxyz")
    assert known.code == 3
    assert (tmp_path / "all.extxyz").read_text().count("Lattice=") == 6


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--write-structures", "a.extxyz", "-o", "o.csv", "--resume"), "--write-structures goes with --resume only"),
        (("--write-structures", "nowhere/a.db"), "there is no directory"),
        (("--write-structures", "a.cif"), "name a folder, or a file that ends in"),
        (("--copy-to", "file"), "no folder"),
        (("--copy-to", "x", "--write-structures", "x"), "another name for --copy-to"),
        (("--duplicates", "-o", "o.csv", "--shard", "1/2"), "neither --sort nor --duplicates"),
        (("--duplicates", "--unrelaxed", "--cache", "c"), "does not go with --unrelaxed and --cache"),
        (("--elements", "na"), "write Na"),
        (("--keep", "x"), "there is no table"),
        (("--where", "contains(n_atoms, '1')"), "cannot have"),
    ],
)
def test_what_cannot_be_done_is_one_line(program, tmp_path, monkeypatch, options, said: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("x")
    run = program("predict", EXAMPLES / "NaCl.cif", *options)
    assert run.code == 2
    assert said in run.stderr
    assert len(run.stderr.strip().splitlines()) == 1


# duplicates


def test_duplicates_name_the_first_of_the_same_crystal(program, tmp_path) -> None:
    from pymatgen.core.lattice import Lattice
    from pymatgen.core.structure import Structure

    one = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.69), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    many = {"a": one, "b": one.get_primitive_structure(), "c": one * (1, 1, 2), "d": one.copy(), "e": one.copy()}
    many["d"].scale_lattice(1.03 * one.volume).perturb(0.02, seed=1)
    many["e"] = Structure.from_spacegroup("Pm-3m", Lattice.cubic(3.5), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    for name, structure in many.items():
        structure.to(str(tmp_path / f"{name}.cif"), fmt="cif")
    (tmp_path / "f.cif").write_text("nonsense")
    run = program("predict", tmp_path, *FAST, "--duplicates")
    first = str(tmp_path / "a.cif")
    assert [row["duplicate_of"] for row in run.rows] == ["", first, first, first, "", ""]
    unique = program("predict", tmp_path, *FAST, "--duplicates", "--where", 'duplicate_of == ""', "--sort", "path")
    assert [Path(row["path"]).stem for row in unique.rows] == ["a", "e"]
    known = program("predict", tmp_path / "b.cif", tmp_path / "e.cif", *FAST, "--known", tmp_path / "d.cif")
    assert [row["duplicate_of"] for row in known.rows] == [str(tmp_path / "d.cif"), ""]
    assert program("predict", tmp_path / "b.cif", *FAST, "--known", tmp_path / "f.cif").code == 2
    cached = [program("predict", tmp_path, *FAST, "--duplicates", "--cache", tmp_path / "cache").rows for _ in range(2)]
    assert cached == [run.rows] * 2


def test_a_link_in_a_folder_of_hits_is_replaced_and_never_followed(program, tmp_path) -> None:
    inputs, copies, cells = tmp_path / "in", tmp_path / "copies", tmp_path / "cells"
    elsewhere = tmp_path / "elsewhere"
    for folder in (inputs / "sub", copies, cells, elsewhere):
        folder.mkdir(parents=True)
    for name in ("a.cif", "sub/b.cif"):
        (inputs / name).write_bytes((EXAMPLES / "NaCl.cif").read_bytes())
    (elsewhere / "kept.cif").write_text("kept")
    options = (*FAST, "--copy-to", copies, "--write-structures", cells, "--force")
    assert program("predict", inputs, *options).code == 0
    for folder in (copies, cells):
        (first,) = folder.rglob("a.cif")
        first.unlink()
        first.symlink_to(elsewhere / "kept.cif")
    assert program("predict", inputs, *options).code == 0
    for folder in (copies, cells):
        (first,) = folder.rglob("a.cif")
        assert not first.is_symlink()
        (second,) = folder.rglob("b.cif")
        second.unlink()
        second.parent.rmdir()
        second.parent.symlink_to(elsewhere)
    outcome = program("predict", inputs, *options)
    assert outcome.code == 3
    assert outcome.stderr.count("is a link to a place outside of") == 2
    assert [path.read_text() for path in elsewhere.iterdir()] == ["kept"]


def test_a_copy_that_cannot_be_written_is_a_sentence_and_an_exit_code(program, tmp_path) -> None:
    source = tmp_path / "a.cif"
    source.write_bytes((EXAMPLES / "NaCl.cif").read_bytes())
    options = (*FAST, "--copy-to", tmp_path / "out", "--force")
    assert program("predict", source, *options).code == 0
    (copied,) = (tmp_path / "out").rglob("*.cif")
    copied.unlink()
    copied.mkdir()
    outcome = program("predict", source, *options)
    assert outcome.code == 3
    assert "not copied" in outcome.stderr
    assert "is a folder: remove it" in outcome.stderr
    assert "Errno" not in outcome.stderr


def test_kept_names_that_differ_in_case_or_mean_something_to_ase_get_a_prefix() -> None:
    found = with_keys({"gap": 1, "Gap": 2, "GAP": 3, "occupancy": 0.9, "dielectric_tensor": 4})
    assert list(found) == ["gap", "input_Gap", "input_input_GAP", "input_occupancy", "input_dielectric_tensor"]
