"""Whether two crystals have the same structure, by pymatgen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from crystalpredict.crystals.crystal import lattice_from_parameters


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
