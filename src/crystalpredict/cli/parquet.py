"""Rows of predictions as Parquet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO, TYPE_CHECKING, Any

from crystalpredict.cli.render import record
from crystalpredict.errors import UsageError

if TYPE_CHECKING:
    from crystalpredict.prediction.rows import Prediction
    from crystalpredict.properties import Property

NO_PYARROW = "Parquet needs pyarrow: pip install 'crystalpredict[parquet]', or write CSV"
GROUP_ROWS = 20_000  # rows that are in memory and in a row group


def as_text(name: str) -> str:
    """A name of a file in letters, whatever its encoding: Parquet takes nothing else."""
    return name.encode("utf-8", "backslashreplace").decode()


class ParquetWriter:
    """A Parquet file with the columns of JSON; numbers are float64, warnings a list."""

    def __init__(
        self, stream: IO[bytes], properties: Sequence[Property], intervals: bool = False, names: Sequence[str] = ()
    ) -> None:
        """`names`: all fields of a row, where rows are given by their fields only."""
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError:
            raise UsageError(NO_PYARROW) from None
        from crystalpredict.prediction.rows import Prediction

        texts = {name: pyarrow.string() for name in ("path", "formula", "error")}
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
        self.file = parquet.ParquetWriter(stream, self.schema)
        self.rows: list[dict[str, Any]] = []

    def write(self, row: Prediction) -> None:
        """Add a row."""
        self.write_fields(record(row, self.properties, self.intervals))

    def write_fields(self, fields: dict[str, Any]) -> None:
        """Add a row by its fields, as `record` has them."""
        self.rows.append({**fields, "path": as_text(fields["path"])})
        if len(self.rows) >= GROUP_ROWS:
            self._write_group()

    def close(self) -> None:
        """End the file."""
        self._write_group()
        self.file.close()

    def _write_group(self) -> None:
        self.file.write_table(self.table.from_pylist(self.rows, self.schema))
        self.rows = []
