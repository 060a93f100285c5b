"""Structures of an ASE database, row after row: SQLite's own reader, since ASE's writes to what it opens."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from crystalpredict.crystals.crystal import ELEMENTS
from crystalpredict.errors import StructureError
from crystalpredict.io.text import LARGEST, refuse_pipe

BEGIN = b"SQLite format 3\0"
LARGEST_BLOB = 2**26  # bytes, positions of 2.8 million atoms
LONGEST_SEARCH = 30.0  # seconds of SQLite for one row
STEPS = 10_000  # of SQLite between looks at the clock
BESIDE = ("-wal", "-journal")  # files with changes that a database does not have yet
LARGEST_COPY = 2**31  # bytes of a database with such a file, which is read from a copy
BROKEN = "broken ASE database: rows that follow are lost; try sqlite3's .recover"
NO_TABLE = "no ASE database: SQLite, but without a table `systems`"


def rows_of_database(path: str) -> Iterator[tuple[int, str | StructureError]]:
    """The id of each row of a SQLite file of ase.db, and its structure as JSON, or why there is none.

    StructureError for a file that is none, and after the rows before the place that cannot be read. The file is opened
    for reading alone, and nothing is written beside it.
    """
    refuse_pipe(path)
    with open(path, "rb") as file:
        if file.read(len(BEGIN)) != BEGIN:
            raise StructureError("no ASE database: a .db file that is not one of SQLite")
    clock = _Clock()
    try:
        with _opened(path) as connection:
            connection.set_progress_handler(clock, STEPS)
            yield from _rows(connection, clock)
    except sqlite3.OperationalError as error:
        if "interrupted" not in str(error):
            raise StructureError(BROKEN) from None
        if not clock.late():
            raise KeyboardInterrupt from None  # which SQLite caught
        raise StructureError(f"broken ASE database: not one row in {LONGEST_SEARCH:g} s") from None
    except (sqlite3.Error, sqlite3.Warning, OverflowError, UnicodeError):  # of SQLite's own messages too
        raise StructureError(BROKEN) from None


@contextmanager
def _opened(path: str) -> Iterator[sqlite3.Connection]:
    """A connection that cannot change the database; where another file has its last changes, one to a copy of both."""
    real = Path(os.path.realpath(path))
    beside = [file for end in BESIDE if (file := Path(f"{real}{end}")).is_file() and file.stat().st_size]
    if not beside:
        with closing(sqlite3.connect(f"{real.as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
            yield connection
        return
    before = [(file.stat().st_size, file.stat().st_mtime_ns) for file in (real, *beside)]
    if sum(size for size, _ in before) > LARGEST_COPY:
        raise StructureError(f"{beside[0].name} has changes of it: end the program that writes it")
    with tempfile.TemporaryDirectory() as folder:
        for file in (real, *beside):
            shutil.copyfile(file, Path(folder, file.name))
        with suppress(FileNotFoundError):
            if before != [(file.stat().st_size, file.stat().st_mtime_ns) for file in (real, *beside)]:
                raise StructureError("an ASE database that is being written: wait for the end of that, or copy it")
        with closing(sqlite3.connect(Path(folder, real.name))) as connection:
            yield connection


class _Clock:
    """Ends a search of SQLite that takes too long."""

    def __init__(self) -> None:
        self.started = time.monotonic()

    def late(self) -> bool:
        return time.monotonic() - self.started > LONGEST_SEARCH

    __call__ = late


def _rows(connection: sqlite3.Connection, clock: _Clock) -> Iterator[tuple[int, str | StructureError]]:
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LARGEST)
    connection.execute("PRAGMA trusted_schema = OFF")
    found = connection.execute("SELECT type, rootpage FROM sqlite_master WHERE lower(name) = 'systems'").fetchall()
    if [(kind, bool(page)) for kind, page in found] != [("table", True)]:  # a view may have no end
        raise StructureError(NO_TABLE)
    columns = {name for _, name, *_ in connection.execute("PRAGMA table_info(systems)")}
    if not {"id", "numbers", "positions", "cell", "pbc"} <= columns:
        raise StructureError(NO_TABLE)
    blobs = (
        f"CASE WHEN typeof({name}) = 'blob' AND length({name}) <= {LARGEST_BLOB} THEN {name} END"
        for name in ("numbers", "positions", "cell")
    )
    rows = connection.execute(f"SELECT id, pbc, {', '.join(blobs)} FROM systems")
    number = 0
    while (row := rows.fetchone()) is not None:
        number += 1
        name, pbc, *parts = row
        try:
            yield name if isinstance(name, int) else number, _structure(pbc, *parts)
        except StructureError as error:
            yield name if isinstance(name, int) else number, error
        clock.started = time.monotonic()


def _structure(pbc: Any, numbers: bytes | None, positions: bytes | None, cell: bytes | None) -> str:
    """A row as JSON of plain arrays; numbers are of 4 bytes, all else of 8, the lowest first."""
    if numbers is None or positions is None or cell is None or not isinstance(pbc, int):
        raise StructureError("a row without numbers, positions, cell or pbc: write it again with ase.db")
    if len(numbers) % 4 or not numbers or len(positions) != 6 * len(numbers) or len(cell) != 72:
        raise StructureError("a row whose numbers, positions and cell do not fit: write it again with ase.db")
    periodic = [bool(pbc & bit) for bit in (1, 2, 4)]
    if not all(periodic):
        raise StructureError(f"pbc={periodic}: a cell that is periodic in all three directions is needed")
    elements = np.frombuffer(numbers, "<i4")
    places, lattice = np.frombuffer(positions, "<f8"), np.frombuffer(cell, "<f8")
    if not (np.isfinite(places).all() and np.isfinite(lattice).all()):
        raise StructureError("a row with a coordinate or a cell length that is not a number")
    if elements.min() < 1 or elements.max() > len(ELEMENTS):
        odd = next(int(number) for number in elements if not 1 <= number <= len(ELEMENTS))
        raise StructureError(f"atomic number {odd} in a row: the model knows H to {ELEMENTS[-1]} only")
    return json.dumps(
        {
            "lattice_mat": lattice.reshape(3, 3).tolist(),
            "elements": [ELEMENTS[number - 1] for number in elements],
            "coords": places.reshape(-1, 3).tolist(),
            "cartesian": True,
        }
    )
