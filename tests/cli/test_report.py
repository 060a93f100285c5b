"""`crystalpredict report` and `predict --report`."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import Program
from tests.evaluation.test_report import Page
from tests.evaluation.test_screen import data_of

ROOT = Path(__file__).resolve().parents[2]
FAST = ("-t", "bandgap,e_above_hull", "-q")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with three structures and a broken one, where the test runs."""
    for name in ("NaCl.cif", "MgO.cif", "Si.vasp"):
        shutil.copy(ROOT / "examples" / name, tmp_path)
    (tmp_path / "broken.cif").write_text("data_x\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_of_a_result(program: Program, here: Path) -> None:
    assert program("predict", ".", *FAST, "-o", "rows.csv").code == 3
    outcome = program("report", "rows.csv", "-o", "screen.html")
    assert (outcome.code, outcome.stdout) == (0, "")
    assert "screen.html: 0." in outcome.stderr
    page = Page(Path("screen.html").read_text(encoding="utf-8"))
    assert "Screen: rows.csv" in page.text
    assert sum(found.get("class") == "cell" for _, found in page.tags) == 3
    data = data_of(Path("screen.html").read_text(encoding="utf-8"))
    with Path("rows.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert data["formula"] == [row["formula"] for row in rows]
    assert data["numbers"][0]["values"] == [float(row["bandgap_eV"]) if row["bandgap_eV"] else None for row in rows]
    assert data["base"] == "."


def test_options_of_the_page(program: Program, here: Path) -> None:
    program("predict", "NaCl.cif", "MgO.cif", *FAST, "-o", "rows.jsonl")
    options = ("--sort", "-gap", "--cells", "1", "--title", "Mine")
    assert program("report", "rows.jsonl", "-o", "a.html", *options, "-q").stderr == ""
    page = Page(Path("a.html").read_text(encoding="utf-8"))
    assert "Mine" in page.text
    assert "Ranked by band gap, largest first" in page.text
    assert sum(found.get("class") == "cell" for _, found in page.tags) == 1


@pytest.mark.parametrize("output", [None, "rows.csv", "rows.json", "rows.jsonl.gz", "rows.txt"])
def test_predict_writes_the_page_too(output: str | None, program: Program, here: Path) -> None:
    where = ("-o", output) if output else ("-f", "csv")
    outcome = program("predict", ".", *FAST, *where, "--report", "screen.html")
    assert outcome.code == 3
    assert bool(outcome.stdout) == (output is None)
    data = data_of(Path("screen.html").read_text(encoding="utf-8"))
    assert data["formula"] == ["MgO", "NaCl", "Si", ""]
    assert data["numbers"][0]["low"][0] is not None
    assert data["errors"]["texts"]


def test_kept_columns_are_on_the_page(program: Program, here: Path) -> None:
    Path("table.csv").write_text("path,price\nNaCl.cif,1.5\nMgO.cif,2.5\n")
    for output in ([], ["-o", "rows.csv"]):
        assert program("predict", "table.csv", *FAST, *output, "--report", "screen.html").code == 0
        data = data_of(Path("screen.html").read_text(encoding="utf-8"))
        assert (data["numbers"][-1]["name"], data["numbers"][-1]["values"]) == ("price", [1.5, 2.5])
        Path("screen.html").unlink()


def test_a_sorted_selection_is_shown_in_its_order(program: Program, here: Path) -> None:
    program("predict", ".", *FAST, "--sort", "-formula", "--where", "n_atoms > 1", "-o", "r.csv", "--report", "s.html")
    text = Path("s.html").read_text(encoding="utf-8")
    data = data_of(text)
    assert data["formula"] == ["Si", "NaCl", "MgO"]
    assert data["hits"] == [0, 1, 2]
    assert "First rows" in text


def test_a_resumed_run_has_a_page_of_all_its_rows(program: Program, here: Path) -> None:
    program("predict", ".", *FAST, "-o", "rows.csv", "--resume", "--report", "screen.html")
    first = Path("screen.html").read_bytes()
    Path("screen.html").unlink()
    assert program("predict", ".", *FAST, "-o", "rows.csv", "--resume", "--report", "screen.html").code == 3
    assert Path("screen.html").read_bytes() == first


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("report", "no.csv", "-o", "a.html"), "no.csv: no such file"),
        (("report", "NaCl.cif", "-o", "a.html"), "no result of crystalpredict predict"),
        (("report", "table.csv", "-o", "a.html"), "it has no column 'path'"),
        (("report", "empty.csv", "-o", "a.html"), "empty.csv: empty: no result of crystalpredict predict"),
        (("report", "empty.json", "-o", "a.html"), "empty.json: empty: no result"),
        (
            ("report", "object.json", "-o", "a.html"),
            "object.json: no result of crystalpredict predict: it has no column",
        ),
        (("report", "rows.csv", "-o", "a.csv"), "name a file that ends in .html"),
        (("report", "rows.csv", "-o", "nowhere/a.html"), "there is no directory"),
        (("report", "rows.csv", "-o", "old.html"), "exists already"),
        (("report", "rows.csv", "-o", "a.html", "--sort", "hardness"), "no column 'hardness'"),
        (("report", "rows.csv", "-o", "a.html", "--sort", "formula"), "no column of numbers"),
        (("predict", "NaCl.cif", "--report", "a.csv"), "name a file that ends in .html"),
        (("predict", "NaCl.cif", "--report", "old.html"), "exists already"),
        (("predict", "old.html", "--report", "old.html", "--force"), "it is read, too"),
    ],
)
def test_bad_input_has_one_line(arguments: tuple[str, ...], words: str, program: Program, here: Path) -> None:
    Path("rows.csv").write_text("path,index,formula,n_atoms,bandgap_eV,warnings,error\na.cif,0,NaCl,8,5.0,,\n")
    Path("table.csv").write_text("id,cif\n1,x\n")
    for name in ("empty.csv", "empty.json"):
        Path(name).write_text("\n" * (name == "empty.csv"))
    Path("object.json").write_text("{}")
    Path("old.html").write_text("old")
    outcome = program(*arguments)
    assert outcome.code == 2
    assert words in outcome.stderr
    assert len(outcome.stderr.splitlines()) == 1
    assert not Path("a.html").exists()
    assert Path("old.html").read_text() == "old"


def test_an_old_page_is_replaced_when_asked_for(program: Program, here: Path) -> None:
    Path("rows.csv").write_text("path,index,formula,n_atoms,bandgap_eV,warnings,error\na.cif,0,NaCl,8,5.0,,\n")
    Path("old.html").write_text("old")
    assert program("report", "rows.csv", "-o", "old.html", "--force").code == 0
    assert "NaCl" in Path("old.html").read_text()
