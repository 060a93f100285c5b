"""Structures to crystals with their neighbours: what was asked for, checked; or the reason why there is none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from pymatgen.core.composition import Composition
from pymatgen.core.structure import SiteCollection, Structure

from crystalpredict.crystals.cell import (
    MIN_DISTANCE,
    valid_cells,
)
from crystalpredict.crystals.crystal import ELEMENTS, Crystal, Neighbors
from crystalpredict.crystals.neighbors import (
    MAX_ATOMS_DENSE_SEARCH,
    find_neighbors_of_many,
    is_too_dense,
    shortest_edge,
)
from crystalpredict.errors import StructureError
from crystalpredict.io.cif import PlainCif, items_of_cif, plain_of
from crystalpredict.io.cif_sites import elements_of
from crystalpredict.io.cif_symmetry import CifItems
from crystalpredict.io.from_pymatgen import (
    MAX_FORMULA_CHARACTERS,
    OTHER_FORMULA,
    crystal_of_structure,
    differs_from_formula,
    is_small,
    neighbors_of_structure,
    ordered_elements,
    reduced_formula,
    structure_of_ase,
)
from crystalpredict.io.text import read_text, text_of

MAX_ATOMS_READ_TOGETHER = 1000  # larger crystals are read one at a time, so that the time limit can stop each


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
    of it may be kept; `items`, what its data blocks say if it is a CIF, until `plain` is made of them.
    """

    path: str
    first: int
    text: str = ""
    plain: Sequence[PlainCif] = ()
    error: str = ""
    key: bytes = b""
    items: Sequence[CifItems | StructureError] = ()


def read_entries(source: Source, radius: float, *, vectors: bool = False) -> list[Entry]:
    """Every structure in a file or a text, in its order; at least one entry, and no exception, whatever it holds.

    radius, Å, of the neighbour lists; `vectors`: with the vectors of their edges.
    """
    return entries_of(parse(source), radius, vectors=vectors)


def parse(source: Source, key: bytes = b"") -> Parsed:
    """The text of a source, and its crystals if it is a plain CIF."""
    return with_plain(begin(source, key))


def begin(source: Source, key: bytes = b"") -> Parsed:
    """The text of a source, and its items if it is a CIF."""
    path, first = start_of(source)
    try:
        text = _text_of_source(source)
    except StructureError as error:
        return Parsed(path, first, error=str(error))  # without a key: another day it may be read
    return Parsed(path, first, text, key=key, items=items_of_cif(text))


def with_plain(parsed: Parsed) -> Parsed:
    """What `begin` has found, with the crystals of a plain CIF in the place of its items."""
    if not parsed.items:
        return parsed
    return Parsed(parsed.path, parsed.first, parsed.text, plain_of(parsed.items), parsed.error, parsed.key)


def entries_of(parsed: Parsed, radius: float, *, vectors: bool = False) -> list[Entry]:
    """Every structure of a source, with its neighbours; other texts than plain CIFs are parsed here."""
    path, first = parsed.path, parsed.first
    if parsed.error:
        return [Entry(path, first, error=parsed.error)]
    (entries,) = entries_of_plain_cifs([parsed], radius, vectors=vectors)
    if entries:
        return entries
    from crystalpredict.io.structure_text import parse_text  # takes half a second, and most files never need it

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
    sound = iter(valid_cells(np.array([cif.lattice for cif in cifs]), [len(cif.numbers) for cif in cifs], radius))
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
    large = [crystal for crystal in crystals if crystal.n_atoms > MAX_ATOMS_DENSE_SEARCH]
    return [] if any(is_too_dense(crystal.lattice, crystal.positions, radius) for crystal in large) else crystals


def _entries_of_plain_cif(parsed: Parsed, crystals: Sequence[Crystal], lists: Iterator[Neighbors]) -> list[Entry]:
    """The entries of a source, its lists taken from those of all; none if two atoms are too close."""
    entries: list[Entry] = []
    close = False
    for plain, crystal, neighbors in zip(parsed.plain, crystals, lists, strict=False):
        close |= shortest_edge(neighbors)[1] < MIN_DISTANCE
        counts = {ELEMENTS[number - 1]: count for number, count in Counter(plain.numbers.tolist()).items()}
        formula = plain.stated_formula
        differs = elements_of(formula) != counts and differs_from_formula(Composition(counts), formula)
        notes = (OTHER_FORMULA,) if differs else ()
        index = parsed.first + len(entries)
        entries.append(Entry(parsed.path, index, reduced_formula(counts), crystal.n_atoms, crystal, neighbors, notes))
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
    structures = [structure_of_ase(each) if hasattr(each, "get_cell") else each for each in structures]
    entries = [_entry_of_structure(structure, path, index) for index, structure in enumerate(structures, start=first)]
    small = {
        number: each.crystal for number, each in enumerate(entries) if each.crystal and is_small(each.crystal, radius)
    }
    cells = [(crystal.lattice, crystal.positions) for crystal in small.values()]
    lists = iter(find_neighbors_of_many(cells, radius, vectors=vectors))
    for number, (entry, structure) in enumerate(zip(entries, structures, strict=True)):
        if entry.crystal is None or isinstance(structure, StructureError):
            continue
        neighbors = next(lists) if is_small(entry.crystal, radius) else None
        try:
            if neighbors is None or shortest_edge(neighbors)[1] < MIN_DISTANCE:
                neighbors = neighbors_of_structure(structure, entry.crystal, radius, vectors=vectors)
            entries[number] = replace(entry, neighbors=neighbors)
        except StructureError as error:
            entries[number] = Entry(path, entry.index, entry.formula, entry.n_atoms, error=str(error))
    return entries


def _entry_of_structure(structure: Structure | StructureError, path: str, index: int) -> Entry:
    """The entry of a structure, without its neighbours yet."""
    if isinstance(structure, StructureError):
        return Entry(path, index, error=str(structure))
    if not isinstance(structure, SiteCollection):  # anything, from Python
        what = type(structure).__name__
        hint = "give a pymatgen Structure, ASE's Atoms or a file's name"
        return Entry(path, index, error=f"a {what} is no structure: {hint}")
    elements, n_atoms = ordered_elements(structure), len(structure)
    counts = {ELEMENTS[number - 1]: count for number, count in Counter(elements).items()}
    try:
        formula = reduced_formula(counts) if counts else structure.composition.element_composition.reduced_formula
        formula = formula[:MAX_FORMULA_CHARACTERS]  # symbols of dummies may be of any length
    except OverflowError:  # infinite occupancies, of which the next lines tell
        formula = ""
    try:
        crystal, notes = crystal_of_structure(structure, elements)
    except StructureError as error:
        return Entry(path, index, formula, n_atoms, error=str(error))
    return Entry(path, index, formula, n_atoms, crystal, warnings=tuple(notes))
