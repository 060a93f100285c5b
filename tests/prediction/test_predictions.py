"""crystalpredict.predict: what the command takes, and what Python has beside it."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from pymatgen.core import Structure

import crystalpredict
from crystalpredict import Predictions, load_model
from crystalpredict.errors import UsageError, suppress_warnings
from tests.cli.conftest import Program
from tests.cli.conftest import program as program

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
FILES = [str(EXAMPLES / name) for name in ("NaCl.cif", "MgO.cif", "Si.vasp")]


def test_a_frame_has_the_columns_and_the_values_of_the_command(program: Program) -> None:
    rows = crystalpredict.predict([*FILES, "nowhere.cif"])
    frame = rows.to_frame()
    printed = list(csv.DictReader(io.StringIO(program("predict", *FILES, "nowhere.cif", "-f", "csv").stdout)))
    assert list(frame.columns) == list(printed[0])
    assert frame["formula"].tolist() == ["NaCl", "MgO", "Si", ""]
    for column in frame.columns[4:-2]:
        shown = [float(row[column] or "nan") for row in printed]
        assert frame[column].tolist() == pytest.approx(shown, abs=2e-3, nan_ok=True)  # batches may differ
    assert frame["error"].tolist()[:3] == ["", "", ""]
    assert frame["error"].tolist()[3].startswith("no such file")
    assert np.isnan(frame["bandgap_eV"].tolist()[3])
    assert len(rows.failed) == 1
    assert "4 predictions, 1 failed" in repr(rows)
    assert "<table" in rows._repr_html_()


def test_structures_series_and_frames_give_the_rows_of_their_files() -> None:
    expected = [row["bandgap_eV"] for row in crystalpredict.predict(FILES, targets=["bandgap"])]
    with suppress_warnings():
        structures = [Structure.from_file(name) for name in FILES]
    texts = [Path(name).read_text() for name in FILES[:2]]
    frame = pandas.DataFrame({"id": [7, 8], "cif": texts}, index=["a", "b"])
    given = [
        structures,
        pandas.Series(structures),
        [structures[0], FILES[1], structures[2]],
        [structure.as_dict() for structure in structures],
    ]
    for inputs in given:
        rows = crystalpredict.predict(inputs, targets="bandgap")
        assert isinstance(rows, Predictions)
        assert [row["bandgap_eV"] for row in rows] == pytest.approx(expected, abs=2e-3)
    rows = crystalpredict.predict(frame, targets=["gap"])
    assert [row.path for row in rows] == ["cif#a", "cif#b"]
    assert [row["bandgap_eV"] for row in rows] == pytest.approx(expected[:2], abs=2e-3)
    renamed = crystalpredict.predict(frame.rename(columns={"cif": "mine"}), structure_column="mine")
    assert [row.formula for row in renamed] == ["NaCl", "MgO"]


def test_patterns_tables_and_the_cache_are_as_for_the_command(tmp_path: Path) -> None:
    table = tmp_path / "mine.csv"
    pandas.DataFrame({"id": ["one"], "cif": [Path(FILES[0]).read_text()]}).to_csv(table, index=False)
    inputs = [str(EXAMPLES / "Na*.cif"), str(table)]
    first = crystalpredict.predict(inputs, cache=str(tmp_path / "cache"))
    again = crystalpredict.predict(inputs, cache=str(tmp_path / "cache"))
    assert [row.path for row in first] == [FILES[0], f"{table}#one"]
    assert [row.values for row in first] == [row.values for row in again]


def test_columns_of_tables_are_kept_as_by_the_command(program: Program, tmp_path: Path) -> None:
    table = tmp_path / "mine.csv"
    texts = [Path(name).read_text() for name in FILES[:2]]
    columns = {"id": ["x", "y"], "formula": ["a", "b"], "price": ["1.5", ""], "cif": texts}
    pandas.DataFrame(columns).to_csv(table, index=False)
    structure = Structure.from_file(FILES[2])
    given = [structure, table, [FILES[2], str(table)]]
    rows = crystalpredict.predict(iter(given), targets="bandgap", keep="all")
    assert rows.kept == ("id", "input_formula", "price")
    assert [row.extra.get("price") for row in rows] == [None, 1.5, None, None, 1.5, None]
    frame = rows.to_frame()
    assert frame["id"].dropna().to_dict() == {1: "x", 2: "y", 4: "x", 5: "y"}
    assert frame["price"].dropna().tolist() == [1.5, 1.5]
    kept = crystalpredict.predict(str(table), targets="bandgap", keep="price,id", cache=str(tmp_path / "cache"))
    again = crystalpredict.predict(str(table), targets="bandgap", keep="price,id", cache=str(tmp_path / "cache"))
    printed = program("predict", table, "-t", "bandgap", "--keep", "price,id", "-f", "csv").rows
    assert list(kept.to_frame().columns) == list(printed[0])
    assert [row.extra for row in kept] == [{"price": 1.5, "id": "x"}, {"price": None, "id": "y"}]
    assert [row.extra for row in again] == [row.extra for row in kept]
    assert not crystalpredict.predict(str(table), targets="bandgap").kept
    with pytest.raises(UsageError, match="no such column: did you mean 'price'"):
        crystalpredict.predict(str(table), keep="prize")
    with pytest.raises(UsageError, match="there is no table among the inputs"):
        crystalpredict.predict(structure, keep="price")


def test_columns_of_frames_are_kept(tmp_path: Path) -> None:
    texts = [Path(name).read_text() for name in FILES[:2]]
    prices = np.array([1.5, np.nan], dtype=np.float32)
    frame = pandas.DataFrame(
        {"cif": texts, "price": prices, "n": [1, 2], "day": pandas.to_datetime(["2026-11-30", None])}
    )
    with suppress_warnings():
        objects = frame.assign(cif=[Structure.from_file(name) for name in FILES[:2]])
    for given in (frame, objects, [objects, FILES[2]]):
        rows = crystalpredict.predict(given, targets="bandgap", keep=["n", "price"])
        assert rows.kept == ("n", "price")
        assert [row.extra for row in rows[:2]] == [{"n": 1, "price": 1.5}, {"n": 2, "price": None}]
        assert not any(row.error for row in rows)
    every = crystalpredict.predict(frame, targets="bandgap", keep="all")
    assert every.kept == ("price", "n", "day")
    assert [row.extra["day"] for row in every] == ["2026-11-30T00:00:00", None]
    assert every.to_frame()["n"].tolist() == [1, 2]
    assert not crystalpredict.predict(frame[["cif"]], targets="bandgap", keep="all").kept
    with pytest.raises(UsageError, match="no such column: did you mean 'price'"):
        crystalpredict.predict(frame, keep=["prize"])
    with pytest.raises(UsageError, match=r"nowhere\.csv: no such file"):
        crystalpredict.predict(str(tmp_path / "nowhere.csv"), keep="price")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"orderings": "3"}, "'3' orderings: give 1 to 100"), ({"orderings": 2.0}, "2.0 orderings"),
        ({"orderings": True}, "True orderings"), ({"jobs": -1}, "jobs=-1: give a number of reader processes"),
        ({"jobs": "2"}, "jobs='2'"),
    ],
)  # fmt: skip
def test_numbers_that_make_no_sense_are_refused_at_once(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        crystalpredict.predict(FILES[0], **arguments)


def test_what_is_no_input_is_refused_in_one_line(tmp_path: Path) -> None:
    assert crystalpredict.predict([]) == []
    with pytest.raises(UsageError, match="an input of type int"):
        crystalpredict.predict(5)
    with pytest.raises(UsageError, match="no column of structures"):
        crystalpredict.predict(pandas.DataFrame({"x": [1]}))
    with pytest.raises(UsageError, match="matches no file"):
        crystalpredict.predict(str(tmp_path / "*.cif"))
    (row,) = crystalpredict.predict(pandas.Series([None], name="cif"))
    assert row.error == "no structure in cif"
    assert load_model is crystalpredict.load_model
