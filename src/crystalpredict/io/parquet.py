"""Read Parquet tables, with pyarrow."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from crystalpredict.errors import DataError
from crystalpredict.io.text import bounded

BATCH_ROWS = 1000  # in memory at a time, in rows_of_parquet
NO_PYARROW = "{path}: Parquet needs pyarrow: pip install 'crystalpredict[parquet]', or give CSV"
BROKEN_PARQUET = "broken Parquet: write or download it again"


def rows_of_parquet(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table by column name.

    Raises:
        DataError: pyarrow is not installed, or the file cannot be read further.
    """
    with _opened(path) as file:
        for batch in file.iter_batches(BATCH_ROWS):
            yield from batch.to_pylist()


def columns_of_parquet(path: Path) -> dict[str, list[Any]]:
    """Return the columns of a table by their names.

    Raises:
        DataError: pyarrow is not installed, or the file cannot be read.
    """
    with _opened(path) as file:
        columns: dict[str, list[Any]] = file.read().to_pydict()
    return columns


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a table as a `ParquetFile`; what is wrong with it, then or while it is read, is a DataError."""
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise DataError(NO_PYARROW.format(path=path)) from None
    with _unpacked(path) as raw:
        try:
            with ParquetFile(raw) as file:
                yield file
        except Exception:  # pyarrow has many errors of its own
            raise DataError(f"{path}: {BROKEN_PARQUET}") from None


@contextmanager
def _unpacked(path: Path) -> Iterator[IO[bytes]]:
    """Open a Parquet file; a compressed one is unpacked to a temporary file, since Parquet is read from its end."""
    with path.open("rb") as raw:
        if (unpacked := bounded(raw)) is raw:
            yield raw
            return
        with tempfile.TemporaryFile() as whole:
            shutil.copyfileobj(unpacked, whole)
            yield whole
