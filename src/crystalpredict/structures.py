"""Structures to crystals: what was asked for, checked, in the primitive cell; or the reason why there is none."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import spglib
from pymatgen.core.periodic_table import DummySpecies
from pymatgen.core.sites import PeriodicSite
from pymatgen.core.structure import Structure

from crystalpredict.crystal import ELEMENTS, Crystal, FloatArray, IntArray
from crystalpredict.errors import StructureError
from crystalpredict.neighbors import find_neighbors
from crystalpredict.parsing import parse_text, read_text

os.environ.setdefault("SPGLIB_WARNING", "OFF")  # else the C library writes on stderr where a search fails

SYMPREC = 0.01  # Å, of the search for the primitive cell
CLOSEST = 0.5  # Å, below which two atoms are a mistake: the shortest bond there is, H-H, has 0.74
OCCUPANCY_TOLERANCE = 1.005  # rounded thirds may add up to a little more than 1
FARTHEST = 1e6  # cells between an atom and its cell, above which its place in the cell is lost to rounding
LONGEST = 1e4  # Å, above which the length of the cell is mistyped, and the neighbour search may crash
THINNEST = 0.1  # Å^3 per atom, below which the lattice is flat or mistyped


@dataclass(frozen=True)
class Entry:
    """One structure asked for: a crystal, or the reason why there is none.

    n_atoms counts the atoms of the cell as it stands in the file; `crystal` may be a smaller cell of the same crystal.
    """

    path: str
    index: int
    formula: str = ""
    n_atoms: int | None = None
    crystal: Crystal | None = None
    warnings: tuple[str, ...] = ()
    error: str = ""


def read_entries(path: str, *, reduce: bool = True) -> Iterator[Entry]:
    """Every structure in a file, in its order; at least one entry, and no exception, whatever the file holds."""
    try:
        structures = parse_text(read_text(Path(path)))
    except StructureError as error:
        yield Entry(path, 0, error=str(error))
        return
    for index, structure in enumerate(structures):
        yield entry_of_structure(structure, path, index, reduce=reduce)


def entry_of_structure(
    structure: Structure | StructureError, path: str = "", index: int = 0, *, reduce: bool = True
) -> Entry:
    """The entry of a structure already parsed, or of the error that its parsing gave."""
    if isinstance(structure, StructureError):
        return Entry(path, index, error=str(structure))
    formula, n_atoms = structure.composition.reduced_formula, len(structure)
    try:
        crystal, notes = crystal_of_structure(structure)
        if reduce:
            crystal, kept = primitive_cell(crystal)
            notes += kept
    except StructureError as error:
        return Entry(path, index, formula, n_atoms, error=str(error))
    return Entry(path, index, formula, n_atoms, crystal, tuple(notes))


def crystal_of_structure(structure: Structure) -> tuple[Crystal, list[str]]:
    """The crystal of a pymatgen structure and what was decided about it; StructureError if it is none.

    Oxidation states, spins and isotopes are dropped. A site shared by several elements, or partly vacant, keeps its
    occupancies.
    """
    if not hasattr(structure, "lattice"):  # a Molecule, from Python
        raise StructureError("a molecule without a lattice: a periodic cell is needed")
    if not len(structure):
        raise StructureError("no atoms in the cell")
    lattice = np.array(structure.lattice.matrix, dtype=float)
    if not np.isfinite(lattice).all():
        raise StructureError("a cell length or an angle is not a number")
    if np.abs(lattice).max() > LONGEST:
        raise StructureError(f"the cell is {np.abs(lattice).max():.3g} Å long: check its lengths")
    fractional = np.array(structure.frac_coords, dtype=float)
    if not np.abs(fractional).max() < FARTHEST:  # false for not-a-number too
        raise StructureError(f"a coordinate is not a number, or more than {FARTHEST:.0e} cells away")
    positions = (fractional - np.floor(fractional)) @ lattice
    if abs(np.linalg.det(lattice)) < THINNEST * len(structure):
        volume = f"{abs(np.linalg.det(lattice)):.3g} Å^3 for {len(structure)} atoms"
        raise StructureError(f"the cell has {volume}: check its lengths and angles")
    sites = [_occupants(site, number) for number, site in enumerate(structure, start=1)]
    columns = max(len(site) for site in sites)
    numbers = np.ones((len(sites), columns), dtype=np.int64)
    occupancies = np.zeros((len(sites), columns))
    for row, site in enumerate(sites):
        for column, (number, occupancy) in enumerate(sorted(site.items())):
            numbers[row, column], occupancies[row, column] = number, occupancy
    _refuse_close_atoms(structure, lattice, positions)
    notes = []
    partial = int((occupancies.max(axis=1) < 1 - 1e-6).sum())
    if partial:
        notes.append(f"{partial} of {len(sites)} sites partly occupied: predicted for the average site, unverified")
    if "crystalpredict_note" in structure.properties:
        notes.append(structure.properties["crystalpredict_note"])
    return Crystal(lattice, positions, numbers, occupancies), notes


def _occupants(site: PeriodicSite, number: int) -> dict[int, float]:
    """Occupancy by atomic number of one site."""
    occupants: dict[int, float] = {}
    for species, occupancy in site.species.items():
        if isinstance(species, DummySpecies):
            raise StructureError(f"unknown element {species.symbol!r} at site {number}: name a chemical element")
        if not 1 <= species.Z <= len(ELEMENTS):
            raise StructureError(f"element {species.symbol} at site {number}: the model knows H to {ELEMENTS[-1]} only")
        if not occupancy >= 0:  # false for not-a-number too
            raise StructureError(f"occupancy {occupancy:g} of {species.symbol} at site {number}: must lie in 0 to 1")
        occupants[species.Z] = occupants.get(species.Z, 0.0) + float(occupancy)
    total = sum(occupants.values())
    if total > OCCUPANCY_TOLERANCE:
        raise StructureError(f"occupancies at site {number} add up to {total:.3g}: they must not exceed 1")
    if total <= 0:
        raise StructureError(f"nobody lives at site {number}: every occupancy is 0")
    scale = 1 / total if abs(total - 1) <= OCCUPANCY_TOLERANCE - 1 else 1.0
    return {z: occupancy * scale for z, occupancy in occupants.items() if occupancy > 0}


def _refuse_close_atoms(structure: Structure, lattice: FloatArray, positions: FloatArray) -> None:
    """StructureError if two atoms, images included, are closer than CLOSEST."""
    edges = find_neighbors(lattice, positions, CLOSEST)
    if len(edges.indices) == len(positions):  # the self edges alone
        return
    centres = np.repeat(np.arange(len(positions)), np.diff(edges.first))
    others = np.flatnonzero(np.arange(len(centres)) != edges.first[centres])
    edge = others[np.argmin(edges.distances[others])]
    one, two = int(centres[edge]), int(edges.indices[edge])
    names = [f"{structure[site].species_string} (site {site + 1})" for site in (one, two)]
    hint = "give an ordered model" if not structure.is_ordered else "remove the duplicate or check the cell"
    raise StructureError(f"{names[0]} and {names[1]} are {edges.distances[edge]:.2f} Å apart: {hint}")


def primitive_cell(crystal: Crystal) -> tuple[Crystal, list[str]]:
    """The primitive cell of the same crystal, or the crystal itself with the reason.

    The cell that spglib finds is taken only if composition, volume per atom (1 %) and shortest distance survive; the
    prediction does not depend on the choice, only its cost does.
    """
    (numbers, occupancies), kind_of_site = _kinds(crystal)
    fractional = crystal.positions @ np.linalg.inv(crystal.lattice)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            cell = (crystal.lattice, fractional, kind_of_site)
            found = spglib.standardize_cell(cell, to_primitive=True, no_idealize=True, symprec=SYMPREC)  # type: ignore[arg-type]
        except Exception:  # spglib's own error classes changed between releases
            found = None
    if found is None:
        return crystal, ["cell kept as given: no symmetry found"]
    lattice, reduced, kind_of_reduced = (np.asarray(part) for part in found)
    if len(reduced) >= crystal.n_atoms:
        return crystal, []
    small = Crystal(lattice, reduced @ lattice, numbers[kind_of_reduced], occupancies[kind_of_reduced])
    reason = _difference(crystal, kind_of_site, small, kind_of_reduced)
    return (crystal, [f"cell kept as given: reduction would change the {reason}"]) if reason else (small, [])


def _kinds(crystal: Crystal) -> tuple[tuple[IntArray, FloatArray], IntArray]:
    """Distinct occupants (numbers, occupancies) of the sites, and the kind of each site (n,)."""
    table = np.concatenate([crystal.numbers, crystal.occupancies], axis=1)
    distinct, kind_of_site = np.unique(table, axis=0, return_inverse=True)
    columns = crystal.numbers.shape[1]
    return (distinct[:, :columns].astype(np.int64), distinct[:, columns:]), kind_of_site.reshape(-1)


def _difference(before: Crystal, kinds_before: IntArray, after: Crystal, kinds_after: IntArray) -> str:
    """What a reduction changed: composition, volume per atom, shortest distance; empty if nothing."""
    count = int(kinds_before.max()) + 1
    shares = [np.bincount(kinds, minlength=count) / len(kinds) for kinds in (kinds_before, kinds_after)]
    if np.abs(shares[0] - shares[1]).max() > 1e-9:
        return "composition"
    per_atom = [crystal.volume / crystal.n_atoms for crystal in (before, after)]
    if abs(per_atom[1] / per_atom[0] - 1) > 0.01:
        return "volume per atom"
    shortest = [shortest_distance(crystal) for crystal in (before, after)]
    if abs(shortest[0] - shortest[1]) > 0.05:
        return "shortest distance"
    return ""


def shortest_distance(crystal: Crystal) -> float:
    """Distance of the two closest atoms, images included, Å."""
    radius = 2.0 * (crystal.volume / crystal.n_atoms) ** (1 / 3)
    while True:
        edges = find_neighbors(crystal.lattice, crystal.positions, radius)
        if len(edges.distances) > crystal.n_atoms:
            own = np.zeros(len(edges.distances), dtype=bool)
            own[edges.first[:-1]] = True
            return float(edges.distances[~own].min())
        radius *= 2
