"""Read CASTEP's .cell and .castep files: their cells and atoms.

ASE's reader of .cell files is not used: it runs a CASTEP program to learn its keywords, and takes an unknown unit for
ångström. Its reader of .castep files needs a run that ended regularly, and fails on kinds of calculations that it does
not know.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np

from crystalpredict.crystals.crystal import ELEMENTS, FloatArray, lattice_from_parameters
from crystalpredict.errors import StructureError
from crystalpredict.io.frames import frame_text
from crystalpredict.io.text import number_of

BOHR = 0.529177210903  # Å
UNITS = {"ang": 1.0, "bohr": BOHR, "a0": BOHR, "nm": 10.0, "pm": 0.01, "cm": 1e8, "m": 1e10}
HEADER_LINES = 4  # of a table of coordinates, at most, between its title and its first atom
_ONETEP = re.compile(r"^[ \t]*%block[ \t]+species[ \t]*$", re.MULTILINE | re.IGNORECASE)
_ATOM_ROW = re.compile(r"\s*x\s+(\S+)\s+\d+\s+(\S+)\s+(\S+)\s+(\S+)\s+x\s*")
_CLOSING = re.compile(r"\s*xxx+\s*")
_NOT_FOUND = "a .castep file without a cell and coordinates: it ended before them; give the .cell file"


def frames_of_cell(text: str, *, last: bool) -> Iterator[str]:
    """Yield the structure of a .cell file as JSON of plain arrays; `last` changes nothing, there is one.

    Raises:
        StructureError: It is broken, has mixed atoms, or is an input of ONETEP, whose unit is another.
    """
    if _ONETEP.search(text):
        raise StructureError("an input of ONETEP: write a CIF or an extended XYZ, its lengths are in bohr")
    plain = re.sub(r"[#!;][^\n]*", "", text)
    blocks = _blocks(plain)
    lattice = _lattice(blocks)
    kinds = [name for name in ("positions_frac", "positions_abs") if name in blocks]
    if len(kinds) != 1:
        raise StructureError(f"a .cell with {len(kinds)} blocks POSITIONS_FRAC or POSITIONS_ABS: one is needed")
    rows, unit = _with_unit(blocks[kinds[0]], kinds[0])
    if any("mixture" in word.lower() for row in rows for word in row):
        raise StructureError("a .cell with MIXTURE atoms: give a CIF with shared sites")
    if kinds[0] == "positions_abs" and "lattice_abc" in blocks:
        metric = lattice @ lattice.T
        if np.abs(metric - np.diag(np.diag(metric))).max() > 1e-6 * metric.max():
            raise StructureError("POSITIONS_ABS in LATTICE_ABC that is not rectangular: give LATTICE_CART")
    symbols = [_element(row[0].split(":")[0]) for row in rows]
    places = np.array([_numbers(row[1:4], kinds[0], 3) for row in rows]).reshape(-1, 3)
    yield frame_text(lattice, symbols, places * unit, fractional=kinds[0] == "positions_frac")


def _blocks(text: str) -> dict[str, list[list[str]]]:
    """Return the words of the lines of each block of a .cell file by its name in small letters."""
    blocks: dict[str, list[list[str]]] = {}
    name = ""
    for line in text.split("\n"):
        words = line.split()
        first = words[0].lower() if words else ""
        if first == "%block" and len(words) > 1:
            if name:
                raise StructureError(f"broken .cell: %BLOCK {name[:40].upper()} without %ENDBLOCK: complete it")
            name = words[1].lower()
            if name in blocks:
                raise StructureError(f"broken .cell: %BLOCK {name[:40].upper()} comes twice: remove one")
            blocks[name] = []
        elif first.startswith("%endblock"):
            name = ""
        elif words and name:
            blocks[name].append(words)
    if name:
        raise StructureError(f"broken .cell: %BLOCK {name[:40].upper()} without %ENDBLOCK: complete it")
    return blocks


def _lattice(blocks: dict[str, list[list[str]]]) -> FloatArray:
    kinds = [name for name in ("lattice_cart", "lattice_abc") if name in blocks]
    if len(kinds) != 1:
        raise StructureError(f"a .cell with {len(kinds)} blocks LATTICE_CART or LATTICE_ABC: one is needed")
    rows, unit = _with_unit(blocks[kinds[0]], kinds[0])
    wanted = 3 if kinds[0] == "lattice_cart" else 2
    if len(rows) != wanted:
        raise StructureError(f"broken .cell: {kinds[0].upper()} has {len(rows)} lines instead of {wanted}")
    numbers = np.array([_numbers(row[:3], kinds[0], 3) for row in rows])
    if wanted == 3:
        return numbers * unit
    try:
        return lattice_from_parameters([*(numbers[0] * unit), *numbers[1]])
    except ValueError as error:
        raise StructureError(f"broken .cell: {error}") from None


def _with_unit(rows: list[list[str]], block: str) -> tuple[list[list[str]], float]:
    """Return the rows of a block after its unit, and the unit in Å; fractional coordinates have none."""
    if not rows or len(rows[0]) != 1:
        return rows, 1.0
    if block == "positions_frac" or rows[0][0].lower() not in UNITS:
        raise StructureError(f"broken .cell: {rows[0][0][:40]!r} in {block.upper()} is no unit of length")
    return rows[1:], UNITS[rows[0][0].lower()]


def _numbers(words: Sequence[str], where: str, count: int) -> list[float]:
    try:
        numbers = [number_of(word) for word in words]
    except ValueError as error:
        raise StructureError(f"broken CASTEP file: {error}, in {where.upper()}") from None
    if len(numbers) != count:
        raise StructureError(f"broken CASTEP file: a line of {where.upper()} with fewer than {count} numbers")
    return numbers


def _element(name: str) -> str:
    """Return the element of a species, which CASTEP writes as a symbol in any case, or as an atomic number."""
    if name.isdecimal() and 1 <= int(name[:4]) <= len(ELEMENTS):
        return ELEMENTS[int(name) - 1]
    return name.capitalize()


def frames_of_output(text: str, *, last: bool) -> Iterator[str]:
    """Yield the structures that a .castep file prints, or only the last one, as JSON of plain arrays.

    A step prints its cell, its coordinates or both; what it does not print is that of the step before. A cell or
    coordinates that the end of the file cuts do not count, nor does a cell that nothing was computed for.

    Raises:
        StructureError: There is none, or one is broken.
    """
    lines = text.split("\n")
    lattice: FloatArray | None = None
    atoms: tuple[list[str], FloatArray] | None = None
    found: list[tuple[FloatArray, tuple[list[str], FloatArray]]] = []
    new_cell = computed = False
    for number, line in enumerate(lines):
        if "Real Lattice(" in line:
            if new_cell and computed and lattice is not None and atoms is not None:
                found.append((lattice, atoms))
            new_cell = computed = False
            if (cell := _cell_below(lines, number)) is None:
                break
            lattice, new_cell = cell, True
        elif "Fractional coordinates of atoms" in line and lattice is not None:
            new_cell = False
            if (table := _atoms_below(lines, number)) is None:
                break
            atoms = table
            found.append((lattice, atoms))
        computed |= "nergy" in line
        if last and len(found) > 1:
            del found[0]
    if new_cell and computed and lattice is not None and atoms is not None:
        found.append((lattice, atoms))
    if not found:
        raise StructureError(_NOT_FOUND)
    before = ""
    for vectors, (symbols, places) in found[-1:] if last else found:
        if (frame := frame_text(vectors, symbols, places, fractional=True)) != before:  # the last one is printed twice
            yield frame
        before = frame


def _cell_below(lines: Sequence[str], start: int) -> FloatArray | None:
    """Return the cell vectors (3, 3), Å, below the title on the line `start`; None if the file ends in them."""
    unit = re.sub(r".*Real Lattice\(([^)]*)\).*", r"\1", lines[start]).strip().lower()
    scale = UNITS.get({"a": "ang"}.get(unit, unit))
    if start + 4 >= len(lines):
        return None
    if scale is None:
        raise StructureError(f"a .castep file with lengths in {unit[:40]!r}: set LENGTH_UNIT to ang")
    rows = [each.split() for each in lines[start + 1 : start + 4]]
    if any(len(row) != 6 for row in rows):  # the vector, and that of the reciprocal lattice
        raise StructureError(f"broken .castep: a vector of the cell below line {start + 1} is not whole: copy it again")
    return np.array([_numbers(row[:3], "real lattice", 3) for row in rows]) * scale


def _atoms_below(lines: Sequence[str], start: int) -> tuple[list[str], FloatArray] | None:
    """Return the elements and fractional coordinates (atoms, 3) of the table whose title is on the line `start`.

    None if the file ends in the table, before the line of x that closes it.
    """
    symbols: list[str] = []
    places: list[list[float]] = []
    for number in range(start + 1, len(lines)):
        row = _ATOM_ROW.fullmatch(lines[number])
        if row is not None:
            symbols.append(row[1].split(":")[0])
            places.append(_numbers(row.groups()[1:], "coordinates", 3))
        elif symbols and _CLOSING.fullmatch(lines[number]):
            return symbols, np.array(places)
        elif number == len(lines) - 1:
            break
        elif symbols or number > start + HEADER_LINES:
            raise StructureError(f"broken .castep: line {number + 1} is no atom of its table: copy it again")
    return None
