"""Outputs of rows: formats, files and writers."""

from __future__ import annotations

import errno
import gzip
import io
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, count
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from crystalpredict._files import resolve_link, write_atomically
from crystalpredict.cli.prediction_table import TableWriter
from crystalpredict.errors import OutputError, UsageError
from crystalpredict.prediction.rows import NO_EXTRA
from crystalpredict.prediction.writers import CsvWriter, Format, JsonLinesWriter, JsonWriter, ParquetWriter, Writer

if TYPE_CHECKING:
    from crystalpredict.properties import Property

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EBADF)


def format_of(format: Format, output: Path | None, *, by_name: bool = False) -> Format:
    """Return the format of an output, with `auto` resolved.

    Args:
        format: The requested format.
        output: The file; None: stdout.
        by_name: A known suffix of the output takes precedence over `format`.

    Raises:
        UsageError: The format or suffix is not possible.
    """
    if format == Format.parquet and (output is None or output.suffix == ".gz"):
        raise UsageError("--format parquet needs -o FILE without .gz")
    if output is None:
        return (Format.table if sys.stdout.isatty() else Format.csv) if format == Format.auto else format
    if output.suffix in (".bz2", ".xz", ".zst"):
        raise UsageError(f"{output}: only gzip is supported; name a file that ends in .gz, or an uncompressed one")
    suffix = output.with_suffix("").suffix if output.suffix == ".gz" else output.suffix
    known = {".csv": Format.csv, ".json": Format.json, ".jsonl": Format.jsonl, ".txt": Format.table}
    known |= {".parquet": Format.parquet} if output.suffix != ".gz" else {}
    if format != Format.auto and not (by_name and suffix.lower() in known):
        return format
    if suffix.lower() not in known:
        suffixes = ".csv, .json, .jsonl, .parquet or .txt"
        raise UsageError(f"{output}: no format for this suffix; use {suffixes}, or say --format")
    return known[suffix.lower()]


def path_of_result(output: Path, *, interrupted: bool) -> Path:
    """Return the path of the result: for an interrupted run, one that does not replace an earlier result."""
    if not interrupted:
        return output
    first = resolve_link(output)
    names = chain([".interrupted"], (f".interrupted-{number}" for number in count(2)))
    return next(place for name in names if not (place := first.with_name(first.name + name)).exists())


@contextmanager
def opened(
    output: Path | None, *, binary: bool = False, interrupted: Callable[[], bool] = lambda: False
) -> Iterator[IO[Any]]:
    """Open stdout, or a file (gzipped for .gz) that is written atomically, as text or `binary`."""
    if output is None:
        yield sys.stdout
        return
    try:
        with write_atomically(output, lambda: path_of_result(output, interrupted=interrupted())) as raw:
            if binary:
                yield raw
                return
            with text_in(raw, packed=output.suffix == ".gz") as text:
                yield text
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        hint = "free some space, and run it again; .csv and .jsonl, not sorted, keep rows as they come"
        raise OutputError(f"{output}: cannot be written ({error.strerror}): {hint}") from None


@contextmanager
def text_in(file: IO[bytes], *, packed: bool) -> Iterator[IO[str]]:
    """Open an open file for text, gzipped if `packed`; the file stays open."""
    # no name or time in the gzip header, so that equal rows give equal bytes
    binary = gzip.GzipFile("", "wb", fileobj=file, mtime=0) if packed else file
    text = io.TextIOWrapper(binary, encoding="utf-8", errors="backslashreplace", newline="")
    yield text
    text.detach()  # flushes, and keeps the file open
    if binary is not file:
        binary.close()


def writer_of(
    kind: Format,
    stream: IO[Any],
    properties: Sequence[Property],
    *,
    intervals: bool = False,
    extra: Mapping[str, str] = NO_EXTRA,
) -> Writer:
    """Return the writer of a format.

    Args:
        kind: The format.
        stream: Binary for Parquet, else for text.
        properties: The predicted properties.
        intervals: Whether rows have intervals.
        extra: What further columns hold, by their names.
    """
    if kind == Format.parquet:
        return ParquetWriter(stream, properties, intervals, extra)
    writers: dict[Format, Callable[..., Writer]] = {
        Format.csv: CsvWriter,
        Format.json: JsonWriter,
        Format.jsonl: JsonLinesWriter,
        Format.table: TableWriter,
    }
    return writers[kind](stream, properties, intervals, extra)
