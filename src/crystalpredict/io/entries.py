"""Structures to crystals with their neighbours: what was asked for, checked; or the reason why there is none."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from pymatgen.core.composition import Composition, reduce_formula
from pymatgen.core.lattice import Lattice
from pymatgen.core.periodic_table import DummySpecies, Element, Species
from pymatgen.core.structure import SiteCollection, Structure

from crystalpredict._warnings import silence
from crystalpredict.crystals.crystal import ELEMENTS, LONGEST, THINNEST, Crystal, Neighbors, volume_of_cell
from crystalpredict.crystals.neighbors import find_neighbors, find_neighbors_of_many
from crystalpredict.errors import StructureError
from crystalpredict.io.fast_cif import PlainCif, read_plain_cif
from crystalpredict.io.text import STATED_FORMULA, read_text, text_of
from crystalpredict.prediction.rows import Prediction

if TYPE_CHECKING:
    from pymatgen.core.sites import PeriodicSite

LONGEST_FORMULA = 1000
CLOSEST = 0.5  # Å, below which two atoms are a mistake: the shortest bond there is, H-H, has 0.74
MANY = 1000  # atoms, above which close ones are looked for first: thousands in one place have millions of neighbours
OCCUPANCY_TOLERANCE = 1.005  # rounded thirds may add up to a little more than 1
FARTHEST = 1e6  # cells between an atom and its cell, above which its place in the cell is lost to rounding
with silence():  # noble gases have no electronegativity, which pymatgen says once for each
    for _element in Element:
        _ = _element.X
OTHER_FORMULA = "composition differs from the formula stated in the CIF"


@dataclass(frozen=True)
class Inline:
    """Text of structures that stand in no file of their own, such as a cell of a table, and a name for it.

    `text` may be the content of a file, to be unpacked and decoded; `error` says why there is none; `index` is that of
    the first structure.
    """

    name: str
    text: str | bytes = ""
    error: str = ""
    index: int = 0


Source = str | Inline  # a path, or the text itself


@dataclass(frozen=True)
class Origin:
    """Of an entry whose prediction may be kept: a digest of its source, its number in this, and how many it has."""

    key: bytes
    number: int
    count: int


@dataclass(frozen=True)
class Entry:
    """One structure asked for: a crystal with its neighbour list, or the reason why there is none.

    n_atoms counts the atoms of the cell as it stands in the file. `known`: the prediction, if it was kept.
    """

    path: str
    index: int
    formula: str = ""
    n_atoms: int | None = None
    crystal: Crystal | None = None
    neighbors: Neighbors | None = None
    warnings: tuple[str, ...] = ()
    error: str = ""
    origin: Origin | None = None
    known: Prediction | None = None


@dataclass(frozen=True)
class Parsed:
    """A source on its way to its entries: its text, or what is wrong with it.

    `plain`, its crystals if it is a plain CIF; `first`, index of its first entry; `key`, a digest by which predictions
    of it may be kept.
    """

    path: str
    first: int
    text: str = ""
    plain: Sequence[PlainCif] = ()
    error: str = ""
    key: bytes = b""


def read_entries(source: Source, radius: float, *, vectors: bool = False) -> list[Entry]:
    """Every structure in a file or a text, in its order; at least one entry, and no exception, whatever it holds.

    radius, Å, of the neighbour lists; `vectors`: with the vectors of their edges.
    """
    return entries_of(parse(source), radius, vectors=vectors)


def parse(source: Source, key: bytes = b"") -> Parsed:
    """The text of a source, and its crystals if it is a plain CIF."""
    path, first = start_of(source)
    try:
        text = _text_of_source(source)
    except StructureError as error:
        return Parsed(path, first, error=str(error))  # without a key: another day it may be read
    return Parsed(path, first, text, read_plain_cif(text), key=key)


def entries_of(parsed: Parsed, radius: float, *, vectors: bool = False) -> list[Entry]:
    """Every structure of a source, with its neighbours; other texts than plain CIFs are parsed here."""
    path, first = parsed.path, parsed.first
    if parsed.error:
        return [Entry(path, first, error=parsed.error)]
    (entries,) = entries_of_plain_cifs([parsed], radius, vectors=vectors)
    if entries:
        return entries
    from crystalpredict.io.pymatgen_parser import parse_text  # takes half a second, and most files never need it

    try:
        structures = parse_text(parsed.text)
    except StructureError as error:
        return [Entry(path, first, error=str(error))]
    return entries_of_structures(structures, radius, path, first, vectors=vectors)


def start_of(source: Source) -> tuple[str, int]:
    """The path and the index of a source's first entry."""
    return (source, 0) if isinstance(source, str) else (source.name, source.index)


def _text_of_source(source: Source) -> str:
    if isinstance(source, str):
        return read_text(source)
    if source.error:
        raise StructureError(source.error)
    return source.text if isinstance(source.text, str) else text_of(source.text)


def entries_of_plain_cifs(several: Sequence[Parsed], radius: float, *, vectors: bool = False) -> list[list[Entry]]:
    """Every structure of each source, if it is a plain CIF, all of whose crystals are as they should be; else none.

    Many sources at once, since the work on one is small.
    """
    crystals = [_crystals_of_plain_cif(parsed) for parsed in several]
    cells = [(crystal.lattice, crystal.positions) for own in crystals for crystal in own]
    lists = iter(find_neighbors_of_many(cells, radius, vectors=vectors))
    return [_entries_of_plain_cif(parsed, own, lists) for parsed, own in zip(several, crystals, strict=True)]


def _crystals_of_plain_cif(parsed: Parsed) -> list[Crystal]:
    """The crystals of a source; none if one has something wrong with its cell, or is large and has atoms too close."""
    crystals = []
    for plain in parsed.plain:
        crystal = Crystal.ordered(plain.lattice, plain.fractional @ plain.lattice, plain.numbers)
        if crystal.volume < THINNEST * crystal.n_atoms:
            return []
        if crystal.n_atoms > MANY:
            nearest = find_neighbors(crystal.lattice, crystal.positions, CLOSEST)
            if _shortest_edge(nearest)[1] < CLOSEST:
                return []
        crystals.append(crystal)
    return crystals


def _entries_of_plain_cif(parsed: Parsed, crystals: Sequence[Crystal], lists: Iterator[Neighbors]) -> list[Entry]:
    """The entries of a source, its lists taken from those of all; none if two atoms are too close."""
    entries: list[Entry] = []
    close = False
    for plain, crystal, neighbors in zip(parsed.plain, crystals, lists, strict=False):
        close |= _shortest_edge(neighbors)[1] < CLOSEST
        counts = {ELEMENTS[number - 1]: count for number, count in Counter(plain.numbers.tolist()).items()}
        formula = plain.stated_formula
        stated = {symbol: int(count or 1) for symbol, count in re.findall(r"([A-Z][a-z]?)([0-9]*)", formula)}
        differs = stated != counts and _differs_from_formula(Composition(counts), formula)
        notes = (OTHER_FORMULA,) if differs else ()
        index = parsed.first + len(entries)
        entries.append(Entry(parsed.path, index, _formula(counts), crystal.n_atoms, crystal, neighbors, notes))
    return [] if close else entries


def entries_of_structures(
    structures: Sequence[Structure | StructureError],
    radius: float,
    path: str = "",
    first: int = 0,
    *,
    vectors: bool = False,
) -> list[Entry]:
    """The entries of structures already parsed, or of the errors that their parsing gave, numbered from `first` on.

    ASE's Atoms are structures too. radius, Å, of their neighbours; `vectors`: with the vectors of their edges.
    """
    structures = [_structure_of_ase(each) if hasattr(each, "get_cell") else each for each in structures]
    entries = [_entry_of_structure(structure, path, index) for index, structure in enumerate(structures, start=first)]
    small = [each.crystal for each in entries if each.crystal and each.crystal.n_atoms <= MANY]
    cells = [(crystal.lattice, crystal.positions) for crystal in small]
    lists = iter(find_neighbors_of_many(cells, radius, vectors=vectors))
    for number, (entry, structure) in enumerate(zip(entries, structures, strict=True)):
        if entry.crystal is None or isinstance(structure, StructureError):
            continue
        neighbors = next(lists) if entry.crystal.n_atoms <= MANY else None
        try:
            if neighbors is None or _shortest_edge(neighbors)[1] < CLOSEST:
                neighbors = _neighbors_of_structure(structure, entry.crystal, radius, vectors=vectors)
            entries[number] = replace(entry, neighbors=neighbors)
        except StructureError as error:
            entries[number] = Entry(path, entry.index, entry.formula, entry.n_atoms, error=str(error))
    return entries


def _structure_of_ase(atoms: Any) -> Structure | StructureError:
    """The structure of ASE's Atoms, for which ASE need not be installed."""
    try:
        cell = np.array(atoms.get_cell(), dtype=float).reshape(3, 3)
        if not volume_of_cell(cell):
            return StructureError("a molecule without a lattice: a periodic cell is needed")
        shared = atoms.info.get("occupancy") or {}  # of a CIF, which ASE reads as if the first had all of a site
        if any(set(map(float, site.values())) != {1.0} for site in shared.values()):
            return StructureError("partly occupied sites, which Atoms do not hold: give the CIF, or an ordered model")
        x, y, z = map(bool, atoms.get_pbc())
        return Structure(
            Lattice(cell, pbc=(x, y, z)), atoms.get_chemical_symbols(), atoms.get_positions(), coords_are_cartesian=True
        )
    except Exception as error:  # of anything that has a cell
        return StructureError(f"broken Atoms ({type(error).__name__}: {str(error)[:160]})")


def _entry_of_structure(structure: Structure | StructureError, path: str, index: int) -> Entry:
    """The entry of a structure, without its neighbours yet."""
    if isinstance(structure, StructureError):
        return Entry(path, index, error=str(structure))
    if not isinstance(structure, SiteCollection):  # anything, from Python
        what = type(structure).__name__
        hint = "give a pymatgen Structure, ASE's Atoms or a file's name"
        return Entry(path, index, error=f"a {what} is no structure: {hint}")
    elements, n_atoms = _elements(structure), len(structure)
    counts = {ELEMENTS[number - 1]: count for number, count in Counter(elements).items()}
    try:
        formula = _formula(counts) if counts else structure.composition.element_composition.reduced_formula
        formula = formula[:LONGEST_FORMULA]  # symbols of dummies may be of any length
    except OverflowError:  # infinite occupancies, of which the next lines tell
        formula = ""
    try:
        crystal, notes = crystal_of_structure(structure, elements)
    except StructureError as error:
        return Entry(path, index, formula, n_atoms, error=str(error))
    return Entry(path, index, formula, n_atoms, crystal, warnings=tuple(notes))


def _formula(counts: dict[str, int]) -> str:
    """Composition(counts).reduced_formula, without the detour over a Composition."""
    formula, _ = reduce_formula(counts)
    return Composition.special_formulas.get(formula, formula)


def crystal_of_structure(structure: Structure, elements: Sequence[int] = ()) -> tuple[Crystal, list[str]]:
    """The crystal of a pymatgen structure and what was decided about it; StructureError if it is none.

    `elements`: atomic numbers of the sites, if each is one element alone. Oxidation states, spins and isotopes are
    dropped. A site shared by several elements, or partly vacant, keeps its occupancies.
    """
    if not hasattr(structure, "lattice"):  # a Molecule, from Python
        raise StructureError("a molecule without a lattice: a periodic cell is needed")
    if not len(structure):
        raise StructureError("no atoms in the cell")
    if not all(structure.lattice.pbc):
        raise StructureError(f"pbc={structure.lattice.pbc}: a cell that is periodic in all three directions is needed")
    lattice = np.array(structure.lattice.matrix, dtype=float)
    if not np.isfinite(lattice).all():
        raise StructureError("a cell length or an angle is not a number")
    if np.abs(lattice).max() > LONGEST:
        raise StructureError(f"the cell is {np.abs(lattice).max():.3g} Å long: check its lengths")
    fractional = np.array(structure.frac_coords, dtype=float)
    if not np.abs(fractional).max() < FARTHEST:  # false for not-a-number too
        raise StructureError(f"a coordinate is not a number, or more than {FARTHEST:.0e} cells away")
    positions = (fractional - np.floor(fractional)) @ lattice
    volume = volume_of_cell(lattice)
    if volume < THINNEST * len(structure):
        atoms = f"{volume:.3g} Å^3 for {len(structure)} atoms"
        raise StructureError(f"the cell has {atoms}: check its lengths and angles")
    notes = []
    stated = structure.properties.get(STATED_FORMULA, "")
    if stated and _differs_from_formula(structure.composition, stated):
        notes.append(OTHER_FORMULA)
    if elements:
        return Crystal.ordered(lattice, positions, np.array(elements)), notes
    sites = [_occupants(site, number) for number, site in enumerate(structure, start=1)]
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


def _elements(structure: Structure) -> list[int]:
    """Atomic number of every site; none unless each site is one element that the model knows, and all of it."""
    numbers = []
    for site in structure:
        species = site.species
        (kind, amount), *others = species.items() if len(species) else [(None, 0)]
        if others or amount != 1 or not isinstance(kind, Element | Species) or not 1 <= kind.Z <= len(ELEMENTS):
            return []
        numbers.append(kind.Z)
    return numbers


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


def _neighbors_of_structure(structure: Structure, crystal: Crystal, radius: float, *, vectors: bool) -> Neighbors:
    """Neighbours within the radius (Å); StructureError if two atoms, images included, are closer than CLOSEST."""
    radii = (CLOSEST, radius) if crystal.n_atoms > MANY else (radius,)
    for reach in radii:
        edges = find_neighbors(crystal.lattice, crystal.positions, reach, vectors=vectors)
        edge, shortest = _shortest_edge(edges)
        if shortest < CLOSEST:
            one, two = int(np.searchsorted(edges.first, edge, side="right")) - 1, int(edges.indices[edge])
            names = [f"{structure[site].species_string} (site {site + 1})" for site in (one, two)]
            hint = "give an ordered model" if not structure.is_ordered else "remove the duplicate or check the cell"
            raise StructureError(f"{names[0]} and {names[1]} are {shortest:.2f} Å apart: {hint}")
    return edges


def _shortest_edge(edges: Neighbors) -> tuple[int, float]:
    """The shortest edge but for those of an atom to itself, and its length, Å; infinite if there is none."""
    lengths = edges.distances.copy()
    lengths[edges.first[:-1]] = np.inf
    edge = int(lengths.argmin())
    return edge, float(lengths[edge])


def _differs_from_formula(composition: Composition, formula: str) -> bool:
    """Whether the composition has other proportions than the formula stated, if one is stated and understood."""
    try:
        stated = Composition(formula.strip("'\" ")).fractional_composition
        found = composition.remove_charges().fractional_composition
    except ValueError:  # of what is found too, which may be no element: an error of its own
        return False
    return bool(stated) and not stated.almost_equals(found, rtol=0.02, atol=0.005)
