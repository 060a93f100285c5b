"""`crystalpredict evaluate`."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import tee
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crystalpredict.checkpoints.registry import find_model, needs_vectors, properties_of_model, radius_of_model
from crystalpredict.cli.completion import model_names, target_names
from crystalpredict.cli.evaluation_tables import ReportFormat, write_records, write_report
from crystalpredict.cli.options import (
    Device,
    Force,
    Jobs,
    MemoryPerProcess,
    ModelName,
    Quiet,
    StructureColumn,
    TimeoutPerFile,
)
from crystalpredict.cli.output import format_of, opened, refuse_unwritable
from crystalpredict.cli.progress import with_progress
from crystalpredict.cli.startup import limits_of
from crystalpredict.cli.tally import EXIT_ALL_FAILED
from crystalpredict.cli.terminal import NO_MATPLOTLIB, say
from crystalpredict.errors import UsageError
from crystalpredict.prediction.writers import Format

if TYPE_CHECKING:
    from crystalpredict.data.labels import LabelledTable
    from crystalpredict.evaluation.evaluate import ModelPredictions
    from crystalpredict.evaluation.scores import Report, Score
    from crystalpredict.io.worker_pool import Limits
    from crystalpredict.properties import Property

REASONS_SAID = 10  # why rows were lost; --predictions and --format json have all of them


@dataclass(frozen=True)
class Model:
    """A checkpoint that was asked for: how it is called in the report, and what it says it predicts."""

    name: str
    folder: Path
    properties: tuple[Property, ...]
    radius: float
    vectors: bool

    @property
    def lists(self) -> tuple[float, bool]:
        """What its neighbour lists are like: radius, Å, and whether they have vectors."""
        return self.radius, self.vectors


def evaluate(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            show_default=False,
            help="CSV, Parquet, JSONL or JSON with structures and labels (.gz too), or a folder with id_prop.csv.",
        ),
    ],
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            "-t",
            metavar="NAME[=COLUMN]",
            show_default=False,
            autocompletion=target_names,
            help="A property of the model, and the column of its labels if that has another name; repeat it, or "
            "separate by commas. Default: all that are labelled.",
        ),
    ] = None,
    model: ModelName = None,
    compare: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME|PATH",
            show_default=False,
            autocompletion=model_names,
            help="Another model, on the same rows; repeat it for several.",
        ),
    ] = None,
    split: Annotated[
        str | None, typer.Option(metavar="NAME", show_default=False, help="Only rows with this in the column split.")
    ] = None,
    structure_column: StructureColumn = None,
    format: Annotated[
        ReportFormat, typer.Option("--format", "-f", help="auto: a table on a terminal, CSV in a pipe.")
    ] = ReportFormat.auto,
    predictions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", show_default=False, help="Write every row, failed ones too; .csv, .json, .jsonl, also .gz."
        ),
    ] = None,
    plots: Annotated[
        Path | None,
        typer.Option(metavar="DIR", show_default=False, help="Write pictures here: parity, errors, periodic table."),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", show_default=False, help="Write all of it as one page of HTML, pictures included."
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

    Exit code 0: evaluated; 1: damaged model, no room; 2: wrong usage or table; 4: no row could be predicted;
    130: interrupted.
    """  # fmt: skip
    kind_of_rows = refuse_outputs(data, predictions, plots, report, force=force, quiet=quiet)
    if format == ReportFormat.auto:
        format = ReportFormat.table if sys.stdout.isatty() else ReportFormat.csv
    models = find_models(model, compare or [])
    table = read_table(data, models, target, structure_column, split)
    if not quiet:
        say(f"{data}: {', '.join(table.notes)}")
    from crystalpredict.evaluation.evaluate import evaluate as evaluated
    from crystalpredict.evaluation.evaluate import prediction_rows
    from crystalpredict.io.worker_pool import available_cores

    limits = limits_of(timeout_per_file, memory_per_process)
    answers = predict_rows(table, models, device, jobs or available_cores(), limits, quiet=quiet)
    found = evaluated(table, answers)
    if not quiet:
        say_losses(found, len(table.notes))
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
    """UsageError before the work for what could not be written after it; the format of the predictions."""
    for path in filter(None, (predictions, report)):
        refuse_unwritable(path, [data], force=force)
    if predictions and report and predictions.absolute() == report.absolute():
        raise UsageError(f"{report}: both --predictions and --report; name two files")
    if plots and not os.path.isdir(plots):
        if os.path.exists(plots):
            raise UsageError(f"{plots}: a file; name a directory for the pictures")
        refuse_unwritable(plots)
    if plots and plots.is_dir() and not os.access(plots, os.W_OK):
        raise UsageError(f"{plots}: no permission to write here")
    if plots and not force and next(plots.glob("*.png"), None):
        raise UsageError(f"{plots}: has pictures already; name another directory, or say --force to replace them")
    if (plots or report) and not find_spec("matplotlib"):
        if plots:
            raise UsageError(f"--plots: {NO_MATPLOTLIB}")
        if not quiet:
            say(f"no pictures in the report: {NO_MATPLOTLIB}")
    kind = format_of(Format.auto, predictions) if predictions else Format.csv
    if kind in (Format.table, Format.parquet):
        raise UsageError(f"{predictions}: no format for this suffix; use .csv, .json or .jsonl")
    return kind


def find_models(first: str | None, others: Sequence[str]) -> list[Model]:
    """The models asked for, each under a name of its own: that of its folder, or what was asked for if two share it."""
    folders = [find_model(name) for name in (first, *others)]
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UsageError("--compare names a model twice, or the one that it is compared with")
    names = [folder.resolve().name for folder in folders]
    models = []
    for name, asked, folder in zip(names, (first, *others), folders, strict=True):
        properties, radius = properties_of_model(folder), radius_of_model(folder)
        if not properties or not radius:
            from crystalpredict.checkpoints.checkpoint import load_checkpoint

            load_checkpoint(folder)  # which says what is wrong
        unique = name if names.count(name) == 1 else asked or name
        models.append(
            Model(unique, folder, tuple(map(under_all_names, properties)), radius or 0.0, needs_vectors(folder))
        )
    return models


def under_all_names(prop: Property) -> Property:
    """A model's property, which keeps the names it had when it was trained, also under those it has now."""
    from crystalpredict.properties import PROPERTIES

    now = next((known.aliases for known in PROPERTIES if known.identity == prop.identity), ())
    return replace(prop, aliases=tuple(dict.fromkeys((*prop.aliases, *now))))


def read_table(
    data: Path, models: Sequence[Model], target: Sequence[str] | None, structure_column: str | None, split: str | None
) -> LabelledTable:
    """The labelled rows to predict; UsageError if something is wrong with the table or with what is asked of it."""
    first, *others = models
    parts = [part.partition("=") for option in target or [] for part in option.split(",") if part.strip()]
    if target and not parts:
        raise UsageError("--target names no property")
    from crystalpredict.data.labels import logarithm_of, read_labelled, refuse_other_unit
    from crystalpredict.evaluation.evaluate import rows_of_split
    from crystalpredict.prediction.derived import derivable
    from crystalpredict.properties import find_property, match_property

    asked: set[str] = set()
    columns: list[str] = []
    known = list(first.properties)
    renamed: dict[str, Property] = {}
    for name, _, column in parts:
        if match_property(name, derivable(first.properties)):
            raise UsageError(f"--target {name}: derived from bulk and shear modulus: evaluate these")
        prop = find_property(name, first.properties)
        refuse_other_unit(column, prop)
        if prop.name in asked:
            raise UsageError(f"--target names {prop.name} twice: give it one column")
        asked.add(prop.name)
        columns.append(column.strip() or prop.name)
        if column.strip():  # the property goes by the column's name alone while the table is read
            alias = replace(prop, name=logarithm_of(column, [prop]) or column.strip(), unit_in_name="", aliases=())
            known[known.index(prop)], renamed[alias.name] = alias, prop
    for column in columns:
        if columns.count(column) > 1:
            raise UsageError(f"--target takes the labels of two properties from {column}: give each its own column")
    table = read_labelled(data, columns, structure_column=structure_column, known=known)
    known_as = ((prop.name, renamed[prop.name]) for prop in table.properties if prop.name in renamed)
    notes = [f"{column} is {prop.name}" + f" in {prop.unit}" * bool(prop.unit) for column, prop in known_as]
    properties = tuple(renamed.get(prop.name, prop) for prop in table.properties)
    table = replace(table, properties=properties, notes=(*table.notes, *notes))
    for other in others:
        if not shared(table, other):
            labels = ", ".join(prop.column for prop in table.properties)
            raise UsageError(f"--compare {other.name}: it predicts nothing of what is compared ({labels})")
    return table if split is None else rows_of_split(table, split)


def shared(table: LabelledTable, model: Model) -> list[str]:
    """Names of the table's properties that the model predicts in the same unit."""
    columns = {prop.column for prop in model.properties}
    return [prop.name for prop in table.properties if prop.column in columns]


def predict_rows(
    table: LabelledTable, models: Sequence[Model], device: str, jobs: int, limits: Limits, *, quiet: bool
) -> list[ModelPredictions]:
    """What each model says of the rows; structures are read once for all models of like neighbour lists."""
    from crystalpredict.evaluation.evaluate import collect_predictions
    from crystalpredict.io.reader import Reader

    kinds = [model.lists for model in models]
    with ExitStack() as stack:
        # workers start before torch is imported: they are small then, and read meanwhile
        readers = {
            (radius, vectors): stack.enter_context(Reader(table.sources, radius, jobs, vectors=vectors, limits=limits))
            for radius, vectors in sorted(set(kinds))
        }
        from crystalpredict.checkpoints.registry import weights_sha256
        from crystalpredict.prediction.predictor import load_model

        copies = {kind: list(tee(reader.entries(), kinds.count(kind))) for kind, reader in readers.items()}
        predictors = [load_model(model.folder, device, shared(table, model)) for model in models]
        if not quiet:
            names = ", ".join(model.name for model in models)
            say(f"model {names}, device {predictors[0].device}, {len(table.sources):,} rows")
        # models take turns, a window of crystals each, so that few are in memory
        entries = [copies[kind].pop() for kind in kinds]
        if len(models) == 1:
            streams = [predictors[0].stream(entries[0], lambda: readers[kinds[0]].busy)]
        else:  # several would take one another's threads
            streams = [predictor.stream(some) for predictor, some in zip(predictors, entries, strict=True)]
        rows = zip(*streams, strict=True)
        total = len(table.sources)
        answers = list(with_progress(rows, total, lambda row: row[0].index == 0, quiet=quiet, what="rows"))
    columns = [prop.column for prop in table.properties]
    return [
        collect_predictions(model.name, weights_sha256(model.folder), columns, [row[number] for row in answers])
        for number, model in enumerate(models)
    ]


def say_losses(report: Report, notes_said: int) -> None:
    """Rows that do not count, by reason, on stderr."""
    for note in report.notes[notes_said:]:
        say(note)
    for loss in report.lost[:REASONS_SAID]:
        say(f"{loss.count:,} row(s) not predicted: {loss.reason} (first: row {loss.row})")
    if others := report.lost[REASONS_SAID:]:
        say(f"{sum(loss.count for loss in others):,} row(s) not predicted for {len(others):,} other reasons")
    say(f"{report.predicted:,} of {report.rows:,} rows predicted")


def draw(report: Report, plots: Path | None, page: Path | None) -> None:
    """Write the pictures into a directory and the page, as far as they are asked for."""
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
    """Scores on the literature's scale with their pictures; those of the first model, or of all."""
    from crystalpredict.evaluation.plots import plots_of

    for first in report.leading:
        for score in report.beside(first) if all_models else (first,):
            yield score, plots_of(score)
