"""Read POSCAR files of one or more structures, in the format of VASP's manual, to pymatgen structures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from pymatgen.core.lattice import Lattice
from pymatgen.core.periodic_table import Element
from pymatgen.core.structure import Structure

from crystalpredict.crystals.crystal import FloatArray, cell_volume
from crystalpredict.errors import StructureError
from crystalpredict.io.plain import PlainCrystal, all_or_none, plain_crystal
from crystalpredict.io.text import number_of

HEADER_LINES = 7  # title, scale, three vectors, symbols, counts
PLANE = "broken POSCAR: the three vectors of the cell lie in a plane"
_SYMBOL = re.compile(r"([A-Z][a-z]?)(?:[_/].*)?")  # names of POTCARs too: Fe_pv, Fe_pv/1a2b3c
_ELEMENT_AND_AMOUNT = re.compile(r"([A-Z][a-z]?)([0-9]{0,6})")
_FORMULA = re.compile(r"([A-Z][a-z]?[0-9]{0,6})+")
_MODE = re.compile(r"\s*(s(elective)?(\s+dynamics)?|d(irect)?|c(art\w*)?|k(art\w*)?)\s*", re.IGNORECASE)
_AFTERWARDS = re.compile(r"\s*(lattice\s+veloc.*|d(irect)?|c(art\w*)?|k(art\w*)?)?\s*", re.IGNORECASE)


class PoscarCell(NamedTuple):
    """A cell of a POSCAR: lattice (3, 3), Å, elements of its n atoms, and their fractional coordinates (n, 3)."""

    lattice: FloatArray
    symbols: list[str]
    fractional: FloatArray


def is_poscar(text: str) -> bool:
    """Whether a text begins like a POSCAR: a scale and three vectors below the first line, and not an XYZ frame."""
    lines = text.split("\n", 5)[:5]
    return _is_cell(lines, 0) and "lattice=" not in lines[1].lower()


def has_poscar(text: str) -> bool:
    """Whether a POSCAR begins on any line of a text."""
    return bool(_beginnings(text.split("\n")))


def structures_of_poscar(text: str) -> list[Structure | StructureError]:
    """Return every structure of a text of POSCARs, or its error."""
    return [
        each if isinstance(each, StructureError) else Structure(Lattice(each.lattice), each.symbols, each.fractional)
        for each in _cells_of_poscar(text)
    ]


def plain_of_poscar(text: str) -> Sequence[PlainCrystal]:
    """Return every crystal of a text of POSCARs; none if one of them has an error or needs further checks."""
    cells = _cells_of_poscar(text)
    return all_or_none([None if isinstance(each, StructureError) else plain_crystal(*each) for each in cells])


def _cells_of_poscar(text: str) -> list[PoscarCell | StructureError]:
    """Return every cell of a text of POSCARs, or its error.

    Velocities may follow the coordinates. Any other lines between two structures give a further error.
    """
    lines = text.split("\n")
    starts = _beginnings(lines)
    if not starts or starts[0] > 0:
        starts.insert(0, 0)
    found: list[PoscarCell | StructureError] = []
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        where = f"structure that begins on line {start + 1}: " if len(starts) > 1 else ""
        try:
            cell, rest = _cell_and_rest(lines[start:end], start)
            found.append(cell)
            if odd := _odd_line(rest):
                place = end - len(rest) + odd
                where = ""
                raise StructureError(f"no POSCAR begins on line {place}: check the cell, the symbols and the counts")
        except StructureError as error:
            found.append(StructureError(f"{where}{error}"))
    return found


def _beginnings(lines: Sequence[str]) -> list[int]:
    """Return the numbers of the lines at which a header begins: title, scale, cell, symbols, counts and mode."""
    starts = []
    words = {number for number, line in enumerate(lines) if line.lstrip()[:1].isalpha()}
    for mode in sorted(words):  # the header ends here
        for named in (True, False):
            number = mode - 6 - named
            if not 0 <= number < len(lines) - HEADER_LINES or (number + 5 in words) != named:
                continue
            # without symbols, any numbers could be counts, unless a known mode follows
            known = named or _MODE.fullmatch(lines[mode])
            if known and _counts(lines[mode - 1]) and _is_cell(lines, number):
                starts.append(number)
    return starts


def _is_cell(lines: Sequence[str], start: int) -> bool:
    """Whether a scale and three vectors follow the line `start`."""
    numbers = [_leading_numbers(line, 3) for line in lines[start + 1 : start + 5]]
    return len(numbers) == 4 and bool(numbers[0]) and all(len(row) == 3 for row in numbers[1:])


def _cell_and_rest(lines: list[str], start: int) -> tuple[PoscarCell, list[str]]:
    """Return the first cell and the lines after it; `start`: number of the first line in the file."""
    if not _is_cell(lines, 0):
        raise StructureError("broken POSCAR: the first line is not followed by a scale and three cell vectors")
    scale, lattice = _lattice_of(lines)
    symbols, counts = _composition(lines)
    n_atoms, first = sum(counts), 6 + bool(symbols)
    if n_atoms > len(lines):
        raise StructureError(f"broken POSCAR: counts of {n_atoms:.3g} atoms in {len(lines)} lines: the file is cut off")
    first += lines[first].lstrip()[:1] in ("s", "S") if len(lines) > first else 0
    if len(lines) <= first or not lines[first].lstrip()[:1].isalpha():
        raise StructureError("broken POSCAR: no line `Direct` or `Cartesian` above the coordinates")
    cartesian = lines[first].lstrip()[0] in "cCkK"
    rows = lines[first + 1 : first + 1 + int(n_atoms)]
    places = []
    for number, row in enumerate(rows, start=start + first + 2):
        if len(place := _leading_numbers(row, 3)) < 3:
            raise StructureError(
                f"broken POSCAR: line {number} should hold three coordinates: check the counts and the coordinates"
            )
        places.append(place)
    if len(places) < n_atoms:
        raise StructureError(f"broken POSCAR: coordinates of {len(places)} of {n_atoms:.0f} atoms: the file is cut off")
    rest = lines[first + 1 + len(rows) :]
    _refuse_extra_coordinates(rest)
    species = _repeated(symbols, counts) or _labels(rows) or _repeated(_symbols_of_title(lines[0], counts), counts)
    try:
        fractional = np.array(places) * scale @ np.linalg.inv(lattice) if cartesian else np.array(places)
    except np.linalg.LinAlgError:
        raise StructureError(PLANE) from None
    return PoscarCell(lattice, species, fractional), rest


def _lattice_of(lines: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the scale (3,) of x, y and z, and the scaled lattice (3, 3), Å."""
    lattice = np.array([_leading_numbers(line, 3) for line in lines[2:5]])
    scales = _leading_numbers(lines[1])
    if len(scales) > 1 and (len(scales) != 3 or min(scales) <= 0):
        raise StructureError(f"broken POSCAR: scale {lines[1].strip()!r} must be one number or three above 0")
    if scales[0] < 0:  # the volume of the cell
        if not (volume := cell_volume(lattice)):
            raise StructureError(PLANE)
        scales = [(-scales[0] / volume) ** (1 / 3)]
    scale = np.array(scales if len(scales) == 3 else 3 * scales)
    return scale, lattice * scale


def _composition(lines: Sequence[str]) -> tuple[list[str], list[float]]:
    """Return the element symbols, empty in the format of VASP 4, and the number of atoms of each."""
    words = re.split("[!#]", lines[5])[0].split() if len(lines) > 5 else []
    symbols = words if any(word[:1].isalpha() for word in words) else []
    counts = _counts(lines[6] if len(lines) > 6 else "") if symbols else _counts(" ".join(words))
    if not counts:
        raise StructureError("broken POSCAR: no line of counts (whole numbers above 0) below the cell and the symbols")
    if symbols and len(symbols) != len(counts):
        raise StructureError(f"broken POSCAR: {len(symbols)} element symbols but {len(counts)} counts below the cell")
    return [_element(symbol) for symbol in symbols], counts


def _element(symbol: str) -> str:
    named = _SYMBOL.fullmatch(symbol)
    if named is None or not Element.is_valid_symbol(named[1]):
        raise StructureError(f"unknown element {symbol!r} in a POSCAR: write symbols such as Na Cl")
    return named[1]


def _repeated(symbols: Sequence[str], counts: Sequence[float]) -> list[str]:
    return [symbol for symbol, count in zip(symbols, counts, strict=False) for _ in range(int(count))]


def _labels(rows: Sequence[str]) -> list[str]:
    """Return the elements that follow the coordinates, for a POSCAR without a line of symbols; none if some do not."""
    words = [row.split()[3:] for row in rows]
    if flagged := all(len(row) > 3 and {*row[:3]} <= {"T", "F"} for row in words):
        words = [row[3:] for row in words]
    labels = [row[0] if row and Element.is_valid_symbol(row[0]) else "" for row in words]
    return labels if all(labels) and (flagged or not {*labels} <= {"T", "F"}) else []


def _symbols_of_title(title: str, counts: Sequence[float]) -> list[str]:
    """Return the element of each count from the title of a POSCAR of VASP 4, such as `Ga As`, `Fe2 O3` or `NaCl`.

    The title must have nothing else: in `In the box`, `In` may not be indium. Its numbers, and those of a formula, must
    be in the proportions of the counts.

    Raises:
        StructureError: The title does not name one element for each count.
    """
    words = re.split(r"[\s,]+", title.strip())
    parts = [(named[1], "") for word in words if (named := _SYMBOL.fullmatch(word))]
    if len(parts) < len(words):
        parts = [part for word in words for part in _ELEMENT_AND_AMOUNT.findall(word)]
        is_formula = all(_FORMULA.fullmatch(word) for word in words)
        amounts = [int(amount or 1) for _, amount in parts]
        fits = [amount * counts[0] == amounts[0] * count for amount, count in zip(amounts, counts, strict=False)]
        parts = parts if is_formula and all(fits) and len({symbol for symbol, _ in parts}) == len(parts) else []
    if len(parts) != len(counts) or not all(Element.is_valid_symbol(symbol) for symbol, _ in parts):
        raise StructureError(
            "the POSCAR does not name its elements: add a line of symbols above the line of counts; "
            "its first line is not a list of symbols that fits the counts"
        )
    return [symbol for symbol, _ in parts]


def _refuse_extra_coordinates(rest: Sequence[str]) -> None:
    """Raise StructureError if coordinates follow the last atom."""
    if (rest and len(_leading_numbers(rest[0], 3)) == 3) or any("configuration=" in line for line in rest):
        raise StructureError("more coordinates than atoms: check the counts")


def _odd_line(rest: Sequence[str]) -> int:
    """Return the number, from 1, of the line after a structure that may begin a broken one; 0 if there is none.

    Velocities follow an empty line or one of words. Words that no numbers follow are a comment.
    """
    for number, line in enumerate(rest, start=1):
        words = line.split()
        is_grid = len(words) == 3 and all(map(str.isdecimal, words))
        if is_grid and len(_leading_numbers("".join(rest[number : number + 1]))) > 3:
            return 0  # the density grid of a CHGCAR
        beside = number == 1 and words
        if not _AFTERWARDS.fullmatch(line) and (beside or len(_leading_numbers(line)) < len(words)):
            below = (each.split() for each in rest[number:])
            numbers = any(len(_leading_numbers(" ".join(row[:3]))) in (len(row), 3) for row in below if row)
            return number if numbers else 0
    return 0


def _counts(line: str) -> list[float]:
    """Return the numbers of atoms on a line, without its comment; empty if it has anything else, or no atoms."""
    words = re.split("[!#]", line)[0].split()
    good = words and all(word.isdecimal() and word.isascii() for word in words)
    counts = [float(word) for word in words] if good else []
    return counts if sum(counts) else []


def _leading_numbers(line: str, max_numbers: int = 0) -> list[float]:
    """Return the numbers with which a line begins, also in Fortran's format; at most `max_numbers` unless that is 0."""
    words = line.split(None, max_numbers or -1)[: max_numbers or None]
    plain = line.isascii() and "_" not in line  # float() takes other digits and underscores
    try:
        return [*map(float if plain else number_of, words)]
    except ValueError:
        numbers = []
    for word in words:
        try:
            numbers.append(number_of(word))
        except ValueError:
            break
    return numbers
