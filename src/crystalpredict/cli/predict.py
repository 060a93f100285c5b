"""`crystalpredict predict`."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crystalpredict._files import refuse_existing, refuse_unwritable, resolve_link
from crystalpredict.checkpoints.registry import cache_folder, find_model
from crystalpredict.cli.completion import target_names
from crystalpredict.cli.interrupts import one_interrupt
from crystalpredict.cli.options import (
    COMPUTING,
    MODEL,
    OUTPUT,
    RESUMING,
    BatchAtoms,
    Calculations,
    ChemicalSystems,
    ConventionName,
    CopyTo,
    Device,
    Entries,
    ExcludedElements,
    FindDuplicates,
    Force,
    FrameChoice,
    Inputs,
    Jobs,
    Keep,
    KnownCrystals,
    MemoryPerProcess,
    ModelName,
    NoReference,
    Null,
    Orderings,
    Quiet,
    Relax,
    RelaxForce,
    RelaxSeconds,
    RelaxSteps,
    ReportPage,
    RequiredElements,
    Sort,
    StructureColumn,
    TimeoutPerFile,
    Top,
    Unrelaxed,
    Where,
    WriteRelaxed,
    WriteStructures,
    given,
    named_model,
    output_option,
)  # fmt: skip
from crystalpredict.cli.output import format_of, opened
from crystalpredict.cli.prediction_run import Ending, Run
from crystalpredict.cli.progress import Forecast, count_sources
from crystalpredict.cli.relaxed_cells import cells_of, in_one_file, refuse_to_write_relaxed, relaxation_of
from crystalpredict.cli.report import refuse_page, write_page
from crystalpredict.cli.screen import Screen
from crystalpredict.cli.startup import atoms_of, collect_garbage_again, limits_of, no_garbage_collection
from crystalpredict.cli.tally import Tally
from crystalpredict.cli.terminal import messages, say
from crystalpredict.errors import UsageError
from crystalpredict.io.file_types import Frames
from crystalpredict.io.inputs import expand
from crystalpredict.prediction.journal import without_slash
from crystalpredict.prediction.pipeline import Pipeline, Windows
from crystalpredict.prediction.shards import JOURNAL, PART, Shard, refuse_other
from crystalpredict.prediction.writers import Format
from crystalpredict.stability.conventions import Convention

if TYPE_CHECKING:
    from crystalpredict.prediction.resume import Cursor


def predict(
    ctx: typer.Context,
    inputs: Inputs,
    null: Null = False,
    structure_column: StructureColumn = None,
    calculations: Calculations = False,
    frames: FrameChoice = Frames.last,
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
            "from the moduli: youngs_modulus, poisson_ratio, pugh_ratio, debye_temperature, sound_velocity, "
            "vickers_hardness, thermal_conductivity; from the formation energy: hull_distance, decomposes_to, "
            "known_phase, nearest_known, total_energy; other gaps: bandgap_hse, bandgap_gllbsc, bandgap_experiment, "
            "metal_probability; volume_change, refractive_index, magnetic_moment, magnetic_probability. Repeat it, or "
            "separate names by commas. Default: the first five.",
        ),
    ] = None,
    model: ModelName = None,
    unrelaxed: Unrelaxed = False,
    where: Where = None,
    sort: Sort = None,
    top: Top = None,
    elements: RequiredElements = None,
    exclude_elements: ExcludedElements = None,
    chemsys: ChemicalSystems = None,
    format: Annotated[
        Format,
        typer.Option(
            "--format",
            "-f",
            metavar="FORMAT",
            envvar="CRYSTALPREDICT_FORMAT",
            rich_help_panel=OUTPUT,
            help="Format of the rows: table, csv, json, jsonl or parquet; auto: a table on a terminal, CSV in a pipe, "
            "the suffix of -o.",
        ),
    ] = Format.auto,
    output: Annotated[
        Path | None,
        output_option("Write to this file: .csv, .json, .jsonl (also .gz), .parquet."),
    ] = None,
    report: ReportPage = None,
    keep: Keep = None,
    write_structures: WriteStructures = None,
    copy_to: CopyTo = None,
    write_relaxed: WriteRelaxed = None,
    duplicates: FindDuplicates = False,
    known: KnownCrystals = None,
    orderings: Orderings = 0,
    entries: Entries = None,
    no_reference: NoReference = False,
    convention: ConventionName = Convention.mp2018,
    relax: Relax = None,
    relax_force: RelaxForce = 0.05,
    relax_steps: RelaxSteps = 500,
    relax_seconds: RelaxSeconds = 0,
    device: Device = "auto",
    jobs: Jobs = 0,
    batch_atoms: BatchAtoms = "auto",
    timeout_per_file: TimeoutPerFile = 300,
    memory_per_process: MemoryPerProcess = None,
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

    Exit code 0: all predicted; 1: damaged model, no room; 2: wrong usage; 3: some failed; 4: all; 130: interrupted.
    """  # fmt: skip
    if output is not None:
        refuse_unwritable(output, inputs or ())
    refuse_page(report, [*inputs, *([output] if output else [])], force=force, resume=resume)
    kind = format_of(format, output, by_name="format" not in given(ctx))
    needed_by = "--resume" if resume else "--shard" if shard else ""
    screen = Screen.of(ctx, needs_part=bool(needed_by))
    one_by_one = None if sort or top or screen.duplicates else output
    grows = can_resume(one_by_one, kind, (write_relaxed, write_structures), needed_by)
    share = Shard.parse(shard) if shard is not None else None
    if output is not None:
        output = resolve_link(output) if grows else output  # its .part file must be in the same folder
        refuse_earlier_result(output, share, resume=resume, force=force)
    targets = names_of_targets(target)
    scales = unrelaxed and not relax  # the model itself
    model = named_model(ctx, model, unrelaxed=scales)
    folder = find_model(model, unrelaxed=scales)
    if output is not None and resume:
        end_if_complete(
            output, Pipeline(folder, targets, uncertainty=not no_uncertainty, orderings=orderings), report, quiet=quiet
        )
    own_hull = bool(entries or no_reference or convention != Convention.mp2018)
    refuse_together(scheduler, cache, relax, orderings, own_hull=own_hull)
    names, at_once = expand(inputs, null=null, calculations=calculations), atoms_of(batch_atoms)
    relaxation = relaxation_of(ctx, folder, relax_force, relax_steps, relax_seconds, cache)
    screen.refuse_cached(folder, cached=bool(cache), relax=bool(relax))
    if write_relaxed:
        replaced = force or resume or bool(shard)
        refuse_to_write_relaxed(write_relaxed, folder, inputs, relax=bool(relax), cached=bool(cache), replaced=replaced)
    with one_interrupt() as interrupts, ExitStack() as stack:
        stack.enter_context(messages(quiet=quiet))
        stack.enter_context(no_garbage_collection())
        from crystalpredict.io.sources import sources_and_rows
        from crystalpredict.prediction.resume import Cursor, PartialFile
        from crystalpredict.prediction.selection import Selection

        pipeline = Pipeline(
            folder, targets, device, at_once, jobs, not no_reduce, not no_uncertainty,
            limits_of(timeout_per_file, memory_per_process), collect_garbage_again, entries, not no_reference,
            convention, relaxation, orderings,
        )  # fmt: skip
        found: dict[str, Any] = {"frames": frames, "calculations": calculations}
        columns, part = pipeline.columns, None
        extra = screen.extra_columns(inputs, columns, structure_column, null=null)
        selection, ending = Selection.of(where, sort, top, columns, extra.kinds, screen.elements), Ending()
        cursor = Cursor(
            sources_and_rows(
                names, structure_column, share.takes if share else lambda name: True, seconds=timeout_per_file, **found
            ),
            partial(extra.skips, selection) if selection.filters else None, keep_sources=extra.keep_sources,
        )  # fmt: skip
        if grows and output is not None:
            facts = {**pipeline.facts, "columns": columns, "inputs": list(map(without_slash, inputs)), "null": null}
            facts |= {"structure column": structure_column, "format": kind.value, "where": where}
            facts |= {"shard": str(share) if share else None, "cells": bool(write_relaxed), "extra": extra.kinds}
            facts |= screen.facts | found
            part = stack.enter_context(PartialFile(output, facts, resume=resume))
            cursor.skip(part.position)
        windows = stack.enter_context(
            windows_of(pipeline, cursor, cache, scheduler, model or (folder.name if scales else None))
        )
        if part and part.position.rows and not quiet:
            say(f"{output}: resuming after {part.position.rows} rows")
        cells = stack.enter_context(cells_of(write_relaxed, lambda: ending.early)) if write_relaxed else None
        files = screen.hits(pipeline, extra, lambda: ending.early)
        hits = stack.enter_context(files) if files else None
        stream = (
            part.stream
            if part
            else stack.enter_context(opened(output, binary=kind == Format.parquet, interrupted=lambda: ending.early))
        )
        sharing = (inputs, structure_column, Shard.parse(shard) if shard is not None else None)
        forecast = Forecast(partial(count_sources, *sharing, null=null, **found), lambda: cursor.begun)
        run = Run(
            windows, cursor, forecast, part, stream, kind, pipeline.properties, pipeline.intervals, selection,
            share, quiet, ending, interrupts, output, cells, write_relaxed, extra, hits,
            kept=[] if report is not None and (output is None or kind == Format.table) else None,
        )  # fmt: skip
        outcome = run.write()
    run.end(report, sort)
    if outcome:
        raise typer.Exit(outcome)


def names_of_targets(target: list[str] | None) -> tuple[str, ...]:
    """Return the properties of `--target`."""
    targets = tuple(name for option in target or [] for name in option.split(",") if name.strip())
    if target and not targets:
        raise UsageError("--target names no property")
    return targets


def refuse_together(
    scheduler: str | None, cache: str | None, relax: str | None, orderings: int, *, own_hull: bool
) -> None:
    """Raise UsageError for options that do not go together; `own_hull`: whether known phases are chosen."""
    if scheduler and own_hull:
        raise UsageError("--scheduler does not go with --entries, --no-reference or --convention")
    if scheduler and cache:
        raise UsageError("--scheduler does not go with --cache")
    if orderings:
        from crystalpredict.prediction.orderings import refuse_orderings  # imports NumPy

        refuse_orderings(orderings, cache=cache, scheduler=scheduler, relax=relax)


def end_if_complete(output: Path, pipeline: Pipeline, report: Path | None, *, quiet: bool) -> None:
    """End the program if there is nothing to resume, with the exit code of the rows of the complete output.

    Raises:
        UsageError: It has other columns than the pipeline gives.
    """
    if not output.exists() or output.with_name(output.name + PART).exists():
        return
    from crystalpredict.prediction.resume import refuse_other_columns

    refuse_other_columns(output, pipeline.columns)
    output.with_name(output.name + JOURNAL).unlink(missing_ok=True)  # left by a run that was killed at its end
    if not quiet:
        say(f"{output}: complete, nothing to resume; predict again with --force")
    if report is not None:
        write_page(output, report, None, quiet=quiet)
    raise typer.Exit(Tally.of_file(output).exit_code)


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


def can_resume(output: Path | None, kind: Format, targets: Sequence[Path | None], needed_by: str) -> bool:
    """Return whether a run could be resumed: its rows go to the file as they come, as do their cells.

    Args:
        output: file of the rows; None: stdout, or the rows are sorted or compared.
        kind: format of the rows.
        targets: folders or files of relaxed cells and of structures; None: they are not written.
        needed_by: `--resume` or `--shard`, which needs such a run; "" for any run.

    Raises:
        UsageError: It could not, but must.
    """
    rows = output is not None and kind in (Format.csv, Format.jsonl) and output.suffix != ".gz"
    if needed_by and not rows:
        needs = f"{needed_by} needs -o FILE of CSV or JSON lines, not compressed, and neither --sort nor --duplicates"
        raise UsageError(needs + (": crystalpredict merge has it" if needed_by == "--shard" else ""))
    one_file = any(target is not None and in_one_file(target) for target in targets)
    if needed_by and one_file:
        option = "--write-relaxed" if targets[0] and in_one_file(targets[0]) else "--write-structures"
        raise UsageError(f"{option} goes with {needed_by} only into a folder")
    return rows and not one_file


def refuse_earlier_result(output: Path, share: Shard | None, *, resume: bool, force: bool) -> None:
    """Raise UsageError for an earlier result that would be replaced without `force`."""
    if resume and force:
        raise UsageError("--resume continues an earlier run, --force replaces it: leave one of them out")
    if not force:
        refuse_other(output, share)
        if not resume:
            refuse_existing(output)
