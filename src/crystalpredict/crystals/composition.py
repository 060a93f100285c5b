"""Compositions of crystals, for many at once: one crystal alone takes NumPy longer than a hundred of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from crystalpredict.crystals.crystal import ELEMENTS, Crystal, FloatArray

N_ELEMENTS = len(ELEMENTS)
MIN_AMOUNT = 1e-6  # of an element in a cell, atoms, below which it only pads a table


def element_amounts(crystals: Sequence[Crystal]) -> FloatArray:
    """Return the number of atoms of each element, by atomic number - 1, in each of B cells, (B, 98)."""
    if not crystals:
        return np.zeros((0, N_ELEMENTS))
    rows = np.repeat(np.arange(len(crystals)), [crystal.numbers.size for crystal in crystals])
    numbers = np.concatenate([crystal.numbers.reshape(-1) for crystal in crystals]).astype(np.int64)
    weights = np.concatenate([crystal.occupancies.reshape(-1) for crystal in crystals])
    flat = np.bincount(rows * N_ELEMENTS + numbers - 1, weights.astype(float), len(crystals) * N_ELEMENTS)
    return np.asarray(flat, dtype=float).reshape(len(crystals), N_ELEMENTS)


def compositions_of(crystals: Sequence[Crystal]) -> list[dict[int, float]]:
    """Return the atomic numbers of each of B crystals, ascending, with their amounts in the cell, whole or not."""
    amounts = element_amounts(crystals)
    found: list[dict[int, float]] = [{} for _ in crystals]
    rows, columns = np.nonzero(amounts > MIN_AMOUNT)
    for row, number, amount in zip(rows.tolist(), (columns + 1).tolist(), amounts[rows, columns].tolist(), strict=True):
        found[row][number] = amount
    return found
