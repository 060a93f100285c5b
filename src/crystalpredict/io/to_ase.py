"""Convert ordered crystals to ASE Atoms."""

from __future__ import annotations

from typing import Any

from crystalpredict.crystals.crystal import Crystal
from crystalpredict.errors import StructureError

MIN_FULL_OCCUPANCY = 1 - 1e-6


def atoms_of_crystal(crystal: Crystal) -> Any:
    """Return a crystal as ASE Atoms.

    Raises:
        StructureError: A site is shared by elements or partly occupied.
    """
    from ase import Atoms

    if crystal.occupancies.max(axis=1).min() < MIN_FULL_OCCUPANCY:
        raise StructureError("sites are shared by elements or partly occupied: give an ordered model")
    numbers = crystal.main_numbers
    return Atoms(numbers=numbers, positions=crystal.positions, cell=crystal.lattice, pbc=True)
