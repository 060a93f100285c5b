"""finetune --learning-curve: errors at fractions of the training set."""

from __future__ import annotations

import csv
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from crystalpredict.data.dataset import CrystalTable
from tests.cli.conftest import Program
from tests.cli.conftest import program as program
from tests.labelled import rows, write

pytestmark = pytest.mark.usefixtures("no_picture")

SMALL = ("--scratch", "--epochs", "1", "-t", "bandgap", "--learning-curve")


def lines_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_the_errors_of_each_fraction_are_a_table(program: Program, tmp_path: Path) -> None:
    table, folder = write(tmp_path / "mine.csv", rows(80)), tmp_path / "curve"
    outcome = program("finetune", table, *SMALL, "-o", folder)
    assert outcome.code == 0, outcome.stderr
    runs = [folder / f"train-{name}-percent" for name in ("12.5", "25", "50", "100")]
    assert outcome.stdout.strip() == str(runs[-1])
    points = lines_of(folder / "learning-curve.csv")
    assert [float(point["fraction"]) for point in points] == [0.125, 0.25, 0.5, 1.0]
    assert [int(point["training_crystals"]) for point in points] == [8, 16, 32, 64]
    assert {(point["part"], point["property"], point["unit"], point["crystals"]) for point in points} == {
        ("test", "bandgap", "eV", "8")
    }
    assert "8 of 64 training crystals are used" in outcome.stderr
    assert "64 training crystals: bandgap" in outcome.stderr
    refused = program("predict", "NaCl.cif", "--model", folder)
    assert (refused.code, "a learning curve, with a model for each" in refused.stderr) == (2, True)
    assert f"{runs[-1]}\n" in refused.stderr
    for run, point in zip(runs, points, strict=True):
        metrics = json.loads((run / "metrics.json").read_text())["test"]["bandgap"]["eV"]
        assert float(point["mae"]) == pytest.approx(metrics["mae"], rel=1e-4)
    tables = [CrystalTable.load(run / "training" / "crystals.npz") for run in runs]
    parts = [{part: set(each.ids[each.splits == part]) for part in np.unique(each.splits)} for each in tables]
    for smaller, larger in pairwise(parts):
        assert smaller[0] < larger[0]
        assert (smaller[1], smaller[2]) == (larger[1], larger[2])

    weights = [json.loads((run / "config.json").read_text())["weights_sha256"] for run in runs]
    for name in ("config.json", "training/state.npz"):  # as after a kill
        (runs[-1] / name).unlink()
    (folder / "learning-curve.csv").unlink()
    assert program("finetune", table, *SMALL, "-o", folder).code == 0
    assert [json.loads((run / "config.json").read_text())["weights_sha256"] for run in runs] == weights
    assert lines_of(folder / "learning-curve.csv") == points

    for option, name in (("--seed", "seed"), ("--epochs", "epochs"), ("--patience", "patience")):
        refused = program("finetune", table, *SMALL, option, "7", "-o", folder)
        assert (refused.code, f"a learning curve with another {name};" in refused.stderr) == (2, True)
    (folder / "note.txt").touch()
    refused = program("finetune", table, *SMALL, "-o", folder)
    assert (refused.code, "holds something else than a learning curve" in refused.stderr) == (2, True)


@pytest.mark.parametrize("options", [("--kfold", "3"), ("--train-fraction", "0.5")])
def test_options_that_contradict_a_curve_are_refused(
    program: Program, tmp_path: Path, options: tuple[str, ...]
) -> None:
    table = write(tmp_path / "mine.csv", rows(20))
    outcome = program("finetune", table, *SMALL, *options, "-o", tmp_path / "curve")
    assert (outcome.code, "leave out --kfold and --train-fraction" in outcome.stderr) == (2, True)
    assert not (tmp_path / "curve").exists()
