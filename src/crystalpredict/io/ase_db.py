"""Structures of an ASE database, row after row. The only door to ASE, which is an extra."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator

from crystalpredict.errors import StructureError

BEGIN = b"SQLite format 3\0"


def rows_of_database(path: str) -> Iterator[tuple[int, str | StructureError]]:
    """The id of each row of a SQLite file of ase.db, and its structure as JSON, or why there is none.

    StructureError for a file that is none.
    """
    try:
        from ase.db import connect
    except ImportError:
        raise StructureError("an ASE database: pip install 'crystalpredict[ase]'") from None
    with open(path, "rb") as file:
        if file.read(len(BEGIN)) != BEGIN:
            raise StructureError("no ASE database: a .db file that is not one of SQLite")
    try:
        for row in connect(path, type="db", use_lock_file=False).select():
            yield row.id, _structure(row.cell.tolist(), row.symbols, row.positions.tolist(), row.pbc.tolist())
    except (sqlite3.Error, ValueError, KeyError, TypeError, IndexError) as error:
        raise StructureError(f"broken ASE database ({error})") from None


def _structure(
    cell: list[list[float]], symbols: list[str], positions: list[list[float]], pbc: list[bool]
) -> str | StructureError:
    if not all(pbc):
        return StructureError(f"pbc={pbc}: a cell that is periodic in all three directions is needed")
    return json.dumps({"lattice_mat": cell, "elements": list(symbols), "coords": positions, "cartesian": True})
