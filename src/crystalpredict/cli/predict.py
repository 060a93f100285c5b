"""`crystalpredict predict`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from crystalpredict import __version__
from crystalpredict.cli.completion import target_names
from crystalpredict.cli.engine import atoms_of, limits_of, opened_model, quick_imports
from crystalpredict.cli.inputs import expand
from crystalpredict.cli.options import (
    BatchAtoms,
    Device,
    Inputs,
    Jobs,
    MemoryPerProcess,
    ModelName,
    Null,
    Quiet,
    StructureColumn,
    TimeoutPerFile,
)
from crystalpredict.cli.output import format_of, opened, refuse_unwritable, with_progress
from crystalpredict.cli.render import Format, columns_of, record, say, writer_of
from crystalpredict.cli.tally import EXIT_INTERRUPTED, Tally
from crystalpredict.errors import UsageError
from crystalpredict.registry import file_sha256, find_model, properties_of_model

if TYPE_CHECKING:
    from crystalpredict.partial_output import Cursor, PartialFile
    from crystalpredict.predict import Prediction, Predictor
    from crystalpredict.reading import Reader
    from crystalpredict.selection import Selection

Row = TypeVar("Row")


def predict(
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
    where: Annotated[
        str | None,
        typer.Option(metavar="CONDITION", show_default=False, help="Rows wanted: 'bandgap_eV > 1 and n_atoms <= 20'."),
    ] = None,
    sort: Annotated[
        str | None,
        typer.Option(metavar="[-]COLUMN", show_default=False, help="Order of the rows; with a minus, largest first."),
    ] = None,
    top: Annotated[
        int | None, typer.Option(min=1, metavar="N", show_default=False, help="Only the first N rows of --sort.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where an interrupted run with this -o FILE stopped.")
    ] = False,
    no_reduce: Annotated[
        bool, typer.Option("--no-reduce", help="Compute every atom instead of one of each kind of equivalent atoms.")
    ] = False,
    no_uncertainty: Annotated[
        bool, typer.Option("--no-uncertainty", help="Leave out the columns of 90 % intervals.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Predict properties of crystals: one row for each structure, in the order given.

    Exit code 0: all predicted; 1: damaged model; 2: wrong usage; 3: some inputs failed; 4: all; 130: interrupted.
    """  # fmt: skip
    if output is not None:
        refuse_unwritable(output)
    kind = format_of(format, output)
    selected = bool(where is not None or sort or top)
    grows = output is not None and kind in (Format.csv, Format.jsonl) and output.suffix != ".gz" and not selected
    if resume and not grows:
        raise UsageError("--resume needs -o FILE of CSV or JSON lines, not compressed, and neither --where nor --sort")
    if resume and output is not None and output.exists() and not output.with_name(output.name + ".part").exists():
        if not quiet:
            say(f"{output}: complete, there is nothing to resume; delete it to predict again")
        return
    targets = [name for option in target or [] for name in option.split(",") if name.strip()]
    if target and not targets:
        raise UsageError("--target names no property")
    names, at_once = expand(inputs, null=null), atoms_of(batch_atoms)
    folder = find_model(model)
    with ExitStack() as stack:
        stack.enter_context(quick_imports())
        from crystalpredict.partial_output import Cursor, PartialFile
        from crystalpredict.selection import Selection
        from crystalpredict.sources import sources_of

        cursor = Cursor(sources_of(names, structure_column))
        part = None
        if grows and output is not None:
            options = {"null": null, "structure column": structure_column, "no-reduce": no_reduce, "format": kind.value}
            facts = facts_of(folder, targets, inputs, uncertainty=not no_uncertainty) | options
            part = stack.enter_context(PartialFile(output, facts, resume=resume))
            cursor.skip(part.position)
        limits = limits_of(timeout_per_file, memory_per_process)
        predictor, reader = stack.enter_context(
            opened_model(
                cursor, folder, device, at_once, jobs,
                targets=targets, merge=not no_reduce, uncertainty=not no_uncertainty, limits=limits, quiet=quiet,
            )
        )  # fmt: skip
        intervals = predictor.answers.errors is not None
        columns = [name for prop in predictor.properties for name in columns_of(prop, intervals)]
        selection = Selection.of(where, sort, top, columns)
        if part and part.position.rows and not quiet:
            say(f"{output}: going on after {part.position.rows} rows")
        stream = part.stream if part else stack.enter_context(opened(output, binary=kind == Format.parquet))
        outcome = run(predictor, Run(reader, cursor, part, stream, kind, intervals, selection, quiet))
    if outcome:
        raise typer.Exit(outcome)


def facts_of(folder: Path, targets: Sequence[str], inputs: Sequence[str], *, uncertainty: bool) -> dict[str, Any]:
    """What must be the same for a run to go on where another stopped."""
    from crystalpredict.calibration import CALIBRATION_FILE
    from crystalpredict.derived import asked_for

    files = {"model": "model.safetensors", "calibration": CALIBRATION_FILE, "settings of the model": "config.json"}
    sums = {fact: file_sha256(folder / file) if (folder / file).is_file() else "" for fact, file in files.items()}
    intervals = uncertainty and bool(sums["calibration"])
    known = properties_of_model(folder)  # none if it is damaged: then loading it will say so
    wanted = asked_for(known, targets) if known else ()
    columns = [name for prop in wanted for name in columns_of(prop, intervals)]
    return {"version": __version__, **sums, "uncertainty": intervals, "columns": columns, "inputs": list(inputs)}


@dataclass(frozen=True)
class Run:
    """Where entries come from and rows go to; `part` if what is written is kept to be resumed."""

    reader: Reader
    cursor: Cursor
    part: PartialFile | None
    stream: IO[Any]
    kind: Format
    intervals: bool
    selection: Selection
    quiet: bool


def run(predictor: Predictor, run: Run) -> int:
    """Write a row for each structure and say what failed; the exit code. Interrupted, it ends the document first."""
    writer = writer_of(run.kind, run.stream, predictor.properties, intervals=run.intervals)
    tally = Tally()
    if run.part and run.part.position.rows:
        run.part.discard()  # the file has its header
        tally = Tally(run.part.position.rows, run.part.position.failed)

    def end_window() -> None:
        if run.part:
            run.part.commit(run.cursor.position(tally.rows, tally.failed))
        else:
            run.stream.flush()  # a killed run leaves what it computed

    windows = predictor.windows(run.cursor.rest(run.reader.entries()), lambda: run.reader.busy)
    interrupted = False

    def counted() -> Iterator[Prediction]:
        nonlocal interrupted
        done = by_window(windows, end_window)
        try:  # an interrupt ends the rows, so that the best of those that there are can still be written
            for row in with_progress(done, None, lambda row: True, quiet=run.quiet, what="structures"):
                tally.add(row)
                run.cursor.passed(row.path, row.index)
                if row.error and not run.quiet and run.kind != Format.table:
                    say(f"{row.path}: {row.error}")
                yield row
        except KeyboardInterrupt:
            interrupted = True

    rows = counted()
    if run.selection:
        rows = run.selection.of_rows(rows, lambda row: record(row, predictor.properties, run.intervals))
    try:
        for row in rows:
            writer.write(row)
    except KeyboardInterrupt:
        interrupted = True
    if not run.part:
        writer.close()
        run.stream.flush()
    elif not interrupted:
        run.part.finish()
    if not run.quiet:
        say(tally.summary())
    if interrupted:
        if run.part and not run.quiet:
            said = f"{run.part.position.rows} rows are complete in {run.part.part}: go on with --resume"
            say(f"interrupted: {said}" if run.part.position.rows else "interrupted before the first rows")
        elif not run.quiet:
            say(f"interrupted: {tally.rows} rows are complete")
        return EXIT_INTERRUPTED
    return tally.exit_code


def by_window(windows: Iterable[Iterable[Row]], end_window: Callable[[], None]) -> Iterator[Row]:
    """The rows; end_window is called when those of a window have been dealt with."""
    for window in windows:
        yield from window
        end_window()
