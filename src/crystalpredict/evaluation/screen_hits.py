"""The best rows of a screen, with drawings of their unit cells where their structures can still be read."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from crystalpredict.crystals.drawing import MAX_ATOMS, cell_svg
from crystalpredict.evaluation.screen import Screen
from crystalpredict.io.entries import Entry, Source, start_of
from crystalpredict.io.file_types import is_archive
from crystalpredict.io.reader import read_chunk
from crystalpredict.io.sources import sources_of
from crystalpredict.io.worker_pool import Limits

RADIUS = 2.0  # Å, of the neighbour lists, which are not used
SECONDS = 20.0  # to read a structure
SECONDS_TO_FIND = 60.0  # structures in an archive or a table
GONE = "its file is no longer there"
CHANGED = "its file has another structure now"
AMBIGUOUS = "several structures have its name"


@dataclass(frozen=True)
class Hit:
    """A row of a screen.

    Attributes:
        row: Its number, from 0.
        svg: A drawing of its unit cell; "" if there is none.
        reason: Why there is none.
    """

    row: int
    svg: str
    reason: str = ""


@dataclass(frozen=True)
class _Place:
    """Where a structure may be: a file, and the name that sources of the file have for it."""

    file: str
    name: str


def draw_hits(screen: Screen, rows: Sequence[int]) -> list[Hit]:
    """Return some rows of a screen with drawings of their unit cells.

    A structure is drawn only if it has the formula and the number of atoms of its row.

    Args:
        screen: The screen.
        rows: Numbers of the rows, from 0.
    """
    places = {row: _place_of(screen.paths[row], screen.folder) for row in rows}
    wanted: dict[str, set[tuple[str, int]]] = {}
    for row, place in places.items():
        if place:
            wanted.setdefault(place.file, set()).add((place.name, screen.index[row]))
    found: dict[tuple[str, int], list[Entry]] = {}
    for file, names in wanted.items():
        for entry in read_chunk(list(_sources_in(file, names)), RADIUS, merge=False, limits=Limits(SECONDS)):
            found.setdefault((entry.path, entry.index), []).append(entry)
    return [
        _hit(screen, row, found.get((place.name, screen.index[row]), []) if place else [])
        for row, place in places.items()
    ]


def _hit(screen: Screen, row: int, entries: Sequence[Entry]) -> Hit:
    """Return a row with a drawing of its structure, given the entries of its name."""
    if len(entries) != 1:
        return Hit(row, "", AMBIGUOUS if entries else GONE)
    entry = entries[0]
    if entry.crystal is None:
        return Hit(row, "", f"its file cannot be read any more: {entry.error}")
    if entry.formula != screen.formulas[row] or entry.n_atoms != screen.atoms[row]:
        return Hit(row, "", CHANGED)
    if entry.crystal.n_atoms > MAX_ATOMS:
        return Hit(row, "", f"a cell of {entry.crystal.n_atoms:,} atoms is too large to be drawn")
    return Hit(row, cell_svg(entry.crystal, f"unit cell of {entry.formula}, {entry.crystal.n_atoms} atoms"))


def _place_of(path: str, folder: Path | None) -> _Place | None:
    """Return where the structure of a row is; None if nothing is there.

    Args:
        path: Of the row, relative to the working directory or to the folder.
        folder: Of the results.
    """
    for base in ("", *([str(folder)] if folder else [])):
        full = os.path.join(base, path)
        table = full.rpartition("#")[0]
        parents = (str(parent) for parent in Path(full).parents)
        archive = next((parent for parent in parents if is_archive(parent) and _is_file(parent)), "")
        for file in (full, table, archive):
            if file and _is_file(file):
                return _Place(file, full)
    return None


def _is_file(path: str) -> bool:
    try:
        return os.path.isfile(path)
    except ValueError:  # a null byte
        return False


def _sources_in(file: str, wanted: set[tuple[str, int]]) -> Iterable[Source]:
    """Yield the sources of a file that may have the wanted structures, by their names and indices."""
    names = {name for name, _ in wanted}
    ends = time.monotonic() + SECONDS_TO_FIND
    for source in sources_of([file], takes=names.__contains__):
        name, first = start_of(source)
        if (name in names and not first) or (name, first) in wanted:  # the first may have more than one structure
            yield source
        if time.monotonic() > ends:
            return
