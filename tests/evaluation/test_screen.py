"""The page of a screen: what it holds, whatever format the rows come in, and that no text of them becomes markup."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zipfile
from base64 import b64decode, b64encode
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import crystalpredict
from crystalpredict.errors import DataError, UsageError
from crystalpredict.evaluation import screen_page
from crystalpredict.evaluation.screen import read_screen, screen_of
from crystalpredict.evaluation.screen_hits import AMBIGUOUS, CHANGED, GONE, draw_hits
from crystalpredict.evaluation.screen_page import formula_parts, render_screen, screen_report
from crystalpredict.prediction.predictions import Predictions
from crystalpredict.prediction.rows import Prediction
from crystalpredict.prediction.writers import CsvWriter, JsonLinesWriter, JsonWriter, ParquetWriter
from crystalpredict.properties import find_property
from tests.evaluation.test_report import VOID, Page

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
HOSTILE = '</script><script>alert("1")</script><!--<b>&amp;\u202e\x1b[2J'
GAP, HULL = find_property("bandgap"), find_property("e_above_hull")
PROPERTIES = (GAP, HULL)
VOID.update({"input"})


def bounds_of(values: dict[str, float]) -> dict[str, np.ndarray]:
    return {name: np.array([[value - 0.1, value + 0.1]] * 5) for name, value in values.items()}


def good(
    path: str, formula: str, gap: float, hull: float, atoms: int = 8, warnings: tuple[str, ...] = ()
) -> Prediction:
    values = {"bandgap_eV": gap, "e_above_hull_eV_per_atom": hull}
    return Prediction(path, 0, formula, atoms, values, warnings, bounds=bounds_of(values))


ROWS = [
    good(str(EXAMPLES / "NaCl.cif"), "NaCl", 5.0, 0.01),
    good(str(EXAMPLES / "MgO.cif"), "MgO", 4.5, 0.0),
    Prediction("gone.cif", 0, "", None, error="no such file: check the path"),
    good("hidden.cif", "Fe2O3", 0.25, 0.2, 30, ("unlike the training data: x", "cell is 9 % (7 to 11) larger: see")),
    Prediction(HOSTILE, 0, "", None, error=f"label '{HOSTILE}' of site 7: {HOSTILE}"),
    good("other.cif", "FeO", 0.5, 0.1, 2, ("unlike the training data: y",)),
]
WRITERS: dict[str, Any] = {"csv": CsvWriter, "json": JsonWriter, "jsonl": JsonLinesWriter}


def write(path: Path, rows: list[Prediction]) -> Path:
    """Write rows as `predict` does."""
    if path.suffix == ".parquet":
        with path.open("wb") as raw:
            table = ParquetWriter(raw, PROPERTIES, True)
            for row in rows:
                table.write(row)
            table.close()
        return path
    text = io.StringIO(newline="")
    writer = WRITERS[path.name.removesuffix(".gz").rpartition(".")[2]](text, PROPERTIES, True)
    for row in rows:
        writer.write(row)
    writer.close()
    content = text.getvalue().encode("utf-8", "backslashreplace")
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def data_of(page: str) -> dict[str, Any]:
    """The rows that the script of a page unpacks."""
    (packed,) = re.findall(r'<script type="text/plain" id="data">([A-Za-z0-9+/=]*)</script>', page)
    found: dict[str, Any] = json.loads(gzip.decompress(b64decode(packed)))
    return found


@pytest.mark.parametrize("name", ["a.csv", "a.json", "a.jsonl", "a.csv.gz", "a.jsonl.gz", "a.parquet"])
def test_every_format_that_predict_writes_gives_the_same_screen(name: str, tmp_path: Path) -> None:
    if name == "a.parquet":
        pytest.importorskip("pyarrow")
    screen = read_screen(write(tmp_path / name, ROWS))
    expected = screen_of(Predictions(ROWS, PROPERTIES, intervals=True))
    assert (screen.rows, screen.failed, screen.warned) == (6, 2, 2)
    assert screen.paths == [row.path for row in ROWS]
    assert (screen.formulas, screen.warnings, screen.errors) == (expected.formulas, expected.warnings, expected.errors)
    assert [(column.title, column.decimals) for column in screen.numbers] == [
        ("band gap, eV", 4), ("energy above hull, eV/atom", 4),
    ]  # fmt: skip
    for one, two in zip(screen.numbers, expected.numbers, strict=True):
        for field in ("values", "low", "high"):
            np.testing.assert_allclose(getattr(one, field), getattr(two, field))
    np.testing.assert_array_equal(screen.atoms, [8, 8, np.nan, 30, np.nan, 2])
    assert screen.elements() == {"Na": 1, "Cl": 1, "Mg": 1, "O": 3, "Fe": 2}


def test_failures_and_warnings_are_counted_by_kind() -> None:
    screen = screen_of(Predictions(ROWS, PROPERTIES, intervals=True))
    failures = screen.failures_by_reason()
    assert (failures[0].name, failures[0].count, failures[0].row) == ("no such file", 1, 2)
    assert len(failures) == 2
    assert [(kind.name, kind.count, kind.row) for kind in screen.warnings_by_kind()] == [
        ("unlike the training data", 2, 3), ("cell is … % larger", 1, 3),
    ]  # fmt: skip


def test_rows_are_ranked_by_the_hull_or_what_is_asked_for() -> None:
    screen = screen_of(Predictions(ROWS, PROPERTIES, intervals=True))
    order, words = screen.ranked()
    assert (order.tolist(), words) == ([1, 0, 5, 3], "energy above hull, smallest first")
    assert screen.ranked("-gap")[0].tolist() == [0, 1, 5, 3]
    assert screen.ranked("n_atoms")[0].tolist() == [5, 0, 1, 3]
    assert (screen.ranked("")[0].tolist(), screen.ranked("")[1]) == ([0, 1, 3, 5], "")
    with pytest.raises(UsageError, match="no column 'gapp'"):
        screen.ranked("gapp")
    with pytest.raises(UsageError, match="no column of numbers"):
        screen.ranked("formula")


def test_the_page_loads_nothing_and_runs_only_its_own_script(tmp_path: Path) -> None:
    text = render_screen(read_screen(write(tmp_path / "a.csv", ROWS)))
    page = Page(text)
    (policy,) = (found["content"] for _, found in page.tags if found.get("http-equiv") == "Content-Security-Policy")
    assert "unsafe" not in str(policy)
    for tag in ("style", "script"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert f"{tag}-src 'sha256-{b64encode(sha256(content.encode()).digest()).decode()}'" in str(policy)
    assert str(policy).startswith("default-src 'none'; ")
    addresses = [found[name] for _, found in page.tags for name in ("src", "href", "action") if found.get(name)]
    assert all(str(address).startswith("#") for address in addresses)
    assert not [found for _, found in page.tags if any(name.startswith("on") or name == "style" for name in found)]
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)
    assert "url(" not in text
    assert "@import" not in text


def test_hostile_texts_are_escaped_in_the_page_and_in_its_data(tmp_path: Path) -> None:
    rows = [*ROWS, good(HOSTILE, HOSTILE, 1.0, -5.0, warnings=(HOSTILE,))]
    source = write(tmp_path / "a.jsonl", rows)
    text = render_screen(read_screen(source), title=HOSTILE)
    page = Page(text)
    assert [tag for tag, _ in page.tags].count("script") == 2
    assert "alert(" not in re.sub(r"&lt;script&gt;alert\(", "", text)
    assert "\u202e" not in text  # text that runs backwards hides what a name is
    assert "\x1b" not in text
    shown = HOSTILE.replace("\u202e", "\\u202e").replace("\x1b", "\\x1b")
    assert shown in page.text
    data = data_of(text)
    assert data["path"][6] == shown
    assert shown in data["warnings"]["texts"]


def test_the_data_are_the_rows_in_their_order() -> None:
    screen = screen_of(Predictions(ROWS, PROPERTIES, intervals=True))
    data = data_of(render_screen(screen, cells=2))
    assert data["row"] == [1, 2, 3, 4, 5, 6]
    assert data["atoms"] == [8, 8, None, 30, None, 2]
    assert data["numbers"][0]["values"] == [5.0, 4.5, None, 0.25, None, 0.5]
    assert data["numbers"][1]["low"] == [-0.09, -0.1, None, 0.1, None, 0.0]
    assert data["hits"] == [1, 0]
    assert data["axes"] == [1, 0]  # the hull across, the gap up
    assert [len(own) for own in data["warning"]] == [0, 0, 0, 2, 0, 1]
    assert data["errors"]["kinds"][data["errors"]["kindOf"][data["error"][2]]] == "no such file"


def test_unit_cells_of_the_best_rows_are_drawn_if_their_files_are_there(tmp_path: Path) -> None:
    screen = screen_of(Predictions(ROWS, PROPERTIES, intervals=True))
    text = render_screen(screen, cells=4)
    assert text.count('<svg xmlns="http://www.w3.org/2000/svg" class="cell"') == 2
    assert "2 of 4 unit cells are not drawn" in text
    assert GONE in text
    none = render_screen(screen_of(Predictions(ROWS[3:], PROPERTIES, intervals=True)))
    assert "No unit cell is drawn" in none
    assert 'class="cell"' not in none
    assert "Best rows" not in render_screen(screen, cells=0)


def test_no_other_crystal_is_drawn_in_the_place_of_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    salt, oxide = (EXAMPLES / name for name in ("NaCl.cif", "MgO.cif"))
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "near.cif").write_bytes(salt.read_bytes())  # beside the results
    Path("broken.cif").write_text("data_x\n")
    Path("double.cif").write_bytes(salt.read_bytes() + b"\n" + oxide.read_bytes())
    with zipfile.ZipFile("cifs.zip", "w") as archive:
        archive.write(salt, "in/NaCl.cif")
        archive.write(oxide, "in/MgO.cif")
    with Path("mine.csv").open("w", newline="") as file:
        texts = [["one", salt.read_text()], ["two", oxide.read_text()], ["two", oxide.read_text()]]
        csv.writer(file).writerows([["id", "cif"], *texts])
    names = [
        "near.cif",
        "cifs.zip/in/MgO.cif",
        "mine.csv#one",
        "mine.csv#two",
        "broken.cif",
        "gone.zip/a.cif",
        "\0.cif",
    ]
    rows = [good(name, "MgO" if "MgO" in name or "two" in name else "NaCl", 1.0, 0.0) for name in names]
    second = good("double.cif", "MgO", 1.0, 0.0)
    rows += [Prediction(second.path, 1, "MgO", 8, second.values, bounds=second.bounds)]
    rows += [good(str(salt), "MgO", 1.0, 0.0), good(str(salt), "NaCl", 1.0, 0.0, atoms=4)]
    screen = read_screen(write(tmp_path / "results" / "r.jsonl", rows))
    hits = draw_hits(screen, range(len(rows)))
    drawn = [bool(hit.svg) for hit in hits]
    assert drawn == [True, True, True, False, False, False, False, True, False, False]
    assert "unit cell of MgO" in hits[1].svg
    assert "unit cell of NaCl" in hits[2].svg
    assert "unit cell of MgO" in hits[7].svg
    reasons = [hit.reason for hit in hits]
    assert reasons[3] == AMBIGUOUS
    assert reasons[4].startswith("its file cannot be read any more")
    assert reasons[5] == reasons[6] == GONE
    assert reasons[8] == reasons[9] == CHANGED


def test_links_lead_from_the_page_to_the_files(tmp_path: Path) -> None:
    (tmp_path / "pages").mkdir()
    (tmp_path / "a.cif").write_bytes((EXAMPLES / "NaCl.cif").read_bytes())
    source = write(tmp_path / "r.csv", [good("a.cif", "NaCl", 1.0, 0.0)])
    assert data_of(render_screen(read_screen(source), tmp_path / "pages"))["base"] == ".."
    assert data_of(render_screen(read_screen(source)))["base"] is None
    (tmp_path / "a.cif").unlink()
    assert data_of(render_screen(read_screen(source), tmp_path))["base"] is None


def test_other_columns_are_shown_by_what_they_hold(tmp_path: Path) -> None:
    source = tmp_path / "r.csv"
    cif = (EXAMPLES / "NaCl.cif").read_text()
    with source.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "id", "price", "mine_lo90", "mine_hi90", "mine", "cif", "formula", "empty", "error"])
        writer.writerow(["a", "007", "3.5", "1", "3", "2", cif, "NaCl", "", ""])
        writer.writerow(["b", "x", "", "", "", "", cif, "MgO", "", ""])
    screen = read_screen(source)
    assert [column.name for column in screen.numbers] == ["price", "mine"]
    assert screen.numbers[1].low is not None
    assert screen.numbers[1].low[0] == 1
    assert [(column.name, column.values) for column in screen.texts] == [("id", ["007", "x"])]
    assert screen.left_out == ("cif",)
    assert "columns cif" in render_screen(screen)
    assert screen.ranked()[0].tolist() == [0, 1]


def test_a_long_screen_keeps_its_best_rows_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen_page, "MAX_ROWS", 3)
    text = render_screen(screen_of(Predictions(ROWS, PROPERTIES, intervals=True)), cells=2)
    data = data_of(text)
    assert (data["total"], data["row"], data["hits"]) == (6, [1, 2, 6], [1, 0])
    assert "The file has 6 rows" in text
    assert "charts and table have the best 3" in text


def test_a_file_without_rows_has_a_page_and_other_files_have_one_line(tmp_path: Path) -> None:
    for name in ("a.csv", "a.json", "a.jsonl", "a.jsonl.gz"):
        assert "There are no rows" in Page(render_screen(read_screen(write(tmp_path / name, [])))).text
    table = tmp_path / "table.csv"
    table.write_text("id,cif\n1,x\n")
    broken = tmp_path / "broken.json"
    broken.write_text('[{"path": ')
    for path, words in [(table, "no column 'path'"), (broken, "broken JSON"), (tmp_path / "no.csv", "no such file"),
                        (EXAMPLES, "cannot be read"), (EXAMPLES / "NaCl.cif", "no result of")]:  # fmt: skip
        with pytest.raises(DataError, match=words) as found:
            read_screen(path)
        assert "\n" not in str(found.value)
        assert str(path) in str(found.value)


FEW: dict[str, tuple[list[Prediction], str, list[str]]] = {
    "no rows": ([], "There are no rows: no structure was given, or none matched", []),
    "failures": ([ROWS[2]] * 3, "None of the 3 structures could be predicted", ["Failures", "Filters", "All rows"]),
    "a failure": ([ROWS[2]], "The structure could not be predicted", ["Failures", "Filters", "All rows"]),
    "a row": ([ROWS[0]], "Fewer than two rows have values, so that there are no charts", ["Best rows", "Elements"]),
    "a row and a failure": (
        [ROWS[0], ROWS[2]],
        "Fewer than two rows have values",
        ["Best rows", "Elements", "Failures"],
    ),
    "two rows": (ROWS[:2], "Distributions", ["Charts", "Elements"]),
}


@pytest.mark.parametrize("name", FEW)
def test_a_page_of_few_rows_has_a_sentence_instead_of_charts(name: str) -> None:
    rows, said, links = FEW[name]
    text = render_screen(screen_of(Predictions(rows, PROPERTIES, intervals=True)))
    shown = Page(text).text
    assert said in shown
    for link in links:
        assert f">{link}</a>" in text
    drawn = name == "two rows"
    assert ("Distributions" in shown, ">Charts</a>" in text, 'id="charts"' in text) == (drawn, drawn, drawn)
    assert ('class="periodic"' in text) == any(row.formula for row in rows)


def test_a_row_with_too_many_fields_is_a_failure(tmp_path: Path) -> None:
    source = write(tmp_path / "a.csv", ROWS[:2])
    source.write_text(source.read_text() + "x,1,2\n")
    screen = read_screen(source)
    assert screen.errors[2].startswith("broken row: 3 fields")
    assert screen.failed == 1


def test_a_page_is_written_from_python_and_is_the_same_each_time(tmp_path: Path) -> None:
    rows = Predictions(ROWS, PROPERTIES, intervals=True)
    for name in ("a.html", "b.html"):
        screen_report(rows, tmp_path / name, sort="-gap", title="Mine")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    assert "<title>Mine</title>" in (tmp_path / "a.html").read_text()
    assert "Ranked by band gap, largest first" in (tmp_path / "a.html").read_text()
    assert crystalpredict.screen_report is screen_report


def test_numbers_in_formulas_are_subscripts() -> None:
    assert formula_parts("Ca3(PO4)2") == [
        ("Ca", False),
        ("3", True),
        ("(PO", False),
        ("4", True),
        (")", False),
        ("2", True),
    ]
    assert formula_parts("Ba0.5TiO3")[1] == ("0.5", True)
    assert formula_parts("") == []
