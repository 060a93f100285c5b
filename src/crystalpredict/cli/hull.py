"""`crystalpredict hull`."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from crystalpredict._files import refuse_unwritable
from crystalpredict.checkpoints.registry import find_model
from crystalpredict.cli.evaluation_tables import write_records
from crystalpredict.cli.options import (
    OUTPUT,
    ConventionName,
    Device,
    Entries,
    Force,
    Jobs,
    ModelName,
    NoReference,
    Quiet,
    Unrelaxed,
    between,
    named_model,
    output_option,
)
from crystalpredict.cli.output import format_of, opened
from crystalpredict.cli.tally import EXIT_SOME_FAILED
from crystalpredict.cli.terminal import messages, say
from crystalpredict.errors import UsageError
from crystalpredict.io.inputs import expand
from crystalpredict.prediction.writers import Format
from crystalpredict.stability.conventions import Convention

if TYPE_CHECKING:
    from crystalpredict.prediction.phase_diagram import DiagramPhase, PhaseDiagram

PATTERN = "*?[@/"  # characters of names of files and patterns, not of formulas


def hull(
    ctx: typer.Context,
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="SYSTEM|FORMULA|INPUT",
            show_default=False,
            help="A chemical system, Li-Fe-O, or a formula, LiFeO2; then, or instead, structures as predict takes "
            "them, whose predicted energies take part.",
        ),
    ],
    entries: Entries = None,
    no_reference: NoReference = False,
    convention: ConventionName = Convention.mp2018,
    within: Annotated[
        float,
        typer.Option(
            callback=between(0, 100),
            metavar="EV",
            rich_help_panel=OUTPUT,
            help="Show phases at most so far above the hull, in eV/atom; structures of your own always.",
        ),
    ] = 0.1,
    format: Annotated[
        Format,
        typer.Option(
            "--format",
            "-f",
            metavar="FORMAT",
            rich_help_panel=OUTPUT,
            help="table, csv, json or jsonl; auto: a table, or the suffix of -o.",
        ),
    ] = Format.auto,
    output: Annotated[Path | None, output_option("Write to this file: .csv, .json, .jsonl.")] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            rich_help_panel=OUTPUT,
            help="Draw the diagram of two to four elements: .png, .svg, .pdf, or .html.",
        ),
    ] = None,
    model: ModelName = None,
    unrelaxed: Unrelaxed = False,
    device: Device = "auto",
    jobs: Jobs = 1,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Show the phase diagram of a chemical system: stable and nearly stable phases, and what the others decompose to.

    Example: crystalpredict hull Li-Fe-O candidates/*.cif --within 0.05

    Exit code 0: done; 1: damaged model; 2: wrong usage; 3: some structures failed.
    """  # fmt: skip
    from crystalpredict.evaluation.phase_diagram_plot import draw_phase_diagram, refuse_picture

    for path in filter(None, (output, plot)):
        refuse_unwritable(path, what, force=force)
    if plot is not None:
        refuse_picture(plot)
    kind = format_of(format, output)
    if kind == Format.parquet:
        raise UsageError("a phase diagram is written as CSV or JSON")
    folder = find_model(named_model(ctx, model, unrelaxed=unrelaxed), unrelaxed=unrelaxed)
    with messages(quiet=quiet):
        from crystalpredict.prediction.phase_diagram import phase_diagram

        system, structures = _system_and_inputs(what)
        names = expand(structures) if structures else ()
        diagram = phase_diagram(
            system, names, folder, entries=entries, reference=not no_reference, device=device, jobs=jobs,
            convention=convention,
        )  # fmt: skip
        for row in diagram.failed:
            say(f"{row.path}: {row.error}")
        if not quiet:
            if system and "-" not in system:
                say(_of_formula(system, diagram))
            say(_counted(diagram))
        shown = [each for each in diagram.phases if each.e_above_hull <= within or each.source != "reference"]
        with opened(output) as stream:
            _write(shown, kind, stream)
        if plot is not None:
            draw_phase_diagram(diagram, plot, within)
    if diagram.failed:
        raise typer.Exit(EXIT_SOME_FAILED)


def _system_and_inputs(what: Sequence[str]) -> tuple[str | None, Sequence[str]]:
    """Return the first argument if it is a system or a formula, else None, and the inputs."""
    first = what[0]
    is_input = os.path.lexists(first) or any(letter in first for letter in PATTERN) or first == "-"
    return (None, what) if is_input else (first, what[1:])


def _of_formula(formula: str, diagram: PhaseDiagram) -> str:
    from crystalpredict.io.from_pymatgen import composition_of_formula

    phases, energy = diagram.decomposition(composition_of_formula(formula))
    return f"{formula}: the hull is at {energy:.4f} eV/atom: {phases}"


def _counted(diagram: PhaseDiagram) -> str:
    known = sum(phase.source == "reference" for phase in diagram.phases)
    no_compound = "; the reference has no compound of these elements"
    return diagram.summary + no_compound * (known <= len(diagram.elements))


def _write(phases: Sequence[DiagramPhase], kind: Format, stream: IO[Any]) -> None:
    """Write phases in a format."""
    from crystalpredict.prediction.phase_diagram import as_record

    records = [as_record(phase) for phase in phases]
    if kind == Format.json:
        stream.write(json.dumps(records, indent=1, ensure_ascii=False) + "\n")
    elif kind in (Format.csv, Format.jsonl):
        write_records(records, kind, stream)
    else:
        _print_table(phases, stream)


def _print_table(phases: Sequence[DiagramPhase], stream: IO[Any]) -> None:
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("phase", overflow="fold")
    for head in ("formation energy\neV/atom", "above hull\neV/atom"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("decomposes to", overflow="fold")
    for phase in phases:
        name = f"{phase.formula} {phase.id}" if phase.id else phase.formula
        interval = "" if phase.lo90 is None else f"\n[{phase.lo90:.3f}..{phase.hi90:.3f}]"
        new = phase.hull_distance is not None and phase.hull_distance < 0
        above = f"{phase.hull_distance:.3f}" if new else f"{phase.e_above_hull:.3f}"
        note = phase.decomposes_to or ("new, and stable" if new else "stable")
        table.add_row(escape(name), escape(f"{phase.formation_energy:.3f}{interval}"), above, escape(note))
    console = Console(file=stream, width=None if stream.isatty() else 200, highlight=False)
    console.print(table)
