"""Extended XYZ: frames of a file, and the cell, symbols and positions of a frame."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import IO

import numpy as np

from crystalpredict.crystals.crystal import ELEMENTS, FloatArray
from crystalpredict.errors import StructureError
from crystalpredict.io.text import LARGEST

LONGEST_LINE = 2**20  # characters
FEWEST_BYTES = 6  # of an atom's line
LONGEST_COMMENT = 2**15  # characters, whose square may have to be searched for what is open and never closed
_PAIR = re.compile(r"""(?<![^\s"'}\]])([^\s="']++)\s*+=\s*("[^"]*"|'[^']*'|\{[^}]*\}|\[[^\]]*\]|\S+)""")
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
    while line := file.readline(LONGEST_LINE):
        if not line.strip():
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
    info = {key.lower(): value.strip("\"'{}[]") for key, value in _PAIR.findall(comment)}
    if "lattice" not in info:
        raise StructureError(NO_CELL)
    if (pbc := info.get("pbc")) and any(word[0] in "f0" for word in pbc.lower().replace(",", " ").split()):
        raise StructureError(f'pbc="{pbc}": a cell that is periodic in all three directions is needed')
    try:
        lattice = np.array(info["lattice"].replace(",", " ").split(), dtype=float).reshape(3, 3)
        symbol, place = _columns(info.get("properties", "species:S:1:pos:R:3"))
        words = [line.split() for line in lines]
        symbols = [_symbol(row[symbol]) for row in words]
        positions = np.array([row[place : place + 3] for row in words], dtype=float).reshape(-1, 3)
    except (ValueError, IndexError, KeyError) as error:
        raise StructureError(f"broken XYZ ({error}): check Lattice, Properties and the lines of atoms") from None
    return lattice, symbols, positions


def _columns(properties: str) -> tuple[int, int]:
    """The columns of the species and of the first coordinate."""
    parts = properties.split(":")
    first: dict[str, int] = {}
    column = 0
    for name, _, width in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        first[name.lower()] = column
        column += int(width)
    species = next((first[name] for name in ("species", "z", "numbers") if name in first), 0)
    return species, first["pos"]


def _symbol(word: str) -> str:
    """Symbol of an element that is named or numbered."""
    if not word.isdecimal():
        return word
    if not 1 <= int(word) <= len(ELEMENTS):
        raise ValueError(f"no element {word}")
    return ELEMENTS[int(word) - 1]
