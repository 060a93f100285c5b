"""Types of oxides by their bonds: the Materials Project corrects energies of peroxides otherwise than those of oxides.

The bond lengths are those of pymatgen's `oxide_type`, whose types the formation energies of 2018 follow in 270 of the
273 crystals with an O-O bond and a known total energy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from crystalpredict.crystals.crystal import ATOMIC_NUMBERS, Crystal
from crystalpredict.crystals.neighbors import find_neighbors_of_many

OxideType = Literal["oxide", "peroxide", "superoxide", "ozonide"]
HYDROGEN, OXYGEN = ATOMIC_NUMBERS["H"], ATOMIC_NUMBERS["O"]
TOLERANCE = 1.1  # of a bond's length
PEROXIDE_BOND, SUPEROXIDE_BOND, HYDROXIDE_BOND = 1.49 * TOLERANCE, 1.35 * TOLERANCE, 0.93 * TOLERANCE  # Å, longest
MIN_FULL_OCCUPANCY = 0.999  # occupancy from which a site counts as fully occupied


def oxide_types(crystals: Sequence[Crystal]) -> list[OxideType]:
    """Return the type of each of some crystals; `oxide` for hydroxides, disordered crystals, and those without oxygen.

    Args:
        crystals: B crystals.
    """
    types: list[OxideType] = ["oxide"] * len(crystals)
    rows, cells = [], []
    for row, crystal in enumerate(crystals):
        if crystal.numbers.shape[1] > 1 or not (crystal.occupancies >= MIN_FULL_OCCUPANCY).all():
            continue
        oxygen = crystal.numbers[:, 0] == OXYGEN
        if 1 < oxygen.sum() < len(oxygen):
            rows.append(row)
            cells.append((crystal.lattice, crystal.positions[oxygen]))
    for row, edges in zip(rows, find_neighbors_of_many(cells, PEROXIDE_BOND), strict=True):
        centres = np.repeat(np.arange(edges.size), edges.edge_counts)
        bonded = edges.indices != centres  # neither itself nor its own images
        if bonded.any() and not _has_hydroxide(crystals[row]):
            short = bonded & (edges.distances < SUPEROXIDE_BOND)
            partners = np.unique(np.stack([centres[short], edges.indices[short]]), axis=1)[0]
            chain = (np.bincount(partners, minlength=1) > 1).any()
            types[row] = "ozonide" if chain else "superoxide" if short.any() else "peroxide"
    return types


def _has_hydroxide(crystal: Crystal) -> bool:
    """Whether an oxygen is bonded to a hydrogen."""
    numbers = crystal.numbers[:, 0]
    if not (numbers == HYDROGEN).any():
        return False
    chosen = np.isin(numbers, [HYDROGEN, OXYGEN])
    own = numbers[chosen]
    (edges,) = find_neighbors_of_many([(crystal.lattice, crystal.positions[chosen])], HYDROXIDE_BOND)
    return bool((np.repeat(own, edges.edge_counts) != own[edges.indices]).any())
