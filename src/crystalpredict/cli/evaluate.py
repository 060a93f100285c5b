"""`crystalpredict evaluate`."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crystalpredict._files import refuse_unwritable
from crystalpredict.cli.completion import model_names, target_names
from crystalpredict.cli.evaluation_tables import ReportFormat, write_records, write_report
from crystalpredict.cli.options import (
    DATA,
    INPUT,
    MODEL,
    OUTPUT,
    Device,
    Force,
    Jobs,
    MemoryPerProcess,
    ModelName,
    Quiet,
    StructureColumn,
    TimeoutPerFile,
    Unrelaxed,
    named_model,
)
from crystalpredict.cli.output import format_of, opened
from crystalpredict.cli.progress import with_progress
from crystalpredict.cli.startup import limits_of
from crystalpredict.cli.tally import EXIT_ALL_FAILED
from crystalpredict.cli.terminal import messages, say
from crystalpredict.errors import NO_MATPLOTLIB, UsageError
from crystalpredict.evaluation.models import find_models, predict_rows, read_table
from crystalpredict.prediction.writers import Format

if TYPE_CHECKING:
    from crystalpredict.evaluation.scores import Report, Score

MAX_REASONS_SHOWN = 10  # --predictions and --format json have all


def evaluate(
    ctx: typer.Context,
    data: Annotated[Path, DATA],
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            "-t",
            metavar="NAME[=COLUMN]",
            show_default=False,
            autocompletion=target_names,
            rich_help_panel=MODEL,
            help="A property of the model, and the column of its labels if that has another name; repeat it, or "
            "separate by commas. Default: all that are labelled.",
        ),
    ] = None,
    model: ModelName = None,
    unrelaxed: Unrelaxed = False,
    compare: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME|PATH",
            show_default=False,
            autocompletion=model_names,
            rich_help_panel=MODEL,
            help="Another model, on the same rows; repeat it for several.",
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            show_default=False,
            rich_help_panel=INPUT,
            help="Only rows with this in the column split; without one, this part of the model's own table.",
        ),
    ] = None,
    structure_column: StructureColumn = None,
    format: Annotated[
        ReportFormat,
        typer.Option(
            "--format",
            "-f",
            metavar="FORMAT",
            rich_help_panel=OUTPUT,
            help="table, csv or json; auto: a table on a terminal, CSV in a pipe.",
        ),
    ] = ReportFormat.auto,
    predictions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            rich_help_panel=OUTPUT,
            help="Write every row, failed ones too; .csv, .json, .jsonl, also .gz.",
        ),
    ] = None,
    plots: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            show_default=False,
            rich_help_panel=OUTPUT,
            help="Write pictures here: parity, errors, periodic table.",
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            rich_help_panel=OUTPUT,
            help="Write all of it as one page of HTML, pictures included.",
        ),
    ] = None,
    device: Device = "auto",
    jobs: Jobs = 0,
    timeout_per_file: TimeoutPerFile = 300,
    memory_per_process: MemoryPerProcess = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Measure the errors of a model on your own labelled crystals.

    Example: crystalpredict evaluate mine.csv --report report.html

    Exit code 0: evaluated; 1: damaged model, no room; 2: wrong usage or table; 4: all failed; 130: interrupted.
    """  # fmt: skip
    kind_of_rows = refuse_outputs(data, predictions, plots, report, force=force, quiet=quiet)
    if format == ReportFormat.auto:
        format = ReportFormat.table if sys.stdout.isatty() else ReportFormat.csv
    models = find_models(named_model(ctx, model, unrelaxed=unrelaxed), compare or [], unrelaxed=unrelaxed)
    table = read_table(data, models, target or (), structure_column, split)
    if not quiet:
        say(f"{data}: {', '.join(table.notes)}")
    from crystalpredict.evaluation.evaluate import evaluate as evaluated
    from crystalpredict.evaluation.evaluate import prediction_rows
    from crystalpredict.io.worker_pool import available_cores

    limits = limits_of(timeout_per_file, memory_per_process)
    total = len(table.sources)
    with messages(quiet=quiet):
        answers = predict_rows(
            table, models, device, jobs or available_cores(), limits,
            lambda rows: with_progress(rows, total, lambda row: row[0].index == 0, quiet=quiet, what="rows"),
        )  # fmt: skip
    found = evaluated(table, answers)
    if not quiet:
        report_losses(found, len(table.notes))
    if predictions:
        with opened(predictions) as stream:
            write_records(prediction_rows(table, answers), kind_of_rows, stream)
    draw(found, plots, report)
    write_report(found, format, sys.stdout)
    sys.stdout.flush()
    if not found.predicted:
        raise typer.Exit(EXIT_ALL_FAILED)


def refuse_outputs(
    data: Path, predictions: Path | None, plots: Path | None, report: Path | None, *, force: bool, quiet: bool
) -> Format:
    """Return the format of the predictions, after a check of all outputs.

    Raises:
        UsageError: An output cannot be written.
    """
    for path in filter(None, (predictions, report)):
        refuse_unwritable(path, [data], force=force)
    if predictions and report and predictions.absolute() == report.absolute():
        raise UsageError(f"{report}: given for both --predictions and --report; name two files")
    if plots and not os.path.isdir(plots):
        if os.path.exists(plots):
            raise UsageError(f"{plots}: a file; name a directory for the pictures")
        refuse_unwritable(plots)
    if plots and plots.is_dir() and not os.access(plots, os.W_OK):
        raise UsageError(f"{plots}: no permission to write here")
    if plots and not force and next(plots.glob("*.png"), None):
        raise UsageError(f"{plots}: already has pictures; name another directory, or replace them with --force")
    if (plots or report) and not find_spec("matplotlib"):
        if plots:
            raise UsageError(f"--plots: {NO_MATPLOTLIB}")
        if not quiet:
            say(f"no pictures in the report: {NO_MATPLOTLIB}")
    kind = format_of(Format.auto, predictions) if predictions else Format.csv
    if kind in (Format.table, Format.parquet):
        raise UsageError(f"{predictions}: no format for this suffix; use .csv, .json or .jsonl")
    return kind


def report_losses(report: Report, notes_shown: int) -> None:
    """Print the notes, and the rows that were not predicted by reason, on stderr."""
    for note in report.notes[notes_shown:]:
        say(note)
    for loss in report.lost[:MAX_REASONS_SHOWN]:
        say(f"{loss.count:,} row(s) not predicted: {loss.reason} (first: row {loss.row})")
    if others := report.lost[MAX_REASONS_SHOWN:]:
        say(f"{sum(loss.count for loss in others):,} row(s) not predicted for {len(others):,} other reasons")
    say(f"{report.predicted:,} of {report.rows:,} rows predicted")


def draw(report: Report, plots: Path | None, page: Path | None) -> None:
    """Write the pictures into `plots` and the report to `page`, unless they are None."""
    from crystalpredict._files import write_atomically

    images: dict[str, dict[str, bytes]] = {}
    for score, drawn in pictures(report, all_models=bool(plots)) if plots or (page and find_spec("matplotlib")) else ():
        images.setdefault(score.prop.name, drawn)
        if plots:
            ending = "" if drawn is images[score.prop.name] else "_" + re.sub(r"[^\w.-]+", "_", score.model)
            for kind, png in drawn.items():
                with write_atomically(plots / f"{score.prop.name}_{kind}{ending}.png") as file:
                    file.write(png)
    if page:
        from crystalpredict.evaluation.report import render_report

        with write_atomically(page) as file:
            file.write(render_report(report, images).encode())


def pictures(report: Report, *, all_models: bool) -> Iterator[tuple[Score, dict[str, bytes]]]:
    """Yield the scores on the literature's scale with their pictures, of the first model or of all."""
    from crystalpredict.evaluation.plots import plots_of

    for first in report.leading:
        for score in report.beside(first) if all_models else (first,):
            yield score, plots_of(score)
