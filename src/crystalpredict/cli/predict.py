"""`crystalpredict predict`."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from crystalpredict._files import refuse_existing, refuse_unwritable, resolve_link
from crystalpredict.checkpoints.registry import cache_folder, find_model
from crystalpredict.cli.completion import target_names
from crystalpredict.cli.interrupts import Interrupts, one_interrupt
from crystalpredict.cli.options import (
    COMPUTING,
    MODEL,
    OUTPUT,
    RESUMING,
    BatchAtoms,
    ConventionName,
    Device,
    Entries,
    Force,
    Inputs,
    Jobs,
    MemoryPerProcess,
    ModelName,
    NoReference,
    Null,
    Quiet,
    Relax,
    RelaxForce,
    RelaxSeconds,
    RelaxSteps,
    Sort,
    StructureColumn,
    TimeoutPerFile,
    Top,
    Unrelaxed,
    Where,
    WriteRelaxed,
    given,
    output_option,
)  # fmt: skip
from crystalpredict.cli.output import format_of, opened, path_of_result, writer_of
from crystalpredict.cli.progress import Forecast, count_sources
from crystalpredict.cli.relaxed_cells import cells_of, refuse_to_write_relaxed, relaxation_of, write_cell
from crystalpredict.cli.startup import atoms_of, collect_garbage_again, limits_of, no_garbage_collection
from crystalpredict.cli.tally import EXIT_INTERRUPTED, Tally
from crystalpredict.cli.terminal import messages, say
from crystalpredict.errors import UsageError
from crystalpredict.io.inputs import expand
from crystalpredict.prediction.pipeline import Pipeline, Windows
from crystalpredict.prediction.rows import record
from crystalpredict.prediction.shards import JOURNAL, PART, Shard, refuse_other
from crystalpredict.prediction.writers import Format
from crystalpredict.stability.conventions import Convention

if TYPE_CHECKING:
    from crystalpredict.io.cell_writers import CellWriter
    from crystalpredict.prediction.resume import Cursor, PartialFile
    from crystalpredict.prediction.rows import Prediction
    from crystalpredict.prediction.selection import Selection
    from crystalpredict.properties import Property

Row = TypeVar("Row")


def predict(
    ctx: typer.Context,
    inputs: Inputs,
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            "-t",
            metavar="NAME",
            show_default=False,
            autocompletion=target_names,
            rich_help_panel=MODEL,
            help="Property to predict: bandgap, formation_energy, e_above_hull, bulk_modulus, shear_modulus; "
            "from the moduli: youngs_modulus, poisson_ratio, pugh_ratio; from the formation energy: hull_distance, "
            "decomposes_to, known_phase, total_energy; other gaps: bandgap_hse, bandgap_gllbsc, bandgap_experiment, "
            "metal_probability; volume_change. Repeat it, or separate names by commas. Default: the first five.",
        ),
    ] = None,
    model: ModelName = None,
    unrelaxed: Unrelaxed = False,
    relax: Relax = None,
    relax_force: RelaxForce = 0.05,
    relax_steps: RelaxSteps = 500,
    relax_seconds: RelaxSeconds = 0,
    entries: Entries = None,
    no_reference: NoReference = False,
    convention: ConventionName = Convention.mp2018,
    device: Device = "auto",
    format: Annotated[
        Format,
        typer.Option(
            "--format",
            "-f",
            envvar="CRYSTALPREDICT_FORMAT",
            rich_help_panel=OUTPUT,
            help="Format of the rows. auto: a table on a terminal, CSV in a pipe, the suffix of -o.",
        ),
    ] = Format.auto,
    output: Annotated[
        Path | None,
        output_option("Write to this file: .csv, .json, .jsonl (also .gz), .parquet."),
    ] = None,
    write_relaxed: WriteRelaxed = None,
    null: Null = False,
    structure_column: StructureColumn = None,
    jobs: Jobs = 0,
    batch_atoms: BatchAtoms = "auto",
    timeout_per_file: TimeoutPerFile = 300,
    memory_per_process: MemoryPerProcess = None,
    where: Where = None,
    sort: Sort = None,
    top: Top = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", rich_help_panel=RESUMING, help="Continue an interrupted run with the same -o FILE."),
    ] = False,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            show_default=False,
            rich_help_panel=RESUMING,
            help="Predict only the I-th of N shares of the inputs; join the files by crystalpredict merge.",
        ),
    ] = None,
    cache: Annotated[
        str | None,
        typer.Option(
            metavar="auto|DIR",
            show_default=False,
            rich_help_panel=RESUMING,
            help="Folder where predictions are kept and looked up; auto: the user's cache folder.",
        ),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            show_default=False,
            rich_help_panel=COMPUTING,
            help="Compute on a Dask cluster: address of its scheduler, tcp://host:8786, or a scheduler file.",
        ),
    ] = None,
    no_reduce: Annotated[
        bool,
        typer.Option(
            "--no-reduce",
            rich_help_panel=COMPUTING,
            help="Compute every atom, not only one of each kind of equivalent atoms.",
        ),
    ] = False,
    no_uncertainty: Annotated[
        bool,
        typer.Option("--no-uncertainty", rich_help_panel=OUTPUT, help="Leave out the columns of the 90 % intervals."),
    ] = False,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Predict properties of crystals: one row for each structure, in the order given.

    Example: crystalpredict predict *.cif --target bandgap -o gaps.csv

    Exit code 0: all predicted; 1: damaged model, no room; 2: wrong usage; 3: some inputs failed; 4: all;
    130: interrupted.
    """  # fmt: skip
    if output is not None:
        refuse_unwritable(output, inputs or ())
    kind = format_of(format, output, by_name="format" not in given(ctx))
    grows = output is not None and kind in (Format.csv, Format.jsonl) and output.suffix != ".gz" and not (sort or top)
    if (resume or shard) and not grows:
        needs = f"{'--resume' if resume else '--shard'} needs -o FILE of CSV or JSON lines, not compressed"
        raise UsageError(f"{needs}, and no --sort" + (": crystalpredict merge has it" if shard else ""))
    share = Shard.parse(shard) if shard is not None else None
    if output is not None:
        output = resolve_link(output) if grows else output  # its .part file must be in the same folder
        refuse_earlier_result(output, share, resume=resume, force=force)
        if resume and output.exists() and not output.with_name(output.name + PART).exists():
            output.with_name(output.name + JOURNAL).unlink(missing_ok=True)  # left by a run that was killed at its end
            if not quiet:
                say(f"{output}: complete, nothing to resume; predict again with --force")
            raise typer.Exit(Tally.of_file(output).exit_code)
    targets = tuple(name for option in target or [] for name in option.split(",") if name.strip())
    if target and not targets:
        raise UsageError("--target names no property")
    if scheduler and (entries or no_reference or convention != Convention.mp2018):
        raise UsageError("--scheduler does not go with --entries, --no-reference or --convention")
    if scheduler and cache:
        raise UsageError("--scheduler does not go with --cache")
    names, at_once = expand(inputs, null=null), atoms_of(batch_atoms)
    scales = unrelaxed and not relax  # the model itself
    model = None if scales and "model" not in given(ctx) else model  # a setting names that for relaxed structures
    folder = find_model(model, unrelaxed=scales)
    relaxation = relaxation_of(ctx, folder, relax_force, relax_steps, relax_seconds, cache)
    if write_relaxed:
        refuse_to_write_relaxed(
            write_relaxed, folder, inputs, relax=bool(relax), cached=bool(cache), resume=resume,
            replaced=force or resume or bool(shard),
        )  # fmt: skip
    with one_interrupt() as interrupts, ExitStack() as stack:
        stack.enter_context(messages(quiet=quiet))
        stack.enter_context(no_garbage_collection())
        from crystalpredict.io.sources import sources_of
        from crystalpredict.prediction.resume import Cursor, PartialFile
        from crystalpredict.prediction.selection import Selection

        limits = limits_of(timeout_per_file, memory_per_process)
        pipeline = Pipeline(
            folder, targets, device, at_once, jobs, not no_reduce, not no_uncertainty, limits, collect_garbage_again,
            entries, not no_reference, convention, relaxation,
        )  # fmt: skip
        cursor = Cursor(sources_of(names, structure_column, share.takes if share else lambda name: True))
        columns, part = pipeline.columns, None
        if grows and output is not None:
            facts = {**pipeline.facts, "columns": columns, "inputs": list(inputs), "null": null}
            facts |= {"structure column": structure_column, "format": kind.value, "where": where}
            facts |= {"shard": str(share) if share else None, "cells": bool(write_relaxed)}
            part = stack.enter_context(PartialFile(output, facts, resume=resume))
            cursor.skip(part.position)
        windows = stack.enter_context(
            windows_of(pipeline, cursor, cache, scheduler, model or (folder.name if scales else None))
        )
        selection, ending = Selection.of(where, sort, top, columns), Ending()
        if part and part.position.rows and not quiet:
            say(f"{output}: resuming after {part.position.rows} rows")
        cells = stack.enter_context(cells_of(write_relaxed, lambda: ending.early)) if write_relaxed else None
        stream = (
            part.stream
            if part
            else stack.enter_context(opened(output, binary=kind == Format.parquet, interrupted=lambda: ending.early))
        )
        another = Shard.parse(shard) if shard is not None else None
        forecast = Forecast(lambda: count_sources(inputs, structure_column, another, null=null), lambda: cursor.begun)
        outcome = run(
            Run(
                windows, cursor, forecast, part, stream, kind, pipeline.properties, pipeline.intervals, selection,
                share, quiet, ending, interrupts, output, cells,
            )
        )  # fmt: skip
    if ending.error:
        raise ending.error
    if outcome:
        raise typer.Exit(outcome)


def windows_of(
    pipeline: Pipeline, cursor: Cursor, cache: str | None, scheduler: str | None, model: str | None
) -> AbstractContextManager[Windows]:
    """Return the windows of rows from the cluster, the cache or this machine, as the options say."""
    cache = None if pipeline.relaxation else cache  # which then keeps relaxed structures, not rows
    if scheduler or cache:  # possibly no model is loaded
        gc.enable()
    if scheduler:
        return pipeline.windows_on_cluster(cursor, scheduler, model)
    return pipeline.windows_with_cache(cursor, cache_folder(cache)) if cache else pipeline.windows(cursor)


def refuse_earlier_result(output: Path, share: Shard | None, *, resume: bool, force: bool) -> None:
    """Raise UsageError for an earlier result that would be replaced without `force`."""
    if resume and force:
        raise UsageError("--resume continues an earlier run, --force replaces it: leave one of them out")
    if not force:
        refuse_other(output, share)
        if not resume:
            refuse_existing(output)


@dataclass
class Ending:
    """What ended a run early: a signal, or an unexpected error."""

    interrupted: bool = False
    error: Exception | None = None

    @property
    def early(self) -> bool:
        """Whether some inputs have no row."""
        return self.interrupted or self.error is not None


@dataclass(frozen=True)
class Run:
    """Parameters of `run`; `part`: the partial file, if the run can be resumed."""

    windows: Windows
    cursor: Cursor
    forecast: Forecast
    part: PartialFile | None
    stream: IO[Any]
    kind: Format
    properties: Sequence[Property]
    intervals: bool
    selection: Selection
    shard: Shard | None
    quiet: bool
    ending: Ending
    interrupts: Interrupts
    output: Path | None
    cells: CellWriter | None


def run(run: Run) -> int:
    """Write a row for each structure, print errors, and return the exit code; complete the document if interrupted."""
    writer = writer_of(run.kind, run.stream, run.properties, intervals=run.intervals)
    tally = Tally()
    interrupts = (
        run.interrupts if run.output else Interrupts()
    )  # writing to stdout may block, and must stay interruptible
    if run.part and run.part.position.rows:
        run.part.discard()  # the header, which the file has
        tally = Tally(run.part.position.rows, run.part.position.failed)

    def end_window() -> None:
        if run.part:
            run.part.commit(run.cursor.position(tally.rows, tally.failed))
        else:
            run.stream.flush()  # a killed run keeps its rows

    def counted() -> Iterator[Prediction]:
        done = by_window(run.windows, end_window)
        try:  # an interrupt ends the rows; those computed are still sorted and written
            for row in run.forecast.rows(done, quiet=run.quiet):
                tally.add(row)
                run.cursor.passed(row.path, row.index)
                if row.error and not run.quiet and run.kind != Format.table:
                    say(f"{row.path}: {row.error}")
                interrupts.hold()  # writing a row is not interrupted
                yield row
                interrupts.release()
            interrupts.hold()
        except KeyboardInterrupt:
            run.ending.interrupted = True
        except Exception as error:
            if run.part or run.output is None or not tally.rows:
                raise
            run.ending.error = error

    rows = counted()
    if run.selection:
        rows = run.selection.of_rows(rows, lambda row: record(row, run.properties, run.intervals))
    try:
        for row in rows:
            writer.write(row)
            if run.cells:
                write_cell(run.cells, row)
            if run.part and run.shard:
                run.part.places.append(run.cursor.begun - 1)
    except KeyboardInterrupt:
        run.ending.interrupted = True
    interrupted = run.ending.early
    if not run.part:
        writer.close()
        run.stream.flush()
    elif not interrupted:
        run.part.finish(run.shard.sums() if run.shard else None)
    if not run.quiet:
        report_ending(run, tally)
    return EXIT_INTERRUPTED if interrupted else tally.exit_code


def report_ending(run: Run, tally: Tally) -> None:
    """Print the summary, and where the rows of an interrupted run are."""
    early = run.ending.early
    say(tally.summary() + (run.forecast.time_left() if early else ""))
    if early and run.part:
        said = f"{run.part.position.rows} rows are complete in {run.part.shown}: continue with --resume"
        say(f"interrupted: {said}" if run.part.position.rows else "interrupted before the first rows")
    elif early:
        where = f" in {path_of_result(run.output, interrupted=True)}" if run.output else ""
        say(f"interrupted: {tally.rows} rows are complete{where}")


def by_window(windows: Iterable[Iterable[Row]], end_window: Callable[[], None]) -> Iterator[Row]:
    """Yield the rows, and call `end_window` after those of each window."""
    for window in windows:
        yield from window
        end_window()
