"""Read extended XYZ: split a file into frames, and parse a frame."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import IO

import numpy as np

from crystalpredict.crystals.crystal import ELEMENTS, FloatArray
from crystalpredict.errors import StructureError
from crystalpredict.io.frames import PARTLY_OCCUPIED
from crystalpredict.io.text import MAX_BLANK_LINES, MAX_FILE_BYTES, number_of

MAX_LINE_CHARACTERS = 2**20
MIN_ATOM_LINE_BYTES = 6  # of the shortest line of an atom
MAX_COMMENT_CHARACTERS = 2**15  # searching unclosed quotes takes quadratic time
_PAIR = re.compile(r"""(?<![^\s"'}\]])([^\s="']++)\s*+=\s*("[^"]*"|'[^']*'|\{[^}]*\}|\[[^\]]*\]|\S+)""")
_OCCUPANCY = re.compile(  # of ASE: a dictionary of the shares of sites, in quotes or not
    r"""(?<![^\s"'}\]])occupancy\s*+=\s*+("(?:[^"\\]|\\.)*+"|'[^']*+'|\{[^{}]*+(?:\{[^{}]*+\}[^{}]*+)*+\})""",
    re.IGNORECASE,
)
_SHARE = re.compile(r":\s*([^\s,{}:]+)")
SHARES = ("occupancy", "occupancies", "occ", "site_occupancy")  # names of a column of occupancies
_LABEL = re.compile(r"([A-Z][a-z]?)[0-9]*[+-]?[0-9]*")
_COUNT = re.compile(r"\s*[0-9]+\s*", re.ASCII)  # only the white space that int() accepts
NO_CELL = 'XYZ without a cell (Lattice="..." in its second line): a periodic cell is needed'


def is_xyz(text: str) -> bool:
    """Whether a text begins like XYZ: a count, a comment, and the line of an atom."""
    lines = text[: 2**14].split("\n", 3)
    if not _COUNT.fullmatch(lines[0]) or len(lines) < 3:
        return False
    return "lattice=" in lines[1].lower() or bool(re.match(r"\s*[A-Za-z]{1,3}[0-9]*(\s+[-+.0-9eEdD]+){3}", lines[2]))


def frames_of(file: IO[str]) -> Iterator[str]:
    """Yield the text of each frame.

    Raises:
        StructureError: A line that should begin a frame does not.
    """
    blank = 0
    while line := file.readline(MAX_LINE_CHARACTERS):
        blank = blank + 1 if line.isspace() else 0
        if blank > MAX_BLANK_LINES:
            raise StructureError(f"broken XYZ: more than {MAX_BLANK_LINES:,} empty lines in a row: check the file")
        if blank:
            continue
        count = int(line) if _COUNT.fullmatch(line) and len(line) < 12 else None
        if count is None or count * MIN_ATOM_LINE_BYTES > MAX_FILE_BYTES:
            raise StructureError(f"broken XYZ: {line[:40].strip()!r} instead of a frame's number of atoms")
        lines, size = [line], 0
        for _ in range(count + 1):
            lines.append(file.readline(MAX_LINE_CHARACTERS))
            size += len(lines[-1])
            if size > MAX_FILE_BYTES or not lines[-1]:
                break
        yield "".join(lines)


def parse_frame(text: str) -> tuple[FloatArray, list[str], FloatArray]:
    """Return the lattice (3, 3), symbols and Cartesian positions (atoms, 3), Å, of one frame.

    Raises:
        StructureError: The frame is broken or not periodic, or has partly occupied sites.
    """
    count, *rest = text.rstrip("\n").split("\n")
    comment, *lines = rest or [""]
    if len(lines) != int(count):
        raise StructureError(f"broken XYZ: {len(lines)} of {int(count)} lines of atoms: the file is cut off")
    if len(comment) > MAX_COMMENT_CHARACTERS:
        raise StructureError(f"broken XYZ: line 2 has {len(comment)} characters: keep only the cell")
    if any(not _is_one(share) for stated in _OCCUPANCY.findall(comment) for share in _SHARE.findall(stated)):
        raise StructureError(PARTLY_OCCUPIED)
    info = _info(comment)
    if "lattice" not in info:
        raise StructureError(NO_CELL)
    if (pbc := info.get("pbc")) and not re.fullmatch(r"[\s,]*((t|true|1)[\s,]*){3}", pbc.lower()):
        raise StructureError(f'pbc="{pbc}": a cell that is periodic in all three directions is needed')
    lattice = _numbers(info["lattice"].replace(",", " ").split(), "Lattice in line 2")
    if len(lattice) != 9:
        raise StructureError(f"broken XYZ: Lattice has {len(lattice)} numbers instead of nine")
    symbol, place, share = _columns(info.get("properties", "species:S:1:pos:R:3"))
    words = [line.split() for line in lines]
    for number, row in enumerate(words, start=3):
        if len(row) < max(symbol + 1, place + 3):
            raise StructureError(f"broken XYZ: line {number} of the frame has {len(row)} words, too few for an atom")
    if share is not None:
        _refuse_partly_occupied([row[share : share + 1] for row in words])
    symbols = [_symbol(row[symbol], number) for number, row in enumerate(words, start=3)]
    return np.reshape(lattice, (3, 3)), symbols, _positions([row[place : place + 3] for row in words])


def _is_one(word: str) -> bool:
    return bool(re.fullmatch(r"\+?0*1(\.0*)?([eE][-+]?0+)?", word, re.ASCII))


def _refuse_partly_occupied(words: list[list[str]]) -> None:
    """Raise StructureError unless all words of a column of occupancies are 1."""
    for number, word in enumerate(words, start=3):
        if not word or not _is_one(word[0]):
            stated = f"occupancy {word[0][:40]}" if word else "no occupancy"
            raise StructureError(f"{stated} in line {number} of the frame: {PARTLY_OCCUPIED}")


def _info(comment: str) -> dict[str, str]:
    """Return the key=value pairs of a comment line by lower-case key; StructureError for two cells."""
    info: dict[str, str] = {}
    for key, text in _PAIR.findall(comment):
        name, value = key.lower(), text.strip("\"'{}[]")
        if name in ("lattice", "pbc", "properties") and info.get(name, value) != value:
            raise StructureError(f"broken XYZ: line 2 has {key} twice: remove one")
        info[name] = value
    return info


def _positions(words: list[list[str]]) -> FloatArray:
    """Return the positions (atoms, 3), Å, in the words of each line."""
    try:
        if not any("_" in word for row in words for word in row):  # Python ignores underscores in numbers
            return np.array(words, dtype=float).reshape(-1, 3)
    except ValueError:
        pass
    return np.array([_numbers(row, f"line {number}") for number, row in enumerate(words, start=3)]).reshape(-1, 3)


def _numbers(words: list[str], where: str) -> list[float]:
    try:
        return [number_of(word) for word in words]
    except ValueError as error:
        raise StructureError(f"broken XYZ: {error}, {where} of the frame") from None


def _columns(properties: str) -> tuple[int, int, int | None]:
    """Return the columns of the species and of the first coordinate, and that of occupancies, if there is one."""
    parts = properties.split(":")
    first: dict[str, int] = {}
    column = 0
    for name, _, width in zip(parts[::3], parts[1::3], parts[2::3], strict=False):
        first[name.lower()] = column
        column += int(width) if width.isdecimal() and len(width) < 7 else 0
    species = next((first[name] for name in ("species", "z", "numbers") if name in first), None)
    if species is None or "pos" not in first or len(parts) % 3:
        raise StructureError(f"broken XYZ: Properties={properties[:80]} lacks species:S:1 or pos:R:3")
    return species, first["pos"], next((first[name] for name in SHARES if name in first), None)


def _symbol(word: str, line: int) -> str:
    """Return the element symbol of a label such as Fe, Fe1, Fe3+ or 26."""
    named = _LABEL.fullmatch(word)
    if word.isdecimal() and 1 <= int(word[:9]) <= len(ELEMENTS):
        return ELEMENTS[int(word) - 1]
    if not named:
        raise StructureError(f"unknown element {word[:40]!r} in line {line} of an XYZ frame: name a chemical element")
    return named[1]
