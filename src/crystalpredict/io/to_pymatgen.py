"""Convert crystals to pymatgen structures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crystalpredict.crystals.crystal import ELEMENTS, Crystal
from crystalpredict.errors import suppress_warnings

if TYPE_CHECKING:
    from pymatgen.core.structure import Structure


def structure_of_crystal(crystal: Crystal) -> Structure:
    """Return a crystal as a pymatgen structure, with the occupancies of its sites."""
    from pymatgen.core.lattice import Lattice
    from pymatgen.core.structure import Structure

    species = [
        {ELEMENTS[number - 1]: float(share) for number, share in zip(*site, strict=True) if share > 0}
        for site in zip(crystal.numbers.tolist(), crystal.occupancies.tolist(), strict=True)
    ]
    with suppress_warnings():
        return Structure(Lattice(crystal.lattice), species, crystal.positions, coords_are_cartesian=True)
