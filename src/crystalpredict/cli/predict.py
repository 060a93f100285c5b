"""`crystalpredict predict`."""

from __future__ import annotations

import gc
import gzip
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from crystalpredict import __version__
from crystalpredict.cli.inputs import expand
from crystalpredict.cli.render import Format, record, say, writer_of
from crystalpredict.cli.tally import EXIT_INTERRUPTED, Tally
from crystalpredict.errors import UsageError
from crystalpredict.registry import file_sha256, find_model, properties_of_model, radius_of_model

if TYPE_CHECKING:
    from crystalpredict.partial_output import Cursor, PartialFile
    from crystalpredict.predict import Prediction, Predictor
    from crystalpredict.reading import Reader
    from crystalpredict.selection import Selection

Row = TypeVar("Row")


def predict(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT",
            show_default=False,
            help="CIF, POSCAR, pymatgen JSON or extended XYZ files (.gz, .bz2, .xz too), zip and tar archives of them, "
            "tables with a column of structures, directories, globs, @list.txt, - for paths on stdin.",
        ),
    ],
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            "-t",
            metavar="NAME",
            show_default=False,
            help="bandgap, formation_energy, e_above_hull, bulk_modulus or shear_modulus; repeat it, or separate by "
            "commas. Default: all that the model has.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", metavar="NAME|PATH", show_default=False, help="A bundled model or a checkpoint folder."
        ),
    ] = None,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="Where to compute.")] = "auto",
    format: Annotated[
        Format, typer.Option("--format", "-f", help="auto: a table on a terminal, CSV in a pipe.")
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
    null: Annotated[
        bool, typer.Option("--null", "-0", help="Paths in @list.txt and on stdin end with a null byte: find -print0.")
    ] = False,
    structure_column: Annotated[
        str | None,
        typer.Option(metavar="NAME", show_default=False, help="Where the structures of a table are."),
    ] = None,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", min=0, metavar="N", help="Processes that read files; 0: one for each core.")
    ] = 0,
    batch_atoms: Annotated[
        str, typer.Option(metavar="auto|N", help="Atoms computed at once; auto: what suits the device's memory.")
    ] = "auto",
    timeout_per_file: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="A file that takes longer to read is an error; 0: no limit.")
    ] = 300,
    memory_per_process: Annotated[
        float | None,
        typer.Option(min=0.1, metavar="GIB", show_default=False, help="Of those that read; default: its part of all."),
    ] = None,
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
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing on stderr but errors of usage.")] = False,
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
    names = expand(inputs, null=null)

    if batch_atoms != "auto" and not (batch_atoms.isdecimal() and int(batch_atoms)):
        raise UsageError(f"--batch-atoms {batch_atoms}: give a number of atoms, or auto")
    options = {"null": null, "structure column": structure_column, "no-reduce": no_reduce, "format": kind.value}
    at_once = None if batch_atoms == "auto" else int(batch_atoms)
    folder = find_model(model)
    radius = radius_of_model(folder)
    # threads of torch that wait do not spin: where other programs run, spinning takes several times as long
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    gc.disable()  # what is imported now stays: to look through it for garbage again and again takes half a second
    with ExitStack() as stack:
        stack.callback(gc.enable)
        from crystalpredict.partial_output import Cursor, PartialFile
        from crystalpredict.reading import Reader
        from crystalpredict.selection import Selection
        from crystalpredict.sources import sources_of
        from crystalpredict.workers import Limits

        cursor = Cursor(sources_of(names, structure_column))
        part = None
        if grows and output is not None:
            facts = facts_of(folder, targets, inputs) | options
            part = stack.enter_context(PartialFile(output, facts, resume=resume))
            cursor.skip(part.position)
        limits = Limits(timeout_per_file or None, int(memory_per_process * 2**30) if memory_per_process else None)
        # workers start before torch is imported: they are small then, and read meanwhile
        reader = stack.enter_context(
            Reader(cursor, radius or 0.0, (jobs or cores()) if radius else 1, merge=not no_reduce, limits=limits)
        )
        from crystalpredict.predict import load_model

        predictor = load_model(folder, device, targets, at_once)
        selection = Selection.of(where, sort, top, predictor.columns)
        gc.freeze()
        gc.enable()
        if not quiet:
            atoms = "every atom computed" if no_reduce else "equivalent atoms once"
            say(f"model {predictor.checkpoint.name}, device {predictor.device}, {atoms}")
            if part and part.position.rows:
                say(f"{output}: going on after {part.position.rows} rows")
        stream = part.stream if part else stack.enter_context(opened(output, binary=kind == Format.parquet))
        outcome = run(predictor, Run(reader, cursor, part, stream, kind, selection, quiet))
    if outcome:
        raise typer.Exit(outcome)


def facts_of(folder: Path, targets: Sequence[str], inputs: Sequence[str]) -> dict[str, Any]:
    """What must be the same for a run to go on where another stopped."""
    from crystalpredict.properties import find_property

    known = properties_of_model(folder)
    wanted = [find_property(name, known) for name in targets] if known else []
    weights = folder / "model.safetensors"
    return {
        "version": __version__,
        "model": file_sha256(weights) if weights.is_file() else "",
        "columns": [prop.column for prop in dict.fromkeys(wanted or known)],
        "inputs": list(inputs),
    }


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Run:
    """Where entries come from and rows go to; `part` if what is written is kept to be resumed."""

    reader: Reader
    cursor: Cursor
    part: PartialFile | None
    stream: IO[Any]
    kind: Format
    selection: Selection
    quiet: bool


def run(predictor: Predictor, run: Run) -> int:
    """Write a row for each structure and say what failed; the exit code. Interrupted, it ends the document first."""
    writer = writer_of(run.kind, run.stream, predictor.properties)
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
        rows = run.selection.of_rows(rows, lambda row: record(row, predictor.properties))
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


def with_progress(
    rows: Iterable[Row], total: int | None, is_first: Callable[[Row], bool], *, quiet: bool, what: str = "files"
) -> Iterator[Row]:
    """The rows, with a progress bar on stderr if that is a terminal; is_first: whether one is the first of its file.

    `total` files, None where nobody has counted them: then how many are done.
    """
    if quiet or not sys.stderr.isatty() or (total is not None and total < 50):
        yield from rows
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    counted = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    columns = counted if total is not None else (TextColumn("{task.completed:,.0f} " + what),)
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total)
        for row in rows:
            if is_first(row):
                progress.advance(task)
            yield row


def format_of(format: Format, output: Path | None) -> Format:
    """The format that `auto` stands for."""
    if format == Format.parquet and (output is None or output.suffix == ".gz"):
        raise UsageError("--format parquet needs -o FILE, not compressed: it is so itself")
    if format != Format.auto:
        return format
    if output is None:
        return Format.table if sys.stdout.isatty() else Format.csv
    suffix = output.with_suffix("").suffix if output.suffix == ".gz" else output.suffix
    known = {".csv": Format.csv, ".json": Format.json, ".jsonl": Format.jsonl, ".txt": Format.table}
    known |= {".parquet": Format.parquet} if output.suffix != ".gz" else {}
    if suffix.lower() not in known:
        suffixes = ".csv, .json, .jsonl, .parquet or .txt"
        raise UsageError(f"{output}: no format for this suffix; use {suffixes}, or say --format")
    return known[suffix.lower()]


def refuse_unwritable(output: Path) -> None:
    """UsageError before the work if the result could not be written after it."""
    if output.is_dir():
        raise UsageError(f"{output}: a directory; name a file")
    if output.exists() and not output.is_file():
        raise UsageError(f"{output}: no regular file; write to it with > instead")
    if not output.parent.is_dir():
        raise UsageError(f"{output}: there is no directory {output.parent}; create it first")
    if not os.access(output if output.exists() else output.parent, os.W_OK):
        raise UsageError(f"{output}: no permission to write here")


@contextmanager
def opened(output: Path | None, *, binary: bool = False) -> Iterator[IO[Any]]:
    """stdout, or a file (gzipped for .gz) that appears when it is complete; text, or bytes if `binary`."""
    if output is None:
        if isinstance(sys.stdout, io.TextIOWrapper):  # names of files, and Å, where the terminal's letters are few
            sys.stdout.reconfigure(errors="backslashreplace")
        yield sys.stdout
        return
    from crystalpredict.atomic_write import write_atomically

    with write_atomically(output) as raw:
        if binary:
            yield raw
            return
        # a gzip header without name or time: the same rows give the same bytes
        packed = gzip.GzipFile("", "wb", fileobj=raw, mtime=0) if output.suffix == ".gz" else raw
        text = io.TextIOWrapper(packed, encoding="utf-8", errors="backslashreplace", newline="")
        yield text
        text.detach()  # flushes, and leaves the file below open
        if packed is not raw:
            packed.close()
