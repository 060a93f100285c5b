"""Whether two crystals have the same structure, by pymatgen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from crystalpredict.crystals.crystal import Crystal, lattice_from_parameters
from crystalpredict.errors import suppress_warnings


def structure_matcher() -> Callable[[Mapping[str, Any], Mapping[str, Any]], bool]:
    """Return a function of two rows with `lattice`, `species` and `frac_coords` that compares their structures.

    By pymatgen's StructureMatcher with its tolerances; volumes and multiples of a cell make no difference.
    """
    from pymatgen.analysis.structure_matcher import StructureMatcher
    from pymatgen.core.structure import Structure

    matcher = StructureMatcher(scale=True, attempt_supercell=False)

    def structure(row: Mapping[str, Any]) -> Structure:
        return Structure(lattice_from_parameters(row["lattice"]), row["species"], row["frac_coords"])

    return lambda one, two: bool(matcher.fit(structure(one), structure(two)))


class CrystalMatcher:
    """Says whether two crystals are the same, by pymatgen's StructureMatcher with its tolerances.

    Volumes and the choice of the cell make no difference.
    """

    def __init__(self) -> None:
        from pymatgen.analysis.structure_matcher import StructureMatcher

        self.matcher = StructureMatcher(primitive_cell=True, scale=True, attempt_supercell=False)

    def reduced(self, crystal: Crystal) -> Any:
        """Return the primitive cell of a crystal, reduced as Niggli does, which takes longer than to compare."""
        from crystalpredict.io.to_pymatgen import structure_of_crystal

        with suppress_warnings():
            cell = structure_of_crystal(crystal).get_reduced_structure(reduction_algo="niggli")
            return cell.get_primitive_structure().get_reduced_structure(reduction_algo="niggli")

    def same(self, one: Any, two: Any) -> bool:
        """Whether two crystals are the same, given their reduced cells."""
        if len(one) != len(two):
            return False
        with suppress_warnings():
            return bool(self.matcher.fit(one, two, skip_structure_reduction=True))
