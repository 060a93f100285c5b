"""Where rows go: the format of a file, and whether it can be written."""

from __future__ import annotations

import errno
import gzip
import io
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, count
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from crystalpredict._files import resolve_link, write_atomically
from crystalpredict.cli.prediction_table import TableWriter
from crystalpredict.errors import OutputError, UsageError
from crystalpredict.prediction.writers import Format

if TYPE_CHECKING:
    from crystalpredict.properties import Property

from crystalpredict.prediction.writers import CsvWriter, JsonLinesWriter, JsonWriter, ParquetWriter, Writer

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EBADF)


def format_of(format: Format, output: Path | None, *, by_name: bool = False) -> Format:
    """The format that `auto` stands for; `by_name`: the one that the output's suffix says goes before any other."""
    if format == Format.parquet and (output is None or output.suffix == ".gz"):
        raise UsageError("--format parquet needs -o FILE, not compressed: it is so itself")
    if output is None:
        return (Format.table if sys.stdout.isatty() else Format.csv) if format == Format.auto else format
    if output.suffix in (".bz2", ".xz", ".zst"):
        raise UsageError(f"{output}: rows are packed by gzip alone; name a file that ends in .gz, or in none of these")
    suffix = output.with_suffix("").suffix if output.suffix == ".gz" else output.suffix
    known = {".csv": Format.csv, ".json": Format.json, ".jsonl": Format.jsonl, ".txt": Format.table}
    known |= {".parquet": Format.parquet} if output.suffix != ".gz" else {}
    if format != Format.auto and not (by_name and suffix.lower() in known):
        return format
    if suffix.lower() not in known:
        suffixes = ".csv, .json, .jsonl, .parquet or .txt"
        raise UsageError(f"{output}: no format for this suffix; use {suffixes}, or say --format")
    return known[suffix.lower()]


def place_of(output: Path, *, interrupted: bool) -> Path:
    """Where a whole file goes: what a run that was interrupted computed takes no result's place."""
    if not interrupted:
        return output
    first = resolve_link(output)
    names = chain([".interrupted"], (f".interrupted-{number}" for number in count(2)))
    return next(place for name in names if not (place := first.with_name(first.name + name)).exists())


@contextmanager
def opened(
    output: Path | None, *, binary: bool = False, interrupted: Callable[[], bool] = lambda: False
) -> Iterator[IO[Any]]:
    """stdout, or a file (gzipped for .gz) that appears when it is complete; text, or bytes if `binary`."""
    if output is None:
        yield sys.stdout
        return
    try:
        with write_atomically(output, lambda: place_of(output, interrupted=interrupted())) as raw:
            if binary:
                yield raw
                return
            with text_in(raw, packed=output.suffix == ".gz") as text:
                yield text
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        hint = "make room, and run it again; .csv and .jsonl, not sorted, keep rows as they come"
        raise OutputError(f"{output}: cannot be written ({error.strerror}): {hint}") from None


@contextmanager
def text_in(file: IO[bytes], *, packed: bool) -> Iterator[IO[str]]:
    """Text, gzipped or not, to go into a file that stays open."""
    # a gzip header without name or time: the same rows give the same bytes
    binary = gzip.GzipFile("", "wb", fileobj=file, mtime=0) if packed else file
    text = io.TextIOWrapper(binary, encoding="utf-8", errors="backslashreplace", newline="")
    yield text
    text.detach()  # flushes, and leaves the file below open
    if binary is not file:
        binary.close()


def writer_of(kind: Format, stream: IO[Any], properties: Sequence[Property], *, intervals: bool = False) -> Writer:
    """The writer of a format to a stream, of bytes for Parquet, of text otherwise; `intervals`: with their columns."""
    if kind == Format.parquet:
        return ParquetWriter(stream, properties, intervals)
    writers: dict[Format, type[CsvWriter | JsonWriter | JsonLinesWriter | TableWriter]] = {
        Format.csv: CsvWriter,
        Format.json: JsonWriter,
        Format.jsonl: JsonLinesWriter,
        Format.table: TableWriter,
    }
    return writers[kind](stream, properties, intervals)
