"""Extended XYZ: frames of a file, and the cell, symbols and positions of a frame."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import IO

import numpy as np

from crystalpredict.crystals.crystal import ELEMENTS, FloatArray
from crystalpredict.errors import StructureError
from crystalpredict.io.text import LARGEST, MOST_BLANK_LINES, number_of

LONGEST_LINE = 2**20  # characters
FEWEST_BYTES = 6  # of an atom's line
LONGEST_COMMENT = 2**15  # characters, whose square may have to be searched for what is open and never closed
_PAIR = re.compile(r"""(?<![^\s"'}\]])([^\s="']++)\s*+=\s*("[^"]*"|'[^']*'|\{[^}]*\}|\[[^\]]*\]|\S+)""")
_LABEL = re.compile(r"([A-Z][a-z]?)[0-9]*[+-]?[0-9]*")
_COUNT = re.compile(r"\s*[0-9]+\s*", re.ASCII)  # int() takes no other white space
NO_CELL = 'XYZ without a cell (Lattice="..." in its second line): a periodic cell is needed'


def is_xyz(text: str) -> bool:
    """Whether a text begins like XYZ: with a number alone, and a line of an atom after the comment."""
    lines = text[: 2**14].split("\n", 3)
    if not _COUNT.fullmatch(lines[0]) or len(lines) < 3:
        return False
    return "lattice=" in lines[1].lower() or bool(re.match(r"\s*[A-Za-z]{1,3}[0-9]*(\s+[-+.0-9eEdD]+){3}", lines[2]))


def frames_of(file: IO[str]) -> Iterator[str]:
    """The text of each frame; StructureError at the first line that should begin one and does not."""
    blank = 0
    while line := file.readline(LONGEST_LINE):
        blank = blank + 1 if line.isspace() else 0
        if blank > MOST_BLANK_LINES:
            raise StructureError(f"broken XYZ: more than {MOST_BLANK_LINES:,} empty lines on end")
        if blank:
            continue
        count = int(line) if _COUNT.fullmatch(line) and len(line) < 12 else None
        if count is None or count * FEWEST_BYTES > LARGEST:
            raise StructureError(f"broken XYZ: {line[:40].strip()!r} stands where a frame's number of atoms should")
        lines, size = [line], 0
        for _ in range(count + 1):
            lines.append(file.readline(LONGEST_LINE))
            size += len(lines[-1])
            if size > LARGEST or not lines[-1]:
                break
        yield "".join(lines)


def parse_frame(text: str) -> tuple[FloatArray, list[str], FloatArray]:
    """Lattice (3, 3), symbols and Cartesian positions (atoms, 3), Å, of one frame; StructureError if it is broken."""
    count, *rest = text.rstrip("\n").split("\n")
    comment, *lines = rest or [""]
    if len(lines) != int(count):
        raise StructureError(f"broken XYZ: {len(lines)} of {int(count)} lines of atoms: a file cut off")
    if len(comment) > LONGEST_COMMENT:
        raise StructureError(f"broken XYZ: a second line of {len(comment)} characters: shorten it to the cell")
    info = _info(comment)
    if "lattice" not in info:
        raise StructureError(NO_CELL)
    if (pbc := info.get("pbc")) and not re.fullmatch(r"[\s,]*((t|true|1)[\s,]*){3}", pbc.lower()):
        raise StructureError(f'pbc="{pbc}": a cell that is periodic in all three directions is needed')
    lattice = _numbers(info["lattice"].replace(",", " ").split(), "Lattice in line 2")
    if len(lattice) != 9:
        raise StructureError(f"broken XYZ: Lattice has {len(lattice)} numbers, and not nine")
    symbol, place = _columns(info.get("properties", "species:S:1:pos:R:3"))
    words = [line.split() for line in lines]
    for number, row in enumerate(words, start=3):
        if len(row) < max(symbol + 1, place + 3):
            raise StructureError(f"broken XYZ: line {number} of the frame has {len(row)} words, too few for an atom")
    symbols = [_symbol(row[symbol], number) for number, row in enumerate(words, start=3)]
    return np.reshape(lattice, (3, 3)), symbols, _positions([row[place : place + 3] for row in words])


def _info(comment: str) -> dict[str, str]:
    """What a second line says, by name in small letters; StructureError where it says two things of the cell."""
    info: dict[str, str] = {}
    for key, text in _PAIR.findall(comment):
        name, value = key.lower(), text.strip("\"'{}[]")
        if name in ("lattice", "pbc", "properties") and info.get(name, value) != value:
            raise StructureError(f"broken XYZ: line 2 has {key} twice: leave one")
        info[name] = value
    return info


def _positions(words: list[list[str]]) -> FloatArray:
    """Positions (atoms, 3), Å."""
    try:
        if not any("_" in word for row in words for word in row):  # which Python passes over in numbers
            return np.array(words, dtype=float).reshape(-1, 3)
    except ValueError:
        pass
    return np.array([_numbers(row, f"line {number}") for number, row in enumerate(words, start=3)]).reshape(-1, 3)


def _numbers(words: list[str], where: str) -> list[float]:
    try:
        return [number_of(word) for word in words]
    except ValueError as error:
        raise StructureError(f"broken XYZ: {error}, {where} of the frame") from None


def _columns(properties: str) -> tuple[int, int]:
    """The columns of the species and of the first coordinate."""
    parts = properties.split(":")
    first: dict[str, int] = {}
    column = 0
    for name, _, width in zip(parts[::3], parts[1::3], parts[2::3], strict=False):
        first[name.lower()] = column
        column += int(width) if width.isdecimal() and len(width) < 7 else 0
    species = next((first[name] for name in ("species", "z", "numbers") if name in first), None)
    if species is None or "pos" not in first or len(parts) % 3:
        raise StructureError(f"broken XYZ: Properties={properties[:80]} without species:S:1 and pos:R:3")
    return species, first["pos"]


def _symbol(word: str, line: int) -> str:
    """Symbol of an element that is named, with a number or a charge behind it too, or numbered."""
    named = _LABEL.fullmatch(word)
    if word.isdecimal() and 1 <= int(word[:9]) <= len(ELEMENTS):
        return ELEMENTS[int(word) - 1]
    if not named:
        raise StructureError(f"unknown element {word[:40]!r} in line {line} of an XYZ frame: name a chemical element")
    return named[1]
