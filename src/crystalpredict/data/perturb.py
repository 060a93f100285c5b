"""Perturbed copies of relaxed crystals, from which a network learns how crystals relax.

The labels of a copy are those of the relaxed crystal. Optionally its energies are its own: the strain energy follows
from the bulk modulus by the equation of state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from crystalpredict.crystals.cell import MIN_DISTANCE, valid_cells
from crystalpredict.crystals.crystal import IntArray
from crystalpredict.data.dataset import CrystalTable
from crystalpredict.properties import VOLUME_CHANGE

MIN_LOG_VOLUME, MAX_LOG_VOLUME = -0.95, 0.40


@dataclass(frozen=True)
class Perturbation:
    """How copies are perturbed; each copy draws its own amplitudes."""

    volume: float = 0.0
    """Standard deviation of the logarithm of the volume."""
    wide: float = 0.0
    """Share of the copies whose standard deviation is WIDE_VOLUME instead."""
    wide_volume: float = 0.3
    strain: float = 0.0
    """Largest standard deviation of a component of the strain; volumes are not changed by it."""
    strained: float = 0.0
    """Share of the copies that are strained."""
    displacement: float = 0.0
    """Largest root mean square displacement of an atom, Å."""
    displaced: float = 0.0
    """Share of the copies whose atoms are displaced."""
    corrected: float = 0.0
    """Share of the copies that first get the volume that they relax to: cells that a relaxation began with may be far
    from it, and a model for unrelaxed crystals sees them again at the volume that it predicts."""


def perturbed(table: CrystalTable, rows: IntArray, how: Perturbation, seed: int) -> tuple[CrystalTable, IntArray]:
    """Return perturbed copies of some crystals, labelled as relaxed, and the positions in `rows` of what they copy.

    Impossible copies are left out.

    Args:
        table: with a column of `volume_change`, which the crystals of the rows have; that of a relaxed one is 0.
        rows: of the table, R of them.
        how: to perturb.
        seed: of the random numbers.
    """
    random = np.random.default_rng(seed)
    copies = table.take(rows)
    lattices, fractional = copies.lattices.astype(float), copies.fractional.astype(float)
    count = len(rows)
    deviation = np.where(random.random(count) < how.wide, how.wide_volume, how.volume)
    logs = np.clip(random.normal(size=count) * deviation, MIN_LOG_VOLUME, MAX_LOG_VOLUME)
    column = table.properties.index(VOLUME_CHANGE)
    changes = VOLUME_CHANGE.encode(copies.labels[:, column])
    logs = np.where(random.random(count) < how.corrected, logs + changes, logs)
    strains = random.normal(size=(count, 3, 3))
    strains = (strains + strains.transpose(0, 2, 1)) / 2  # of the diagonal 1, beside it 0.7
    strains -= np.eye(3) * np.trace(strains, axis1=1, axis2=2)[:, None, None] / 3
    strains *= (random.random(count) < how.strained)[:, None, None]
    strains *= random.uniform(0, how.strain, count)[:, None, None]
    deformed = np.eye(3) + strains
    deformed *= (np.exp(logs) / np.linalg.det(deformed))[:, None, None] ** (1 / 3)
    lattices = lattices @ deformed
    moved = random.random(count) < how.displaced
    amplitudes = np.where(moved, random.uniform(0, how.displacement, count), 0.0) / np.sqrt(3)
    shifts = random.normal(size=fractional.shape) * np.repeat(amplitudes, copies.sizes)[:, None]
    inverse = np.repeat(np.linalg.inv(lattices), copies.sizes, axis=0)
    fractional = fractional + np.einsum("nx,nxy->ny", shifts, inverse)
    fractional -= np.floor(fractional)
    labels = copies.labels.copy()
    labels[:, column] = VOLUME_CHANGE.in_unit(changes - logs)
    ids = np.array([f"{name}~{seed}" for name in copies.ids])
    copies = replace(copies, ids=ids, lattices=lattices, fractional=fractional, labels=labels)
    possible = np.flatnonzero(valid_cells(lattices, copies.sizes.tolist(), MIN_DISTANCE))
    return copies.take(possible), possible


def joined(tables: Sequence[CrystalTable]) -> CrystalTable:
    """Return the crystals of several tables with the same properties, in their order."""
    first = tables[0]
    if any(table.properties != first.properties for table in tables):
        raise ValueError("the tables have different properties")
    ends = np.concatenate([[0], *(table.sizes for table in tables)]).cumsum()
    parts = {
        name: np.concatenate([getattr(table, name) for table in tables])
        for name in ("ids", "splits", "lattices", "fractional", "numbers", "labels")
    }
    return CrystalTable(first=ends, properties=first.properties, **parts)
