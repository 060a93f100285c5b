import csv
import gzip
import io
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

import crystalpredict
from crystalpredict import Predictor

FILES = ["examples/Si.vasp", "examples/Al2O3.cif", "examples/MgO.cif"]
META = ["path", "index", "formula", "n_atoms"]


def arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def refused(outcome, *parts: str) -> None:
    assert (outcome.code, outcome.stdout) == (2, "")
    (line,) = outcome.stderr.splitlines()
    assert line.startswith("crystalpredict: error: ")
    for part in parts:
        assert part in line


def test_arrays_of_crystals_are_those_of_python(program, tmp_path) -> None:
    outcome = program("embed", *FILES, "-o", tmp_path / "a.npz")
    assert (outcome.code, outcome.stdout) == (0, "")
    assert "3 embedded, 0 failed" in outcome.stderr
    found = arrays(tmp_path / "a.npz")
    rows = crystalpredict.load_model(device="cpu").embed(FILES)
    assert found["path"].tolist() == FILES
    assert found["formula"].tolist() == [row.formula for row in rows]
    assert found["features"].shape == (3, 128)
    assert np.abs(found["features"] - np.stack([row.features for row in rows])).max() < 1e-4
    assert found["error"].tolist() == [""] * 3
    assert "first" not in found


def test_arrays_of_atoms_belong_to_their_structures(program, tmp_path) -> None:
    assert program("embed", FILES[1], "nowhere.cif", FILES[2], "--per-atom", "-o", tmp_path / "a.npz").code == 3
    found = arrays(tmp_path / "a.npz")
    assert found["first"].tolist() == [0, 30, 30, 38]
    assert found["features"].shape == (38, 128)
    assert sorted(set(found["numbers"][:30].tolist())) == [8, 13]
    assert (program("embed", FILES[1], "-q", "-o", tmp_path / "b.npz").stderr) == ""
    pooled = arrays(tmp_path / "b.npz")["features"][0]
    assert np.abs(found["features"][:30].mean(axis=0) - pooled).max() < 1e-4


def test_inputs_are_those_of_predict(program, tmp_path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(FILES[0], "Si.vasp")
    (tmp_path / "a.csv").write_text(f"name,where\none,{Path(FILES[1]).resolve()}\n")
    (tmp_path / "list").write_bytes(f"{FILES[2]}\0nowhere.cif\0".encode())
    inputs = [tmp_path / "a.zip", tmp_path / "a.csv", f"@{tmp_path}/list"]
    outcome = program("embed", *inputs, "-0", "--structure-column", "where", "-o", tmp_path / "a.npz")
    assert outcome.code == 3
    assert "3 embedded, 1 failed (1 no such file)" in outcome.stderr
    found = arrays(tmp_path / "a.npz")
    assert found["path"][[0, 2, 3]].tolist() == [f"{tmp_path}/a.zip/Si.vasp", FILES[2], "nowhere.cif"]
    program("embed", *FILES, "-o", tmp_path / "b.npz")
    assert np.abs(found["features"][:3] - arrays(tmp_path / "b.npz")["features"]).max() < 1e-4


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_a_table_has_the_numbers_of_the_arrays(program, tmp_path, name) -> None:
    program("embed", *FILES, "-o", tmp_path / "a.npz")
    assert program("embed", *FILES, "-o", tmp_path / name).code == 0
    content = (tmp_path / name).read_bytes()
    rows = list(csv.DictReader(io.StringIO((gzip.decompress(content) if name.endswith("gz") else content).decode())))
    assert list(rows[0]) == [*META, *(f"feature_{number}" for number in range(128)), "warnings", "error"]
    features = np.array([[float(row[f"feature_{number}"]) for number in range(128)] for row in rows])
    assert features == pytest.approx(arrays(tmp_path / "a.npz")["features"], rel=1e-5, abs=1e-6)
    assert program("embed", *FILES, "-o", tmp_path / f"again.{name[2:]}").code == 0
    assert (tmp_path / f"again.{name[2:]}").read_bytes() == content


def test_a_table_of_atoms_has_a_row_for_each(program, tmp_path) -> None:
    assert program("embed", FILES[2], "nowhere.cif", "--per-atom", "-o", tmp_path / "a.csv").code == 3
    rows = list(csv.DictReader((tmp_path / "a.csv").read_text().splitlines()))
    assert [row["atom"] for row in rows] == [*map(str, range(8)), ""]
    assert {row["element"] for row in rows[:8]} == {"Mg", "O"}
    assert rows[8]["feature_0"] == ""
    assert "no such file" in rows[8]["error"]


def test_failed_files_are_rows_and_exit_codes_are_those_of_predict(program, tmp_path) -> None:
    outcome = program("embed", "nowhere.cif", FILES[0], "-o", tmp_path / "a.npz")
    assert outcome.code == 3
    assert "nowhere.cif: no such file" in outcome.stderr
    found = arrays(tmp_path / "a.npz")
    assert found["path"].tolist() == ["nowhere.cif", FILES[0]]
    assert np.isnan(found["features"][0]).all()
    assert np.isfinite(found["features"][1]).all()
    assert "no such file" in found["error"][0]
    for name in ("b.npz", "b.csv"):
        assert program("embed", "nowhere.cif", "-o", tmp_path / name).code == 4
    assert arrays(tmp_path / "b.npz")["features"].shape == (1, 128)


def test_wrong_usage_is_one_line_and_writes_nothing(program, tmp_path) -> None:
    refused(program("embed", *FILES, "-o", tmp_path / "a.txt"), ".npz, .csv, .csv.gz, .parquet")
    refused(program("embed", *FILES, "-o", tmp_path / "no" / "a.npz"), "no directory")
    refused(program("embed", *FILES, "-o", tmp_path / "a.npz", "-m", "nothing"), "no model 'nothing'")
    refused(program("embed", *FILES, "-o", tmp_path / "a.npz", "--batch-atoms", "x"), "--batch-atoms")
    refused(program("embed", "@nolist.txt", "-o", tmp_path / "a.npz"), "nolist.txt")
    assert program("embed", *FILES).code == 2
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_model_leaves_the_old_file(program, tmp_path, folder) -> None:
    (tmp_path / "a.npz").write_text("old")
    (folder / "model.safetensors").unlink()
    outcome = program("embed", *FILES, "-m", folder, "-o", tmp_path / "a.npz", "--force")
    assert outcome.code == 1
    assert (tmp_path / "a.npz").read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} == {"a.npz", "copy"}


def test_an_interrupt_leaves_the_rows_that_were_complete(program, tmp_path, monkeypatch) -> None:
    whole = Predictor.stream_embeddings

    def interrupted(*arguments, **options):
        for number, row in enumerate(whole(*arguments, **options)):
            if number == 2:
                raise KeyboardInterrupt
            yield row

    monkeypatch.setattr(Predictor, "stream_embeddings", interrupted)
    (tmp_path / "a.npz").write_text("of an earlier run")
    outcome = program("embed", *FILES, "-o", tmp_path / "a.npz", "--force")
    assert outcome.code == 130
    assert f"2 rows are complete in {tmp_path / 'a.npz'}.interrupted" in outcome.stderr
    assert arrays(tmp_path / "a.npz.interrupted")["path"].tolist() == FILES[:2]
    assert (tmp_path / "a.npz").read_text() == "of an earlier run"


def test_parquet_without_pyarrow_says_what_to_do(program, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setattr("crystalpredict.cli.embed.find_spec", lambda name: None)
    refused(program("embed", *FILES, "-o", tmp_path / "a.parquet"), "pyarrow")


def test_parquet_has_the_columns_of_the_table(program, tmp_path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    assert program("embed", *FILES, "nowhere.cif", "-o", tmp_path / "a.parquet").code == 3
    table = parquet.read_table(tmp_path / "a.parquet").to_pydict()
    program("embed", *FILES, "-o", tmp_path / "a.npz")
    features = np.array([table[f"feature_{number}"][:3] for number in range(128)]).T
    assert features == pytest.approx(arrays(tmp_path / "a.npz")["features"], rel=1e-5, abs=1e-6)
    assert table["feature_0"][3] is None


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are bytes on Linux only")
def test_a_name_that_is_no_text_does_not_lose_the_others(program, tmp_path) -> None:
    path = tmp_path / "l\udce4.cif"
    path.write_text(Path(FILES[2]).read_text())
    assert program("embed", FILES[0], path, "-o", tmp_path / "a.parquet").code == 0
    found = parquet.read_table(tmp_path / "a.parquet").to_pydict()
    assert [name.split("/")[-1] for name in found["path"]] == ["Si.vasp", "l\\udce4.cif"]
