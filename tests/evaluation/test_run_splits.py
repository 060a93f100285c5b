"""`evaluate --split` and the split of the run that made a fine-tuned model."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import Program
from tests.cli.conftest import program as program
from tests.labelled import rows, write


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, trained for an epoch, beside its table `mine.csv`."""
    from crystalpredict import FinetuneOptions, finetune

    folder = tmp_path_factory.mktemp("run")
    write(folder / "mine.csv", rows(40))
    finetune(folder / "mine.csv", FinetuneOptions(target="bandgap", scratch=True, epochs=1), output=folder / "model")
    return folder


def test_the_split_of_the_run_is_found(program: Program, run: Path, tmp_path: Path) -> None:
    outcome = program(
        "evaluate", run / "mine.csv", "-m", run / "model", "--split", "test", "--predictions", tmp_path / "rows.csv"
    )
    assert outcome.code == 0, outcome.stderr
    metrics = json.loads((run / "model" / "metrics.json").read_text())["test"]["bandgap"]["eV"]
    assert outcome.rows[0]["crystals"] == str(metrics["count"]) == "4"
    assert float(outcome.rows[0]["mae"]) == pytest.approx(metrics["mae"], rel=1e-3)
    assert "split of the run model" in outcome.stderr
    assert "these rows were" not in outcome.stderr
    with (run / "model" / "splits.csv").open() as file:
        tested = {row["id"] for row in csv.DictReader(file) if row["split"] == "test"}
    with (tmp_path / "rows.csv").open() as file:
        assert {row["id"] for row in csv.DictReader(file)} == tested


def test_rows_that_the_model_was_trained_on_are_counted(program: Program, run: Path) -> None:
    outcome = program("evaluate", run / "mine.csv", "-m", run / "model")
    assert "in the run of model these rows were 32 train, 4 val, 4 test: for others, use --split test" in outcome.stderr
    assert outcome.rows[0]["crystals"] == "40"


def test_a_split_column_of_the_table_comes_first(program: Program, run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "model", tmp_path / "model")
    parts = ["test"] * 10 + ["train"] * 30
    table = write(tmp_path / "mine.csv", [row | {"split": part} for row, part in zip(rows(40), parts, strict=True)])
    from crystalpredict._files import file_sha256

    path = tmp_path / "model" / "provenance.json"
    provenance = json.loads(path.read_text())
    provenance["data"]["sha256"] = file_sha256(table)  # as of a run that split by formula in spite of the column
    path.write_text(json.dumps(provenance))
    outcome = program("evaluate", table, "-m", tmp_path / "model", "--split", "test")
    assert outcome.rows[0]["crystals"] == "10"
    assert "in the run of model these rows were" in outcome.stderr


def test_another_table_has_no_split_of_the_run(program: Program, run: Path, tmp_path: Path) -> None:
    table = write(tmp_path / "other.csv", rows(39))
    outcome = program("evaluate", table, "-m", run / "model", "--split", "test")
    assert outcome.code == 2
    assert "it is not the table that model was trained on" in outcome.stderr
    assert "these rows were" not in program("evaluate", table, "-m", run / "model").stderr
    outcome = program("evaluate", table, "--split", "test")
    assert "no column of that name" in outcome.stderr


@pytest.mark.parametrize(
    ("file", "text"),
    [("splits.csv", "id,split\nx0,maybe\n"), ("splits.csv", "name\nx0\n"), ("provenance.json", "[]")],
)
def test_a_damaged_split_is_one_clear_line(program: Program, run: Path, tmp_path: Path, file: str, text: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(run / "model", folder)
    (folder / file).write_text(text)
    outcome = program("evaluate", run / "mine.csv", "-m", folder, "--split", "test")
    assert outcome.code == 2
    assert "damaged" in outcome.stderr
    assert outcome.stderr.strip().count("\n") == 0
