"""Columns of a table that are kept in the rows of predictions: `--keep`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from glob import has_magic
from itertools import islice
from os.path import basename, exists, isdir, isfile
from typing import Any

from crystalpredict.errors import UsageError, hint_of
from crystalpredict.io.cell_values import Kind, is_missing, kind_of_cell, value_of
from crystalpredict.io.file_types import is_json, is_table
from crystalpredict.io.inputs import expand
from crystalpredict.io.sources import TableRow, sources_and_rows
from crystalpredict.io.table_formats import MAX_COLUMNS
from crystalpredict.io.table_structures import find_column

ALL, NONE = "all", "none"  # values of --keep besides names
PREFIX = "input_"  # of a kept column whose name is that of a column of predictions
MAX_JSON_FILES = 100  # of more, none is a list of structures: to look at each takes time
FIRST_ROWS = 1000  # of each table, which decide the columns of JSON and the kinds of all


@dataclass(frozen=True)
class KeptColumns:
    """Columns of tables that are kept.

    Attributes:
        kinds: What each column holds, by its name in the rows; `json`: lists, objects or a mixture.
        inputs: Its name in the tables.
    """

    kinds: dict[str, Kind] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)

    def values(self, cells: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
        """Return the JSON values of all columns in a row, and the texts of those that a CSV writes in another way.

        Args:
            cells: Of the row, by column of the table; columns may be missing.
        """
        values: dict[str, Any] = {}
        texts: dict[str, str] = {}
        for name, kind in self.kinds.items():
            cell = cells.get(self.inputs[name])
            values[name] = value = value_of(cell, kind)
            if isinstance(cell, str) and cell is not value:
                texts[name] = cell
        return values, texts


@dataclass(frozen=True)
class _Start:
    """The first rows of a table; in `texts`, as those of a CSV, numbers are texts too; `whole`: there are no more."""

    rows: Sequence[Mapping[str, Any]]
    texts: bool
    whole: bool


def kept_columns(
    keep: str | Sequence[str] | None,
    inputs: Sequence[str],
    taken: Iterable[str],
    structure_column: str | None = None,
    *,
    null: bool = False,
    others: Iterable[Sequence[Mapping[str, Any]]] = (),
) -> KeptColumns:
    """Return the columns to keep of the tables among the inputs of a command.

    Looked at are the first 1,000 rows of CSV, Parquet and JSON lines, and of JSON lists, that are named as inputs, by
    patterns or in lists.

    Args:
        keep: `all`, `none`, or names, separated by commas or in a list; None: all.
        inputs: As for `crystalpredict.io.inputs.expand`.
        taken: Names of the other columns of the rows. A kept column with such a name is called `input_NAME`.
        structure_column: Column of tables with the structures; None: the usual names.
        null: Whether paths in lists end with null bytes.
        others: Rows of tables that are not files.

    Raises:
        UsageError: No table has a column of a given name.
    """
    if keep == NONE:
        return KeptColumns()
    names = list(_tables_among(inputs, null=null))
    if keep is None and sum(map(is_json, names)) > MAX_JSON_FILES:
        names = [name for name in names if not is_json(name)]
    starts = [_start_of(name, structure_column) for name in names]
    starts += [_Start(rows[:FIRST_ROWS], texts=False, whole=True) for rows in others]
    present = list(dict.fromkeys(name for start in starts for row in start.rows for name in row))
    wanted = present if keep in (None, ALL) else _wanted(keep, present, starts, inputs)
    if len(wanted) > MAX_COLUMNS:
        raise UsageError(f"{len(wanted):,} columns to keep: name those that matter, --keep NAME,NAME, or none")
    taken = set(taken)
    columns = KeptColumns()
    for name in wanted:
        own = name.encode("utf-8", "backslashreplace").decode()
        while own in taken:
            own = f"{PREFIX}{own}"
        taken.add(own)
        columns.inputs[own] = name
        kinds = {_kind_of(start.rows, name, texts=start.texts) for start in starts}
        columns.kinds[own] = _joined_kind(kinds) or "text"
    return columns


def _wanted(
    keep: str | Sequence[str] | None, present: Sequence[str], starts: Sequence[_Start], inputs: Sequence[str]
) -> list[str]:
    """Return the columns that are named by --keep.

    Args:
        keep: Their names, separated by commas or in a list.
        present: Columns in the first rows of all tables.
        starts: These rows.
        inputs: Of the command; some cannot be looked at beforehand.
    """
    given = keep.split(",") if isinstance(keep, str) else map(str, keep or ())
    names = [name.strip() for name in given if name.strip()]
    more = _once_only(inputs)
    if not names:
        raise UsageError("--keep names no column: write all, none, or names with commas between them")
    if not starts and not more:
        if missing_file := next((name for name in inputs if _may_be_table(name) and not exists(name)), ""):
            raise UsageError(f"{missing_file}: no such file: check the path")
        raise UsageError(f"--keep {names[0][:60]}: there is no table among the inputs")
    may_follow = more or any(not start.whole and not start.texts for start in starts)
    found = {name: find_column(present, (name,)) or (name if may_follow else "") for name in names}
    if missing := [name for name, column in found.items() if not column]:
        hint = hint_of(missing[0], present) if present else "the table has only structures"
        raise UsageError(f"--keep {missing[0][:60]}: no such column: {hint}")
    return list(dict.fromkeys(found.values()))


def _tables_among(inputs: Sequence[str], *, null: bool) -> Iterable[str]:
    """Yield the tables and JSON files that inputs name; not those in directories, and none from a pipe."""
    for item in inputs:
        if has_magic(item) and not isfile(item):
            ending = basename(item).rpartition(".")[2]
            expanded = has_magic(ending) or _may_be_table(item)  # *.cif names no table
        else:
            expanded = item.startswith("@") and isfile(item[1:])
        names = expand([item], null=null) if expanded else [item]
        yield from (name for name in names if _may_be_table(name) and isfile(name))


def _may_be_table(name: str) -> bool:
    return is_table(name) or is_json(name)


def _once_only(inputs: Sequence[str]) -> bool:
    """Whether some inputs are lists from a pipe, which can be read only once, or directories."""
    return any(item == "-" or isdir(item) or (item.startswith("@") and not isfile(item[1:])) for item in inputs)


def _start_of(name: str, structure_column: str | None) -> _Start:
    found = list(islice(sources_and_rows([name], structure_column), FIRST_ROWS))
    rows = [each.cells for each in found if isinstance(each, TableRow)]
    base = name.lower().rpartition(".")[0] if name.lower().endswith((".gz", ".bz2", ".xz", ".zst")) else name.lower()
    return _Start(rows, base.endswith((".csv", ".tsv")), len(found) < FIRST_ROWS)


def _kind_of(rows: Sequence[Mapping[str, Any]], name: str, *, texts: bool) -> Kind | None:
    """Return the kind of a column; None if it has no values."""
    return _joined_kind({kind_of_cell(cell, texts) for row in rows if not is_missing(cell := row.get(name))})


def _joined_kind(kinds: Iterable[Kind | None]) -> Kind | None:
    """Return the kind of a column whose cells, or parts, are of some kinds; None if there are none."""
    known = {kind for kind in kinds if kind}
    if len(known) <= 1:
        return next(iter(known), None)
    return "number" if known == {"integer", "number"} else "json" if "json" in known else "text"
