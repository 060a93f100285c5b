"""Convert crystals to pymatgen structures."""

from __future__ import annotations

from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from crystalpredict.crystals.crystal import ELEMENTS, Crystal


def structure_of_crystal(crystal: Crystal) -> Structure:
    """Return a crystal as a pymatgen structure, with shared and partly occupied sites as they are."""
    species = [
        {ELEMENTS[number - 1]: float(share) for number, share in zip(*site, strict=True) if share > 0}
        for site in zip(crystal.numbers.tolist(), crystal.occupancies.tolist(), strict=True)
    ]
    return Structure(Lattice(crystal.lattice), species, crystal.positions, coords_are_cartesian=True)
