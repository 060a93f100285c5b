"""Rows of predictions as CSV, JSON, JSON lines or a table; what is said beside them goes to stderr."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from enum import StrEnum
from typing import IO, TYPE_CHECKING, Any, Protocol

from crystalpredict.errors import printable

if TYPE_CHECKING:
    from crystalpredict.prediction.rows import Prediction
    from crystalpredict.properties import Property

SHOWN = (
    90  # percent: which intervals have columns; crystalpredict.uncertainty.intervals, which imports NumPy, has it too
)
MOST_AFTER_POINT = 20  # digits
NO_MATPLOTLIB = "matplotlib is not installed: pip install 'crystalpredict[plots]'"


class Format(StrEnum):
    """How rows are written; `auto` is a table on a terminal, CSV in a pipe, the suffix's format in a file."""

    auto = "auto"
    table = "table"
    csv = "csv"
    json = "json"
    jsonl = "jsonl"
    parquet = "parquet"


class Writer(Protocol):
    """Takes rows as they come; `close` completes the document."""

    def write(self, row: Prediction) -> None:
        """Add a row."""

    def close(self) -> None:
        """End the document; what was written is valid then."""


def say(message: str) -> None:
    """A line on stderr, whatever the names of files in it."""
    print(f"crystalpredict: {printable(message)}", file=sys.stderr)  # noqa: T201  the one place that prints


def writer_of(kind: Format, stream: IO[Any], properties: Sequence[Property], *, intervals: bool = False) -> Writer:
    """The writer of a format to a stream, of bytes for Parquet, of text otherwise; `intervals`: with their columns."""
    if kind == Format.parquet:
        from crystalpredict.cli.parquet import ParquetWriter

        return ParquetWriter(stream, properties, intervals)
    writers: dict[Format, type[CsvWriter | JsonWriter | JsonLinesWriter | TableWriter]] = {
        Format.csv: CsvWriter,
        Format.json: JsonWriter,
        Format.jsonl: JsonLinesWriter,
        Format.table: TableWriter,
    }
    return writers[kind](stream, properties, intervals)


def columns_of(prop: Property, intervals: bool) -> list[str]:
    """Names of a property's columns: the value and, if wanted, the ends of its interval."""
    return [prop.column, *(f"{prop.column}_{end}{SHOWN}" for end in ("lo", "hi") if intervals)]


def numbers_of(row: Prediction, prop: Property, intervals: bool) -> list[float | None]:
    """What stands in a property's columns; None where there is no value."""
    if not row.values:
        return [None] * len(columns_of(prop, intervals))
    column, digits = prop.column, prop.decimals
    values = (row.values[column], *(row.interval(column) if intervals else ()))
    return [round(value, digits) if digits <= MOST_AFTER_POINT else float(written(value, digits)) for value in values]


def written(value: float, decimals: int) -> str:
    """A number with digits after the point, or as a power of ten where that would take many zeros."""
    return f"{value:.{max(decimals, 0)}f}" if decimals <= MOST_AFTER_POINT else f"{value:.4e}"


def record(row: Prediction, properties: Sequence[Property], intervals: bool = False) -> dict[str, object]:
    """A row as an object of JSON; null where there is no value."""
    values: dict[str, object] = {}
    for prop in properties:
        values.update(zip(columns_of(prop, intervals), numbers_of(row, prop, intervals), strict=True))
    return {
        "path": row.path,
        "index": row.index,
        "formula": row.formula or None,
        "n_atoms": row.n_atoms,
        **values,
        "warnings": list(row.warnings),
        "error": row.error or None,
    }


class CsvWriter:
    """Comma-separated values with a header line; warnings joined by `; `."""

    def __init__(self, stream: IO[str], properties: Sequence[Property], intervals: bool = False) -> None:
        self.properties, self.intervals = properties, intervals
        names = [name for prop in properties for name in columns_of(prop, intervals)]
        self.rows = csv.writer(stream, lineterminator="\n")
        self.quoted = csv.writer(stream, lineterminator="\n", quoting=csv.QUOTE_ALL)
        self.rows.writerow(("path", "index", "formula", "n_atoms", *names, "warnings", "error"))

    def write(self, row: Prediction) -> None:
        numbers = [
            "" if value is None else written(value, prop.decimals)
            for prop in self.properties
            for value in numbers_of(row, prop, self.intervals)
        ]
        start = (row.path, row.index, row.formula, row.n_atoms)
        # a carriage return in a name ends a line for whoever reads the file, unless it is quoted
        writer = self.quoted if "\r" in row.path else self.rows
        writer.writerow((*start, *numbers, "; ".join(row.warnings), row.error))

    def close(self) -> None:
        pass


class JsonLinesWriter:
    """One JSON object a line."""

    def __init__(self, stream: IO[str], properties: Sequence[Property], intervals: bool = False) -> None:
        self.stream, self.properties, self.intervals = stream, properties, intervals

    def write(self, row: Prediction) -> None:
        self.stream.write(json.dumps(record(row, self.properties, self.intervals), ensure_ascii=False) + "\n")

    def close(self) -> None:
        pass


class JsonWriter:
    """A JSON array of objects."""

    def __init__(self, stream: IO[str], properties: Sequence[Property], intervals: bool = False) -> None:
        self.stream, self.properties, self.intervals = stream, properties, intervals
        self.separator = "[\n"

    def write(self, row: Prediction) -> None:
        self.stream.write(self.separator + json.dumps(record(row, self.properties, self.intervals), ensure_ascii=False))
        self.separator = ",\n"

    def close(self) -> None:
        self.stream.write("\n]\n" if self.separator != "[\n" else "[]\n")


class TableWriter:
    """A table for reading, printed at the end; files by name where that tells them apart."""

    def __init__(self, stream: IO[str], properties: Sequence[Property], intervals: bool = False) -> None:
        self.stream, self.properties, self.intervals = stream, properties, intervals
        self.rows: list[Prediction] = []

    def write(self, row: Prediction) -> None:
        self.rows.append(row)

    def close(self) -> None:
        from rich import box
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table

        several = any(row.index for row in self.rows)
        noted = any(row.warnings or row.error for row in self.rows)
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("file", overflow="fold")
        if several:
            table.add_column("#", justify="right")
        table.add_column("formula")
        table.add_column("atoms", justify="right")
        values = [[_cell(row, prop, self.intervals) for row in self.rows] for prop in self.properties]
        for prop, column in zip(self.properties, values, strict=True):
            longest = max((len(word) for cell in column for word in cell.split(" ")), default=0)
            table.add_column(f"{prop.label}\n{prop.unit}", justify="right", min_width=longest)
        if self.intervals:
            table.caption = f"[..]: holds the true value in {SHOWN} % of cases"
        if noted:
            table.add_column("note", overflow="fold")
        for number, row in enumerate(self.rows):
            cells = [escape(printable(row.path)), *([str(row.index)] if several else []), escape(row.formula)]
            cells.append("" if row.n_atoms is None else str(row.n_atoms))
            cells += [escape(column[number]) for column in values]
            if noted:
                note = f"[red]{escape(row.error)}[/red]" if row.error else escape("; ".join(row.warnings))
                cells.append(note)
            table.add_row(*cells)
        console = Console(file=self.stream, width=None if self.stream.isatty() else 200, highlight=False)
        least = console.measure(table, options=console.options.update(max_width=10**4)).minimum
        console.width = max(console.width, least)  # rather broken lines than numbers cut off
        console.print(table)


def _cell(row: Prediction, prop: Property, intervals: bool) -> str:
    """The value, and the interval in two digits less than a file has; a narrow column breaks between the two."""
    if not row.values:
        return "-"
    value = written(row.values[prop.column], prop.decimals - 1)
    if not intervals:
        return value
    low, high = (written(end, prop.decimals - 2) for end in row.interval(prop.column))
    return f"{value} [{low}..{high}]"
