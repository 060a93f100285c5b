"""POSCAR files, one structure or many one after the other, to pymatgen structures, as VASP's manual has the format."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from pymatgen.core.lattice import Lattice
from pymatgen.core.periodic_table import Element
from pymatgen.core.structure import Structure

from crystalpredict.crystals.crystal import cell_volume
from crystalpredict.errors import StructureError
from crystalpredict.io.text import number_of

HEADER_LINES = 7  # from the title to the line above the coordinates, or above `Direct` if the dynamics are selective
XDATCAR = "an XDATCAR with more coordinates than atoms: convert it with `ase convert -n : XDATCAR frames.extxyz`"
PLANE = "broken POSCAR: the three vectors of the cell lie in a plane"
_SYMBOL = re.compile(r"([A-Z][a-z]?)(?:[_/].*)?")  # names of POTCARs too: Fe_pv, Fe_pv/1a2b3c
_MODE = re.compile(r"\s*(s(elective)?(\s+dynamics)?|d(irect)?|c(art\w*)?|k(art\w*)?)\s*", re.IGNORECASE)
_AFTERWARDS = re.compile(r"\s*(lattice\s+veloc.*|d(irect)?|c(art\w*)?|k(art\w*)?)?\s*", re.IGNORECASE)


def is_poscar(text: str) -> bool:
    """Whether the second line begins with a number, but no frame of XYZ, and the three after it with three each."""
    lines = text.split("\n", 5)[:5]
    return _is_cell(lines, 0) and "lattice=" not in lines[1].lower()


def has_poscar(text: str) -> bool:
    """Whether a POSCAR begins somewhere in a text."""
    return bool(_beginnings(text.split("\n")))


def structures_of_poscar(text: str) -> list[Structure | StructureError]:
    """Every structure of a file of POSCARs; an error stands in the place of each that cannot be read.

    Velocities may stand behind the coordinates. Whatever else stands between two structures is an error of its own.
    """
    lines = text.split("\n")
    starts = _beginnings(lines)
    if not starts or starts[0] > 0:
        starts.insert(0, 0)
    found: list[Structure | StructureError] = []
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        where = f"structure that begins in line {start + 1}: " if len(starts) > 1 else ""
        try:
            structure, rest = _structure_of(lines[start:end], start)
            found.append(structure)
            if odd := _odd_line(rest):
                place = end - len(rest) + odd
                where = ""
                raise StructureError(f"no POSCAR begins in line {place}: check the cell, the symbols and the counts")
        except StructureError as error:
            found.append(StructureError(f"{where}{error}"))
    return found


def _beginnings(lines: Sequence[str]) -> list[int]:
    """Numbers of the lines at which a header begins: title, scale, cell, symbols and counts, and a line of words."""
    starts = []
    for number in range(len(lines) - HEADER_LINES):
        named = lines[number + 5].lstrip()[:1].isalpha()
        below = lines[number + 6 + named]
        if not below.lstrip()[:1].isalpha() or not _counts(lines[number + 5 + named]):
            continue
        # without symbols, numbers of any kind may stand above a line that is not known
        if (named or _MODE.fullmatch(below)) and _is_cell(lines, number):
            starts.append(number)
    return starts


def _is_cell(lines: Sequence[str], start: int) -> bool:
    """Whether a scale and three vectors stand below the line `start`."""
    numbers = [_leading_numbers(line, 3) for line in lines[start + 1 : start + 5]]
    return len(numbers) == 4 and bool(numbers[0]) and all(len(row) == 3 for row in numbers[1:])


def _structure_of(lines: list[str], start: int) -> tuple[Structure, list[str]]:
    """The structure that begins in the first of the lines, line `start` of the file, and the lines behind it."""
    if not _is_cell(lines, 0):
        raise StructureError("broken POSCAR: no scale and three vectors of a cell below its first line")
    scale, lattice = _cell_of(lines)
    symbols, counts = _composition(lines)
    n_atoms, first = sum(counts), 6 + bool(symbols)
    if n_atoms > len(lines):
        raise StructureError(f"broken POSCAR: counts of {n_atoms:.3g} atoms in {len(lines)} lines: a file cut off")
    first += lines[first].lstrip()[:1] in ("s", "S") if len(lines) > first else 0
    if len(lines) <= first or not lines[first].lstrip()[:1].isalpha():
        raise StructureError("broken POSCAR: no line Direct or Cartesian above the coordinates")
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
        raise StructureError(f"broken POSCAR: coordinates of {len(places)} of {n_atoms:.0f} atoms: a file cut off")
    rest = lines[first + 1 + len(rows) :]
    _refuse_more(rest)
    species = _repeated(symbols, counts) or _labels(rows)
    coordinates = np.array(places) * scale if cartesian else np.array(places)
    try:
        return Structure(Lattice(lattice), species, coordinates, coords_are_cartesian=cartesian), rest
    except np.linalg.LinAlgError:
        raise StructureError(PLANE) from None


def _cell_of(lines: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Scale (3,) of x, y and z, and lattice (3, 3), Å, scaled."""
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
    """The symbols of the elements, none in the format of VASP 4, and the number of atoms of each."""
    words = re.split("[!#]", lines[5])[0].split() if len(lines) > 5 else []
    symbols = words if any(word[:1].isalpha() for word in words) else []
    counts = _counts(lines[6] if len(lines) > 6 else "") if symbols else _counts(" ".join(words))
    if not counts:
        raise StructureError("broken POSCAR: no line of counts, whole numbers above 0, below the cell and the symbols")
    if symbols and len(symbols) != len(counts):
        raise StructureError("broken POSCAR: the two lines below the cell need as many counts as element symbols")
    return [_element(symbol) for symbol in symbols], counts


def _element(symbol: str) -> str:
    named = _SYMBOL.fullmatch(symbol)
    if named is None or not Element.is_valid_symbol(named[1]):
        raise StructureError(f"unknown element {symbol!r} in a POSCAR: name chemical elements, as in Na Cl")
    return named[1]


def _repeated(symbols: Sequence[str], counts: Sequence[float]) -> list[str]:
    return [symbol for symbol, count in zip(symbols, counts, strict=False) for _ in range(int(count))]


def _labels(rows: Sequence[str]) -> list[str]:
    """The elements that stand behind the coordinates, where no line of symbols does."""
    words = [row.split()[3:] for row in rows]
    if flagged := all(len(row) > 3 and {*row[:3]} <= {"T", "F"} for row in words):
        words = [row[3:] for row in words]
    labels = [row[0] if row and Element.is_valid_symbol(row[0]) else "" for row in words]
    if not all(labels) or (not flagged and {*labels} <= {"T", "F"}):
        raise StructureError("the POSCAR does not name its elements: add a line of symbols above the line of counts")
    return labels


def _refuse_more(rest: Sequence[str]) -> None:
    """StructureError where the coordinates go on behind the last atom."""
    if any("configuration=" in line for line in rest):
        raise StructureError(XDATCAR)
    if rest and len(_leading_numbers(rest[0], 3)) == 3:
        raise StructureError("more coordinates than atoms: check the counts")


def _odd_line(rest: Sequence[str]) -> int:
    """Which of the lines behind a structure, 1 for the first, begins what may be another one; 0 if none does.

    Velocities have an empty line or one of words above them. Words without numbers below them are a comment.
    """
    for number, line in enumerate(rest, start=1):
        words = line.split()
        is_grid = len(words) == 3 and all(map(str.isdecimal, words))
        if is_grid and len(_leading_numbers("".join(rest[number : number + 1]))) > 3:
            return 0  # of a CHGCAR, with a density on it
        beside = number == 1 and words
        if not _AFTERWARDS.fullmatch(line) and (beside or len(_leading_numbers(line)) < len(words)):
            below = (each.split() for each in rest[number:])
            numbers = any(len(_leading_numbers(" ".join(row[:3]))) in (len(row), 3) for row in below if row)
            return number if numbers else 0
    return 0


def _counts(line: str) -> list[float]:
    """Numbers of atoms in a line, before any comment; none if there are others, or no atoms."""
    words = re.split("[!#]", line)[0].split()
    good = words and all(word.isdecimal() and word.isascii() for word in words)
    counts = [float(word) for word in words] if good else []
    return counts if sum(counts) else []


def _leading_numbers(line: str, most: int = 0) -> list[float]:
    """The numbers with which a line begins; of a Fortran program too, 1.5D+00; no more than `most`, if given."""
    numbers = []
    for word in line.split()[: most or None]:
        try:
            numbers.append(number_of(word))
        except ValueError:
            break
    return numbers
