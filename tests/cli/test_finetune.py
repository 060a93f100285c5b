"""`crystalpredict finetune` as the user meets it: a model from a table, and one clear line for each bad table."""

from __future__ import annotations

import csv
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crystalpredict.checkpoints.checkpoint import Checkpoint, save_checkpoint
from crystalpredict.crystals.crystal import Crystal
from crystalpredict.crystals.neighbors import find_neighbors
from crystalpredict.errors import UsageError
from crystalpredict.nn import Crystalformer, ModelConfig, network_of
from crystalpredict.nn.batch import collate
from crystalpredict.prediction.predictor import load_model
from crystalpredict.properties import find_property
from crystalpredict.training.finetune import mean_of_folds, with_directions
from crystalpredict.training.optimizer import READOUTS
from tests.labelled import METALS, PARTNERS, cif, rows, write
from tests.same import alike

pytestmark = pytest.mark.usefixtures("no_picture")
Rows = list[dict[str, str]]
SMALL = ("--scratch", "--epochs", "2", "--patience", "2")


def lines_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_validation_labels_enough_calibrate_the_model(program, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [line | {"split": "val" if number % 4 else "train"} for number, line in enumerate(rows(80))]
    write(tmp_path / "mine.csv", lines)
    outcome = program("finetune", "mine.csv", *SMALL, "-t", "bandgap", "--split-by", "column")
    assert outcome.code == 0
    assert (tmp_path / "finetuned-mine" / "calibration.safetensors").is_file()
    assert "calibrated on the `val` part" in (tmp_path / "finetuned-mine" / "README.md").read_text()
    (tmp_path / "one.cif").write_text(lines[1]["cif"])
    (row,) = program("predict", "one.cif", "--model", "finetuned-mine").rows
    assert float(row["bandgap_eV_lo90"]) < float(row["bandgap_eV"]) < float(row["bandgap_eV_hi90"])
    # a model that may know these crystals by heart says nothing of its errors on others
    run = tmp_path / "from-bundled"
    outcome = program("finetune", "mine.csv", "--epochs", "1", "-t", "bandgap", "--split-by", "column", "-o", run)
    assert outcome.code == 0
    assert not (run / "calibration.safetensors").exists()
    assert "crystalformer-mp was itself trained on bandgap" in (run / "README.md").read_text()


def test_fine_tuned_models_warn_of_odd_crystals(program, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("CRYSTALPREDICT_MODELS", str(tmp_path / "installed"))
    lines = [line | {"split": "val" if number % 4 else "train"} for number, line in enumerate(rows(80))]
    table = write(tmp_path / "mine.csv", [line | {"mine": line["bandgap"]} for line in lines])
    for name, text in (("usual", lines[1]["cif"]), ("wide", cif("Na", "Cl", 8.5)), ("unseen", cif("Xe", "Pu", 6.4))):
        (tmp_path / f"{name}.cif").write_text(text)
    files = [tmp_path / f"{name}.cif" for name in ("usual", "wide", "unseen")]

    def warnings(run: Path, *options: str) -> list[str]:
        made = program("finetune", table, "--split-by", "column", "--epochs", "1", "--jobs", "1", "-o", run, *options)
        assert made.code == 0, made.stderr
        outcome = program("predict", *files, "--model", run)
        assert outcome.code == 0
        assert ("mine_lo90" in outcome.rows[0]) == (run / "calibration.safetensors").exists()
        assert program("models", "verify", run).code == 0
        return [row["warnings"] for row in outcome.rows]

    for run, options in (("known", ("-t", "bandgap")), ("new", ("-t", "mine"))):  # without and with a calibration
        usual, wide, unseen = warnings(tmp_path / run, *options)
        assert (tmp_path / run / "calibration.safetensors").exists() == (run == "new")
        assert usual == ""
        assert "Na-Cl 4.25 Å apart" in wide
        assert "times the usual volume" in wide
        assert "Xe with Pu in none of its crystals" in unseen
        assert "It warns of elements, bonds and volumes" in (tmp_path / run / "README.md").read_text()
    again = warnings(tmp_path / "again", "-t", "bandgap", "--model", str(tmp_path / "known"))
    assert "Na-Cl 4.25 Å apart" in again[1]
    scratch = warnings(tmp_path / "scratch", "-t", "mine", "--scratch")
    assert "no Xe in it, no Pu in it" in scratch[2]
    assert "Å apart" not in scratch[1]  # too few crystals to know bonds
    assert program("models", "install", tmp_path / "known", "--name", "kept").code == 0
    assert "Na-Cl 4.25 Å apart" in program("predict", files[1], "--model", "kept").rows[0]["warnings"]
    path = tmp_path / "known" / "domain.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert (damaged := program("predict", files[1], "--model", tmp_path / "known")).code == 1
    assert "domain.safetensors: damaged or altered" in damaged.stderr
    path.unlink()
    assert "domain.safetensors: missing" in program("predict", files[1], "--model", tmp_path / "known").stderr


def test_directions_are_added_to_a_model_without_them(program, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "mine.csv", rows(40))
    outcome = program("finetune", "mine.csv", "--directions", "--epochs", "1", "--patience", "0", "-t", "bandgap")
    assert outcome.code == 0
    assert "from crystalformer-mp with directions added: at most 1 epochs" in outcome.stderr
    run = tmp_path / "finetuned-mine"
    assert json.loads((run / "config.json").read_text())["model"]["attention"] == "framed"
    (tmp_path / "one.cif").write_text(rows(1)[0]["cif"])
    (row,) = program("predict", "one.cif", "--model", run).rows
    assert not row["error"]
    assert float(row["bandgap_eV"]) > 0
    again = program("finetune", "mine.csv", "--directions", "--epochs", "1", "-m", run, "-t", "bandgap", "-o", "again")
    assert "from finetuned-mine: at most 1 epochs" in again.stderr  # it has them
    assert "leave out --freeze" in program("finetune", "mine.csv", "--directions", "--freeze", "encoder").stderr
    with pytest.raises(UsageError, match="dual attention, to which none can be added"):
        with_directions(ModelConfig(attention="dual"), "dual")


def test_an_ensemble_is_no_start(program, tmp_path: Path) -> None:
    write(tmp_path / "mine.csv", rows(20))
    shape = {"width": 16, "heads": 2, "feedforward": 16, "readout": 16, "radial_basis": 4}
    network = network_of(ModelConfig(blocks=1, **shape, members=2))
    crystal = Crystal.ordered(np.eye(3) * 3, np.zeros((1, 3)), np.array([29]))
    for member in network.networks:
        member.fit_width_norm(collate([crystal], [find_neighbors(crystal.lattice, crystal.positions, 6.0)]))
    both = Checkpoint("both", network, (find_property("bandgap"),), np.zeros(1), np.ones(1), {})
    save_checkpoint(both, tmp_path / "both", [crystal], "")
    outcome = program("finetune", tmp_path / "mine.csv", "-m", tmp_path / "both", "-o", tmp_path / "run")
    assert outcome.code == 2
    assert "both is an ensemble: start from a model of one network" in outcome.stderr
    assert not (tmp_path / "run").exists()


def test_a_table_becomes_a_model_that_every_command_takes(program, tmp_path: Path, monkeypatch, picture) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CRYSTALPREDICT_MODELS", str(tmp_path / "installed"))
    lines = rows(60)
    lines[3]["bandgap"] = "unknown"
    lines[4]["cif"] = "data_x\n"
    write(tmp_path / "mine.csv", lines)
    outcome = program("finetune", "mine.csv", "--epochs", "3")
    assert (outcome.code, outcome.stdout) == (0, "finetuned-mine\n")
    for said in (
        "mine.csv: 60 rows, structures in cif", "59 crystals of 2 to 2 atoms", "dropped 1: no unit cell",
        "1 labels left out (first: row 4, x3, bandgap is not a number ('unknown'))", "bandgap: 58 labels, 2 to 3.8",
        "split by formula: 47 train, 6 val, 6 test", "crystalformer-mp was itself trained on bandgap, bulk_modulus",
        "from crystalformer-mp: at most 3 epochs", "before training: validation error", "test: bandgap",
    ):  # fmt: skip
        assert said in outcome.stderr
    run = tmp_path / "finetuned-mine"
    assert {path.name for path in run.iterdir()} == {
        "config.json", "model.safetensors", "golden.json", "README.md", "provenance.json", "metrics.json",
        "domain.safetensors", "dropped.csv", "splits.csv", "training", "loss.png",
    }  # fmt: skip
    assert [(row["row"], row["id"]) for row in lines_of(run / "dropped.csv")] == [("4", "x3"), ("5", "x4")]
    splits = lines_of(run / "splits.csv")
    assert len(splits) == 59
    assert sum(row["split"] == "test" for row in splits) == 6
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["test"]["bandgap"]["eV"]["count"] in (5, 6)
    assert set(metrics["val"]["bulk_modulus"]) == {"log10(GPa)", "GPa"}
    provenance = json.loads((run / "provenance.json").read_text())
    assert provenance["command"] == ["crystalpredict", "finetune", "mine.csv", "--epochs", "3"]
    assert provenance["base"]["name"] == "crystalformer-mp"

    (tmp_path / "one.cif").write_text(cif("Na", "Cl", 5.64))
    predicted = program("predict", "one.cif", "--model", "finetuned-mine")
    assert predicted.code == 0
    assert set(predicted.rows[0]) >= {"bandgap_eV", "bulk_modulus_GPa"}
    assert program("models", "verify", "finetuned-mine").code == 0
    assert "bandgap, eV | test" in program("models", "info", "finetuned-mine").stdout
    assert program("models", "install", "finetuned-mine", "--name", "mine").code == 0
    by_name = program("predict", "one.cif", "--model", "mine")
    assert alike(by_name.rows, predicted.rows)
    assert not any(column.endswith("_lo90") for column in predicted.rows[0])  # 6 labels are too few to calibrate
    assert "It has no intervals" in (run / "README.md").read_text()
    assert "mine  installed in" in program("models", "list").stdout
    again = program("models", "install", "finetuned-mine", "--name", "mine")
    assert (again.code, "already installed" in again.stderr) == (2, True)
    assert program("models", "install", "finetuned-mine", "--name", "mine", "--replace").code == 0
    assert program("models", "install", "finetuned-mine", "--name", "../mine").code == 2
    assert program("models", "install", "finetuned-mine", "--name", "crystalformer-mp").code == 2
    assert program("models", "remove", "mine").code == 0
    assert program("predict", "one.cif", "--model", "mine").code == 2

    refused = program("finetune", "mine.csv")
    assert (refused.code, "--resume finetuned-mine" in refused.stderr) == (2, True)


def test_a_property_of_ones_own_with_its_unit_and_logarithm(program, tmp_path: Path) -> None:
    lines = [row | {"kappa": f"{10 ** (number % 4 - 1)}"} for number, row in enumerate(rows(40))]
    write(tmp_path / "mine.csv", lines)
    run = tmp_path / "run"
    options = ("--target", "kappa", "--unit", "W/m K", "--log", "--freeze", "encoder", "--epochs", "1")
    outcome = program("finetune", tmp_path / "mine.csv", *options, "-o", run)
    assert outcome.code == 0, outcome.stderr
    assert "itself trained" not in outcome.stderr
    (tmp_path / "one.cif").write_text(cif("Na", "Cl", 5.64))
    (row,) = program("predict", tmp_path / "one.cif", "--model", run, "--target", "kappa").rows
    assert 0.1 < float(row["kappa_W_per_m_K"]) < 100
    base = json.loads((run / "provenance.json").read_text())["base"]
    import safetensors.numpy

    new = safetensors.numpy.load_file(run / "model.safetensors")
    old = safetensors.numpy.load_file(Path(base["folder"]) / "model.safetensors")
    changed = {name for name in new if new[name].shape != old[name].shape or not np.array_equal(new[name], old[name])}
    assert changed
    assert all(name.startswith(READOUTS) for name in changed)


@pytest.mark.parametrize(("scale", "unit"), [("none", 1e-6), ("log", 1e-6), ("log", 1e-28)])
def test_a_property_of_small_numbers_is_written_with_digits_enough(program, tmp_path: Path, scale, unit) -> None:
    lines = [row | {"alpha": f"{(10 + number % 7) * unit}"} for number, row in enumerate(rows(40))]
    table, run = write(tmp_path / "mine.csv", lines), tmp_path / "run"
    options = ("--target", "alpha", "--freeze", "encoder", "--epochs", "1", *(["--log"] if scale == "log" else []))
    outcome = program("finetune", table, *options, "-o", run)
    assert outcome.code == 0, outcome.stderr
    files = []
    for number in range(2):
        files.append(tmp_path / f"{number}.cif")
        files[-1].write_text(lines[number]["cif"])
    said = [float(row["alpha"]) for row in program("predict", *files, "-m", run, "--no-uncertainty").rows]
    assert said == pytest.approx([13 * unit] * 2, rel=0.5)
    lines = program("predict", *files, "-m", run, "--no-uncertainty", "-f", "jsonl").stdout.splitlines()
    assert [json.loads(line)["alpha"] for line in lines] == said
    whole = load_model(run).predict([str(file) for file in files])
    assert said == pytest.approx([each.values["alpha"] for each in whole], rel=2e-3)


def test_a_network_that_sees_directions_is_fine_tuned_and_evaluated_like_any(program, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = ModelConfig(
        blocks=1, width=16, heads=2, feedforward=16, readout=16, radial_basis=8, attention="framed", direction_basis=8
    )
    gap = find_property("bandgap")
    network = Crystalformer(config)
    crystal = Crystal.ordered(np.eye(3) * 3, np.array([[0, 0, 0], [1.4, 1.5, 1.5]]), np.array([29, 30]))
    edges = find_neighbors(crystal.lattice, crystal.positions, config.radius, vectors=True)
    network.fit_width_norm(collate([crystal], [edges]))
    framed = Checkpoint("framed", network.eval(), (gap,), np.array([2.5]), np.array([0.5]), {})
    save_checkpoint(framed, tmp_path / "framed", [crystal], "")
    table = write(tmp_path / "mine.csv", rows(40))
    options = ("--target", "bandgap", "--epochs", "1", "-o", tmp_path / "run")
    outcome = program("finetune", table, "--model", tmp_path / "framed", *options)
    assert outcome.code == 0, outcome.stderr
    compared = program("evaluate", table, "--model", tmp_path / "run", "--compare", "crystalformer-mp", "-t", "bandgap")
    assert compared.code == 0, compared.stderr
    assert [(row["model"], row["crystals"]) for row in compared.rows] == [("run", "40"), ("crystalformer-mp", "40")]


def test_members_are_one_model_that_says_the_mean_of_runs_with_their_seeds(program, tmp_path: Path) -> None:
    lines = [row | {"mine": row["bandgap"], "split": "train" if n % 4 else "val"} for n, row in enumerate(rows(40))]
    table = write(tmp_path / "mine.csv", lines)
    (tmp_path / "one.cif").write_text(lines[0]["cif"])
    said = {}
    for name, options in {
        "5": ("--seed", "5"),
        "6": ("--seed", "6"),
        "both": ("--seed", "5", "--members", "2"),
    }.items():
        run = tmp_path / name
        trained = program("finetune", table, *SMALL, *options, "-t", "mine", "--split-by", "column", "-o", run)
        assert trained.code == 0, trained.stderr
        (row,) = program("predict", tmp_path / "one.cif", "-m", run).rows
        said[name] = float(row["mine"])
    assert said["both"] == pytest.approx((said["5"] + said["6"]) / 2, rel=1e-4)
    assert said["5"] != pytest.approx(said["6"], rel=1e-3)
    assert "member 2 of 2" in trained.stderr
    assert "the mean of 2 ensemble members" in (tmp_path / "both" / "README.md").read_text()
    assert "mine" in program("evaluate", table, "-m", tmp_path / "both", "-t", "mine").stdout


def test_what_a_base_learnt_is_not_forgotten_on_the_way(program, tmp_path: Path) -> None:
    lines = [row | {"mine": row["bandgap"]} for row in rows(40)]
    table = write(tmp_path / "mine.csv", lines)
    first = program("finetune", table, "-t", "mine", "--freeze", "encoder", "--epochs", "1", "-o", tmp_path / "first")
    assert (first.code, "crystalformer-mp was itself trained" in first.stderr) == (0, False)
    options = ("-t", "bandgap", "--epochs", "1", "--model", tmp_path / "first", "-o", tmp_path / "second")
    second = program("finetune", table, *options)
    assert second.code == 0, second.stderr
    assert "first was itself trained on bandgap" in second.stderr
    assert "elements new" not in second.stderr
    assert not (tmp_path / "second" / "calibration.safetensors").exists()
    seen = [json.loads((tmp_path / run / "config.json").read_text())["training"] for run in ("first", "second")]
    assert len(seen[1]["elements_seen"]) > 80
    assert [["mine", "", "none"] in each["learnt"] for each in seen] == [True, True]


def test_folds_test_each_row_once_and_give_a_mean_and_a_deviation(program, tmp_path: Path) -> None:
    write(tmp_path / "mine.csv", rows(40))
    run = tmp_path / "run"
    outcome = program("finetune", tmp_path / "mine.csv", *SMALL, "--kfold", "3", "-o", run)
    assert outcome.code == 0, outcome.stderr
    tested = [
        row["id"] for k in (1, 2, 3) for row in lines_of(run / f"fold-{k}" / "splits.csv") if row["split"] == "test"
    ]
    assert sorted(tested) == sorted(row["id"] for row in rows(40))
    summary = json.loads((run / "metrics.json").read_text())["bandgap"]["eV"]
    assert summary["mae"] == pytest.approx(np.mean(summary["folds"]))
    assert summary["deviation"] == pytest.approx(np.std(summary["folds"], ddof=1))
    assert "3 folds: bandgap" in outcome.stderr
    again = program("finetune", tmp_path / "mine.csv", *SMALL, "--kfold", "2", "-q", "-o", tmp_path / "quiet")
    assert (again.code, again.stderr) == (0, "")


def test_folds_without_labels_of_a_property_leave_it_to_the_others() -> None:
    reports = [{"test": {"a": {"eV": {"mae": 1.0}}}}, {"test": {"a": {"eV": {"mae": 3.0}}, "b": {"K": {"mae": 5.0}}}}]
    summary = mean_of_folds(reports)
    assert (summary["a"]["eV"]["mae"], summary["b"]["K"]["folds"]) == (2.0, [None, 5.0])
    assert summary["b"]["K"]["mae"] == 5.0


def test_the_users_own_split_is_kept(program, tmp_path: Path) -> None:
    parts = ["train"] * 30 + ["val"] * 9 + ["test"]  # one, of which nothing has a deviation
    lines = [row | {"split": part} for row, part in zip(rows(40), parts, strict=True)]
    lines[-1]["cif"] = cif("Ra", "O", 6)
    run = tmp_path / "run"
    outcome = program("finetune", write(tmp_path / "mine.csv", lines), *SMALL, "--split-by", "column", "-o", run)
    assert outcome.code == 0, outcome.stderr
    assert [row["split"] for row in lines_of(run / "splits.csv")] == parts
    seen = json.loads((run / "config.json").read_text())["training"]["elements_seen"]
    assert (11 in seen, 88 in seen) == (True, False)  # no element of the test part
    metrics = json.loads((run / "metrics.json").read_text(), parse_constant=pytest.fail)
    assert metrics["test"]["bandgap"]["eV"]["r2"] is None
    assert "nan" not in (run / "README.md").read_text()


def test_a_card_does_not_say_that_an_epoch_was_chosen_where_the_last_is_kept(program, tmp_path: Path) -> None:
    table = write(tmp_path / "mine.csv", rows(40))
    for name, options, part in (
        ("last", ("--patience", "0"), "In brackets"),
        (
            "chosen",
            ("--test", "0"),
            "The crystals of `val` chose the epoch, which makes their errors too small. In brackets",
        ),
        (
            "frozen",
            ("--freeze", "encoder"),
            "The crystals of `val` chose the epoch, which makes their errors too small: use those of `test`. In",
        ),
    ):
        outcome = program("finetune", table, "-t", "bandgap", "--epochs", "1", *options, "-o", tmp_path / name)
        assert outcome.code == 0, outcome.stderr
        card = (tmp_path / name / "README.md").read_text()
        assert f"that the run was not trained on. {part}" in card
        assert ("Muon" in card, "(none for the encoder)" in outcome.stderr) == (name != "frozen", name == "frozen")


def test_ids_that_are_no_text_do_not_end_a_run(program, tmp_path: Path) -> None:
    table = tmp_path / "mine.jsonl"
    table.write_text("\n".join(json.dumps(row | {"id": f"\ud800{row['id']}"}) for row in rows(40)))
    outcome = program("finetune", table, *SMALL, "-o", tmp_path / "run")
    assert outcome.code == 0, outcome.stderr
    assert lines_of(tmp_path / "run" / "splits.csv")[0]["id"] == r"\ud800x0"


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "crystalpredict", *map(str, arguments)]


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1"}


def finish(*arguments: str | Path) -> None:
    done = subprocess.run(command(*arguments), env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def weights(run: Path) -> str:
    return str(json.loads((run / "config.json").read_text())["weights_sha256"])


def wait_for(condition: Callable[[], Any], process: subprocess.Popen[str]) -> None:
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


KILLED = ("--epochs", "3", "--patience", "3", "--batch-atoms", "8", "--test", "0", "--members")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a run of so many members that nobody ended, beside its table; made when it is first asked for."""

    @cache
    def run(members: str) -> Path:
        folder = tmp_path_factory.mktemp("whole")
        finish("finetune", write(folder / "mine.csv", rows(30)), *KILLED, members, "-o", folder / "run")
        return folder / "run"

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "members", "begun"),
    [
        (signal.SIGKILL, "1", ""),
        (signal.SIGINT, "1", ""),
        (signal.SIGKILL, "2", "member-1"),
        (signal.SIGINT, "2", "member-2"),
        (signal.SIGTERM, "1", ""),
    ],
)
def test_a_run_that_is_killed_and_resumed_ends_with_the_weights_of_an_uninterrupted_one(
    tmp_path: Path, whole: Callable[[str], Path], how: signal.Signals, members: str, begun: str
) -> None:
    expected, broken = whole(members), tmp_path / "broken"
    process = subprocess.Popen(
        command("finetune", expected.with_name("mine.csv"), *KILLED, members, "-o", broken),
        env=environment(), stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for((broken / "training" / begun / "log.csv").exists, process)
    process.send_signal(how)
    _, said = process.communicate()
    assert process.returncode == (-9 if how == signal.SIGKILL else 130)
    assert not (broken / "config.json").exists()
    if how != signal.SIGKILL:
        assert f"continue with crystalpredict finetune --resume {broken}" in said
    finish("finetune", "--resume", broken)
    assert weights(broken) == weights(expected)
    assert (broken / "metrics.json").read_bytes() == (expected / "metrics.json").read_bytes()


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one(program, tmp_path: Path) -> None:
    table = write(tmp_path / "mine.csv", rows(30))
    options = ("--epochs", "2", "--batch-atoms", "16")
    one_process = program("finetune", table, *options, "-o", tmp_path / "one")
    assert one_process.code == 0, one_process.stderr
    together = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    arguments = [*command("finetune", table, *options, "-o", tmp_path / "two")[1:]]
    done = subprocess.run([*together, *arguments], env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    one, two = (lines_of(tmp_path / name / "training" / "log.csv") for name in ("one", "two"))
    assert len(one) == len(two) == 2
    for first, second in zip(one, two, strict=True):
        for column in ("loss", "bandgap", "bulk_modulus"):
            assert float(first[column]) == pytest.approx(float(second[column]), abs=1e-4)
    assert (tmp_path / "two" / "model.safetensors").exists()


Change = Callable[[Rows], Rows]


def each(**values: str) -> Change:
    return lambda lines: [row | values for row in lines]


BAD_ROWS: dict[str, tuple[Change, tuple[str, ...], str]] = {
    "wrong target": (each(), ("--target", "bandgab"), "did you mean 'bandgap'"),
    "target that is not there": (each(), ("--target", "seebeck"), "no column 'seebeck'"),
    "wrong structure column": (each(), ("--structure-column", "geometry"), "no column 'geometry'"),
    "no structure column": (lambda lines: [{"id": row["id"], "gap": "1"} for row in lines], (), "--structure-column"),
    "no known property": (lambda lines: [{"cif": row["cif"], "x": "1"} for row in lines], (), "--target"),
    "header only": (lambda lines: [], (), "none of its 0 rows"),
    "text labels": (each(bandgap="wide"), ("-t", "bandgap"), "holds text ('wide')"),
    "no labels": (each(bandgap=""), ("-t", "bandgap"), "bandgap is empty"),
    "labels NaN": (each(bandgap="NaN"), ("-t", "bandgap"), "bandgap is empty"),
    "labels infinite": (each(bandgap="-inf"), ("-t", "bandgap"), "bandgap is infinite"),
    "one row": (lambda lines: lines[:1], (), "1 rows in 1 groups cannot be split"),
    "two rows": (lambda lines: lines[:2], (), "cannot be split"),
    "one composition": (each(cif=cif("Na", "Cl", 5.6)), (), "--split-by random"),
    "all metals": (each(bandgap="0"), ("-t", "bandgap"), "training needs labels of at least two values (all are 0)"),
    "moduli that are not positive": (each(my="-3"), ("-t", "my", "--log"), "my is not positive"),
    "structures that are none": (each(cif="data_x"), (), "no row has a structure to train on"),
    "empty structures": (each(cif=""), (), "no structure in the column cif"),
    "missing files": (lambda lines: [{"path": "a.cif", "gap": row["bandgap"]} for row in lines], (), "no such file"),
    "a web page as structure": (each(cif="<html>"), (), "a web page"),
    "unknown elements": (each(cif=cif("Xx", "O", 5)), (), "no row has a structure to train on"),
    "disordered": (
        lambda lines: [row | {"cif": "\n".join(
            line + (" 0.5" if line.endswith(" 0 0 0") else " 1" if line.endswith("0.5 0.5 0.5") else
                    "\n_atom_site_occupancy" if line == "_atom_site_fract_z" else "")
            for line in row["cif"].splitlines())} for row in lines],
        (), "partly occupied",
    ),
    "split column with other words": (each(split="hold"), ("--split-by", "column"), "write train, val or test"),
    "a split of another word": (each(split="hold"), ("--split-by", "column"), "'hold' in the column split"),
    "no split column": (each(), ("--split-by", "column"), "nothing in the column split"),
    "nothing to train on": (each(split="test"), ("--split-by", "column"), "there are none"),
    "more folds than groups": (each(), ("--kfold", "99"), "--kfold 99"),
    "one fold": (each(), ("--kfold", "1"), "at least 2"),
    "folds of ones own split": (each(split="train"), ("--split-by", "column", "--kfold", "3"), "--split-by column"),
    "a test part beside folds": (each(), ("--kfold", "3", "--test", "0.5"), "leave out --test"),
    "a test part beside a column": (each(split="train"), ("--split-by", "column", "--test", "0.5"), "leave out --test"),
    "a share beside a column": (each(split="val"), ("--split-by", "column", "--validation", "0.2"), "out --validation"),
    "a unit of nothing": (each(), ("--unit", "eV"), "--target"),
    "a logarithm of nothing": (each(), ("--log",), "--target"),
    "unit of another": (each(), ("-t", "bandgap", "--unit", "meV"), "convert the labels"),
    "too many units": (each(), ("-t", "bandgap", "--unit", "eV", "--unit", "GPa"), "2 units for 1 targets"),
    "a name that is taken": (each(index="1"), ("-t", "index"), "rename the column"),
    "two columns of a property": (each(gap="1"), (), "more than one column for bandgap"),
    "a name that is none": (each(**{"%": "1"}), ("-t", "id"), "holds text"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_ROWS)
def test_a_bad_table_is_one_clear_line(program, tmp_path: Path, kind: str) -> None:
    change, options, message = BAD_ROWS[kind]
    changed = change(rows(20))
    path = write(tmp_path / "mine.csv", changed, (changed or rows(1))[0])
    refused(program("finetune", path, *options, "-o", tmp_path / "run"), message, tmp_path / "run")


def refused(outcome, message: str, run: Path) -> None:
    assert (outcome.code, outcome.stdout) == (2, ""), outcome
    (line,) = outcome.stderr.splitlines()
    assert line.startswith("crystalpredict: error: ")
    assert message in line
    assert not run.exists()


BAD_FILES: dict[str, tuple[str, bytes, str]] = {
    "empty": ("t.csv", b"", "empty"),
    "blank": ("t.csv", b"\n \n\n", "empty"),
    "a zip": ("t.xlsx", b"PK\x03\x04" + bytes(99), "a zip or Excel file"),
    "binary": ("t.csv", b"a,b\n\0\1\2", "a binary file"),
    "cut off": ("t.csv.gz", gzip.compress(b"cif,bandgap\n" + os.urandom(9999).hex().encode())[:-900], "cannot be read"),
    "open quotes": ("t.csv", b'cif,bandgap\n"data_x,1\nb,2\n', "broken CSV"),
    "mixed delimiters": ("t.csv", b"path,bandgap\na.cif;1\nb.cif;2\n", "1 fields where the header has 2"),
    "columns of one name": ("t.csv", b"path,bandgap,bandgap\na.cif,1,2\n", "2 columns are called 'bandgap'"),
    "a million columns": ("t.csv", ",".join(map(str, range(1_000_000))).encode() + b"\n", "1,000,000 columns"),
    "broken JSON": ("t.json", b'[{"structure": ', "broken JSON"),
    "JSON of numbers": ("t.json", b"[1, 2, 3]", "no list of objects"),
    "JSON lines with another": ("t.jsonl", b'{"cif": "x"}\n[1]\n', "line 2: not a JSON object"),
    "broken parquet": ("t.parquet", b"PAR1" + bytes(50), "arquet"),
    "no text": ("t.csv", b"\x89PNG\r\n\x1a\n" + bytes(50), "an image"),
    "latin-1": ("t.csv", b"path,Gr\xf6\xdfe\na.cif,1\n", "no column is a known property"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_file_that_is_no_table_is_one_clear_line(program, tmp_path: Path, kind: str) -> None:
    name, content, message = BAD_FILES[kind]
    (tmp_path / name).write_bytes(content)
    refused(program("finetune", tmp_path / name, "-o", tmp_path / "run"), message, tmp_path / "run")


def test_what_cannot_be_started_or_resumed_is_one_clear_line(program, tmp_path: Path, monkeypatch) -> None:
    table = write(tmp_path / "mine.csv", rows(20))
    run = tmp_path / "run"
    refused(program("finetune", tmp_path / "none.csv", "-o", run), "no such file", run)
    refused(program("finetune", tmp_path, "-o", run), "a folder without id_prop.csv", run)
    refused(program("finetune", table, "--scratch", "--freeze", "encoder", "-o", run), "--scratch", run)
    refused(program("finetune", table, "--model", "crystalformer", "-o", run), "did you mean", run)
    refused(program("finetune", table, "-o", run / "deep" / "er"), "create it first", run)
    refused(program("finetune", "-o", run), "name either a table", run)
    refused(program("finetune", table, "--resume", tmp_path), "name either a table", run)
    refused(program("finetune", "--resume", tmp_path), "no run to resume", run)
    refused(program("finetune", "--resume", tmp_path, "--epochs", "20"), "leave out --epochs", run)
    refused(program("finetune", table, "-o", tmp_path), "not empty; name another", run)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)  # for root may write everywhere
    refused(program("finetune", table, "-o", run), "no permission", run)
    assert len({(one, two) for one in METALS for two in PARTNERS}) == 80
