"""Rows of predictions and of features, and their columns; no heavy imports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import TYPE_CHECKING, Any

from crystalpredict.errors import UsageError
from crystalpredict.uncertainty import DEFAULT_LEVEL, LEVELS

if TYPE_CHECKING:
    from crystalpredict.crystals.crystal import Crystal, FloatArray, IntArray, Neighbors
    from crystalpredict.io.entries import Source
    from crystalpredict.properties import Property

NO_EXTRA: Mapping[str, str] = {}  # columns besides those of predictions


@dataclass(frozen=True)
class Prediction:
    """The predicted values of one structure, or the reason why there are none.

    `row["bandgap_eV"]` is the value of a column.

    Attributes:
        path: The file, or the name of the member of an archive or of the row of a table.
        index: Number of the structure in a file of several, from 0.
        formula: Reduced formula; empty if the structure was not read.
        n_atoms: Number of atoms of the cell as given; None if the structure was not read.
        values: Predictions by column, whose names end with their units; empty if there is an error.
        texts: Text values, such as that of `decomposes_to`, by column.
        warnings: Reasons to doubt the values, such as a crystal unlike the training data.
        error: Why there are no values; empty if there are.
        bounds: By column, lower and upper ends (levels, 2) of the intervals of 50, 68, 80, 90 and 95 %, in the unit of
            the column; empty if the model is not calibrated.
        relaxed: What a potential relaxed the crystal to; with a model for unrelaxed structures, the crystal at the
            volume that it is predicted to relax to.
        extra: JSON values of further columns: those kept from a table, and `duplicate_of`.
        extra_texts: Their texts in a CSV, where these differ from the values.
        source: What the structure is read from; None if it need not be read again.
    """

    path: str
    index: int
    formula: str
    n_atoms: int | None
    values: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    error: str = ""
    bounds: dict[str, FloatArray] = field(default_factory=dict, compare=False)
    texts: dict[str, str] = field(default_factory=dict)
    relaxed: Crystal | None = field(default=None, compare=False, repr=False)
    extra: dict[str, Any] = field(default_factory=dict)
    extra_texts: dict[str, str] = field(default_factory=dict, compare=False, repr=False)
    source: Source | None = field(default=None, compare=False, repr=False)

    @property
    def is_predicted(self) -> bool:
        """Whether the structure has values or texts."""
        return not self.error and bool(self.values or self.texts)

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """By column, the interval with 90 % coverage, in the unit of the column."""
        return {column: self.interval(column) for column in self.bounds}

    def interval(self, column: str, level: int = DEFAULT_LEVEL) -> tuple[float, float]:
        """Return the lower and upper end of the interval of a column, in its unit.

        Args:
            column: Name of a column of `values`.
            level: Interval coverage, percent: 50, 68, 80, 90 or 95.

        Raises:
            UsageError: The column has no interval, or not one of this level.
        """
        if column not in self.bounds:
            raise UsageError(
                f"no interval of {column!r}: choose from {', '.join(self.bounds) or 'none (not calibrated)'}"
            )
        if level not in LEVELS:
            raise UsageError(f"no interval of {level!r} %: choose from {', '.join(map(str, LEVELS))}")
        low, high = self.bounds[column][LEVELS.index(level)].tolist()
        return low, high

    def __getitem__(self, column: str) -> float:
        """Return the predicted value of a column, in its unit; KeyError without one, as in rows with an error."""
        return self.values[column]

    def _repr_html_(self) -> str:
        from crystalpredict.prediction.notebook import html_of_row

        return html_of_row(self)


@dataclass(frozen=True)
class Embedding:
    """The network's features of one structure, or the reason why there are none.

    Attributes:
        path: The file, or the name of the member of an archive or of the row of a table.
        index: Position of the structure in a file of several, from 0.
        formula: Reduced formula; empty if the structure was not read.
        n_atoms: Number of atoms n of the cell as given; None if the structure was not read.
        features: (D,), the mean over the atoms; with `per_atom` (n, D), each atom in the order of the cell. D is 128
            for the bundled models. None if there is an error.
        numbers: With `per_atom` (n,), the atomic number of each atom, or of the main occupant of its site.
        warnings: Reasons to doubt the features.
        error: Why there are no features; empty if there are.
    """

    path: str
    index: int
    formula: str
    n_atoms: int | None
    features: FloatArray | None = None
    numbers: IntArray | None = None
    warnings: tuple[str, ...] = ()
    error: str = ""


def name_of(path: str, index: int) -> str:
    """Return the path of a structure, with its index if it is not the first of a file."""
    return f"{path}#{index}" if index else path


MAX_DECIMALS = 20  # more are written as a power of ten


def columns_of(prop: Property, intervals: bool) -> list[str]:
    """Return the names of a property's columns: the value and, with `intervals`, the ends of its interval."""
    if prop.is_text:
        return [prop.column]
    return [
        prop.column,
        *(f"{prop.column}_{end}{DEFAULT_LEVEL}" for end in ("lo", "hi") if intervals and prop.has_interval),
    ]


def numbers_of(row: Prediction, prop: Property, intervals: bool) -> list[float]:
    """Return the number of a property and, with `intervals`, the ends of its interval, neither of which is rounded."""
    ends = row.interval(prop.column) if intervals and prop.has_interval else ()
    return [row.values[prop.column], *ends]


def cells_of(row: Prediction, prop: Property, intervals: bool) -> list[float | str | None]:
    """Return the cells of a property's columns; None for a missing value."""
    if not row.is_predicted:
        return [None] * len(columns_of(prop, intervals))
    if prop.is_text:
        return [row.texts[prop.column] or None]
    return [_rounded(value, prop.decimals) for value in numbers_of(row, prop, intervals)]


def texts_of(row: Prediction, prop: Property, intervals: bool) -> list[str]:
    """Return the cells of a property's columns as `written`; "" for a missing value."""
    if not row.is_predicted:
        return [""] * len(columns_of(prop, intervals))
    if prop.is_text:
        return [row.texts[prop.column]]
    values = numbers_of(row, prop, intervals)
    return [written(value, prop.decimals) if isfinite(value) else "" for value in values]


def _rounded(value: float, digits: int) -> float | None:
    if not isfinite(value):
        return None
    return round(value, digits) if digits <= MAX_DECIMALS else float(written(value, digits))


def written(value: float, decimals: int) -> str:
    """Return a number with `decimals` digits after the point, or as a power of ten if these are too many."""
    return f"{value:.{max(decimals, 0)}f}" if decimals <= MAX_DECIMALS else f"{value:.4e}"


def record(
    row: Prediction, properties: Sequence[Property], intervals: bool = False, extra: Iterable[str] = ()
) -> dict[str, object]:
    """Return a row as a JSON object, with the `extra` columns at its end; null for a missing value."""
    values: dict[str, object] = {}
    for prop in properties:
        values.update(zip(columns_of(prop, intervals), cells_of(row, prop, intervals), strict=True))
    return {
        "path": row.path,
        "index": row.index,
        "formula": row.formula or None,
        "n_atoms": row.n_atoms,
        **values,
        "warnings": list(row.warnings),
        "error": row.error or None,
        **{name: row.extra.get(name) for name in extra},
    }


def failure_of(edges: Neighbors, too_large_for: str | None) -> str:
    """Return why a crystal that was read has no values, given the device whose memory is too small for it, or None."""
    if too_large_for:
        device = too_large_for.partition(":")[0]
        return f"not enough memory on the {device} device for {edges.size} atoms: try another device"
    return "the prediction is not a number: the cell is too unlike the training data"


def isolated_atoms(edges: Neighbors, radius: float) -> tuple[str, ...]:
    """Return a warning of atoms without neighbours within a radius, Å; none if there are none."""
    if edges.edge_counts.min() > 1:
        return ()
    isolated = int(edges.counts[edges.edge_counts == 1].sum())
    return (f"{isolated} {'atom has' if isolated == 1 else 'atoms have'} no neighbour within {radius:g} Å",)
