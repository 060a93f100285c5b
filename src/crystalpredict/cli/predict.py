"""`crystalpredict predict`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import IO, TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from crystalpredict._files import followed
from crystalpredict.checkpoints.registry import find_model
from crystalpredict.cli.completion import target_names
from crystalpredict.cli.computing import Computing, Windows
from crystalpredict.cli.engine import atoms_of, limits_of, quick_imports
from crystalpredict.cli.inputs import expand
from crystalpredict.cli.interrupts import one_interrupt
from crystalpredict.cli.options import (
    BatchAtoms,
    Device,
    Inputs,
    Jobs,
    MemoryPerProcess,
    ModelName,
    Null,
    Quiet,
    Sort,
    StructureColumn,
    TimeoutPerFile,
    Top,
    Where,
    given,
)  # fmt: skip
from crystalpredict.cli.output import format_of, opened, place_of, refuse_unwritable
from crystalpredict.cli.progress import Forecast, count_sources
from crystalpredict.cli.render import Format, record, say, writer_of
from crystalpredict.cli.tally import EXIT_INTERRUPTED, Tally
from crystalpredict.errors import UsageError
from crystalpredict.prediction.shards import Shard, refuse_other

if TYPE_CHECKING:
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
            help="bandgap, formation_energy, e_above_hull, bulk_modulus or shear_modulus; repeat it, or separate by "
            "commas; derived from the moduli, youngs_modulus, poisson_ratio or pugh_ratio. Default: all of the model, "
            "nothing derived.",
        ),
    ] = None,
    model: ModelName = None,
    device: Device = "auto",
    format: Annotated[
        Format,
        typer.Option(
            "--format", "-f", envvar="CRYSTALPREDICT_FORMAT", help="auto: a table on a terminal, CSV in a pipe."
        ),
    ] = Format.auto,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            show_default=False,
            help="Write here; .csv, .json, .jsonl (.gz), .parquet.",
        ),
    ] = None,
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
        bool, typer.Option("--resume", help="Go on where an interrupted run with this -o FILE stopped.")
    ] = False,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N", show_default=False, help="Only the I-th of N shares of the inputs; see crystalpredict merge."
        ),
    ] = None,
    cache: Annotated[
        str | None,
        typer.Option(
            metavar="auto|DIR",
            show_default=False,
            help="Keep predictions in a folder, and read those from it that are there; auto: the user's cache.",
        ),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            show_default=False,
            help="Predict on the Dask cluster of this scheduler, tcp://host:8786, or of a scheduler file.",
        ),
    ] = None,
    no_reduce: Annotated[
        bool, typer.Option("--no-reduce", help="Compute every atom instead of one of each kind of equivalent atoms.")
    ] = False,
    no_uncertainty: Annotated[
        bool, typer.Option("--no-uncertainty", help="Leave out the columns of 90 % intervals.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Predict properties of crystals: one row for each structure, in the order given.

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
        output = followed(output) if grows else output  # what grows beside it has to stay beside it
        refuse_other(output, share)
    if resume and output is not None and output.exists() and not output.with_name(output.name + ".part").exists():
        if not quiet:
            say(f"{output}: complete, there is nothing to resume; delete it to predict again")
        raise typer.Exit(Tally.of_file(output).exit_code)
    targets = tuple(name for option in target or [] for name in option.split(",") if name.strip())
    if target and not targets:
        raise UsageError("--target names no property")
    names, at_once = expand(inputs, null=null), atoms_of(batch_atoms)
    folder = find_model(model)
    with one_interrupt(), ExitStack() as stack:
        stack.enter_context(quick_imports())
        from crystalpredict.io.sources import sources_of
        from crystalpredict.prediction.resume import Cursor, PartialFile
        from crystalpredict.prediction.selection import Selection

        limits = limits_of(timeout_per_file, memory_per_process)
        computing = Computing(
            folder, model, device, at_once, jobs, targets, not no_reduce, not no_uncertainty, limits, cache, scheduler,
            quiet,
        )  # fmt: skip
        cursor = Cursor(sources_of(names, structure_column, share.takes if share else lambda name: True))
        columns, part = computing.columns, None
        if grows and output is not None:
            facts = {**computing.facts, "columns": columns, "inputs": list(inputs), "null": null}
            facts |= {"structure column": structure_column, "format": kind.value, "where": where, "shard": shard}
            part = stack.enter_context(PartialFile(output, facts, resume=resume))
            cursor.skip(part.position)
        windows = stack.enter_context(computing.windows(cursor))
        selection = Selection.of(where, sort, top, columns)
        if part and part.position.rows and not quiet:
            say(f"{output}: going on after {part.position.rows} rows")
        ended = Event()
        stream = (
            part.stream
            if part
            else stack.enter_context(opened(output, binary=kind == Format.parquet, interrupted=ended.is_set))
        )
        another = Shard.parse(shard) if shard is not None else None
        forecast = Forecast(lambda: count_sources(inputs, structure_column, another, null=null), lambda: cursor.begun)
        outcome = run(
            Run(
                windows, cursor, forecast, part, stream, kind, computing.properties, computing.intervals, selection,
                share, quiet, ended, output,
            )
        )  # fmt: skip
    if outcome:
        raise typer.Exit(outcome)


@dataclass(frozen=True)
class Run:
    """Where rows come from and go to; `part` if what is written is kept to be resumed; `interrupted`, by Ctrl-C."""

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
    interrupted: Event
    output: Path | None


def run(run: Run) -> int:
    """Write a row for each structure and say what failed; the exit code. Interrupted, it ends the document first."""
    writer = writer_of(run.kind, run.stream, run.properties, intervals=run.intervals)
    tally = Tally()
    if run.part and run.part.position.rows:
        run.part.discard()  # the file has its header
        tally = Tally(run.part.position.rows, run.part.position.failed)

    def end_window() -> None:
        if run.part:
            run.part.commit(run.cursor.position(tally.rows, tally.failed))
        else:
            run.stream.flush()  # a killed run leaves what it computed

    def counted() -> Iterator[Prediction]:
        done = by_window(run.windows, end_window)
        try:  # an interrupt ends the rows, so that the best of those that there are can still be written
            for row in run.forecast.rows(done, quiet=run.quiet):
                tally.add(row)
                run.cursor.passed(row.path, row.index)
                if row.error and not run.quiet and run.kind != Format.table:
                    say(f"{row.path}: {row.error}")
                yield row
        except KeyboardInterrupt:
            run.interrupted.set()

    rows = counted()
    if run.selection:
        rows = run.selection.of_rows(rows, lambda row: record(row, run.properties, run.intervals))
    try:
        for row in rows:
            writer.write(row)
            if run.part and run.shard:
                run.part.places.append(run.cursor.begun - 1)
    except KeyboardInterrupt:
        run.interrupted.set()
    interrupted = run.interrupted.is_set()
    if not run.part:
        writer.close()
        run.stream.flush()
    elif not interrupted:
        run.part.finish(run.shard.sums() if run.shard else None)
    if not run.quiet:
        say(tally.summary() + (run.forecast.said() if interrupted else ""))
    if interrupted:
        if run.part and not run.quiet:
            said = f"{run.part.position.rows} rows are complete in {run.part.part}: go on with --resume"
            say(f"interrupted: {said}" if run.part.position.rows else "interrupted before the first rows")
        elif not run.quiet:
            where = f" in {place_of(run.output, interrupted=True)}" if run.output else ""
            say(f"interrupted: {tally.rows} rows are complete{where}")
        return EXIT_INTERRUPTED
    return tally.exit_code


def by_window(windows: Iterable[Iterable[Row]], end_window: Callable[[], None]) -> Iterator[Row]:
    """The rows; end_window is called when those of a window have been dealt with."""
    for window in windows:
        yield from window
        end_window()
