"""Writers of rows: CSV, JSON, JSON lines and Parquet."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from enum import StrEnum
from typing import IO, TYPE_CHECKING, Any, Protocol

from crystalpredict.errors import UsageError
from crystalpredict.prediction.rows import columns_of, record, texts_of

if TYPE_CHECKING:
    from crystalpredict.prediction.rows import Prediction
    from crystalpredict.properties import Property


class Format(StrEnum):
    """Formats of rows; `auto`: a table on a terminal, CSV in a pipe, the suffix's format in a file."""

    auto = "auto"
    table = "table"
    csv = "csv"
    json = "json"
    jsonl = "jsonl"
    parquet = "parquet"


class Writer(Protocol):
    """Writes rows one by one; `close` completes the document."""

    def write(self, row: Prediction) -> None:
        """Add a row."""

    def close(self) -> None:
        """Complete the document, which is valid only then."""


class CsvWriter:
    """Comma-separated values with a header line; warnings joined by `; `."""

    def __init__(self, stream: IO[str], properties: Sequence[Property], intervals: bool = False) -> None:
        self.properties, self.intervals = properties, intervals
        names = [name for prop in properties for name in columns_of(prop, intervals)]
        self.rows = csv.writer(stream, lineterminator="\n")
        self.quoted = csv.writer(stream, lineterminator="\n", quoting=csv.QUOTE_ALL)
        self.rows.writerow(("path", "index", "formula", "n_atoms", *names, "warnings", "error"))

    def write(self, row: Prediction) -> None:
        cells = [cell for prop in self.properties for cell in texts_of(row, prop, self.intervals)]
        start = (row.path, row.index, row.formula, row.n_atoms)
        # readers take an unquoted carriage return for a line end
        writer = self.quoted if "\r" in row.path else self.rows
        writer.writerow((*start, *cells, "; ".join(row.warnings), row.error))

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


NO_PYARROW = "Parquet needs pyarrow: pip install 'crystalpredict[parquet]', or write CSV"

ROWS_PER_GROUP = 20_000  # in memory, and in a row group of Parquet


def as_text(name: str) -> str:
    """Return a file name as valid Unicode, as Parquet requires, with undecodable bytes escaped."""
    return name.encode("utf-8", "backslashreplace").decode()


def _do_nothing(_: object) -> None:
    """Do not complete a file after an error: it is closed by then, which would raise another error."""


def _as_texts(value: Any) -> Any:
    """Return a value of a row with its texts as valid Unicode."""
    if isinstance(value, list):
        return [as_text(each) for each in value]
    return as_text(value) if isinstance(value, str) else value


class ParquetWriter:
    """A Parquet file with the columns of JSON; numbers are float64, warnings a list."""

    def __init__(
        self, stream: IO[bytes], properties: Sequence[Property], intervals: bool = False, names: Sequence[str] = ()
    ) -> None:
        """Open the file; `names`: all fields of a row, if rows are written with `write_fields` only."""
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError:
            raise UsageError(NO_PYARROW) from None
        from crystalpredict.prediction.rows import Prediction
        from crystalpredict.properties import TEXT_COLUMNS

        texts = {name: pyarrow.string() for name in ("path", "formula", "error", *TEXT_COLUMNS)}
        kinds = {
            **texts,
            "index": pyarrow.int64(),
            "n_atoms": pyarrow.int64(),
            "warnings": pyarrow.list_(texts["path"]),
        }
        if not names:
            names = list(record(Prediction("", 0, "", None), properties, intervals))
        self.table, self.properties, self.intervals = pyarrow.Table, properties, intervals
        self.schema = pyarrow.schema([(name, kinds.get(name, pyarrow.float64())) for name in names])
        self.file = type("Writer", (parquet.ParquetWriter,), {"__del__": _do_nothing})(stream, self.schema)
        self.rows: list[dict[str, Any]] = []

    def write(self, row: Prediction) -> None:
        """Add a row."""
        self.write_fields(record(row, self.properties, self.intervals))

    def write_fields(self, fields: dict[str, Any]) -> None:
        """Add a row by its fields, as `record` returns them."""
        self.rows.append({name: _as_texts(value) for name, value in fields.items()})
        if len(self.rows) >= ROWS_PER_GROUP:
            self._write_group()

    def close(self) -> None:
        """Complete the file."""
        self._write_group()
        self.file.close()

    def _write_group(self) -> None:
        self.file.write_table(self.table.from_pylist(self.rows, self.schema))
        self.rows = []
