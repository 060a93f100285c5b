"""`crystalpredict embed`."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from crystalpredict._files import refuse_unwritable
from crystalpredict.checkpoints.registry import find_model
from crystalpredict.cli.interrupts import one_interrupt
from crystalpredict.cli.options import (
    OUTPUT,
    BatchAtoms,
    Calculations,
    Device,
    Force,
    FrameChoice,
    Inputs,
    Jobs,
    MemoryPerProcess,
    ModelName,
    Null,
    Quiet,
    StructureColumn,
    TimeoutPerFile,
    output_option,
)
from crystalpredict.cli.output import path_of_result, text_in
from crystalpredict.cli.progress import Forecast, count_sources
from crystalpredict.cli.startup import atoms_of, collect_garbage_again, limits_of, no_garbage_collection
from crystalpredict.cli.tally import EXIT_INTERRUPTED, Tally
from crystalpredict.cli.terminal import messages, say
from crystalpredict.errors import UsageError
from crystalpredict.io.file_types import Frames
from crystalpredict.io.inputs import expand
from crystalpredict.prediction.pipeline import Pipeline

if TYPE_CHECKING:
    from crystalpredict.prediction.rows import Embedding

SUFFIXES = (".npz", ".csv", ".csv.gz", ".parquet")


def embed(
    inputs: Inputs,
    output: Annotated[Path, output_option("Write to this file: .npz, .csv, .csv.gz or .parquet.")],
    per_atom: Annotated[
        bool, typer.Option("--per-atom", rich_help_panel=OUTPUT, help="Features of every atom instead of their mean.")
    ] = False,
    model: ModelName = None,
    device: Device = "auto",
    null: Null = False,
    structure_column: StructureColumn = None,
    calculations: Calculations = False,
    frames: FrameChoice = Frames.last,
    jobs: Jobs = 0,
    batch_atoms: BatchAtoms = "auto",
    timeout_per_file: TimeoutPerFile = 300,
    memory_per_process: MemoryPerProcess = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Write the network's features of crystals, for a regressor of your own: one row for each structure, in order.

    Example: crystalpredict embed *.cif -o features.npz

    Exit code 0: all computed; 1: damaged model, no room; 2: wrong usage; 3: some failed; 4: all; 130: interrupted.
    """  # fmt: skip
    kind = next((kind for kind in SUFFIXES if output.name.lower().endswith(kind)), None)
    if kind is None:
        raise UsageError(f"{output}: no format for this suffix; use {', '.join(SUFFIXES)}")
    if kind == ".parquet" and find_spec("pyarrow") is None:
        raise UsageError(f"{output}: parquet needs pyarrow, which is not installed; install it, or write .npz or .csv")
    refuse_unwritable(output, inputs or (), force=force)
    names, at_once = expand(inputs, null=null, calculations=calculations), atoms_of(batch_atoms)
    folder = find_model(model)
    tally = Tally()
    rows: list[Embedding] = []
    interrupted, failure = False, None
    with one_interrupt() as interrupts, ExitStack() as stack:
        stack.enter_context(messages(quiet=quiet))
        stack.enter_context(no_garbage_collection())
        from crystalpredict.io.sources import sources_of
        from crystalpredict.prediction.resume import Cursor

        cursor = Cursor(
            sources_of(names, structure_column, frames=frames, calculations=calculations, seconds=timeout_per_file)
        )
        limits = limits_of(timeout_per_file, memory_per_process)
        pipeline = Pipeline(
            folder, (), device, at_once, jobs, merge=not per_atom, limits=limits, on_load=collect_garbage_again
        )
        load, reader = stack.enter_context(pipeline.open(cursor))
        predictor = load()
        found = predictor.stream_embeddings(reader.entries(), lambda: reader.busy, per_atom=per_atom)
        counted = partial(count_sources, null=null, frames=frames, calculations=calculations)
        forecast = Forecast(lambda: counted(inputs, structure_column), lambda: cursor.begun)
        try:
            for row in forecast.rows(found, quiet=quiet):
                cursor.passed(row.path, row.index)
                rows.append(row)
                tally.add(row)
                if row.error and not quiet:
                    say(f"{row.path}: {row.error}")
            interrupts.hold()
        except KeyboardInterrupt:
            interrupted = True
        except Exception as error:  # write the rows computed so far
            if not rows:
                raise
            interrupted, failure = True, error
        width = predictor.config.features
        place = path_of_result(output, interrupted=interrupted)
        write(rows, place, kind, width, per_atom=per_atom)
        if not quiet:
            say(tally.summary("embedded") + (forecast.time_left() if interrupted else ""))
            if interrupted:
                say(f"interrupted: {len(rows)} rows are complete in {place}")
    if failure:
        raise failure
    outcome = EXIT_INTERRUPTED if interrupted else tally.exit_code
    if outcome:
        raise typer.Exit(outcome)


def write(rows: Sequence[Embedding], output: Path, kind: str, width: int, *, per_atom: bool) -> None:
    """Write the file atomically; `kind`: its suffix, `width`: number of features."""
    from crystalpredict._files import write_atomically

    with write_atomically(output) as file:
        if kind == ".npz":
            write_arrays(rows, file, width, per_atom=per_atom)
        elif kind == ".parquet":
            write_parquet(rows, file, width, per_atom=per_atom)
        else:
            with text_in(file, packed=kind == ".csv.gz") as text:
                table = csv.writer(text, lineterminator="\n")
                table.writerow(column_names(width, per_atom=per_atom))
                table.writerows(cells(rows, width, per_atom=per_atom))


def write_arrays(rows: Sequence[Embedding], file: IO[bytes], width: int, *, per_atom: bool) -> None:
    """Write arrays for S structures: path, index, formula, n_atoms (0 if unknown), warnings, error and features.

    features (S, D) are NaN for an error. Per atom: features (A, D) of all atoms, numbers (A,), their atomic numbers,
    and first (S + 1,), the number of the first atom of each structure.
    """
    import numpy as np

    arrays = {
        "path": np.array([row.path for row in rows], dtype=str),
        "index": np.array([row.index for row in rows], dtype=np.int64),
        "formula": np.array([row.formula for row in rows], dtype=str),
        "n_atoms": np.array([row.n_atoms or 0 for row in rows], dtype=np.int64),
        "warnings": np.array(["; ".join(row.warnings) for row in rows], dtype=str),
        "error": np.array([row.error for row in rows], dtype=str),
    }
    if per_atom:
        none, no_atoms = np.empty((0, width), dtype=np.float32), np.empty(0, dtype=np.int64)
        features = [none if row.features is None else row.features for row in rows]
        numbers = [no_atoms if row.numbers is None else row.numbers for row in rows]
        arrays["features"] = np.concatenate([none, *features])
        arrays["numbers"] = np.concatenate([no_atoms, *numbers])
        arrays["first"] = np.concatenate([[0], np.cumsum([len(part) for part in features])]).astype(np.int64)
    else:
        missing = np.full(width, np.nan, dtype=np.float32)
        arrays["features"] = np.array(
            [missing if row.features is None else row.features for row in rows], dtype=np.float32
        ).reshape(-1, width)
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def write_parquet(rows: Sequence[Embedding], file: IO[bytes], width: int, *, per_atom: bool) -> None:
    """Write the columns of the CSV file, with features as numbers."""
    import pyarrow
    from pyarrow import parquet

    from crystalpredict.prediction.writers import as_text

    names = column_names(width, per_atom=per_atom)
    columns = list(zip(*cells(rows, width, per_atom=per_atom), strict=True)) or [()] * len(names)
    typed = [
        [None if cell == "" else float(cell) for cell in column]
        if name.startswith("feature_")
        else [as_text(cell) if isinstance(cell, str) else cell for cell in column]
        for name, column in zip(names, columns, strict=True)
    ]
    parquet.write_table(pyarrow.table(dict(zip(names, typed, strict=True))), file)


def column_names(width: int, *, per_atom: bool) -> list[str]:
    """Return the columns of a table of features."""
    atoms = ["atom", "element"] if per_atom else []
    features = [f"feature_{number}" for number in range(width)]
    return ["path", "index", "formula", "n_atoms", *atoms, *features, "warnings", "error"]


def cells(rows: Sequence[Embedding], width: int, *, per_atom: bool) -> Iterator[list[str | int | None]]:
    """Yield the rows of a table of features: one for each structure or atom, or one without features for an error."""
    from crystalpredict.crystals.crystal import ELEMENTS

    for row in rows:
        head: list[str | int | None] = [row.path, row.index, row.formula, row.n_atoms]
        tail = ["; ".join(row.warnings), row.error]
        if row.features is None:
            yield [*head, *([None, ""] if per_atom else []), *[""] * width, *tail]
        elif row.numbers is not None:
            for atom, (number, features) in enumerate(zip(row.numbers.tolist(), row.features.tolist(), strict=True)):
                yield [*head, atom, ELEMENTS[number - 1], *(f"{value:.7g}" for value in features), *tail]
        else:
            yield [*head, *(f"{value:.7g}" for value in row.features.tolist()), *tail]
