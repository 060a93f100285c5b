"""Random and well-known crystals for the tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from crystalpredict.crystals.crystal import Crystal
from crystalpredict.crystals.neighbors import find_neighbors
from crystalpredict.data.dataset import TRAIN, VALIDATION, CrystalTable
from crystalpredict.nn.batch import CrystalBatch, collate
from crystalpredict.properties import Property, find_property

FCC = np.array([[0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]])


def random_crystal(seed: int, n_atoms: int = 4) -> Crystal:
    """A triclinic cell of some 20 Å^3 per atom, atoms anywhere, some of them outside the cell."""
    rng = np.random.default_rng(seed)
    while True:
        lattice = np.eye(3) + rng.uniform(-0.35, 0.35, (3, 3))
        if np.linalg.det(lattice) > 0.4:
            break
    lattice *= (20.0 * n_atoms / np.linalg.det(lattice)) ** (1 / 3)
    return Crystal.ordered(lattice, rng.uniform(-0.7, 1.7, (n_atoms, 3)) @ lattice, rng.integers(1, 99, n_atoms))


def random_table(count: int) -> CrystalTable:
    """Crystals of 1 to 5 atoms; the energy is a function of the elements, and one in ten has a modulus."""
    crystals = [random_crystal(seed, n_atoms=1 + seed % 5) for seed in range(count)]
    energies = np.array([crystal.numbers.mean() / 50 - 1 for crystal in crystals])
    moduli = np.where(np.arange(count) % 10 == 3, 100.0 + energies, np.nan)
    labels = np.stack([energies, moduli], axis=1)
    table = table_of(crystals, labels, find_property("formation_energy"), find_property("bulk_modulus"))
    return replace(table, splits=np.where(np.arange(count) < count * 0.85, TRAIN, VALIDATION))


def table_of(crystals: Sequence[Crystal], labels: np.ndarray, *properties: Property) -> CrystalTable:
    """Ordered crystals to train on, with labels of some properties, (C, properties)."""
    return CrystalTable(
        ids=np.arange(len(crystals)).astype(str),
        splits=np.full(len(crystals), TRAIN),
        first=np.cumsum([0, *(crystal.n_atoms for crystal in crystals)]),
        lattices=np.array([crystal.lattice for crystal in crystals]),
        fractional=np.concatenate([crystal.positions @ np.linalg.inv(crystal.lattice) for crystal in crystals]),
        numbers=np.concatenate([crystal.numbers[:, 0] for crystal in crystals]),
        labels=labels,
        properties=properties,
    )


def rock_salt(a: float = 5.64) -> Crystal:
    lattice = a * FCC
    return Crystal.ordered(lattice, np.array([[0.0, 0, 0], [a / 2] * 3]), np.array([11, 17]))


def supercell(crystal: Crystal, matrix: np.ndarray) -> Crystal:
    """The crystal in the cell whose lattice is `matrix` (3, 3), integers, times its own."""
    lattice = matrix @ crystal.lattice
    count = round(abs(np.linalg.det(matrix)))
    reach = np.abs(matrix).sum() + 1
    grid = np.arange(-reach, reach + 1)
    images = np.stack(np.meshgrid(grid, grid, grid, indexing="ij"), -1).reshape(-1, 3)
    inside = images @ np.linalg.inv(matrix)
    images = images[((inside > -1e-9) & (inside < 1 - 1e-9)).all(axis=1)]
    assert len(images) == count
    positions = (crystal.positions[None] + (images @ crystal.lattice)[:, None]).reshape(-1, 3)
    repeat = [np.tile(part, (count, 1)) for part in (crystal.numbers, crystal.occupancies)]
    return Crystal(lattice, positions, *repeat)


def batch_of(*crystals: Crystal, radius: float, vectors: bool = False) -> CrystalBatch:
    import torch

    edges = [find_neighbors(crystal.lattice, crystal.positions, radius, vectors=vectors) for crystal in crystals]
    return collate(crystals, edges, torch.float64)
