"""Structures to crystals with their neighbours: what was asked for, checked; or the reason why there is none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from pymatgen.core.composition import Composition, reduce_formula
from pymatgen.core.lattice import Lattice
from pymatgen.core.periodic_table import DummySpecies, Element, Species
from pymatgen.core.structure import SiteCollection, Structure

from crystalpredict.crystals.cell import (
    MAX_EDGES,
    MIN_DISTANCE,
    cell_error,
    cells_fit,
    coincident,
    count_edges,
    inside,
    reduced,
)
from crystalpredict.crystals.crystal import ELEMENTS, Crystal, Neighbors, volume_of_cell
from crystalpredict.crystals.neighbors import SMALL, find_neighbors, find_neighbors_of_many, is_crowded, shortest_edge
from crystalpredict.errors import StructureError, suppress_warnings
from crystalpredict.io.cif_sites import elements_of
from crystalpredict.io.fast_cif import PlainCif, read_plain_cif
from crystalpredict.io.text import CIF_SITE, CIF_WARNINGS, STATED_FORMULA, read_text, text_of

if TYPE_CHECKING:
    from pymatgen.core.sites import PeriodicSite

LONGEST_FORMULA = 1000
MANY = 1000  # atoms, above which a crystal is read at a stage of its own, which may be stopped
OCCUPANCY_TOLERANCE = 1.005  # rounded thirds may add up to a little more than 1
FARTHEST = 1e6  # cells between an atom and its cell, above which its place in the cell is lost to rounding
with suppress_warnings():  # noble gases have no electronegativity, which pymatgen says once for each
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


class Lookup(Protocol):
    """Rows of earlier runs, by the content of a source: what is found there is not read again."""

    def key_of(self, source: Source) -> tuple[Source, bytes]:
        """Return a source with its content, and the key of that; b"" if nothing can be kept of it."""

    def find(self, key: bytes) -> Sequence[Any]:
        """Return the rows of the source of a key, in the order of its structures; none if they are not all there."""


@dataclass(frozen=True)
class Origin:
    """Of an entry whose prediction may be kept: a digest of its source, its number in this, and how many it has."""

    key: bytes
    number: int
    count: int


@dataclass(frozen=True)
class Entry:
    """One structure asked for: a crystal with its neighbour list, or the reason why there is none.

    n_atoms counts the atoms of the cell as it stands in the file. `known`: the row of it
    that a Lookup found.
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
    known: Any = None


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
    cifs = [plain for parsed in several for plain in parsed.plain]
    if not cifs:
        return [[] for _ in several]
    sound = iter(cells_fit(np.array([cif.lattice for cif in cifs]), [len(cif.numbers) for cif in cifs], radius))
    crystals = [_crystals_of_plain_cif(parsed, [next(sound) for _ in parsed.plain], radius) for parsed in several]
    cells = [(crystal.lattice, crystal.positions) for own in crystals for crystal in own]
    lists = iter(find_neighbors_of_many(cells, radius, vectors=vectors))
    return [_entries_of_plain_cif(parsed, own, lists) for parsed, own in zip(several, crystals, strict=True)]


def _crystals_of_plain_cif(parsed: Parsed, sound: Sequence[bool], radius: float) -> list[Crystal]:
    """The crystals of a source; none if a cell is not surely `sound`, or is large and has atoms too close."""
    if not all(sound):
        return []
    crystals = [
        Crystal.ordered(plain.lattice, plain.fractional @ plain.lattice, plain.numbers) for plain in parsed.plain
    ]
    large = [crystal for crystal in crystals if crystal.n_atoms > SMALL]
    return [] if any(is_crowded(crystal.lattice, crystal.positions, radius) for crystal in large) else crystals


def _entries_of_plain_cif(parsed: Parsed, crystals: Sequence[Crystal], lists: Iterator[Neighbors]) -> list[Entry]:
    """The entries of a source, its lists taken from those of all; none if two atoms are too close."""
    entries: list[Entry] = []
    close = False
    for plain, crystal, neighbors in zip(parsed.plain, crystals, lists, strict=False):
        close |= shortest_edge(neighbors)[1] < MIN_DISTANCE
        counts = {ELEMENTS[number - 1]: count for number, count in Counter(plain.numbers.tolist()).items()}
        formula = plain.stated_formula
        differs = elements_of(formula) != counts and _differs_from_formula(Composition(counts), formula)
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
    small = {
        number: each.crystal for number, each in enumerate(entries) if each.crystal and _is_small(each.crystal, radius)
    }
    cells = [(crystal.lattice, crystal.positions) for crystal in small.values()]
    lists = iter(find_neighbors_of_many(cells, radius, vectors=vectors))
    for number, (entry, structure) in enumerate(zip(entries, structures, strict=True)):
        if entry.crystal is None or isinstance(structure, StructureError):
            continue
        neighbors = next(lists) if _is_small(entry.crystal, radius) else None
        try:
            if neighbors is None or shortest_edge(neighbors)[1] < MIN_DISTANCE:
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
    if error := cell_error(lattice, len(structure)):
        raise StructureError(error)
    fractional = np.array(structure.frac_coords, dtype=float)
    if not np.abs(fractional).max() < FARTHEST:  # false for not-a-number too
        raise StructureError(f"a coordinate is not a number, or more than {FARTHEST:.0e} cells away")
    positions = (fractional - np.floor(fractional)) @ lattice
    notes = []
    stated = structure.properties.get(STATED_FORMULA, "")
    if stated and _differs_from_formula(structure.composition, stated):
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


def _name(site: PeriodicSite, number: int) -> str:
    """What a message calls a site: as in its file, if that lists less than every site of the cell."""
    return str(site.properties.get(CIF_SITE, f"site {number}"))


def _occupants(site: PeriodicSite, name: str) -> dict[int, float]:
    """Occupancy by atomic number of one site."""
    occupants: dict[int, float] = {}
    for species, occupancy in site.species.items():
        if isinstance(species, DummySpecies):
            raise StructureError(f"unknown element {species.symbol!r} at {name}: name a chemical element")
        if not 1 <= species.Z <= len(ELEMENTS):
            raise StructureError(f"element {species.symbol} at {name}: the model knows H to {ELEMENTS[-1]} only")
        if not occupancy >= 0:  # false for not-a-number too
            raise StructureError(f"occupancy {occupancy:g} of {species.symbol} at {name}: must lie in 0 to 1")
        occupants[species.Z] = occupants.get(species.Z, 0.0) + float(occupancy)
    total = sum(occupants.values())
    if total > OCCUPANCY_TOLERANCE:
        raise StructureError(f"occupancies at {name} add up to {total:.3g}: they must not exceed 1")
    if total <= 0:
        raise StructureError(f"{name} is empty: all its occupancies are 0")
    scale = 1 / total if abs(total - 1) <= OCCUPANCY_TOLERANCE - 1 else 1.0
    return {z: occupancy * scale for z, occupancy in occupants.items() if occupancy > 0}


def _is_small(crystal: Crystal, radius: float) -> bool:
    """Whether the neighbours of a crystal may be looked for together with those of others, with no check before."""
    return crystal.n_atoms <= SMALL and bool(cells_fit(crystal.lattice[None], [crystal.n_atoms], radius)[0])


def _neighbors_of_structure(structure: Structure, crystal: Crystal, radius: float, *, vectors: bool) -> Neighbors:
    """Neighbours within the radius (Å); StructureError for more than memory has room for, or for two atoms too close.

    Images of atoms count too. Of many atoms the close ones are looked for before the others.
    """
    lattice = reduced(crystal.lattice)
    places = inside(lattice, crystal.positions)
    if crystal.n_atoms > SMALL:
        if pair := coincident(places):
            raise _too_close(structure, *pair, float(np.linalg.norm(places[pair[0]] - places[pair[1]])))
        _refuse_close(structure, find_neighbors(crystal.lattice, crystal.positions, MIN_DISTANCE))
    if (count := count_edges(lattice, places, radius)) > MAX_EDGES:
        raise StructureError(
            f"some {count:.0e} neighbours within {radius:g} Å, more than {MAX_EDGES:,}: give a smaller cell"
        )
    edges = find_neighbors(crystal.lattice, crystal.positions, radius, vectors=vectors)
    _refuse_close(structure, edges)
    return edges


def _refuse_close(structure: Structure, edges: Neighbors) -> None:
    """StructureError if two atoms are closer than MIN_DISTANCE."""
    edge, shortest = shortest_edge(edges)
    if shortest < MIN_DISTANCE:
        one = int(np.searchsorted(edges.first, edge, side="right")) - 1
        raise _too_close(structure, one, int(edges.indices[edge]), shortest)


def _too_close(structure: Structure, one: int, two: int, apart: float) -> StructureError:
    names = [f"{structure[site].species_string} at {_name(structure[site], site + 1)}" for site in (one, two)]
    hint = "give an ordered model" if not structure.is_ordered else "remove the duplicate or check the cell"
    return StructureError(f"{names[0]} and {names[1]} are {apart:.2f} Å apart: {hint}")


def _differs_from_formula(composition: Composition, formula: str) -> bool:
    """Whether the composition has other proportions than the formula stated, if one is stated and understood."""
    try:
        stated = Composition(formula.strip("'\" ")).fractional_composition
        found = composition.remove_charges().fractional_composition
    except ValueError:  # of what is found too, which may be no element: an error of its own
        return False
    return bool(stated) and not stated.almost_equals(found, rtol=0.02, atol=0.005)
