"""Labelled tables in memory: DataFrames, or what makes one, as the columns that a file would have."""

from __future__ import annotations

import hashlib
import json
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crystalpredict.errors import StructureError, UsageError
from crystalpredict.io.table_formats import ID_COLUMNS, RawTable
from crystalpredict.io.table_structures import find_column

if TYPE_CHECKING:
    from pandas import DataFrame

NAME = Path("the DataFrame")  # in messages, where a table from a file has its path


def table_in_memory(data: Any) -> RawTable | None:
    """Return the columns of a labelled table that is no file.

    Args:
        data: DataFrame, or a dictionary of columns, or a list of dictionaries. Cells may be pymatgen structures or
            ASE atoms. The index gives the ids if it tells rows apart and no column does.

    Returns:
        The table; None if `data` is the path of one.

    Raises:
        UsageError: `data` is no table.
    """
    if isinstance(data, str | PathLike):
        return None
    import pandas

    try:
        frame = pandas.DataFrame(data)
    except (TypeError, ValueError) as error:
        raise UsageError(f"a {type(data).__name__} is no table ({error}): give a path or a DataFrame") from None
    names = [str(name) for name in frame.columns]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"{NAME}: {names.count(repeated[0])} columns are called {repeated[0]!r}: rename one")
    broken: dict[int, str] = {}
    columns = {name: _cells(frame, place, broken) for place, name in enumerate(names)}
    if find_column(names, ID_COLUMNS) is None and frame.index.is_unique:
        columns = {ID_COLUMNS[0]: [str(label) for label in frame.index], **columns}
    return RawTable(tuple(columns), columns, len(frame), broken)


def digest_of(raw: RawTable) -> str:
    """Return the sha256 of a table's columns."""
    return hashlib.sha256(json.dumps(raw.columns, default=str).encode()).hexdigest()


def _cells(frame: DataFrame, place: int, broken: dict[int, str]) -> list[Any]:
    """Return the cells of a column, None for nothing; add rows with broken structures to `broken`."""
    column = frame.iloc[:, place].astype(object)
    cells: list[Any] = column.where(column.notna(), None).tolist()
    for row, cell in enumerate(cells):
        if any(hasattr(cell, name) for name in ("sites", "get_cell")):
            from crystalpredict.io.from_pymatgen import plain_dictionary

            try:
                cells[row] = plain_dictionary(cell)
            except StructureError as error:
                cells[row], broken[row] = None, str(error)
    return cells
