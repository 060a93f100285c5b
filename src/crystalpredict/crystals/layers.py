"""Layers without atoms, as in the cells of slabs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import numpy as np

from crystalpredict.crystals.crystal import Crystal, FloatArray

MAX_REDUCTION_ROUNDS = 50  # of a lattice; most need two or three


def empty_layers(crystals: Sequence[Crystal], lattices: FloatArray) -> FloatArray:
    """Return the thickness of the widest layer without atoms, parallel to a face of each reduced cell, Å, (B,)."""
    lattices = _reduced(lattices)
    sizes = np.array([crystal.n_atoms for crystal in crystals])
    ends = np.cumsum(sizes)
    owners = np.repeat(np.arange(len(crystals)), sizes)
    inverses = np.linalg.inv(lattices)
    positions = np.concatenate([crystal.positions for crystal in crystals])
    fractional = np.einsum("nx,nxa->na", positions, inverses[owners]) % 1
    widest = np.zeros(len(crystals))
    for axis in range(3):
        coordinates = fractional[np.lexsort((fractional[:, axis], owners)), axis]
        gaps = np.append(np.diff(coordinates), 0.0)
        gaps[ends - 1] = coordinates[ends - sizes] + 1 - coordinates[ends - 1]
        spacings = 1 / np.linalg.norm(inverses[:, :, axis], axis=1)
        widest = np.maximum(widest, np.maximum.reduceat(gaps, ends - sizes) * spacings)
    return widest


def _reduced(lattices: FloatArray) -> FloatArray:
    """Return lattices (B, 3, 3) with no vector that adding multiples of another makes shorter.

    The faces of a skewed cell are not parallel to its empty layers.
    """
    lattices = lattices.copy()
    for _ in range(MAX_REDUCTION_ROUNDS):
        reduced = True
        for one, two in permutations(range(3), 2):
            other = lattices[:, two]
            along = (lattices[:, one] * other).sum(axis=1) / (other**2).sum(axis=1)
            steps = np.round(along * (1 - 1e-6))  # exactly half a vector: rounding must not decide
            lattices[:, one] -= steps[:, None] * other
            reduced &= not steps.any()
        if reduced:
            break
    return lattices
