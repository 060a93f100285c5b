"""`crystalpredict suggest`."""

from __future__ import annotations

import io
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from crystalpredict._files import refuse_unwritable, write_atomically
from crystalpredict.checkpoints.registry import find_model
from crystalpredict.cli.completion import target_names
from crystalpredict.cli.options import (
    MODEL,
    Device,
    Force,
    Inputs,
    Jobs,
    MemoryPerProcess,
    ModelName,
    Null,
    Quiet,
    StructureColumn,
    TimeoutPerFile,
    between,
    output_option,
)
from crystalpredict.cli.progress import with_progress
from crystalpredict.cli.startup import limits_of
from crystalpredict.cli.terminal import messages, say
from crystalpredict.errors import UsageError
from crystalpredict.io.inputs import expand


class ByName(StrEnum):
    """What makes a crystal worth measuring."""

    uncertain = "uncertain"
    high = "high"
    low = "low"
    distance = "distance"


def suggest(
    inputs: Inputs,
    target: Annotated[
        str,
        typer.Option(
            "--target",
            "-t",
            metavar="NAME",
            autocompletion=target_names,
            rich_help_panel=MODEL,
            help="The property that would be measured.",
        ),
    ],
    count: Annotated[
        int,
        typer.Option("--count", "-n", callback=between(1, 10_000), metavar="N", help="Number of suggestions."),
    ] = 10,
    by: Annotated[
        ByName,
        typer.Option(
            metavar="HOW",
            help="uncertain: the widest 90 % interval; high, low: what may be highest or lowest; distance: farthest "
            "from the training crystals and from each other.",
        ),
    ] = ByName.uncertain,
    output: Annotated[Path | None, output_option("Write to this CSV file instead of stdout.")] = None,
    model: ModelName = None,
    device: Device = "auto",
    null: Null = False,
    structure_column: StructureColumn = None,
    jobs: Jobs = 0,
    timeout_per_file: TimeoutPerFile = 300,
    memory_per_process: MemoryPerProcess = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Suggest which crystals of a pool to measure or compute next, for fine-tuning: as CSV, with the reasons.

    Example: crystalpredict suggest candidates/ --target bandgap -n 20 -o next.csv

    Suggestions are unlike each other and, for a fine-tuned model, unlike the crystals of its run.

    Exit code 0: done; 1: damaged model, no room; 2: wrong usage, or no structure that can be predicted.
    """  # fmt: skip
    if output:
        if output.suffix.lower() != ".csv":
            raise UsageError(f"{output}: suggestions are CSV: name a file that ends in .csv")
        refuse_unwritable(output, inputs or (), force=force)
    names = expand(inputs, null=null)
    if "," in target:
        raise UsageError("--target: name one property, by which crystals are chosen")
    from crystalpredict.io.sources import sources_of
    from crystalpredict.prediction.pipeline import Pipeline

    pipeline = Pipeline(
        find_model(model), (target,), device, jobs=jobs, limits=limits_of(timeout_per_file, memory_per_process)
    )
    sources = list(sources_of(names, structure_column))
    with messages(quiet=quiet):
        from crystalpredict.training.suggest import By, write_suggestions
        from crystalpredict.training.suggest import suggest as suggested

        found = suggested(
            sources, pipeline, count, By(by.value),
            lambda rows: with_progress(rows, len(sources), lambda pair: pair[0].index == 0, quiet=quiet),
        )  # fmt: skip
    if len(found) < count and not quiet:
        say(f"{len(found):,} of {count:,} suggestions: no other crystal of the pool is unlike these and those measured")
    text = io.StringIO()
    write_suggestions(found, pipeline.properties[0], By(by.value), pipeline.intervals, text)
    if output is None:
        sys.stdout.write(text.getvalue())
        sys.stdout.flush()
        return
    with write_atomically(output) as file:
        file.write(text.getvalue().encode())
