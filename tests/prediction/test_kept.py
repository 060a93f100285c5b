"""Columns of tables in the rows of predictions: which, under which names, and of which kind."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest

from crystalpredict.errors import UsageError
from crystalpredict.io.cell_values import fits, plain_json, value_of
from crystalpredict.prediction.kept import FIRST_ROWS, kept_columns

CIF = "data_a"


def table(folder: Path, text: str, name: str = "t.csv") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_columns_of_a_csv_have_the_kinds_of_their_cells(tmp_path: Path) -> None:
    path = table(
        tmp_path,
        "cif,n,gap,metal,code,number,tag,,empty\n"
        f"{CIF},1,1.50,True,007,12345678901234567890,x,0,\n"
        f"{CIF},-2,nan,false,8,9,1,1,-\n",
    )
    kept = kept_columns(None, [path], ())
    assert kept.kinds == {
        "n": "integer", "gap": "number", "metal": "boolean", "code": "text", "number": "text", "tag": "text",
        "empty": "text",
    }  # fmt: skip
    values, texts = kept.values({"n": "1", "gap": "1.50", "metal": "True", "code": "007", "tag": "x", "empty": ""})
    assert values == {
        "n": 1, "gap": 1.5, "metal": True, "code": "007", "number": None, "tag": "x", "empty": None,
    }  # fmt: skip
    assert texts["gap"] == "1.50"  # a CSV keeps it as it was
    assert kept.values({"gap": "later a text"})[0]["gap"] == "later a text"


def test_a_name_of_ours_gets_a_prefix(tmp_path: Path) -> None:
    path = table(tmp_path, f"cif,formula,input_formula,Formula\n{CIF},a,b,c\n")
    kept = kept_columns("all", [path], ("path", "formula"))
    assert kept.inputs == {
        "input_formula": "formula", "input_input_formula": "input_formula", "Formula": "Formula",
    }  # fmt: skip
    assert kept.values({"formula": "a", "input_formula": "b"})[0]["input_formula"] == "a"


def test_columns_of_several_tables_are_joined(tmp_path: Path) -> None:
    one = table(tmp_path, f"cif,a,b\n{CIF},1,2\n")
    two = table(tmp_path, json.dumps({"cif": CIF, "b": "two", "c": [1], "d": {"e": 1}}) + "\n", "t.jsonl")
    three = table(tmp_path, json.dumps([{"id": 1, "a": 0.5, "structure": {}}]), "list.json")
    kept = kept_columns("all", [one, two, three], ())
    assert kept.kinds == {"a": "number", "b": "text", "c": "json", "d": "json", "id": "integer"}
    listed = table(tmp_path, f"{one}\n{two}\n", "list.txt")
    assert list(kept_columns("all", [f"@{listed}"], ()).kinds) == ["a", "b", "c", "d"]
    assert list(kept_columns("all", [str(tmp_path / "t.*")], ()).kinds) == ["a", "b", "c", "d"]
    assert not kept_columns("all", [str(tmp_path), "-"], ()).kinds  # tables in folders are not read


def test_named_columns_are_kept_in_their_order_and_nothing_else(tmp_path: Path) -> None:
    path = table(tmp_path, f"cif,a,B,c\n{CIF},1,2,3\n")
    assert list(kept_columns("c, b", [path], ()).kinds) == ["c", "B"]
    assert kept_columns("none", [path], ()).kinds == {}
    for keep, said in (("gapp", "did you mean|choose from"), (" , ", "names no column"), ("cif", "no such column")):
        with pytest.raises(UsageError, match=said):
            kept_columns(keep, [path], ())
    with pytest.raises(UsageError, match="no table among the inputs"):
        kept_columns("a", ["x.cif"], ())
    assert list(kept_columns("late", ["-"], ()).kinds) == ["late"]  # what stdin names is not known yet


def test_a_key_that_comes_late_in_json_lines_may_be_named(tmp_path: Path) -> None:
    lines = [json.dumps({"cif": CIF, "a": 1})] * FIRST_ROWS + [json.dumps({"cif": CIF, "late": 2})]
    path = table(tmp_path, "\n".join(lines), "t.jsonl")
    assert list(kept_columns("all", [path], ()).kinds) == ["a"]
    assert list(kept_columns("a,late", [path], ()).kinds) == ["a", "late"]
    short = table(tmp_path, lines[0], "s.jsonl")
    with pytest.raises(UsageError, match="no such column"):
        kept_columns("late", [short], ())


def test_odd_names_of_columns_can_be_written(tmp_path: Path) -> None:
    path = table(tmp_path, '{"cif": "data_a", "\\ud800": 1, "é": 2}\n', "t.jsonl")
    kept = kept_columns("all", [path], ())
    assert list(kept.kinds) == ["\\ud800", "é"]
    assert kept.values({"\ud800": 1})[0]["\\ud800"] == 1
    path = table(tmp_path, json.dumps({"cif": CIF, **{f"k{number}": 1 for number in range(10_001)}}), "t.jsonl")
    with pytest.raises(UsageError, match="name those that matter"):
        kept_columns("all", [path], ())


def test_many_json_files_are_looked_at_only_if_asked_for(tmp_path: Path) -> None:
    paths = [table(tmp_path, json.dumps([{"a": 1, "structure": {}}]), f"{number}.json") for number in range(101)]
    assert not kept_columns(None, paths, ()).kinds
    assert list(kept_columns(None, paths[1:], ()).kinds) == ["a"] == list(kept_columns("all", paths, ()).kinds)


@pytest.mark.parametrize(
    ("cell", "kind", "value"),
    [
        ("5.20", "number", 5.2),
        ("n/a", "number", None),
        ("Na", "text", "Na"),
        (float("nan"), "number", None),
        (5, "text", "5"),
        (Decimal("5.20"), "number", 5.2),
        ("1e999", "number", "1e999"),
        (" 12 ", "integer", 12),
        ([1, float("inf")], "json", [1, "inf"]),
    ],
)
def test_values_of_cells(cell, kind: str, value) -> None:
    assert value_of(cell, kind) == value


def test_no_number_is_changed_to_fit_a_column() -> None:
    assert fits(2**53, "number")
    assert not fits(2**53 + 1, "number")
    assert not fits(1.5, "integer")
    assert not fits(True, "integer")
    assert not fits("x", "number")
    assert plain_json(Decimal("1.2345678901234567890")) == "1.2345678901234567890"
