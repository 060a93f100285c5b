"""Options that several commands have in common, each declared once; those with a variable are settings too."""

from __future__ import annotations

from math import isfinite
from typing import Annotated

import typer

from crystalpredict.cli.completion import model_names
from crystalpredict.cli.startup import atoms_of
from crystalpredict.errors import UsageError


def finite(param: typer.CallbackParam, number: float | None) -> float | None:
    """The value of an option; UsageError for nan, which no limits exclude."""
    if number is not None and not isfinite(number):
        raise UsageError(f"{param.opts[0]} {number}: give a number")
    return number


Inputs = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUT",
        show_default=False,
        help="CIF, POSCAR, pymatgen JSON or extended XYZ files (.gz, .bz2, .xz too), zip and tar archives of them, "
        "tables with a column of structures, directories, globs, @list.txt, - for paths on stdin.",
    ),
]
Null = Annotated[
    bool, typer.Option("--null", "-0", help="Paths in @list.txt and on stdin end with a null byte: find -print0.")
]
ModelName = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="NAME|PATH",
        show_default=False,
        envvar="CRYSTALPREDICT_MODEL",
        autocompletion=model_names,
        help="A bundled model or a checkpoint folder.",
    ),
]
StructureColumn = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        show_default=False,
        help="Where the structures of a table are. Default: cif, poscar, structure, path, ...",
    ),
]
Device = Annotated[str, typer.Option(metavar="auto|cpu|cuda", envvar="CRYSTALPREDICT_DEVICE", help="Where to compute.")]
Jobs = Annotated[
    int,
    typer.Option(
        "--jobs",
        "-j",
        min=0,
        max=10**4,
        metavar="N",
        envvar="CRYSTALPREDICT_JOBS",
        help="Processes that read; 0: one for each core.",
    ),
]


def _number_of_atoms(batch_atoms: str) -> str:
    atoms_of(batch_atoms)  # which tells what is wrong with it, of a setting too
    return batch_atoms


BatchAtoms = Annotated[
    str,
    typer.Option(
        metavar="auto|N",
        envvar="CRYSTALPREDICT_BATCH_ATOMS",
        callback=_number_of_atoms,
        help="Atoms computed at once; auto: what suits the device's memory.",
    ),
]
TimeoutPerFile = Annotated[
    float,
    typer.Option(
        min=0,
        max=1e6,
        callback=finite,
        metavar="SECONDS",
        envvar="CRYSTALPREDICT_TIMEOUT_PER_FILE",
        help="A file that takes longer to read is an error; 0: no limit.",
    ),
]
MemoryPerProcess = Annotated[
    float | None,
    typer.Option(
        min=0.5,  # with 0.1 a library that readers import asks for memory without end
        max=1e6,
        callback=finite,
        metavar="GIB",
        show_default=False,
        envvar="CRYSTALPREDICT_MEMORY_PER_PROCESS",
        help="Of those that read; default: its part of all.",
    ),
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", envvar="CRYSTALPREDICT_QUIET", help="Say nothing on stderr but errors of usage."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace the file of an earlier run.")]
Where = Annotated[
    str | None,
    typer.Option(metavar="CONDITION", show_default=False, help="Rows wanted: 'bandgap_eV > 1 and n_atoms <= 20'."),
]
Sort = Annotated[
    str | None,
    typer.Option(metavar="[-]COLUMN", show_default=False, help="Order of the rows; with a minus, largest first."),
]
Top = Annotated[
    int | None,
    typer.Option(min=1, max=10**12, metavar="N", show_default=False, help="Only the first N rows of --sort."),
]


def given(ctx: typer.Context) -> set[str]:
    """Names of the parameters that stand on the command line: of no others, which settings or defaults give."""
    return {name for name in ctx.params if (source := ctx.get_parameter_source(name)) and source.name == "COMMANDLINE"}
