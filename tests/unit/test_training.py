import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from crystalpredict.dataset import TRAIN, VALIDATION, CrystalTable, NeighborTable, neighbor_table
from crystalpredict.errors import DataError
from crystalpredict.nn import ModelConfig
from crystalpredict.training import Progress, Training, TrainingConfig, averaged_weights, learning_rate
from tests.crystals import random_crystal

MODEL = ModelConfig(blocks=2, width=32, heads=4, feedforward=64, readout=32)
CONFIG = TrainingConfig(
    properties=("formation_energy", "bulk_modulus"), epochs=3, batch_atoms=20, split_atoms=12, repeat_rare=2,
    learning_rate=2e-3, schedule="one_cycle", ema=0.9,
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[CrystalTable, NeighborTable]:
    """40 crystals; the energy is a function of the elements, and one in ten has a modulus."""
    crystals = [random_crystal(seed, n_atoms=1 + seed % 5) for seed in range(40)]
    energies = np.array([crystal.numbers.mean() / 50 - 1 for crystal in crystals])
    moduli = np.where(np.arange(40) % 10 == 3, 100.0 + energies, np.nan)
    sizes = [crystal.n_atoms for crystal in crystals]
    table = CrystalTable(
        ids=np.array([str(i) for i in range(40)]),
        splits=np.where(np.arange(40) < 34, TRAIN, VALIDATION),
        first=np.concatenate([[0], np.cumsum(sizes)]),
        lattices=np.array([crystal.lattice for crystal in crystals]),
        fractional=np.concatenate([crystal.positions @ np.linalg.inv(crystal.lattice) for crystal in crystals]),
        numbers=np.concatenate([crystal.numbers[:, 0] for crystal in crystals]),
        labels=np.stack([energies, moduli], axis=1),
        properties=("formation_energy", "bulk_modulus"),
    )
    return table, neighbor_table(table, MODEL.radius, tmp_path_factory.mktemp("neighbors"))


class Stop(Exception):
    pass


def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(data, tmp_path: Path) -> None:
    whole = Training(tmp_path / "whole", *data, MODEL, CONFIG)
    whole.run(lambda progress: None)

    def stop(progress: Progress) -> None:
        if progress.step == 20:
            raise Stop

    broken = Training(tmp_path / "broken", *data, MODEL, CONFIG)
    with pytest.raises(Stop):
        broken.run(stop, save_every=0.0)
    assert 0 < broken.position < len(broken._order(broken.epoch))
    resumed = Training(tmp_path / "broken", *data, MODEL, CONFIG)
    assert resumed.step == 19  # the state of the step before: the twentieth was not saved
    resumed.run(lambda progress: None)
    assert resumed.step == whole.step
    for (name, one), two in zip(whole.model.state_dict().items(), resumed.model.state_dict().values(), strict=True):
        assert torch.equal(one, two), name
    for name, one in averaged_weights(tmp_path / "whole").items():
        assert torch.equal(one, averaged_weights(tmp_path / "broken")[name]), name


def test_a_run_killed_between_the_last_step_of_an_epoch_and_its_end_goes_on(data, tmp_path: Path) -> None:
    training = Training(tmp_path, *data, MODEL, replace(CONFIG, epochs=1))
    training.position = len(training._order(0))
    training.save()
    resumed = Training(tmp_path, *data, MODEL, replace(CONFIG, epochs=1))
    resumed.run(lambda progress: None)
    assert (resumed.epoch, resumed.step, resumed.position) == (1, 0, 0)


def test_the_loss_falls_and_the_log_tells(data, tmp_path: Path) -> None:
    training = Training(tmp_path, *data, MODEL, replace(CONFIG, epochs=12))
    seen: list[Progress] = []
    training.run(seen.append)
    ends = [progress for progress in seen if progress.errors]
    assert ends[-1].loss < 0.6 * ends[0].loss
    assert ends[-1].errors["formation_energy"] < ends[0].errors["formation_energy"]
    assert seen[-1].done == 1
    rows = (tmp_path / "log.csv").read_text().splitlines()
    assert rows[0] == "epoch,step,seconds,learning_rate,loss,formation_energy,bulk_modulus"
    assert len(rows) == 13


def test_a_missing_label_pulls_at_nothing(data, tmp_path: Path) -> None:
    """Only the modulus has a label in row 3; the weights that make the energy alone must not feel it, nor a NaN."""
    table, neighbors = data
    labels = table.labels.copy()
    labels[3, 0] = np.nan
    training = Training(tmp_path, replace(table, labels=labels), neighbors, MODEL, replace(CONFIG, weight_decay=0.0))
    before = training.model.readout[2].weight.detach().clone()
    training._update(np.array([3]), 1e-3)
    after = training.model.readout[2].weight
    assert torch.equal(before[0], after[0])
    assert not torch.equal(before[1], after[1])
    assert all(torch.isfinite(parameter).all() for parameter in training.model.parameters())


def test_how_a_step_is_split_does_not_change_it(data, tmp_path: Path) -> None:
    rows = np.arange(30)
    weights = []
    for atoms in (5, 1000):
        training = Training(tmp_path / str(atoms), *data, MODEL, replace(CONFIG, split_atoms=atoms))
        training._update(rows, 1e-3)
        weights.append(torch.cat([parameter.flatten() for parameter in training.model.parameters()]))
    assert torch.allclose(*weights, atol=1e-5)


def test_an_epoch_shows_every_crystal_once_and_rare_labels_more_often(data, tmp_path: Path) -> None:
    training = Training(tmp_path, *data, MODEL, CONFIG)
    order = np.concatenate(list(training._steps(training._order(0))))
    shown = np.bincount(order, minlength=40)
    assert shown[:34].tolist() == [2 if row % 10 == 3 else 1 for row in range(34)]
    assert shown[34:].sum() == 0
    assert training._order(0).tolist() != training._order(1).tolist()


ONLY_TORCH_AND_NUMPY = """
import sys, runpy
blocked = ("pymatgen", "spglib", "vesin", "safetensors", "typer", "rich", "pandas", "scipy")
sys.modules.update(dict.fromkeys(blocked))  # as if they were not installed
sys.argv = ["train.py", *sys.argv[1:]]
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""


def test_training_needs_torch_and_numpy_only_and_goes_on_when_started_again(data, tmp_path: Path) -> None:
    data[0].save(tmp_path / "crystals.npz")
    script = Path(__file__).resolve().parents[2] / "scripts" / "train.py"
    for epochs in (1, 2):
        command = [
            sys.executable, "-c", ONLY_TORCH_AND_NUMPY, str(script), str(tmp_path / "crystals.npz"),
            str(tmp_path / "run"), "--set", f"epochs={epochs}", 'properties=["formation_energy"]', "--model",
            "blocks=1", "width=16", "heads=2",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert "100.0%" in done.stdout
    epochs_logged = [row.split(",")[0] for row in (tmp_path / "run" / "log.csv").read_text().splitlines()]
    assert epochs_logged == ["epoch", "1", "2"]


def test_learning_rates_of_both_schedules() -> None:
    paper = TrainingConfig()
    assert learning_rate(paper, 0, 0.0) == 5e-4
    assert learning_rate(paper, 12_000, 0.5) == pytest.approx(2.5e-4)
    cycle = TrainingConfig(schedule="one_cycle", learning_rate=1e-3, warmup=0.1)
    assert learning_rate(cycle, 0, 0.05) == pytest.approx(5e-4)
    assert learning_rate(cycle, 0, 0.1) == pytest.approx(1e-3)
    assert learning_rate(cycle, 0, 1.0) == pytest.approx(0, abs=1e-12)


def test_what_cannot_be_trained_on_is_named(data, tmp_path: Path) -> None:
    table, neighbors = data
    with pytest.raises(DataError, match="no labels for bandgap"):
        Training(tmp_path, table, neighbors, MODEL, replace(CONFIG, properties=("bandgap",)))
    with pytest.raises(DataError, match="no crystal with a usable label"):
        Training(tmp_path, replace(table, labels=table.labels * np.nan), neighbors, MODEL, CONFIG)
    constant = replace(table, labels=np.ones_like(table.labels))
    with pytest.raises(DataError, match="formation_energy: no two different labels"):
        Training(tmp_path, constant, neighbors, MODEL, CONFIG)
    diverged = Training(tmp_path / "diverged", table, neighbors, MODEL, CONFIG)
    with torch.no_grad():
        diverged.model.readout[2].bias.fill_(torch.inf)
    with pytest.raises(DataError, match=r"loss is not a number at step \d"):
        diverged.run(lambda progress: None, save_every=0)
    assert not (tmp_path / "diverged" / "state.npz").exists()
    with pytest.raises(DataError, match="unknown keys: epoch"):
        TrainingConfig.from_dict({"epoch": 3})
