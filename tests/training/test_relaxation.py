"""Training of the head of relaxation, and what its labels mean."""

from __future__ import annotations

import runpy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from crystalpredict.crystals.crystal import Crystal
from crystalpredict.crystals.neighbors import find_neighbors_of_many
from crystalpredict.errors import DataError
from crystalpredict.nn.batch import collate
from crystalpredict.nn.config import ModelConfig
from crystalpredict.nn.crystalformer import Crystalformer
from crystalpredict.prediction.relaxation import deformed
from crystalpredict.training import relaxation
from crystalpredict.training.relaxation import Pair, TorchRelaxationHead, deformation_of, train_head

CONFIG = ModelConfig(blocks=1, width=32, heads=4, feedforward=64, readout=16)
SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def perovskite(random: np.random.Generator, amount: float) -> Crystal:
    """SrTiO3 with a random strain, and atoms that are moved."""
    sites = np.array([[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    strain = random.normal(size=(3, 3)) * amount / 3
    lattice = 3.9 * (np.eye(3) + (strain + strain.T) / 2)
    positions = sites @ lattice + random.normal(size=(5, 3)) * amount
    return Crystal.ordered(lattice, positions, np.array([38, 22, 8, 8, 8]))


def pairs(count: int, amount: float = 0.1) -> Iterator[Pair]:
    random = np.random.default_rng(0)
    for _ in range(count):
        yield perovskite(random, amount), perovskite(random, 0)


def test_a_deformation_leads_to_the_relaxed_crystal() -> None:
    random = np.random.default_rng(1)
    given, relaxed = perovskite(random, 0.2), perovskite(random, 0.2)
    turn = np.linalg.qr(random.normal(size=(3, 3)))[0]
    turned = replace(relaxed, lattice=relaxed.lattice @ turn, positions=(relaxed.positions + 1.3) @ turn)
    found = deformed(given, np.log(relaxed.volume / given.volume), deformation_of(given, turned))
    assert found.volume == pytest.approx(relaxed.volume)
    assert np.abs(found.lattice @ found.lattice.T - relaxed.lattice @ relaxed.lattice.T).max() < 1e-9

    def lengths(crystal: Crystal) -> np.ndarray:
        apart = (crystal.positions[:, None] - crystal.positions) @ np.linalg.inv(crystal.lattice)
        apart -= np.round(apart)
        return np.linalg.norm(apart @ crystal.lattice, axis=2)

    assert np.abs(lengths(found) - lengths(relaxed)).max() < 1e-9


def test_a_head_learns_the_way_back_and_the_network_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relaxation, "BATCH_ATOMS", 30)
    monkeypatch.setattr(relaxation, "WARM_UP_STEPS", 5)
    torch.manual_seed(0)
    network = Crystalformer(CONFIG)
    given = [crystal for crystal, _ in pairs(4)]
    lists = find_neighbors_of_many([(each.lattice, each.positions) for each in given], CONFIG.radius)
    network.fit_width_norm(collate(given, lists))
    before = {name: weight.clone() for name, weight in network.state_dict().items()}
    head = TorchRelaxationHead(CONFIG)
    errors: list[tuple[float, float]] = []
    train_head(network, head, pairs(360), 60, 5e-3, lambda _, *found: errors.append(found))
    first, last = (np.mean(some, axis=0) for some in (errors[:5], errors[-10:]))
    assert len(errors) == 60
    assert (last < [0.75 * first[0], 0.75 * first[1]]).all()
    assert all(torch.equal(before[name], weight) for name, weight in network.state_dict().items())


def test_a_training_that_fails_says_so() -> None:
    torch.manual_seed(0)
    network = Crystalformer(CONFIG)  # its widths are not set: states are not numbers
    with pytest.raises(DataError, match="not a number"):
        train_head(network, TorchRelaxationHead(CONFIG), pairs(200), 1, 1e-3)


def test_pairs_come_from_files_of_starting_cells(tmp_path: Path) -> None:
    cell = '{"lattice": [4, 4, 4, 90, 90, 90], "species": ["Na", "Cl"], "frac_coords": [[0, 0, 0], [0.5, 0.5, %s]]}'
    file = tmp_path / "pairs.jsonl"
    rows = [cell % 0.5, cell[:-1] % 0.5 + ', "unrelaxed": ' + cell % 0.47 + "}"]
    rows.append(cell[:-1] % 0.5 + ', "unrelaxed": ' + cell % 0.01 + "}")  # too far
    file.write_text("\n".join(rows))
    pairs_of = runpy.run_path(str(SCRIPTS / "train_relaxation.py"))["pairs_of"]
    ((given, relaxed),) = pairs_of(file, 40)
    assert np.abs(deformation_of(given, relaxed).displacements).max() == pytest.approx(0.06)
