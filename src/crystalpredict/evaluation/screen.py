"""A screen: the rows that `predict` wrote, by columns, with the counts and the ranking that its page shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from crystalpredict._files import file_sha256
from crystalpredict.crystals.crystal import FloatArray, IntArray
from crystalpredict.crystals.periodic_table import elements_in
from crystalpredict.errors import DataError, UsageError, printable, reason_of
from crystalpredict.properties import OUTPUT_COLUMNS, REQUESTED, TRAINED, Property
from crystalpredict.uncertainty import DEFAULT_LEVEL

if TYPE_CHECKING:
    from crystalpredict.prediction.predictions import Predictions

KNOWN = {prop.column: prop for prop in (*TRAINED, *REQUESTED)}
NEEDED = ("path", "formula", "error")  # columns of every result of predict
RANKED_BY = ("hull_distance_eV_per_atom", "e_above_hull_eV_per_atom")  # columns, in order of preference
MAX_OTHER_COLUMNS = 30  # besides those of known properties
MAX_TEXT = 300  # characters of a cell; columns with longer ones, such as CIFs, are left out
LOOKED_AT = 200  # cells that decide whether a column of texts is left out
LOW, HIGH = f"_lo{DEFAULT_LEVEL}", f"_hi{DEFAULT_LEVEL}"  # endings of the columns of intervals


@dataclass(frozen=True)
class NumberColumn:
    """Numbers of N rows.

    Attributes:
        name: In the file.
        label: What it is.
        unit: "" if it has none, or if it is unknown.
        decimals: Digits after the point; None: unknown.
        logarithmic: Whether it is drawn on a logarithmic axis.
        values: (N,), NaN where there is none.
        low, high: Ends of the intervals, (N,); None if there are none.
    """

    name: str
    label: str
    unit: str
    decimals: int | None
    logarithmic: bool
    values: FloatArray
    low: FloatArray | None = None
    high: FloatArray | None = None

    @property
    def title(self) -> str:
        """Label and unit."""
        return f"{self.label}, {self.unit}" if self.unit else self.label


@dataclass(frozen=True)
class TextColumn:
    """Texts of N rows."""

    name: str
    label: str
    values: list[str]


@dataclass(frozen=True)
class Kind:
    """Failures or warnings of the same kind.

    Attributes:
        name: What they have in common.
        count: Number of rows.
        row: The first of them, from 0.
        example: Its message.
    """

    name: str
    count: int
    row: int
    example: str


@dataclass(frozen=True)
class Screen:
    """N rows of predictions.

    Attributes:
        name: Of the file, or another title.
        sources: What the page says of its data: names and texts.
        folder: That paths of structures may be relative to, besides the working directory; None if there is none.
        paths, formulas: Texts, (N,), as they are in the file.
        index: Number of each structure in its file, (N,).
        atoms: Number of atoms of each cell, (N,), NaN if it was not read.
        numbers, texts: The other columns; properties first.
        warnings: Of each row, (N,).
        errors: Why a row has no values, (N,); "" if it has.
        left_out: Names of columns that are not shown.
    """

    name: str
    sources: tuple[tuple[str, str], ...]
    folder: Path | None
    paths: list[str]
    formulas: list[str]
    index: list[int]
    atoms: FloatArray
    numbers: tuple[NumberColumn, ...]
    texts: tuple[TextColumn, ...]
    warnings: list[tuple[str, ...]]
    errors: list[str]
    left_out: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.paths)

    @property
    def failed(self) -> int:
        """Number of rows with an error."""
        return sum(map(bool, self.errors))

    @property
    def warned(self) -> int:
        """Number of rows with a warning."""
        return sum(map(bool, self.warnings))

    @property
    def is_drawn(self) -> bool:
        """Whether a column has two numbers, which a chart needs."""
        return any(np.isfinite(column.values).sum() > 1 for column in self.numbers)

    def failures_by_reason(self) -> list[Kind]:
        """Return the failures by reason, the most frequent first."""
        return _by_kind(((text,) if text else () for text in self.errors), reason_of)

    def warnings_by_kind(self) -> list[Kind]:
        """Return the warnings by kind, the most frequent first."""
        return _by_kind(self.warnings, kind_of_warning)

    def elements(self) -> dict[str, int]:
        """Return the number of structures with each element."""
        formulas = Counter(self.formulas)
        counts: Counter[str] = Counter()
        for formula, count in formulas.items():
            counts.update(dict.fromkeys(elements_in(formula), count))
        return dict(counts)

    def ranked(self, sort: str | None = None) -> tuple[IntArray, str]:
        """Return the rows with values, the best first, and what they are ranked by; "" for the order of the file.

        Args:
            sort: Column, or name of a property, by which they are ranked, smallest value first; with a minus sign
                largest first. "": the order of the rows. None: the distance to the hull, or the energy above it, if
                there is one.

        Raises:
            UsageError: There is no such column of numbers.
        """
        valid = np.array([not error for error in self.errors], dtype=bool)
        column, descending = self._column_of(sort)
        if column is None:
            return np.flatnonzero(valid), ""
        keys = -column.values if descending else column.values
        order = np.argsort(keys, kind="stable")
        chosen = order[valid[order] & np.isfinite(keys[order])]
        return chosen, f"{column.label}, {'largest' if descending else 'smallest'} first"

    def _column_of(self, sort: str | None) -> tuple[NumberColumn | None, bool]:
        by_name = {column.name: column for column in self.numbers}
        by_name["n_atoms"] = NumberColumn("n_atoms", "number of atoms", "", 0, False, self.atoms)
        if sort == "":
            return None, False
        if sort is None or not self.rows:
            return next((by_name[name] for name in RANKED_BY if name in by_name), None), False
        from crystalpredict.prediction.selection import find_field

        name = find_field(sort.removeprefix("-"), list(by_name))
        if name not in by_name:
            raise UsageError(f"--sort {sort}: no column of numbers; choose from {', '.join(by_name)}")
        return by_name[name], sort.startswith("-")


def kind_of_warning(text: str) -> str:
    """Return what warnings of the same kind have in common."""
    return reason_of(text.partition(": ")[0])


def _by_kind(messages: Iterable[Iterable[str]], kind_of: Callable[[str], str]) -> list[Kind]:
    found: dict[str, list[Any]] = {}
    for row, own in enumerate(messages):
        for name, text in {kind_of(text): text for text in own}.items():
            found.setdefault(name, [0, row, text])[0] += 1
    kinds = [Kind(name, count, row, text) for name, (count, row, text) in found.items()]
    return sorted(kinds, key=lambda kind: -kind.count)


def read_screen(path: Path) -> Screen:
    """Return the rows in a file that `predict` wrote: CSV, JSON, JSON lines or Parquet, also compressed.

    Raises:
        DataError: The file cannot be read, or is no result of `predict`.
    """
    from crystalpredict.io.file_types import is_json_lines
    from crystalpredict.io.table_formats import read_table
    from crystalpredict.io.text import CANNOT_UNPACK, head_of, refuse_pipe

    columns: dict[str, list[Any]] = {}
    rows, broken = 0, {}
    try:
        if path.is_file():
            refuse_pipe(path)
        empty = path.is_file() and not head_of(path).strip()  # JSON lines without rows
    except CANNOT_UNPACK:
        empty = False  # reading it gives the error
    if empty and not is_json_lines(path.name):
        raise DataError(f"{path}: empty: no result of crystalpredict predict, which has a header at least")
    if not empty:
        table = read_table(path, lambda name: True)
        columns, rows, broken = table.columns, table.rows, table.broken
        missing = [name for name in NEEDED if name not in table.names]
        if missing and (table.names or rows):  # an object without keys is a row
            raise DataError(f"{path}: no result of crystalpredict predict: it has no column {missing[0]!r}")
    for row, reason in broken.items():
        columns["error"][row] = f"broken row: {reason}"
    sources = (("results", str(path)), ("sha256", file_sha256(path)))
    return _screen(path.name, sources, path.absolute().parent, columns, rows)


def screen_of(rows: Predictions, name: str = "predictions") -> Screen:
    """Return the rows of `crystalpredict.predict` as a screen.

    Args:
        rows: The predictions.
        name: Title of the screen.
    """
    from crystalpredict.prediction.rows import record

    records = [record(row, rows.properties, rows.intervals, rows.kept) for row in rows]
    columns = {name: [each[name] for each in records] for name in (records[0] if records else ())}
    return _screen(name, (), None, columns, len(records))


def _screen(
    name: str, sources: tuple[tuple[str, str], ...], folder: Path | None, columns: Mapping[str, list[Any]], rows: int
) -> Screen:
    """Return a screen of columns of cells as they are in a file."""
    paths, formulas, errors = ([_text(cell) for cell in columns.get(each, [])] for each in NEEDED)
    own = [each for each in columns if each not in OUTPUT_COLUMNS]
    ends = {each for each in own if each.endswith((LOW, HIGH)) and each[: -len(LOW)] in columns}
    shown = [each for each in own if each not in ends]
    known = [each for each in shown if each in KNOWN]
    others = [each for each in shown if each not in KNOWN]
    numbers: list[NumberColumn] = []
    texts: list[TextColumn] = []
    left_out = others[MAX_OTHER_COLUMNS:]
    for each in [*known, *others[:MAX_OTHER_COLUMNS]]:
        cells, prop = columns[each], KNOWN.get(each)
        values = None if prop and prop.is_text else _numbers(cells, strict=prop is None)
        if values is not None:
            intervals = [_numbers(columns[each + end], strict=False) for end in (LOW, HIGH) if each + end in columns]
            numbers.append(_number_column(each, prop, values, intervals))
        elif not any(map(_text, cells)):
            continue
        elif _is_short(cells):
            texts.append(TextColumn(each, prop.label if prop else each, [_text(cell)[:MAX_TEXT] for cell in cells]))
        else:
            left_out.append(each)
    atoms = _numbers(columns.get("n_atoms", [None] * rows), strict=False)
    index = _numbers(columns.get("index", [0] * rows), strict=False)
    assert atoms is not None
    assert index is not None
    return Screen(
        name, sources, folder, paths, formulas, np.nan_to_num(index).astype(int).tolist(), atoms, tuple(numbers),
        tuple(texts), [_warnings(cell) for cell in columns.get("warnings", [None] * rows)], errors, tuple(left_out),
    )  # fmt: skip


def _number_column(
    name: str, prop: Property | None, values: FloatArray, intervals: Sequence[FloatArray | None]
) -> NumberColumn:
    low, high = intervals if len(intervals) == 2 else (None, None)
    if prop is None:
        return NumberColumn(name, printable(name), "", None, False, values, low, high)
    logarithmic = prop.transform == "log10"
    return NumberColumn(name, prop.label, prop.unit, prop.decimals, logarithmic, values, low, high)


def _text(cell: Any) -> str:
    return "" if cell is None or cell != cell else str(cell)


def _numbers(cells: Sequence[Any], *, strict: bool) -> FloatArray | None:
    """Return cells as numbers, NaN where there is none; None if `strict` and a cell is no number, or all are empty."""
    if (fast := _numbers_of_one_type(cells)) is not None:
        return fast if not strict or np.isfinite(fast).any() else None
    values = np.full(len(cells), nan)
    found = False
    for row, cell in enumerate(cells):
        if cell is None or cell == "":
            continue
        try:
            value = nan if isinstance(cell, bool | dict | list) else float(cell)
        except (TypeError, ValueError, OverflowError):
            value = nan
        if strict and value != value and cell == cell:
            return None
        found = True
        values[row] = value if isfinite(value) else nan
    return values if found or not strict else None


def _numbers_of_one_type(cells: Sequence[Any]) -> FloatArray | None:
    """Return cells that are all numbers or missing, or all texts of numbers or empty; None for any others."""
    kinds = set(map(type, cells))
    try:
        if kinds <= {float, int, type(None)}:
            values = np.array(cells, dtype=float)
        elif kinds == {str}:
            values = np.array([cell or "nan" for cell in cells]).astype(float)
        else:
            return None
    except (ValueError, OverflowError):
        return None
    return np.where(np.isfinite(values), values, nan)


def _is_short(cells: Sequence[Any]) -> bool:
    """Whether the first cells of a column are short texts, and not structures."""
    from crystalpredict.io.table_formats import holds_structure

    first = [cell for cell in cells[:LOOKED_AT] if cell not in (None, "")]
    return not any(holds_structure(cell) or len(str(cell)) > MAX_TEXT for cell in first)


def _warnings(cell: Any) -> tuple[str, ...]:
    if isinstance(cell, list):
        return tuple(map(str, cell))
    return tuple(text for text in _text(cell).split("; ") if text)
