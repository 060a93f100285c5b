"""crystalpredict.finetune: tables, DataFrames and structures to a model, with its errors."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import yaml
from pymatgen.core import Composition, Lattice, Structure
from pymatgen.io.ase import AseAtomsAdaptor

import crystalpredict
from crystalpredict import FinetuneOptions, Progress, finetune, resume_finetuning
from crystalpredict.checkpoints.checkpoint import golden_crystal, load_checkpoint, network_outputs
from crystalpredict.checkpoints.files import read_golden
from crystalpredict.checkpoints.registry import default_model
from crystalpredict.errors import DataError, UsageError
from tests.cli.conftest import Program
from tests.cli.conftest import program as program
from tests.labelled import rows, write

pytestmark = pytest.mark.usefixtures("no_picture")

QUICK: dict[str, Any] = {"scratch": True, "epochs": 2, "patience": 2}


def rock_salt(one: str, two: str, a: float) -> Structure:
    """The crystal of `tests.labelled.cif`."""
    lattice = Lattice.from_parameters(*[round(a / 2**0.5, 4)] * 3, 60, 60, 60)
    return Structure(lattice, [one, two], [[0, 0, 0], [0.5, 0.5, 0.5]])


NACL = rock_salt("Na", "Cl", 5.64)


def weights(folder: Path) -> str:
    return str(json.loads((folder / "config.json").read_text())["weights_sha256"])


def test_a_table_becomes_a_model_that_predicts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.INFO, "crystalpredict")
    lines = rows(40)
    for number, line in enumerate(lines):
        line["kappa"] = str(1 + number % 5)
    write(tmp_path / "mine.csv", lines)
    seen: list[Progress] = []
    result = finetune(
        "mine.csv", FinetuneOptions(target="kappa", unit="W/mK", log=True, epochs=2), progress=seen.append
    )
    assert result.folder == Path("finetuned-mine")
    assert "split by formula: 32 train, 4 val, 4 test" in caplog.text
    assert [found.epoch for found in seen if found.errors] == [0, 1, 2]
    (row,) = result.model.predict([NACL])
    assert row["kappa_W_per_mK"] > 0
    assert result.model is result.model
    (same,) = crystalpredict.predict(NACL, model=result.folder)
    assert same["kappa_W_per_mK"] == pytest.approx(row["kappa_W_per_mK"], rel=1e-5)
    frame = result.to_frame()
    assert list(zip(frame["part"], frame["unit"], frame["crystals"], strict=True)) == [
        (part, unit, 4) for part in ("val", "test") for unit in ("log10(W/mK)", "W/mK")
    ]
    assert frame["mae"][0] == result.metrics["val"]["kappa"]["log10(W/mK)"]["mae"]
    assert json.loads((result.folder / "metrics.json").read_text())["test"]["kappa"]["W/mK"]["mae"] == frame["mae"][3]
    assert repr(result).startswith("fine-tuned model in finetuned-mine\n")
    assert "<td>kappa</td>" in result._repr_html_()
    (said,) = json.loads((result.folder / "provenance.json").read_text())["command"]
    assert said == (
        "crystalpredict.finetune('mine.csv', FinetuneOptions(target='kappa', unit='W/mK', log=True, epochs=2))"
    )
    assert f"    {said}\n" in (result.folder / "README.md").read_text()


def test_what_the_base_model_predicts_on_request_a_model_of_it_predicts_unasked(tmp_path: Path) -> None:
    lines = rows(20)
    for number, line in enumerate(lines):
        line["bandgap_hse"] = str(1 + number % 5)
    write(tmp_path / "mine.csv", lines)
    result = finetune(tmp_path / "mine.csv", FinetuneOptions(target="bandgap_hse", epochs=1), output=tmp_path / "model")
    (row,) = result.model.predict([NACL])
    assert list(row.values) == ["bandgap_hse_eV"]


def test_the_command_and_python_give_the_same_model(program: Program, tmp_path: Path) -> None:
    table = write(tmp_path / "mine.csv", rows(30))
    outcome = program("finetune", table, "--scratch", "--epochs", "2", "--patience", "2", "-o", tmp_path / "command")
    assert outcome.code == 0
    result = finetune(table, FinetuneOptions(**QUICK), output=tmp_path / "python")
    assert weights(result.folder) == weights(tmp_path / "command")
    assert (result.folder / "metrics.json").read_bytes() == (tmp_path / "command" / "metrics.json").read_bytes()


def test_tables_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = rows(30)
    from_file = finetune(write(tmp_path / "t.csv", lines), FinetuneOptions(target="bandgap", **QUICK), output="file")
    structures: list[Any] = [
        rock_salt(*Composition(line["cif"].split()[0][5:]).as_dict(), 5 + 0.02 * number)
        for number, line in enumerate(lines)
    ]
    structures[1] = AseAtomsAdaptor.get_atoms(structures[1])
    structures[2] = lines[2]["cif"]
    for number in (3, 4):
        (tmp_path / f"{number}.cif").write_text(lines[number]["cif"])
    gaps: list[float | None] = [float(line["bandgap"]) for line in lines]
    frame = pandas.DataFrame({"structure": structures, "gap": gaps}, index=[line["id"] for line in lines])
    result = finetune(frame, FinetuneOptions(**QUICK))
    assert result.folder == Path("finetuned")
    assert result.to_frame()["mae"].to_numpy() == pytest.approx(from_file.to_frame()["mae"].to_numpy(), rel=0.05)
    splits = [(Path(folder) / "splits.csv").read_text() for folder in ("finetuned", "file")]
    assert splits[0] == splits[1]
    provenance = json.loads(Path("finetuned/provenance.json").read_text())
    assert provenance["data"]["path"] == "the DataFrame"
    assert len(provenance["data"]["sha256"]) == 64

    frame = frame.reset_index(drop=True)
    frame.loc[0, "gap"] = np.nan
    frame["label"] = range(30)
    molecule = AseAtomsAdaptor.get_atoms(structures[5])
    molecule.set_cell(np.zeros((3, 3)))
    frame.at[5, "structure"] = molecule
    finetune(frame, FinetuneOptions(target="gap", **QUICK), output="holes")
    dropped = Path("holes/dropped.csv").read_text().splitlines()[1:]
    assert [line.split(",")[1:3] for line in dropped] == [["1", "0"], ["6", "5"]]
    assert "no label" in dropped[0]
    assert "without a lattice" in dropped[1]

    names = [{"path": f"{number}.cif", "gap": number} for number in (3, 4)] * 5
    finetune(names, FinetuneOptions(split_by="random", **QUICK), output="names")
    columns = {"path": [row["path"] for row in names], "gap": [row["gap"] for row in names]}
    finetune(columns, FinetuneOptions(split_by="random", **QUICK), output="columns")
    assert weights(Path("names")) == weights(Path("columns"))
    assert (Path("names") / "splits.csv").read_text().startswith("id,split\n0,")


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    table = write(tmp_path / "mine.csv", rows(30))
    options = FinetuneOptions(target="bandgap", scratch=True, epochs=3, patience=3)
    whole = finetune(table, options, output=tmp_path / "whole")

    def stop(progress: Progress) -> None:
        if progress.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(table, options, output=tmp_path / "broken", progress=stop)
    resumed = resume_finetuning(tmp_path / "broken")
    assert weights(resumed.folder) == weights(whole.folder)
    assert resumed.metrics == whole.metrics


def test_folds_have_a_model_each(tmp_path: Path) -> None:
    table = write(tmp_path / "mine.csv", rows(30))
    result = finetune(table, FinetuneOptions(target="bandgap", kfold=3, **QUICK), output=tmp_path / "run")
    assert [fold.folder.name for fold in result.folds] == ["fold-1", "fold-2", "fold-3"]
    frame = result.to_frame()
    tests = frame[frame["part"] == "test"]
    assert list(tests["fold"]) == ["fold-1", "fold-2", "fold-3"]
    assert tests["mae"].mean() == pytest.approx(result.metrics["bandgap"]["eV"]["mae"])
    assert "3 folds: bandgap" in repr(result)
    assert "3 folds: bandgap" in result._repr_html_()
    with pytest.raises(UsageError, match="3 folds have a model each"):
        _ = result.model
    assert result.folds[0].model.predict([NACL])[0]["bandgap_eV"] >= 0


def test_a_kernel_regression_is_made_without_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With labels that follow from the volume it is better than their mean; its card and its run say what it is."""
    caplog.set_level(logging.INFO, "crystalpredict")
    lines = rows(80)
    for number, line in enumerate(lines):
        line["kappa"] = str((5 + 0.02 * number) ** 3 / 40)
    table = write(tmp_path / "mine.csv", lines)
    options = FinetuneOptions(target="kappa", unit="W/mK", log=True, kernel=True)
    result = finetune(table, options, output=tmp_path / "model")
    assert "from crystalformer-mp: a kernel regression compares with the training crystals" in caplog.text
    assert result.metrics["test"]["kappa"]["W/mK"]["r2"] > 0.7
    card = (result.folder / "README.md").read_text(encoding="utf-8")
    assert "Nothing was trained: a kernel regression on features of crystalformer-mp compares" in card
    assert "epoch" not in card.partition("## Training")[2].partition("## Limits")[0]
    assert load_checkpoint(result.folder).config.kernel_points == 64
    assert not (result.folder / "loss.png").exists()
    (row,) = result.model.predict([NACL])
    assert row["kappa_W_per_mK"] == pytest.approx(NACL.volume / 10, rel=0.1)
    low, high = row.intervals["kappa_W_per_mK"]  # of the 64 training crystals left out one by one; val has 8
    assert low < row["kappa_W_per_mK"] < high
    assert "left\nout one by one" in card
    again = resume_finetuning(result.folder)
    assert weights(again.folder) == weights(result.folder)
    folds = finetune(table, replace(options, kfold=3), output=tmp_path / "folds")
    assert len(folds.folds) == 3
    monkeypatch.setattr("crystalpredict.training.start.MOST_POINTS", 63)
    with pytest.raises(UsageError, match="63 training crystals at most, not 64: leave it out, or use some"):
        finetune(table, options, output=tmp_path / "many")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split_by": "spacegroup"}, "unknown --split-by 'spacegroup': choose from formula, random, column"),
        ({"loss": "l2"}, "unknown --loss 'l2'"),
        ({"freeze": "all"}, "unknown --freeze 'all'"),
        ({"test": 1.5}, "--test 1.5: give a number from 0 to 0.9"),
        ({"validation": 0}, "--validation 0"),
        ({"members": 0}, "--members 0"),
        ({"epochs": float("nan")}, "--epochs nan"),
        ({"seed": -1}, "--seed -1"),
        ({"scratch": True, "freeze": "encoder"}, "leave out --model and --freeze"),
        ({"kfold": 3, "test": 0.2}, "leave out --test"),
        ({"split_by": "column", "test": 0.2}, "leave out --test"),
        ({"directions": True, "freeze": "encoder"}, "leave out --freeze"),
        ({"kernel": True, "scratch": True}, "--kernel trains nothing: leave out --scratch"),
        ({"kernel": True, "learning_rate": 1e-3}, "leave out --learning-rate"),
        ({"kernel": True, "loss": "log"}, "leave out --loss"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as error:
        FinetuneOptions(**options)
    assert message in str(error.value)


def test_what_is_no_table_is_refused_and_no_folder_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    table = write(tmp_path / "mine.csv", rows(30))
    twice = pandas.DataFrame([[1, 2]], columns=["gap", "gap"])
    for data, options, message in (
        (5, None, "a int is no table"),
        (twice, None, "the DataFrame: 2 columns are called 'gap'"),
        (pandas.DataFrame({"gap": [1.0]}), None, "no column of structures"),
        (table, FinetuneOptions(target="bandgab"), "did you mean 'bandgap'"),
    ):
        with pytest.raises(UsageError, match=message):
            finetune(data, options, output="run")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="leave out --model"):
        finetune(table, FinetuneOptions(scratch=True), model="crystalformer-mp", output="run")
    with pytest.raises(DataError, match="no such file"):
        finetune("nowhere.csv", output="run")
    with pytest.raises(UsageError, match="no run to resume"):
        resume_finetuning("run")
    assert not Path("run").exists()
    Path("taken").mkdir()
    Path("taken/file").touch()
    with pytest.raises(UsageError, match="not empty; name another"):
        finetune(table, output="taken")


def test_what_is_forgotten_of_the_base_model_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "crystalpredict")
    table = write(tmp_path / "mine.csv", rows(20))
    run = finetune(table, FinetuneOptions(target="bandgap", epochs=1), output=tmp_path / "model")
    lost = "crystalformer-mp also predicts formation_energy, e_above_hull, bulk_modulus, shear_modulus"
    assert lost in caplog.text
    moved = re.search(r"reference crystals of crystalformer-mp, which have no labels: bandgap ([\d.]+) eV", caplog.text)
    assert moved
    card = (run.folder / "README.md").read_text()
    assert lost in card
    assert moved[0] in card
    crystals = [golden_crystal(*each) for each in enumerate(read_golden(default_model().folder).crystals)]
    gaps = []
    for folder in (default_model().folder, run.folder):
        model = load_checkpoint(folder)
        column = [prop.name for prop in model.properties].index("bandgap")
        gaps.append(network_outputs(model.model, crystals)[:, column] * model.deviation[column] + model.mean[column])
    assert float(moved[1]) == pytest.approx(np.abs(gaps[0] - gaps[1]).mean(), rel=0.06)
    head = yaml.safe_load(card.split("---\n")[1])
    (result,) = head["model-index"][0]["results"]
    assert result["dataset"]["split"] == "test"
    assert result["metrics"][0]["value"] == run.metrics["test"]["bandgap"]["eV"]["mae"]
    again = finetune(table, FinetuneOptions(target="bandgap", **QUICK), output=tmp_path / "scratch")
    assert "What it forgot" not in (again.folder / "README.md").read_text()


def test_a_kernel_regression_has_the_scale_and_the_warnings_of_its_own_crystals(tmp_path: Path) -> None:
    """Far from all labels it has their mean, not that of the labels that the base model learnt, and says so."""
    lines = [{**line, "bulk_modulus": f"{50 + 0.1 * number}"} for number, line in enumerate(rows(80))]
    options = FinetuneOptions(target="bulk_modulus", kernel=True)
    result = finetune(write(tmp_path / "mine.csv", lines), options, output=tmp_path / "model")
    diamond = Structure.from_spacegroup("Fd-3m", Lattice.cubic(3.57), ["C"], [[0, 0, 0]])
    inside, far = result.model.predict([rock_salt("Na", "Cl", 5.21), diamond])
    assert far["bulk_modulus_GPa"] == pytest.approx(54, abs=8)  # of diamond 443 GPa
    assert not any("far from" in text for text in inside.warnings)
    assert any("features are far from those of any training crystal" in text for text in far.warnings)
    settings = load_checkpoint(result.folder).training["settings"]
    assert settings["kernel_length"] > 1
    assert len(settings["kernel_noises"]) == 1


def test_a_kernel_regression_on_a_network_with_directions_learns_targets_with_other_rows(tmp_path: Path) -> None:
    lines = [dict(line) for line in rows(40)]
    for number, line in enumerate(lines):
        line["kappa"] = str(1 + 0.02 * number) if number % 2 else ""
        line["alpha"] = str(3 - 0.02 * number) if number % 3 else ""
    options = FinetuneOptions(target=("kappa", "alpha"), unit=("W/mK", "1/K"), kernel=True, split_by="random")
    table = write(tmp_path / "mine.csv", lines)
    result = finetune(table, options, model="crystalframer-mp", output=tmp_path / "model")
    assert load_checkpoint(result.folder).config.attention == "framed"
    (row,) = result.model.predict([rock_salt("K", "Br", 5.42)])
    assert row["kappa_W_per_mK"] == pytest.approx(1.42, abs=0.15)
    assert row["alpha_1_per_K"] == pytest.approx(2.58, abs=0.15)
