"""`crystalpredict merge`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from crystalpredict._files import refuse_existing, refuse_unwritable
from crystalpredict.cli.options import (
    ChemicalSystems,
    ExcludedElements,
    Force,
    Quiet,
    RequiredElements,
    Sort,
    Top,
    Where,
    output_option,
)
from crystalpredict.cli.output import format_of, opened
from crystalpredict.cli.terminal import say
from crystalpredict.errors import UsageError
from crystalpredict.prediction.writers import Format


def merge(
    shards: Annotated[
        list[Path], typer.Argument(metavar="SHARD...", show_default=False, help="Files that predict --shard wrote.")
    ],
    output: Annotated[
        Path | None,
        output_option("Write here: .csv or .jsonl, as the shards are, or .gz of it; JSON lines to .parquet too."),
    ] = None,
    where: Where = None,
    sort: Sort = None,
    top: Top = None,
    elements: RequiredElements = None,
    exclude_elements: ExcludedElements = None,
    chemsys: ChemicalSystems = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Put the outputs of all shards together, in the order of the inputs, as one run would have written them.

    Example: crystalpredict merge out-*.csv -o all.csv
    """  # fmt: skip
    if output is not None:
        refuse_unwritable(output)
        if os.path.realpath(output) in map(os.path.realpath, shards):
            raise UsageError(f"{output}: also named as a shard; name another file")
        if not force:
            refuse_existing(output)
    from crystalpredict.prediction.composition import Elements
    from crystalpredict.prediction.selection import Selection
    from crystalpredict.prediction.shards import Shards

    parts = Shards(shards)
    kind = Format(parts.format) if output is None else format_of(Format.auto, output)
    if kind != parts.format and (parts.format, kind) != (Format.jsonl, Format.parquet):
        hint = "name a .csv" if parts.format == Format.csv else "name a .jsonl or a .parquet"
        raise UsageError(f"{output}: the shards are {parts.format.upper()}: {hint}")
    chosen = Elements.of(elements, exclude_elements, chemsys)
    selection = Selection.of(where, sort, top, parts.columns, parts.extra, chosen)
    rows, count = parts.rows(), 0
    if selection:
        rows = selection.of_rows(rows, parts.fields)
    with opened(output, binary=kind == Format.parquet) as stream:
        write: Callable[[str], object] = stream.write
        close: Callable[[], object] = stream.flush
        if kind == Format.parquet:
            from crystalpredict.prediction.writers import ParquetWriter

            names = ["path", "index", "formula", "n_atoms", *parts.columns, "warnings", "error"]
            table = ParquetWriter(stream, (), extra=parts.extra, names=names)
            write, close = (lambda row: table.write_fields(parts.fields(row))), table.close
        elif parts.header:
            write(parts.header)
        for row in rows:
            write(row)
            count += 1
        close()
    if not quiet:
        say(f"{len(parts.parts)} shards, {count} rows")
