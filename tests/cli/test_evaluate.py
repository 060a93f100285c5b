"""`crystalpredict evaluate` on small tables of real structures with made-up labels."""

import csv
import gzip
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import crystalpredict
from crystalpredict._files import file_sha256
from crystalpredict.checkpoints.registry import default_model
from crystalpredict.cli.evaluation_tables import Grid
from tests.same import alike

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(str(path) for path in (ROOT / "examples").iterdir())
LABELS = [(0.3 * row, -0.2 * row, 40.0 + 10 * row) for row in range(len(FILES))]
HEAD = ["material_id", "band_gap", "formation_energy_per_atom", "K_VRH", "split", "structure"]


def rows_of_table() -> list[list[str]]:
    """A row for each example: two in three are of the split train, the others of test."""
    return [
        [Path(file).name, *map(str, labels), "train" if row % 3 else "test", Path(file).read_text()]
        for row, (file, labels) in enumerate(zip(FILES, LABELS, strict=True))
    ]


def written(path: Path, rows: list[list[str]], head: list[str] = HEAD) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([head, *rows])
    return path


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return written(tmp_path / "table.csv", rows_of_table())


@pytest.fixture(scope="module")
def predicted() -> list[dict[str, float]]:
    """What the default model says of the examples, without the command."""
    return [row.values for row in crystalpredict.load_model().predict(FILES)]


@pytest.fixture
def shifted(folder: Path) -> Path:
    """A second model: it says 0.5 eV/atom more of every formation energy, and knows neither hull nor moduli."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["properties"][1]["mean"] += 0.5
    for number, prop in enumerate(config["properties"]):
        if number in (2, 3, 4):
            prop["name"] = f"other{number}"
    path.write_text(json.dumps(config))
    return folder


def foreseen(outcome, *parts: str) -> None:
    """A wrong usage: one line on stderr that holds `parts`, nothing on stdout, exit code 2."""
    assert (outcome.code, outcome.stdout) == (2, "")
    (line,) = outcome.stderr.splitlines()
    assert line.startswith("crystalpredict: error: ")
    for part in parts:
        assert part in line


def test_errors_are_those_of_the_predictions(program, table, predicted) -> None:
    outcome = program("evaluate", table, "-f", "json")
    assert outcome.code == 0
    report = json.loads(outcome.stdout, parse_constant=pytest.fail)
    scores = {(score["property"], score["unit"]): score for score in report["scores"]}
    assert list(scores) == [
        ("bandgap", "eV"), ("formation_energy", "eV/atom"), ("bulk_modulus", "log10(GPa)"), ("bulk_modulus", "GPa"),
    ]  # fmt: skip
    labels = np.array(LABELS)
    columns = ["bandgap_eV", "formation_energy_eV_per_atom", "bulk_modulus_GPa"]
    values = np.array([[row[column] for column in columns] for row in predicted])
    errors = values - labels
    for place, key in enumerate(scores):
        error = np.log10(values[:, 2] / labels[:, 2]) if place == 2 else errors[:, min(place, 2)]
        score = scores[key]
        assert score["crystals"] == 14
        assert score["mae"] == pytest.approx(np.abs(error).mean(), rel=1e-4)
        assert score["rmse"] == pytest.approx(np.sqrt((error**2).mean()), rel=1e-4)
        assert score["max_error"] == pytest.approx(np.abs(error).max(), rel=1e-4)
        assert score["mae_interval95"][0] < score["mae"] < score["mae_interval95"][1]
    assert scores["bandgap", "eV"]["r2"] == pytest.approx(
        1 - (errors[:, 0] ** 2).sum() / ((labels[:, 0] - labels[:, 0].mean()) ** 2).sum(), rel=1e-4
    )
    right = ((values[:, 0] <= 0.1) == (labels[:, 0] <= 0.1)).mean()
    assert scores["bandgap", "eV"]["metal"]["accuracy"] == pytest.approx(right, rel=1e-5)
    assert report["data"] == {"path": str(table), "sha256": file_sha256(table), "rows": 14, "predicted": 14}
    weights = default_model().sha256["model.safetensors"]
    assert report["models"] == [{"name": "crystalformer-mp", "sha256": weights}]
    assert report["lost"] == []


def test_csv_in_a_pipe_and_a_table_if_asked_for(program, table) -> None:
    outcome = program("evaluate", table)
    assert [(row["property"], row["unit"], row["crystals"]) for row in outcome.rows] == [
        ("bandgap", "eV", "14"), ("formation_energy", "eV/atom", "14"),
        ("bulk_modulus", "log10(GPa)", "14"), ("bulk_modulus", "GPa", "14"),
    ]  # fmt: skip
    assert all(float(row["mae"]) > 0 for row in outcome.rows)
    assert outcome.rows[0]["decision"] == "metal"
    text = program("evaluate", table, "-f", "table").stdout
    for part in ("band gap, eV", "log10(GPa)", "95 % interval", "metal: band gap ≤ 0.1 eV", "1-8 atoms"):
        assert part in text


def test_targets_name_properties_and_columns(program, table, tmp_path) -> None:
    def found(*options):
        return [row["property"] for row in program("evaluate", table, "-q", *options).rows]

    assert found("-t", "eform") == ["formation_energy"]
    assert found("-t", "K,gap") == ["bulk_modulus", "bulk_modulus", "bandgap"]
    renamed = written(
        tmp_path / "renamed.csv", rows_of_table(), ["jid", "optb88vdw_bandgap", "x", "y", "split", "structure"]
    )
    outcome = program("evaluate", renamed, "-q", "-t", "gap=optb88vdw_bandgap", "-t", "eform=x")
    assert [row["property"] for row in outcome.rows] == ["bandgap", "formation_energy"]
    same = program("evaluate", table, "-q", "-t", "gap,eform").rows
    assert alike(outcome.rows, same)
    foreseen(program("evaluate", table, "-t", "colour"), "'colour'", "bandgap")
    foreseen(program("evaluate", table, "-t", ","), "names no property")
    foreseen(program("evaluate", table, "-t", "shear_modulus"), "no column 'shear_modulus'")
    foreseen(program("evaluate", table, "-t", "gap=nowhere"), "no column 'nowhere'")
    foreseen(program("evaluate", table, "-t", "gap=K_VRH,gap=band_gap"), "bandgap", "twice")
    foreseen(program("evaluate", table, "-t", "K=band_gap,gap=band_gap"), "two properties", "band_gap")
    foreseen(program("evaluate", table, "-t", "youngs_modulus"), "derived from bulk and shear modulus")
    data = written(tmp_path / "l.csv", rows_of_table(), [*HEAD[:3], "K (kbar)", *HEAD[4:]])
    foreseen(program("evaluate", data, "-t", "K=K (kbar)"), "K (kbar): bulk_modulus is compared in GPa: convert")
    data = written(tmp_path / "l.csv", rows_of_table(), [*HEAD[:3], "K (PBE)", *HEAD[4:]])
    assert "K (PBE) is bulk_modulus in GPa" in program("evaluate", data, "-t", "K=K (PBE)").stderr
    logarithms = [[*row[:3], str(np.log10(float(row[3]))), *row[4:]] for row in rows_of_table()]
    data = written(tmp_path / "l.csv", rows_of_table(), [*HEAD[:3], "logical_k", *HEAD[4:]])
    by_another_name = program("evaluate", data, "-q", "-t", "K=logical_k").rows
    assert alike(by_another_name, program("evaluate", table, "-q", "-t", "K").rows)
    swapped = "formation_energy=gap", "bandgap=K_VRH"
    assert (
        len(program("evaluate", table, "-q", "-t", swapped[0].replace("gap", "band_gap"), "-t", swapped[1]).rows) == 2
    )
    for name in ("log10(K_VRH)", "log_mine", "logB", "LogMine"):
        data = written(tmp_path / "l.csv", logarithms, [*HEAD[:3], name, *HEAD[4:]])
        rows = program("evaluate", data, "-q", "-t", f"K={name}").rows
        assert float(rows[1]["mae"]) == pytest.approx(float(program("evaluate", table, "-t", "K").rows[1]["mae"]))


def test_a_split_and_a_structure_column_are_taken_by_name(program, tmp_path) -> None:
    data = written(tmp_path / "t.csv", rows_of_table(), [*HEAD[:-1], "relaxed"])
    foreseen(program("evaluate", data), "--structure-column")
    outcome = program("evaluate", data, "--structure-column", "relaxed", "--split", "test", "-t", "gap")
    assert (outcome.code, outcome.rows[0]["crystals"]) == (0, "5")
    assert "split test, 5 of 14 rows" in outcome.stderr
    foreseen(
        program("evaluate", data, "--structure-column", "relaxed", "--split", "val"), "'val'", "test (5), train (9)"
    )


def test_every_row_is_in_the_file_of_predictions_and_what_is_lost_is_said(program, tmp_path, predicted) -> None:
    rows = rows_of_table()
    rows[2][1] = rows[2][2] = rows[2][3] = ""  # no label
    rows[5][5] = "data_broken\n"
    rows[7][3] = ""  # one label less
    data = written(tmp_path / "t.csv", rows)
    for name in ("p.csv", "p.jsonl.gz", "p.json"):
        outcome = program("evaluate", data, "--predictions", tmp_path / name)
        assert outcome.code == 0
    assert "1 row(s) not predicted: no label (first: row 3)" in outcome.stderr
    assert "(first: row 6)" in outcome.stderr
    assert "12 of 14 rows predicted" in outcome.stderr
    assert "bulk modulus: 1 of 13 rows have no label" in outcome.stderr
    assert [row["crystals"] for row in outcome.rows] == ["12", "12", "11", "11"]
    found = json.loads((tmp_path / "p.json").read_text(), parse_constant=pytest.fail)
    assert [row["id"] for row in found] == [row[0] for row in rows]
    assert [row["row"] for row in found] == list(range(1, 15))
    assert [bool(row["reason"]) for row in found] == [number in (2, 5) for number in range(14)]
    for number in (0, 7, 13):
        gap = found[number]["bandgap_eV_predicted"]
        assert gap == pytest.approx(predicted[number]["bandgap_eV"], abs=1e-3)
        assert found[number]["bandgap_eV_error"] == pytest.approx(gap - LABELS[number][0], abs=2e-4)
    assert found[7]["bulk_modulus_GPa_label"] is None
    with gzip.open(tmp_path / "p.jsonl.gz", "rt") as file:
        assert [json.loads(line) for line in file] == found
    with (tmp_path / "p.csv").open(newline="") as file:
        assert [row["reason"] for row in csv.DictReader(file)] == [row["reason"] for row in found]


def test_models_side_by_side(program, table, shifted, tmp_path, predicted) -> None:
    options = ("-t", "gap,eform,K", "--compare", shifted, "--predictions", tmp_path / "p.json", "--force")
    outcome = program("evaluate", table, "-f", "json", *options)
    assert outcome.code == 0
    scores = json.loads(outcome.stdout)["scores"]
    assert [(score["property"], score["model"]) for score in scores] == [
        ("bandgap", "crystalformer-mp"), ("bandgap", "copy"), ("formation_energy", "crystalformer-mp"),
        ("formation_energy", "copy"), ("bulk_modulus", "crystalformer-mp"), ("bulk_modulus", "crystalformer-mp"),
    ]  # fmt: skip
    assert scores[1]["mae_difference"] == 0
    values = np.array([row["formation_energy_eV_per_atom"] for row in predicted])
    others = np.array(
        [row["formation_energy_eV_per_atom"] for row in crystalpredict.load_model(shifted).predict(FILES)]
    )
    label = np.array([labels[1] for labels in LABELS])
    change = np.abs(others - label) - np.abs(values - label)
    assert scores[3]["mae_difference"] == pytest.approx(change.mean(), abs=2e-5)
    low, high = scores[3]["mae_difference_interval95"]
    assert low <= scores[3]["mae_difference"] <= high
    rows = json.loads((tmp_path / "p.json").read_text())
    ours, theirs = ([row[f"formation_energy_eV_per_atom_predicted{end}"] for row in rows] for end in ("", "_copy"))
    assert ours == pytest.approx(values, abs=1e-4)
    assert theirs == pytest.approx(others, abs=1e-4)
    assert np.median(np.subtract(theirs, ours)) == pytest.approx(0.5, abs=2e-4)
    text = program("evaluate", table, "-f", "table", *options).stdout
    assert "copy" in text
    assert "MAE - crystalformer-mp's" in text
    assert re.search(r"formation energy, eV/atom +copy +[+-]0\.\d+ ", text)


def test_models_that_cannot_be_compared_are_refused(program, table, shifted) -> None:
    foreseen(program("evaluate", table, "--compare", "crystalformer-mp"), "twice")
    foreseen(program("evaluate", table, "--compare", "zzz"), "no model 'zzz'")
    foreseen(program("evaluate", table, "-t", "K", "--compare", shifted), "copy", "bulk_modulus_GPa")
    (shifted / "config.json").write_text("{}")
    outcome = program("evaluate", table, "--compare", shifted)
    assert (outcome.code, outcome.stdout, len(outcome.stderr.splitlines())) == (1, "", 1)


def test_models_of_the_same_folder_name_keep_apart(program, table, shifted, tmp_path) -> None:
    other = Path(shutil.copytree(shifted, tmp_path / "b" / "copy"))
    rows = program("evaluate", table, "-q", "-t", "gap", "-m", shifted, "--compare", other).rows
    assert [row["model"] for row in rows] == [str(shifted), str(other)]


def test_pictures_have_names_that_say_what_they_are(program, table, shifted, tmp_path) -> None:
    pytest.importorskip("matplotlib")
    outcome = program("evaluate", table, "-t", "gap,eform", "--plots", tmp_path / "plots", "--compare", shifted)
    assert outcome.code == 0
    names = [
        f"{prop}_{kind}{end}.png"
        for prop in ("bandgap", "formation_energy")
        for kind in ("coverage", "errors", "parity")
        for end in ("", "_copy")
    ]  # fmt: skip
    files = {path.name: path.read_bytes() for path in (tmp_path / "plots").iterdir()}
    assert sorted(files) == sorted(names)
    assert all(content.startswith(b"\x89PNG") for content in files.values())
    assert files["formation_energy_parity.png"] != files["formation_energy_parity_copy.png"]


def test_without_matplotlib_pictures_are_refused_and_a_report_has_none(program, table, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    foreseen(program("evaluate", table, "--plots", tmp_path / "plots"), "pip install 'crystalpredict[plots]'")
    assert not (tmp_path / "plots").exists()
    outcome = program("evaluate", table, "--report", tmp_path / "r.html")
    assert outcome.code == 0
    assert "pip install 'crystalpredict[plots]'" in outcome.stderr.splitlines()[0]
    page = (tmp_path / "r.html").read_text()
    assert "<img" not in page
    assert "Band gap" in page


def test_outputs_that_cannot_be_written_are_refused_before_the_work(program, table, tmp_path) -> None:
    for option, place in (("--predictions", "no/p.csv"), ("--report", "no/r.html"), ("--plots", "no/plots")):
        foreseen(program("evaluate", table, option, tmp_path / place), "no directory")
    foreseen(program("evaluate", table, "--report", tmp_path), "a directory; name a file")
    foreseen(program("evaluate", table, "--plots", table), "a file; name a directory")
    foreseen(program("evaluate", table, "--predictions", tmp_path / "p.txt"), ".csv, .json or .jsonl")
    foreseen(program("evaluate", table, "--predictions", tmp_path / "p.xlsx"), ".csv, .json")
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]


def test_tables_that_cannot_be_used_are_one_line(program, tmp_path) -> None:
    foreseen(program("evaluate", tmp_path / "nowhere.csv"), "nowhere.csv", "no such file")
    unlabelled = written(tmp_path / "u.csv", rows_of_table(), ["id", "a", "b", "c", "split", "structure"])
    foreseen(program("evaluate", unlabelled), "u.csv", "no column is a known property")
    (tmp_path / "empty.csv").write_text("")
    foreseen(program("evaluate", tmp_path / "empty.csv"), "empty")
    nothing = written(tmp_path / "n.csv", [["a", "", "", "", "", "data_x"]])
    foreseen(program("evaluate", nothing), "n.csv")


def test_exit_code_4_if_no_row_could_be_predicted(program, tmp_path) -> None:
    rows = [[*row[:-1], "data_broken\n"] for row in rows_of_table()[:3]]
    outcome = program(
        "evaluate", written(tmp_path / "t.csv", rows), "-f", "json", "--predictions", tmp_path / "p.csv",
        "--report", tmp_path / "r.html",
    )  # fmt: skip
    assert outcome.code == 4
    report = json.loads(outcome.stdout)
    assert (report["scores"], report["data"]["predicted"], report["lost"][0]["rows"]) == ([], 0, 3)
    assert "0 of 3 rows predicted" in outcome.stderr
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 4
    assert "No crystal" in (tmp_path / "r.html").read_text()


def test_quiet_says_nothing_and_the_number_of_readers_does_not_matter(program, tmp_path) -> None:
    rows = [[f"{number} {row[0]}", *row[1:]] for number in range(5) for row in rows_of_table()]
    data = written(tmp_path / "t.csv", rows)
    outcomes = [
        program("evaluate", data, "-q", "--jobs", jobs, "--predictions", tmp_path / jobs) for jobs in ("1", "2")
    ]
    assert [outcome.code for outcome in outcomes] == [2, 2]  # a name without a suffix
    one, two = (
        program("evaluate", data, "-q", "--jobs", jobs, "--predictions", tmp_path / f"{jobs}.csv")
        for jobs in ("1", "2")
    )
    assert (one.code, one.stderr) == (two.code, two.stderr) == (0, "")
    assert alike(one.rows, two.rows)
    assert alike((tmp_path / "1.csv").read_bytes(), (tmp_path / "2.csv").read_bytes())


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT to send")
def test_an_interrupt_is_exit_code_130_and_leaves_no_file(tmp_path) -> None:
    rows = [[f"{number} {row[0]}", *row[1:]] for number in range(1500) for row in rows_of_table()]
    data = written(tmp_path / "t.csv", rows)
    command = [sys.executable, "-m", "crystalpredict", "evaluate", str(data), "--predictions", str(tmp_path / "p.csv")]
    program = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while b"device" not in program.stderr.readline():
        assert program.poll() is None
    time.sleep(0.5)
    program.send_signal(signal.SIGINT)
    printed, told = program.communicate(timeout=300)
    assert (program.returncode, printed) == (130, b"")
    assert told.decode().splitlines()[-1] == "crystalpredict: interrupted"
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


@pytest.mark.parametrize(
    ("width", "least", "heads"),
    [
        (90, 75, "errors model crystals 95 % interval largest"),
        (70, 70, "errors model crystals 95 % interval largest"),
        (50, 42, "errors crystals 95 % interval"),
        (20, 42, "errors crystals 95 % interval"),
    ],
)
def test_tables_for_any_terminal_keep_words_and_numbers_whole(width: int, least: int, heads: str) -> None:
    rows = [["formation energy, eV/atom", name, "14", "-0.00910 to +0.000705", "9"] for name in ("first", "[b]two")]
    grid = Grid(["errors", "model"], ["crystals", "95 % interval", "largest"], rows, optional=1)
    stream = io.StringIO()
    grid.print(Console(file=stream, width=width))
    lines = stream.getvalue().splitlines()
    assert lines[0].split() == heads.split()
    assert least <= max(map(len, lines)) <= max(width, least)
    words = stream.getvalue().split()
    for word, count in (("formation", 2), ("-0.00910", 2), ("+0.000705", 2), ("[b]two", 1), ("9", 2 * (width > 50))):
        assert words.count(word) == count
