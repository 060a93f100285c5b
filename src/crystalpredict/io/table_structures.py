"""Find the structures in the rows of a table: their column, and the source in a cell."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crystalpredict.errors import UsageError
from crystalpredict.io.cell_values import MISSING_VALUES
from crystalpredict.io.entries import Inline, Source
from crystalpredict.io.table_formats import STRUCTURE_KEYS, holds_structure

TEXT_COLUMNS = ("cif", "poscar", "structure", "atoms")  # in order of preference

PATH_COLUMNS = ("path", "file", "filename", "cif_file", "cif_path")

FILE_NAME = re.compile(r"[^\n<>{}]+\.\w{1,8}")

JARVIS_KEYS = frozenset({"lattice_mat", "coords", "elements"})
FIELDS_OF_A_STRUCTURE = frozenset(
    {*STRUCTURE_KEYS, *JARVIS_KEYS, "sites", "cartesian", "props", "charge", "properties", "pbc"}
)  # of a row that is itself a structure

ASE_KEYS = frozenset({"numbers", "positions", "cell"})


def text_of_id(value: Any) -> str:
    """Return the id in a cell; empty for a missing value or NaN."""
    text = "" if value is None or value != value else str(value).strip()
    return "" if text.lower() in MISSING_VALUES and text != "Na" else text  # sodium


def find_column(present: Sequence[str], names: Sequence[str]) -> str | None:
    """Return the first column with one of the names, in the same or else in any case; None if there is none."""
    by_key = {name.lower(): name for name in reversed(present)} | {name: name for name in present}
    return next((by_key[key] for name in names for key in (name, name.lower()) if key in by_key), None)


def find_structure_column(path: Path | str, present: Sequence[str], wanted: str | None) -> str:
    """Return the column with the structures: the `wanted` one, or the first with a usual name.

    Raises:
        UsageError: There is no such column.
    """
    names = (wanted,) if wanted else (*TEXT_COLUMNS, *PATH_COLUMNS)
    found = find_column(present, names)
    if found is None:
        missing = f"no column {wanted!r}" if wanted else f"no column of structures ({', '.join(names)})"
        raise UsageError(f"{path}: {missing} among {list_names(present)}: name it with --structure-column")
    return found


def list_names(names: Sequence[str]) -> str:
    """Return the first names of columns and the number of the others, for a message."""
    shown = ", ".join(name[:40] or '""' for name in names[:8])
    return f"{shown} and {len(names) - 8} more" if len(names) > 8 else shown


def source_of_cell(cell: Any, column: str, base: Path, where: str) -> Source | None:
    """Return the source of the structure in a cell, text or a path; None for an empty cell.

    A path is relative to the folder `base` of the table or, as in results, to the working directory.
    """
    if cell is None:
        return None
    if isinstance(cell, dict | list):
        return Inline(where, text_of_structure(cell))
    text = str(cell)
    if not text.strip() or text.strip().lower() in MISSING_VALUES:
        return None
    if column.lower() in TEXT_COLUMNS and FILE_NAME.fullmatch(text.strip()):
        return Inline(
            where, error=f"a file name in the column {column}, which holds structures: rename the column to path"
        )
    by_path = column.lower() in PATH_COLUMNS or (column.lower() not in TEXT_COLUMNS and not holds_structure(text))
    if not by_path:
        return Inline(where, text)
    name, beside = text.strip(), base / text.strip()
    return name if not beside.exists() and Path(name).exists() else str(beside)


def text_of_structure(structure: dict[str, Any] | list[Any]) -> str:
    """Return a structure of JSON types and NumPy arrays, as `Atoms.todict` has them, as JSON; "{}" for other types."""
    try:
        return json.dumps(structure, default=lambda value: value.tolist())
    except (AttributeError, TypeError, ValueError, RecursionError):
        return "{}"  # reading it gives the error


def other_cells(row: dict[str, Any], column: str = "") -> dict[str, Any]:
    """Return the cells of a row of a table besides its structure, by column; columns without a name are left out.

    Args:
        row: The row.
        column: Column of the structure; empty: the row itself is one, or an item of a JSON list.
    """
    own = () if column or any(name in row for name in TEXT_COLUMNS) else FIELDS_OF_A_STRUCTURE
    return {
        name: cell
        for name, cell in row.items()
        if name not in own and name != column and name[:1] not in ("", "@") and name.lower() not in TEXT_COLUMNS
    }


def structure_in_row(row: dict[str, Any]) -> str:
    """Return a JSON row that is itself a structure as text; empty if it is not."""
    attributes = row.get("attributes")  # of OPTIMADE
    if isinstance(attributes, dict) and "lattice_vectors" in attributes:
        return json.dumps(attributes)
    for keys in (STRUCTURE_KEYS, ("lattice", "sites"), JARVIS_KEYS, ASE_KEYS):
        if all(isinstance(row.get(key), list | dict) for key in keys):  # not the texts of a CSV
            return json.dumps(row)
    return ""
