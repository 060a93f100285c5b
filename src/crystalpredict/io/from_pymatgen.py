"""Convert pymatgen structures and ASE Atoms to checked crystals with their neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from pymatgen.core.composition import Composition, reduce_formula
from pymatgen.core.lattice import Lattice
from pymatgen.core.periodic_table import DummySpecies, Element, Species
from pymatgen.core.structure import IStructure, Structure

from crystalpredict.crystals.cell import (
    MAX_CELLS_AWAY,
    MAX_EDGES,
    MAX_SITE_OCCUPANCY,
    MIN_DISTANCE,
    cell_error,
    estimate_edges,
    find_coincident_atoms,
    reduce_lattice,
    valid_cells,
    wrap_positions,
)
from crystalpredict.crystals.crystal import ELEMENTS, Crystal, Neighbors, cell_volume
from crystalpredict.crystals.neighbors import MAX_ATOMS_DENSE_SEARCH, find_neighbors, shortest_edge
from crystalpredict.errors import StructureError, suppress_warnings
from crystalpredict.io.frames import PARTLY_OCCUPIED, is_partly_occupied
from crystalpredict.io.text import CIF_SITE, CIF_WARNINGS, STATED_FORMULA

if TYPE_CHECKING:
    from pymatgen.core.sites import PeriodicSite


MAX_FORMULA_CHARACTERS = 1000
MAX_AMOUNT = 1e6  # of an element in a formula
OTHER_FORMULA = "composition differs from the formula stated in the CIF"
with suppress_warnings():  # pymatgen warns once for each noble gas, which has no electronegativity
    for _element in Element:
        _ = _element.X


def structure_of_ase(atoms: Any) -> Structure | StructureError:
    """Return the structure of ASE Atoms, or the error; ASE need not be installed."""
    try:
        cell = np.array(atoms.get_cell(), dtype=float).reshape(3, 3)
        if not cell_volume(cell):
            return StructureError("a molecule without a lattice: a periodic cell is needed")
        if is_partly_occupied(atoms.info):
            return StructureError(PARTLY_OCCUPIED)
        x, y, z = map(bool, atoms.get_pbc())
        return Structure(
            Lattice(cell, pbc=(x, y, z)), atoms.get_chemical_symbols(), atoms.get_positions(), coords_are_cartesian=True
        )
    except Exception as error:  # any object with get_cell comes here
        return StructureError(f"broken Atoms ({type(error).__name__}: {str(error)[:160]})")


def plain_dictionary(structure: Any) -> dict[str, Any]:
    """Return a pymatgen structure or ASE Atoms as pymatgen's dictionary, without site properties.

    Raises:
        StructureError: It has no lattice.
    """
    found = structure_of_ase(structure) if hasattr(structure, "get_cell") else structure
    if isinstance(found, StructureError):
        raise found
    if not hasattr(found, "lattice"):
        raise StructureError("a molecule without a lattice: a periodic cell is needed")
    plain = Structure(found.lattice, found.species_and_occu, found.frac_coords)
    return dict(plain.as_dict())


def reduced_formula(counts: dict[str, int]) -> str:
    """Return `Composition(counts).reduced_formula`, without building a Composition."""
    formula, _ = reduce_formula(counts)
    return Composition.special_formulas.get(formula, formula)


def composition_of_formula(formula: str) -> dict[int, float]:
    """Return the atomic numbers of a formula with their amounts.

    Args:
        formula: such as `Ca(OH)2` or `Li0.5CoO2`.

    Raises:
        ValueError: The text is not a formula, or has an element that no model covers.
    """
    if len(formula) > MAX_FORMULA_CHARACTERS:
        raise ValueError(f"a formula of {len(formula)} characters")
    try:
        composition = Composition(formula, strict=True)
        amounts = {element.Z: float(amount) for element, amount in composition.element_composition.items()}
    except Exception:  # the parser raises errors of many kinds
        raise ValueError(f"{formula[:60]!r} is not a formula: write it as in Fe2O3") from None
    if not amounts or not all(0 < amount < MAX_AMOUNT for amount in amounts.values()):
        raise ValueError(f"{formula[:60]!r} is not a formula: write it as in Fe2O3")
    if unknown := [number for number in amounts if number > len(ELEMENTS)]:
        raise ValueError(f"{formula[:60]!r}: no model covers the element {Element.from_Z(unknown[0]).symbol}")
    return amounts


def crystal_of_structure(
    structure: Structure, elements: Sequence[int] = (), *, valid: bool = False
) -> tuple[Crystal, list[str]]:
    """Return the crystal of a pymatgen structure, and warnings.

    Oxidation states, spins and isotopes are dropped. A site shared by several elements, or partly vacant, keeps its
    occupancies.

    Args:
        structure: The structure.
        elements: Atomic number of each site, if each is fully occupied by one element.
        valid: Whether the cell is known to be possible.

    Raises:
        StructureError: It is not a crystal, or an element, a coordinate or an occupancy is impossible.
    """
    if not hasattr(structure, "lattice"):  # a Molecule, from Python
        raise StructureError("a molecule without a lattice: a periodic cell is needed")
    if not len(structure):
        raise StructureError("no atoms in the cell")
    if not all(structure.lattice.pbc):
        raise StructureError(f"pbc={structure.lattice.pbc}: a cell that is periodic in all three directions is needed")
    lattice = np.array(structure.lattice.matrix, dtype=float)
    if not valid and (error := cell_error(lattice, len(structure))):
        raise StructureError(error)
    fractional = np.array(structure.frac_coords, dtype=float)
    if not np.abs(fractional).max() < MAX_CELLS_AWAY:  # false for not-a-number too
        raise StructureError(f"a coordinate is not a number, or more than {MAX_CELLS_AWAY:.0e} cells away")
    positions = (fractional - np.floor(fractional)) @ lattice
    notes = []
    stated = structure.properties.get(STATED_FORMULA, "")
    if stated and differs_from_formula(structure.composition, stated):
        notes.append(OTHER_FORMULA)
    notes.extend(structure.properties.get(CIF_WARNINGS, ()))
    if elements:
        return Crystal.ordered(lattice, positions, np.array(elements)), notes
    sites = [_occupants(site, _name(site, number)) for number, site in enumerate(structure, start=1)]
    columns = max(len(site) for site in sites)
    numbers = np.ones((len(sites), columns), dtype=np.int64)
    occupancies = np.zeros((len(sites), columns))
    for row, site in enumerate(sites):
        for column, (number, occupancy) in enumerate(sorted(site.items())):
            numbers[row, column], occupancies[row, column] = number, occupancy
    partial = int((occupancies.max(axis=1) < 1 - 1e-6).sum())
    if partial:
        notes.insert(0, f"{partial} of {len(sites)} sites partly occupied: predicted for the average site, unverified")
    return Crystal(lattice, positions, numbers, occupancies), notes


def ordered_elements(structure: Structure) -> list[int]:
    """Return the atomic number of each site; empty unless each is fully occupied by one element of ELEMENTS."""
    numbers = []
    for site in structure:
        species = site.species
        (kind, amount), *others = species.items() if len(species) else [(None, 0)]
        if others or amount != 1 or not isinstance(kind, Element | Species) or not 1 <= kind.Z <= len(ELEMENTS):
            return []
        numbers.append(kind.Z)
    return numbers


def _name(site: PeriodicSite, number: int) -> str:
    """Return the label of a site for messages: that of its CIF, or its number in the cell."""
    return str(site.properties.get(CIF_SITE, f"site {number}"))


def _occupants(site: PeriodicSite, name: str) -> dict[int, float]:
    """Return the occupancies of a site by atomic number."""
    occupants: dict[int, float] = {}
    for species, occupancy in site.species.items():
        if isinstance(species, DummySpecies):
            raise StructureError(f"unknown element {species.symbol!r} at {name}: name a chemical element")
        if not 1 <= species.Z <= len(ELEMENTS):
            raise StructureError(f"element {species.symbol} at {name}: the model covers H to {ELEMENTS[-1]} only")
        if not occupancy >= 0:  # false for not-a-number too
            raise StructureError(f"occupancy {occupancy:g} of {species.symbol} at {name}: must lie in 0 to 1")
        occupants[species.Z] = occupants.get(species.Z, 0.0) + float(occupancy)
    total = sum(occupants.values())
    if total > MAX_SITE_OCCUPANCY:
        raise StructureError(f"occupancies at {name} add up to {total:.3g}: they must not exceed 1")
    if total <= 0:
        raise StructureError(f"{name} is empty: all its occupancies are 0")
    scale = 1 / total if abs(total - 1) <= MAX_SITE_OCCUPANCY - 1 else 1.0
    return {z: occupancy * scale for z, occupancy in occupants.items() if occupancy > 0}


def have_valid_cells(structures: Sequence[Any], radius: float) -> list[bool]:
    """Return which of many are structures with a cell that is certainly valid, as `valid_cells`."""
    lattices, sizes = np.zeros((len(structures), 3, 3)), [0] * len(structures)
    for row, structure in enumerate(structures):
        if isinstance(structure, IStructure):
            lattices[row], sizes[row] = structure.lattice.matrix, len(structure)
    return list(valid_cells(lattices, sizes, radius).tolist())


def neighbors_of_structure(structure: Structure, crystal: Crystal, radius: float, *, vectors: bool) -> Neighbors:
    """Return the neighbours within the radius, Å, periodic images included.

    In a large cell, atoms that are too close are searched first.

    Raises:
        StructureError: Two atoms are too close, or there are more than MAX_EDGES neighbours.
    """
    lattice = reduce_lattice(crystal.lattice)
    places = wrap_positions(lattice, crystal.positions)
    if crystal.n_atoms > MAX_ATOMS_DENSE_SEARCH:
        if pair := find_coincident_atoms(places):
            raise _too_close(structure, *pair, float(np.linalg.norm(places[pair[0]] - places[pair[1]])))
        _refuse_close(structure, find_neighbors(crystal.lattice, crystal.positions, MIN_DISTANCE))
    if (count := estimate_edges(lattice, places, radius)) > MAX_EDGES:
        raise StructureError(
            f"about {count:.0e} neighbours within {radius:g} Å, more than {MAX_EDGES:,}: give a smaller cell"
        )
    edges = find_neighbors(crystal.lattice, crystal.positions, radius, vectors=vectors)
    _refuse_close(structure, edges)
    return edges


def _refuse_close(structure: Structure, edges: Neighbors) -> None:
    """Raise StructureError if two atoms are closer than MIN_DISTANCE."""
    edge, shortest = shortest_edge(edges)
    if shortest < MIN_DISTANCE:
        ends = int(np.searchsorted(edges.first, edge, side="right")) - 1, int(edges.indices[edge])
        raise _too_close(structure, min(ends), max(ends), shortest)


def _too_close(structure: Structure, one: int, two: int, apart: float) -> StructureError:
    names = [f"{structure[site].species_string} at {_name(structure[site], site + 1)}" for site in (one, two)]
    hint = "give an ordered model" if not structure.is_ordered else "remove the duplicate or check the cell"
    return StructureError(f"{names[0]} and {names[1]} are {apart:.2f} Å apart: {hint}")


def differs_from_formula(composition: Composition, formula: str) -> bool:
    """Whether the proportions of a composition differ from those of a stated formula; False if that is not readable."""
    try:
        stated = Composition(formula.strip("'\" ")).fractional_composition
        found = composition.remove_charges().fractional_composition
    except ValueError:  # also for a species that is not an element, which has its own error
        return False
    return bool(stated) and not stated.almost_equals(found, rtol=0.02, atol=0.005)
