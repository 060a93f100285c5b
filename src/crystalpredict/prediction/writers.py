"""Writers of rows: CSV, JSON, JSON lines and Parquet."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import IO, TYPE_CHECKING, Any, Protocol

from crystalpredict.errors import UsageError
from crystalpredict.io.cell_values import fits, text_of
from crystalpredict.prediction.rows import NO_EXTRA, columns_of, record, texts_of

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


@dataclass
class TextWriter:
    """What the writers of text share; `extra`: what further columns hold, by their names."""

    stream: IO[str]
    properties: Sequence[Property]
    intervals: bool = False
    extra: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Begin the document."""

    def close(self) -> None:
        pass


class CsvWriter(TextWriter):
    """Comma-separated values with a header line; warnings joined by `; `."""

    def __post_init__(self) -> None:
        names = [name for prop in self.properties for name in columns_of(prop, self.intervals)]
        self.rows = csv.writer(self.stream, lineterminator="\n")
        self.quoted = csv.writer(self.stream, lineterminator="\n", quoting=csv.QUOTE_ALL)
        header = self.quoted if any("\r" in name for name in self.extra) else self.rows
        header.writerow(("path", "index", "formula", "n_atoms", *names, "warnings", "error", *self.extra))

    def write(self, row: Prediction) -> None:
        cells = [cell for prop in self.properties for cell in texts_of(row, prop, self.intervals)]
        start = (row.path, row.index, row.formula, row.n_atoms)
        extra = [row.extra_texts.get(name) or text_of(row.extra.get(name)) for name in self.extra]
        # readers take an unquoted carriage return for a line end
        writer = self.quoted if "\r" in row.path or any("\r" in cell for cell in extra) else self.rows
        writer.writerow((*start, *cells, "; ".join(row.warnings), row.error, *extra))


class JsonLinesWriter(TextWriter):
    """One JSON object a line."""

    def json_of(self, row: Prediction) -> str:
        return json.dumps(record(row, self.properties, self.intervals, self.extra), ensure_ascii=False)

    def write(self, row: Prediction) -> None:
        self.stream.write(self.json_of(row) + "\n")


class JsonWriter(JsonLinesWriter):
    """A JSON array of objects."""

    separator = "[\n"

    def write(self, row: Prediction) -> None:
        self.stream.write(self.separator + self.json_of(row))
        self.separator = ",\n"

    def close(self) -> None:
        self.stream.write("\n]\n" if self.separator != "[\n" else "[]\n")


NO_NUMBER = "{}: {!r} is not of the kind of this column"
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
        self,
        stream: IO[bytes],
        properties: Sequence[Property],
        intervals: bool = False,
        extra: Mapping[str, str] = NO_EXTRA,
        names: Sequence[str] = (),
    ) -> None:
        """Open the file.

        Args:
            stream: The file.
            properties: The predicted properties.
            intervals: Whether rows have intervals.
            extra: What further columns hold, by their names.
            names: All fields of a row but the `extra` ones, if rows are written with `write_fields` only.
        """
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError:
            raise UsageError(NO_PYARROW) from None
        from crystalpredict.prediction.rows import Prediction
        from crystalpredict.properties import TEXT_COLUMNS

        texts = {name: pyarrow.string() for name in ("path", "formula", "error", *TEXT_COLUMNS)}
        types = {"integer": pyarrow.int64(), "number": pyarrow.float64(), "boolean": pyarrow.bool_()}
        kinds = {
            **texts,
            "index": pyarrow.int64(),
            "n_atoms": pyarrow.int64(),
            "warnings": pyarrow.list_(texts["path"]),
            **{name: types.get(kind, pyarrow.string()) for name, kind in extra.items()},
        }
        names = [*(names or record(Prediction("", 0, "", None), properties, intervals)), *extra]
        self.table, self.properties, self.intervals, self.extra = pyarrow.Table, properties, intervals, extra
        self.schema = pyarrow.schema([(name, kinds.get(name, pyarrow.float64())) for name in names])
        self.file = type("Writer", (parquet.ParquetWriter,), {"__del__": _do_nothing})(stream, self.schema)
        self.rows: list[dict[str, Any]] = []

    def write(self, row: Prediction) -> None:
        self.write_fields(record(row, self.properties, self.intervals, self.extra))

    def write_fields(self, fields: dict[str, Any]) -> None:
        """Add a row by its fields, as `record` returns them; what does not fit its column becomes a warning."""
        for name, kind in self.extra.items():
            value = fields[name]
            if not fits(value, kind):
                fields |= {
                    name: None,
                    "warnings": [*(fields["warnings"] or ()), NO_NUMBER.format(name, text_of(value))],
                }
            elif kind in ("text", "json"):
                fields |= {name: None if value is None else text_of(value)}
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
