"""Turn the structures of a file or a text into entries: checked crystals with their neighbours, or errors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from pymatgen.core.composition import Composition
from pymatgen.core.structure import SiteCollection, Structure

from crystalpredict.crystals.cell import MIN_DISTANCE, valid_cells
from crystalpredict.crystals.crystal import ELEMENTS, Crystal, Neighbors
from crystalpredict.crystals.neighbors import (
    MAX_ATOMS_DENSE_SEARCH,
    find_neighbors_of_many,
    is_too_dense,
)
from crystalpredict.errors import StructureError
from crystalpredict.io.cif import items_of_cif, may_be_cif, plain_of
from crystalpredict.io.cif_sites import elements_of
from crystalpredict.io.cif_symmetry import CifItems
from crystalpredict.io.from_pymatgen import (
    MAX_FORMULA_CHARACTERS,
    OTHER_FORMULA,
    crystal_of_structure,
    differs_from_formula,
    have_valid_cells,
    neighbors_of_structure,
    ordered_elements,
    reduced_formula,
    structure_of_ase,
)
from crystalpredict.io.plain import PlainCrystal, plain_of_text
from crystalpredict.io.text import read_text, text_of

MAX_CHARACTERS_SEARCHED = 2**20  # of a text that may be a CIF
MAX_ATOMS_READ_TOGETHER = 1000  # larger crystals are read one at a time, so that the time limit can stop each


@dataclass(frozen=True)
class Inline:
    """Structures that are not in a file of their own, such as a cell of a table or a member of an archive.

    Attributes:
        name: Path of their entries.
        text: Their text, or the bytes of a file, which may be compressed.
        error: Why there is no text; empty if there is one.
        index: Index of the first structure.
    """

    name: str
    text: str | bytes = ""
    error: str = ""
    index: int = 0


Source = str | Inline  # a path, or the text itself


class Lookup(Protocol):
    """Finds the rows of earlier runs by the content of a source, which is then not read again."""

    def key_of(self, source: Source) -> tuple[Source, bytes]:
        """Return a source with its content, and the key of the content; b"" if its rows cannot be cached."""

    def find(self, key: bytes) -> Sequence[Any]:
        """Return the rows of a source by its key, in the order of its structures; empty if a row is missing."""


@dataclass(frozen=True)
class Origin:
    """Where an entry whose prediction may be cached comes from.

    Attributes:
        key: Digest of the source.
        number: Of the structure in the source, from 0.
        count: Number of structures in the source.
    """

    key: bytes
    number: int
    count: int


@dataclass(frozen=True)
class Entry:
    """A structure of the input: a crystal with its neighbour list, or an error.

    Attributes:
        path: File, or name of the text, that it comes from.
        index: Of the structure in the file, from 0.
        formula: Reduced formula.
        n_atoms: Number of atoms in the cell of the file; None if unknown.
        crystal: The crystal; None if there is an error, or if it was not read.
        neighbors: Its neighbour list.
        warnings: About the file.
        error: Why there is no crystal; empty if there is one.
        origin: Where it comes from; None if its prediction is not cached.
        known: Its row, if a Lookup found one.
        given: The crystal before a potential relaxed it; None if none did.
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
    given: Crystal | None = None


@dataclass(frozen=True)
class Parsed:
    """A partly parsed source.

    Attributes:
        path: File, or name of the text.
        first: Index of its first entry.
        text: Its text.
        plain: Its crystals, if all of them are plain.
        error: Why it has no text; empty if it has one.
        key: Digest to cache its predictions by; empty if they are not cached.
        items: Items of its data blocks, if it is a CIF; empty once `plain` is set.
    """

    path: str
    first: int
    text: str = ""
    plain: Sequence[PlainCrystal] = ()
    error: str = ""
    key: bytes = b""
    items: Sequence[CifItems | StructureError] = ()


def read_entries(source: Source, radius: float, *, vectors: bool = False) -> list[Entry]:
    """Return an entry for each structure in a file or a text, in its order; at least one, with an error if necessary.

    Args:
        source: Path, or text.
        radius: Of the neighbour lists, Å.
        vectors: Whether the neighbour lists have the vectors of their edges.
    """
    return entries_of(with_plain(begin(source)), radius, vectors=vectors)


def begin(source: Source, key: bytes = b"") -> Parsed:
    """Return the text of a source, and its items if it is a CIF."""
    path, first = start_of(source)
    try:
        text = _text_of_source(source)
    except StructureError as error:
        return Parsed(path, first, error=str(error))  # without a key: a later run may be able to read it
    searched = may_be_cif(text) and not _is_large_calculation(text)
    return Parsed(path, first, text, key=key, items=items_of_cif(text) if searched else ())


def _is_large_calculation(text: str) -> bool:
    """Whether a text is a calculation's file in which searching data blocks of a CIF would take long."""
    if len(text) <= MAX_CHARACTERS_SEARCHED:
        return False
    from crystalpredict.io.calculations import is_calculation

    return is_calculation(text)


def with_plain(parsed: Parsed) -> Parsed:
    """Return the result of `begin` with its crystals, if all of them are plain, instead of the items of a CIF."""
    if parsed.error:
        return parsed
    plain = plain_of(parsed.items) if parsed.items else plain_of_text(parsed.text)
    return Parsed(parsed.path, parsed.first, parsed.text, plain, parsed.error, parsed.key)


def entries_of(parsed: Parsed, radius: float, *, vectors: bool = False) -> list[Entry]:
    """Return the entries of a source with their neighbours; texts without plain crystals are parsed here."""
    path, first = parsed.path, parsed.first
    if parsed.error:
        return [Entry(path, first, error=parsed.error)]
    (entries,) = entries_of_plain([parsed], radius, vectors=vectors)
    if entries:
        return entries
    from crystalpredict.io.structure_text import parse_text  # takes half a second, and most files do not need it

    try:
        structures = parse_text(parsed.text)
    except StructureError as error:
        return [Entry(path, first, error=str(error))]
    return entries_of_structures(structures, radius, path, first, vectors=vectors)


def start_of(source: Source) -> tuple[str, int]:
    """Return the path and the index of the first entry of a source."""
    return (source, 0) if isinstance(source, str) else (source.name, source.index)


def _text_of_source(source: Source) -> str:
    if isinstance(source, str):
        return read_text(source)
    if source.error:
        raise StructureError(source.error)
    return source.text if isinstance(source.text, str) else text_of(source.text)


def entries_of_plain(several: Sequence[Parsed], radius: float, *, vectors: bool = False) -> list[list[Entry]]:
    """Return the entries of each source with plain and valid crystals only; none for any other source.

    It treats many sources at once, which is faster.
    """
    found = [plain for parsed in several for plain in parsed.plain]
    if not found:
        return [[] for _ in several]
    valid = iter(valid_cells(np.array([each.lattice for each in found]), [len(each.numbers) for each in found], radius))
    crystals = [_crystals_of_plain(parsed, [next(valid) for _ in parsed.plain], radius) for parsed in several]
    cells = [(crystal.lattice, crystal.positions) for own in crystals for crystal in own]
    lists = iter(find_neighbors_of_many(cells, radius, vectors=vectors))
    return [_entries_of_one(parsed, own, lists) for parsed, own in zip(several, crystals, strict=True)]


def _crystals_of_plain(parsed: Parsed, valid: Sequence[bool], radius: float) -> list[Crystal]:
    """Return the crystals of a source; none if a cell is not `valid`, or large with atoms too close to each other."""
    if not all(valid):
        return []
    crystals = [
        Crystal.ordered(plain.lattice, plain.fractional @ plain.lattice, plain.numbers) for plain in parsed.plain
    ]
    large = [crystal for crystal in crystals if crystal.n_atoms > MAX_ATOMS_DENSE_SEARCH]
    return [] if any(is_too_dense(crystal.lattice, crystal.positions, radius) for crystal in large) else crystals


def _entries_of_one(parsed: Parsed, crystals: Sequence[Crystal], lists: Iterator[Neighbors]) -> list[Entry]:
    """Return the entries of a source, with the next of all `lists`; none if two atoms are too close."""
    entries: list[Entry] = []
    close = False
    for plain, crystal, neighbors in zip(parsed.plain, crystals, lists, strict=False):
        close |= _are_close(neighbors)
        counts = _counts_of(plain.numbers.tolist())
        formula = plain.stated_formula
        differs = formula and elements_of(formula) != counts and differs_from_formula(Composition(counts), formula)
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
    """Return the entries of structures that are parsed already.

    Args:
        structures: pymatgen structures, ASE Atoms, or the errors of parsing them.
        radius: Of the neighbour lists, Å.
        path: Path of the entries.
        first: Index of the first entry.
        vectors: Whether the neighbour lists have the vectors of their edges.
    """
    structures = [structure_of_ase(each) if hasattr(each, "get_cell") else each for each in structures]
    valid = have_valid_cells(structures, radius)
    # one step for all before the next: in turn for each, their codes would drive each other out of the caches
    elements = [ordered_elements(each) if isinstance(each, SiteCollection) else [] for each in structures]
    formulas = [_formula_of(*each) for each in zip(structures, elements, strict=True)]
    entries = [
        _entry_of_structure(*each, path, index)
        for index, each in enumerate(zip(structures, elements, formulas, valid, strict=True), start=first)
    ]
    small = [
        entry.crystal if sound and entry.crystal and entry.crystal.n_atoms <= MAX_ATOMS_DENSE_SEARCH else None
        for entry, sound in zip(entries, valid, strict=True)
    ]
    cells = [(crystal.lattice, crystal.positions) for crystal in small if crystal]
    lists = iter(find_neighbors_of_many(cells, radius, vectors=vectors))
    for number, (entry, structure) in enumerate(zip(entries, structures, strict=True)):
        if entry.crystal is None or isinstance(structure, StructureError):
            continue
        neighbors = next(lists) if small[number] else None
        try:
            if neighbors is None or _are_close(neighbors):
                neighbors = neighbors_of_structure(structure, entry.crystal, radius, vectors=vectors)
            entries[number] = replace(entry, neighbors=neighbors)
        except StructureError as error:
            entries[number] = Entry(path, entry.index, entry.formula, entry.n_atoms, error=str(error))
    return entries


def _are_close(neighbors: Neighbors) -> bool:
    """Whether two atoms are too close; besides their edges, there is a self edge for each atom."""
    return int(np.count_nonzero(neighbors.distances < MIN_DISTANCE)) > neighbors.size


def _formula_of(structure: Any, elements: Sequence[int]) -> str:
    """Return the reduced formula of a structure; empty for anything else."""
    if elements:
        return reduced_formula(_counts_of(elements))
    if not isinstance(structure, SiteCollection):
        return ""
    try:  # symbols of dummies may be of any length
        return str(structure.composition.element_composition.reduced_formula)[:MAX_FORMULA_CHARACTERS]
    except OverflowError:  # infinite occupancies, which are an error below
        return ""


def _counts_of(numbers: Sequence[int]) -> dict[str, int]:
    """Return the number of atoms of each element."""
    return {ELEMENTS[number - 1]: count for number, count in Counter(numbers).items()}


def _entry_of_structure(
    structure: Structure | StructureError, elements: Sequence[int], formula: str, valid: bool, path: str, index: int
) -> Entry:
    """Return the entry of a structure, without its neighbours; `valid`: whether its cell is known to be possible."""
    if isinstance(structure, StructureError):
        return Entry(path, index, error=str(structure))
    if not isinstance(structure, SiteCollection):  # callers from Python may give anything
        what = type(structure).__name__
        hint = "give a pymatgen Structure, ASE's Atoms or a file's name"
        return Entry(path, index, error=f"a {what} is no structure: {hint}")
    n_atoms = len(structure)
    try:
        crystal, notes = crystal_of_structure(structure, elements, valid=valid)
    except StructureError as error:
        return Entry(path, index, formula, n_atoms, error=str(error))
    return Entry(path, index, formula, n_atoms, crystal, warnings=tuple(notes))
