"""Read structures in the JSON of OPTIMADE (specification 1.2, entry type `structures`).

pymatgen's adapter is not used: it takes each species for the element of its name, which is wrong for shared sites.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from crystalpredict.crystals.cell import MAX_SITE_OCCUPANCY
from crystalpredict.crystals.crystal import ELEMENTS, cell_volume
from crystalpredict.errors import StructureError
from crystalpredict.io.frames import NOT_PERIODIC

# of which the positions are not those of all atoms
UNREADABLE_FEATURES = {
    "implicit_atoms": "atoms without positions (implicit_atoms)",
    "assemblies": "sites that depend on each other (assemblies)",
    "unknown_positions": "unknown positions",
}

WHOLE_CELLS = (None, "unit_cell", "molecular_unit_cell")  # spans of coordinates: all sites of a cell


def structure_of_optimade(attributes: dict[str, Any]) -> Structure:
    """Return the structure in the attributes of an OPTIMADE entry.

    Raises:
        StructureError: It is not a periodic crystal, or part of it is missing.
    """
    _refuse_part_of_cell(attributes)
    features = attributes.get("structure_features") or []
    if attributes.get("assemblies"):
        features = [*features, "assemblies"]
    if bad := next((feature for feature in features if feature in UNREADABLE_FEATURES), None):
        raise StructureError(f"an OPTIMADE structure with {UNREADABLE_FEATURES[bad]}: give its CIF")
    names, positions = attributes.get("species_at_sites"), attributes.get("cartesian_site_positions")
    if not names or not positions or not attributes["lattice_vectors"]:
        raise StructureError(
            "an OPTIMADE entry without lattice_vectors, cartesian_site_positions or species_at_sites: "
            "ask for them with response_fields"
        )
    lattice, places = np.array(attributes["lattice_vectors"], dtype=float), np.array(positions, dtype=float)
    if lattice.shape != (3, 3) or not np.isfinite(lattice).all() or not cell_volume(lattice):
        raise StructureError("the three vectors of the cell lie in a plane, or are not numbers")
    if (stated := attributes.get("nsites")) is not None and stated != len(places):
        raise StructureError(f"nsites is {str(stated)[:40]}, but {len(places)} sites have positions: give its CIF")
    if places.shape != (len(names), 3) or not np.isfinite(places).all():
        raise StructureError(f"{len(names)} species for coordinates of {len(places)} sites")
    species = {each["name"]: _occupants(each) for each in attributes.get("species") or ()}
    if missing := next((name for name in names if name not in species), None):
        raise StructureError(
            f"the species {str(missing)[:40]!r} is not among `species`: ask for it with response_fields"
        )
    return Structure(Lattice(lattice), [species[name] for name in names], places, coords_are_cartesian=True)


def _refuse_part_of_cell(attributes: dict[str, Any]) -> None:
    """Raise StructureError unless the sites are those of a cell that repeats in three directions."""
    periodic = attributes.get("dimension_types")
    if periodic and list(periodic) != [1, 1, 1]:
        raise StructureError(f"dimension_types={str(periodic)[:40]}: {NOT_PERIODIC}")
    directions = attributes.get("nperiodic_dimensions")
    if not periodic and directions not in (None, 3):
        raise StructureError(f"nperiodic_dimensions={str(directions)[:40]}: {NOT_PERIODIC}")
    span = attributes.get("site_coordinate_span")
    if span not in WHOLE_CELLS:
        raise StructureError(
            f"site_coordinate_span={str(span)[:40]}: the sites of a whole cell are needed: give its CIF"
        )


def _occupants(species: dict[str, Any]) -> dict[str, float]:
    """Return the occupancies of a species by element; a vacancy has none."""
    symbols: Sequence[str] = species["chemical_symbols"]
    if species.get("attached"):
        raise StructureError(
            f"a species with attached atoms ({str(species['attached'])[:40]}), which have no positions"
        )
    shares = species["concentration"]
    if len(shares) != len(symbols):
        raise StructureError(
            f"species {str(species['name'])[:40]!r}: {len(shares)} concentrations for {len(symbols)} chemical_symbols"
        )
    found: dict[str, float] = {}
    for symbol, share in zip(symbols, shares, strict=True):
        if symbol == "vacancy":
            continue
        if symbol not in ELEMENTS:
            raise StructureError(f"unknown element {str(symbol)[:40]!r}: the model covers H to {ELEMENTS[-1]}")
        if not 0 <= float(share) <= 1 + 1e-8:  # false for not-a-number too
            raise StructureError(f"concentration {float(share):g} of {symbol}: it must lie in 0 to 1")
        found[symbol] = found.get(symbol, 0.0) + float(share)
    if (total := sum(found.values())) > MAX_SITE_OCCUPANCY:
        raise StructureError(
            f"concentrations of species {str(species['name'])[:40]!r} add up to {total:.3g}: they must not exceed 1"
        )
    return found
