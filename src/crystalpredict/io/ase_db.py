"""Iterate over the rows of an ASE database with sqlite3, because ase.db writes to the files it opens."""

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
from crystalpredict.io.frames import PARTLY_OCCUPIED, is_partly_occupied
from crystalpredict.io.json_text import parsed_json
from crystalpredict.io.text import MAX_FILE_BYTES, refuse_pipe

SQLITE_MAGIC = b"SQLite format 3\0"
MAX_BLOB_BYTES = 2**26  # positions of 2.8 million atoms
MAX_DATA_VALUES = 2**22  # of the JSON beside a row
MAX_ROW_SECONDS = 30.0  # SQLite's time for one row
STEPS_PER_DEADLINE_CHECK = 10_000  # SQLite instructions
PENDING_SUFFIXES = ("-wal", "-journal")  # files with changes not yet in the database
MAX_COPIED_BYTES = 2**31  # a database with pending changes is read from a copy
BROKEN = "broken ASE database: the following rows cannot be read; try sqlite3's .recover"
NO_TABLE = "not an ASE database: a SQLite file without a table `systems`"


def rows_of_database(path: str) -> Iterator[tuple[int, str | StructureError]]:
    """Yield the id of each row of an ASE database with its structure as JSON, or its error.

    The file is opened read-only; no file is written next to it.

    Raises:
        StructureError: The file is not an ASE database, or the following rows cannot be read.
    """
    refuse_pipe(path)
    with open(path, "rb") as file:
        if file.read(len(SQLITE_MAGIC)) != SQLITE_MAGIC:
            raise StructureError("not an ASE database: the .db file is not a SQLite file")
    deadline = _Deadline()
    try:
        with _opened(path) as connection:
            connection.set_progress_handler(deadline, STEPS_PER_DEADLINE_CHECK)
            yield from _rows(connection, deadline)
    except sqlite3.OperationalError as error:
        if "interrupted" not in str(error):
            raise StructureError(BROKEN) from None
        if not deadline.passed():
            raise KeyboardInterrupt from None  # SQLite caught it
        raise StructureError(f"broken ASE database: no row within {MAX_ROW_SECONDS:g} s") from None
    except (sqlite3.Error, sqlite3.Warning, OverflowError, UnicodeError):  # UnicodeError: SQLite's own messages too
        raise StructureError(BROKEN) from None


@contextmanager
def _opened(path: str) -> Iterator[sqlite3.Connection]:
    """Open the database read-only; if a journal has pending changes, open a copy of both files."""
    real = Path(os.path.realpath(path))
    pending = [file for end in PENDING_SUFFIXES if (file := Path(f"{real}{end}")).is_file() and file.stat().st_size]
    if not pending:
        with closing(sqlite3.connect(f"{real.as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
            yield connection
        return
    before = [(file.stat().st_size, file.stat().st_mtime_ns) for file in (real, *pending)]
    if sum(size for size, _ in before) > MAX_COPIED_BYTES:
        raise StructureError(f"{pending[0].name} has unsaved changes: end the program that writes the database")
    with tempfile.TemporaryDirectory() as folder:
        for file in (real, *pending):
            shutil.copyfile(file, Path(folder, file.name))
        with suppress(FileNotFoundError):
            if before != [(file.stat().st_size, file.stat().st_mtime_ns) for file in (real, *pending)]:
                raise StructureError("another program is writing this ASE database: run again when it has ended")
        with closing(sqlite3.connect(Path(folder, real.name))) as connection:
            yield connection


class _Deadline:
    """Progress handler that interrupts a query of SQLite after MAX_ROW_SECONDS."""

    def __init__(self) -> None:
        self.started = time.monotonic()

    def passed(self) -> bool:
        return time.monotonic() - self.started > MAX_ROW_SECONDS

    __call__ = passed


def _rows(connection: sqlite3.Connection, deadline: _Deadline) -> Iterator[tuple[int, str | StructureError]]:
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_FILE_BYTES)
    connection.execute("PRAGMA trusted_schema = OFF")
    found = connection.execute("SELECT type, rootpage FROM sqlite_master WHERE lower(name) = 'systems'").fetchall()
    if [(kind, bool(page)) for kind, page in found] != [("table", True)]:  # the query of a view may never end
        raise StructureError(NO_TABLE)
    columns = {name for _, name, *_ in connection.execute("PRAGMA table_info(systems)")}
    if not {"id", "numbers", "positions", "cell", "pbc"} <= columns:
        raise StructureError(NO_TABLE)
    blobs = (
        f"CASE WHEN typeof({name}) = 'blob' AND length({name}) <= {MAX_BLOB_BYTES} THEN {name} END"
        for name in ("numbers", "positions", "cell")
    )
    bound = f"length(data) <= {MAX_BLOB_BYTES} AND instr(CAST(data AS BLOB), CAST('occupancy' AS BLOB))"
    beside = f"CASE WHEN {bound} THEN CAST(data AS BLOB) END" if "data" in columns else "NULL"
    rows = connection.execute(f"SELECT id, pbc, {beside}, {', '.join(blobs)} FROM systems")
    number = 0
    while (row := rows.fetchone()) is not None:
        number += 1
        name, pbc, data, *parts = row
        try:
            _refuse_partly_occupied(data)
            yield name if isinstance(name, int) else number, _structure(pbc, *parts)
        except StructureError as error:
            yield name if isinstance(name, int) else number, error
        deadline.started = time.monotonic()


def _refuse_partly_occupied(data: bytes | None) -> None:
    """Raise StructureError if what ASE noted beside a row has shares of sites.

    It is JSON, in older versions, or the place of the JSON in eight bytes, arrays, and the JSON.
    """
    if not data:
        return
    start = int.from_bytes(data[:8], "little") if data[4:8] == bytes(4) else 0
    try:
        beside = parsed_json(data[start:].decode("utf-8", "replace"), MAX_DATA_VALUES)
    except (ValueError, RecursionError):
        raise StructureError("a row whose data cannot be read: write it again with ase.db") from None
    if is_partly_occupied(beside) or (isinstance(beside, dict) and is_partly_occupied(beside.get("info"))):
        raise StructureError(PARTLY_OCCUPIED)


def _structure(pbc: Any, numbers: bytes | None, positions: bytes | None, cell: bytes | None) -> str:
    """Return a row as JSON of plain arrays; blobs are little-endian int32 (numbers) and float64."""
    if numbers is None or positions is None or cell is None or not isinstance(pbc, int):
        raise StructureError("a row without numbers, positions, cell or pbc: write it again with ase.db")
    if len(numbers) % 4 or not numbers or len(positions) != 6 * len(numbers) or len(cell) != 72:
        raise StructureError("a row whose numbers, positions and cell differ in size: write it again with ase.db")
    periodic = [bool(pbc & bit) for bit in (1, 2, 4)]
    if not all(periodic):
        raise StructureError(f"pbc={periodic}: a cell that is periodic in all three directions is needed")
    elements = np.frombuffer(numbers, "<i4")
    places, lattice = np.frombuffer(positions, "<f8"), np.frombuffer(cell, "<f8")
    if not (np.isfinite(places).all() and np.isfinite(lattice).all()):
        raise StructureError("a coordinate or a cell vector is not a number: correct the row")
    if elements.min() < 1 or elements.max() > len(ELEMENTS):
        odd = next(int(number) for number in elements if not 1 <= number <= len(ELEMENTS))
        raise StructureError(f"atomic number {odd}: the model covers H to {ELEMENTS[-1]} only")
    return json.dumps(
        {
            "lattice_mat": lattice.reshape(3, 3).tolist(),
            "elements": [ELEMENTS[number - 1] for number in elements],
            "coords": places.reshape(-1, 3).tolist(),
            "cartesian": True,
        }
    )
