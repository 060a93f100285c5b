"""Options that several commands have in common, each declared once; those with a variable are settings too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from crystalpredict.cli.completion import model_names
from crystalpredict.cli.startup import atoms_of
from crystalpredict.errors import UsageError
from crystalpredict.io.file_types import Frames
from crystalpredict.stability.conventions import Convention

INPUT, OUTPUT, MODEL, COMPUTING = "Input", "Output", "Model", "Computing"  # panels of `--help`
CHOOSING, HITS, SAME = "Choosing rows", "Files of hits", "Duplicates and orderings"
STABILITY, RELAXATION = "Stability", "Relaxation by a potential"
RESUMING, SPLIT, TRAINING = "Resuming and sharing", "Split", "Training"


def between(low: float, high: float) -> Callable[[typer.CallbackParam, float | None], float | None]:
    """Return the callback of an option whose number must be in a range; typer's own shows the range in `--help`."""

    def check(param: typer.CallbackParam, number: float | None) -> float | None:
        if number is not None and not low <= number <= high:  # NaN neither
            raise UsageError(f"{param.opts[0]} {str(number)[:60]}: give a number from {low:g} to {high:g}")
        return number

    return check


def output_option(help: str, metavar: str = "FILE") -> Any:
    """Return the option `--output`."""
    return typer.Option("--output", "-o", metavar=metavar, show_default=False, rich_help_panel=OUTPUT, help=help)


DATA = typer.Argument(
    metavar="DATA",
    show_default=False,
    help="CSV, Parquet, JSONL or JSON with structures and labels (.gz too), or a folder with id_prop.csv.",
)
Inputs = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUT",
        show_default=False,
        help="CIF, POSCAR, pymatgen JSON or extended XYZ files (.gz, .bz2, .xz too), files of calculations, zip and "
        "tar archives of these, tables with a column of structures, directories, globs, @list.txt, - for paths on "
        "stdin, optimade: queries.",
    ),
]
Null = Annotated[
    bool,
    typer.Option(
        "--null",
        "-0",
        rich_help_panel=INPUT,
        help="Paths in @list.txt and on stdin end with a null byte, as find -print0 writes them.",
    ),
]
Calculations = Annotated[
    bool,
    typer.Option(
        "--calculations",
        rich_help_panel=INPUT,
        help="Find outputs of calculations in directories and archives too, each calculation once: the CONTCAR, else "
        "vasprun.xml, OUTCAR, ...; files of Quantum ESPRESSO, FHI-aims and CASTEP, ASE trajectories.",
    ),
]
FrameChoice = Annotated[
    Frames,
    typer.Option(
        "--frames",
        rich_help_panel=INPUT,
        help="Structures of a trajectory or of the steps of a calculation: the last one, or all. Each frame of an XYZ "
        "file is a structure in any case.",
    ),
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
        rich_help_panel=MODEL,
        help="Name of a bundled or installed model, or a checkpoint folder.",
    ),
]
Unrelaxed = Annotated[
    bool,
    typer.Option(
        "--unrelaxed",
        rich_help_panel=MODEL,
        help="The structures are not relaxed: predict the crystals that they relax to, and how cells and atoms change.",
    ),
]
Orderings = Annotated[
    int,
    typer.Option(
        callback=between(0, 100),
        metavar="N",
        show_default=False,
        rich_help_panel=SAME,
        help="Of disordered crystals, also predict up to N ordered supercells, 100 at most, and write their mean, "
        "lowest and highest value in columns of their own.",
    ),
]
Relax = Annotated[
    str | None,
    typer.Option(
        metavar="POTENTIAL",
        show_default=False,
        rich_help_panel=RELAXATION,
        help="Relax cells and atoms before they are predicted, by chgnet, sevenn, or module:function, a function of an "
        "installed module that returns an ASE calculator; with --unrelaxed from the crystal that it predicts.",
    ),
]
RelaxForce = Annotated[
    float,
    typer.Option(
        callback=between(1e-9, 1e3),
        metavar="EV",
        rich_help_panel=RELAXATION,
        help="Relax until no force on an atom or on the cell exceeds this, in eV/Å.",
    ),
]
RelaxSteps = Annotated[
    int,
    typer.Option(
        callback=between(1, 1e9), metavar="N", rich_help_panel=RELAXATION, help="Steps for a structure, at most."
    ),
]
RelaxSeconds = Annotated[
    float,
    typer.Option(
        callback=between(0, 1e9),
        metavar="SECONDS",
        rich_help_panel=RELAXATION,
        help="Time for a structure, at most, in seconds; 0: no limit.",
    ),
]
WriteRelaxed = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR|FILE",
        show_default=False,
        rich_help_panel=HITS,
        help="With --relax or --unrelaxed: write the relaxed or predicted cells of the rows into a "
        "folder as CIFs with the names of their sources, or into one FILE.extxyz.",
    ),
]
ReportPage = Annotated[
    Path | None,
    typer.Option(
        "--report",
        metavar="FILE.html",
        show_default=False,
        rich_help_panel=OUTPUT,
        help="Also write a page about the rows, as crystalpredict report does.",
    ),
]
StructureColumn = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        show_default=False,
        rich_help_panel=INPUT,
        help="Column of a table that holds the structures. Default: cif, poscar, structure, path, ...",
    ),
]
Entries = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        show_default=False,
        exists=True,
        dir_okay=False,
        rich_help_panel=STABILITY,
        help="Known phases of your own for the hull: JSON of pymatgen's ComputedEntry, or a table with formula, and "
        "formation_energy (in the convention of --convention) or total_energy (uncorrected PBE or PBE+U) in eV/atom.",
    ),
]
ConventionName = Annotated[
    Convention,
    typer.Option(
        "--convention",
        metavar="NAME",
        rich_help_panel=STABILITY,
        help="Corrections in formation energies and hulls: mp2018 or mp2020, the Materials Project's of that year, or "
        "uncorrected.",
    ),
]
NoReference = Annotated[
    bool,
    typer.Option(
        "--no-reference", rich_help_panel=STABILITY, help="Leave out the known phases that come with the program."
    ),
]
Device = Annotated[
    str,
    typer.Option(
        metavar="DEVICE",
        envvar="CRYSTALPREDICT_DEVICE",
        rich_help_panel=COMPUTING,
        help="Device to compute on: cpu, cuda, cuda:N or auto.",
    ),
]
Jobs = Annotated[
    int,
    typer.Option(
        "--jobs",
        "-j",
        callback=between(0, 10**4),
        metavar="N",
        envvar="CRYSTALPREDICT_JOBS",
        rich_help_panel=COMPUTING,
        help="Reader processes; 0: one for each core.",
    ),
]


def _number_of_atoms(batch_atoms: str) -> str:
    atoms_of(batch_atoms)  # raises UsageError, for a setting too
    return batch_atoms


BatchAtoms = Annotated[
    str,
    typer.Option(
        metavar="auto|N",
        envvar="CRYSTALPREDICT_BATCH_ATOMS",
        callback=_number_of_atoms,
        rich_help_panel=COMPUTING,
        help="Atoms that go through the network at once; auto: as many as suit the device.",
    ),
]
TimeoutPerFile = Annotated[
    float,
    typer.Option(
        callback=between(0, 1e6),
        metavar="SECONDS",
        envvar="CRYSTALPREDICT_TIMEOUT_PER_FILE",
        rich_help_panel=COMPUTING,
        help="Time limit for reading one file, in seconds; 0: none.",
    ),
]
MemoryPerProcess = Annotated[
    float | None,
    typer.Option(
        callback=between(0.5, 1e6),  # with 0.1 a library that readers import asks for memory without end
        metavar="GIB",
        show_default=False,
        envvar="CRYSTALPREDICT_MEMORY_PER_PROCESS",
        rich_help_panel=COMPUTING,
        help="Memory limit of each reader process, in GiB. Default: an equal share of the machine's memory.",
    ),
]
Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet",
        "-q",
        envvar="CRYSTALPREDICT_QUIET",
        rich_help_panel=OUTPUT,
        help="Print nothing on stderr except errors and warnings.",
    ),
]
Force = Annotated[bool, typer.Option("--force", rich_help_panel=OUTPUT, help="Replace an existing output file.")]
Where = Annotated[
    str | None,
    typer.Option(
        metavar="CONDITION",
        show_default=False,
        rich_help_panel=CHOOSING,
        help="Keep only rows that match, such as 'bandgap_eV > 1 and contains(formula, \"O\")'.",
    ),
]
Sort = Annotated[
    str | None,
    typer.Option(
        metavar="[-]COLUMN",
        show_default=False,
        rich_help_panel=CHOOSING,
        help="Sort rows by a column; with a minus sign, largest first.",
    ),
]
Top = Annotated[
    int | None,
    typer.Option(
        callback=between(1, 1e12),
        metavar="N",
        show_default=False,
        rich_help_panel=CHOOSING,
        help="Keep only the first N rows of --sort.",
    ),
]


Keep = Annotated[
    str | None,
    typer.Option(
        metavar="NAME,...",
        show_default=False,
        rich_help_panel=OUTPUT,
        help="Columns of an input table to keep in the rows: names, all or none. Default: all but the structures.",
    ),
]
WriteStructures = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR|FILE",
        show_default=False,
        rich_help_panel=HITS,
        help="Write the structures of the rows with their predictions: into a folder as CIFs, or into one extended XYZ "
        "file, FILE.extxyz, or ASE database, FILE.db.",
    ),
]
CopyTo = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        show_default=False,
        rich_help_panel=HITS,
        help="Copy the files of the rows into a folder, also members of archives and rows of tables.",
    ),
]
FindDuplicates = Annotated[
    bool,
    typer.Option(
        "--duplicates",
        rich_help_panel=SAME,
        help="Name in the column duplicate_of the first structure that is the same crystal.",
    ),
]
KnownCrystals = Annotated[
    list[str] | None,
    typer.Option(
        "--known",
        metavar="INPUT",
        show_default=False,
        rich_help_panel=SAME,
        help="Files, tables, archives or directories of known crystals, which duplicate_of names too. Repeatable.",
    ),
]
RequiredElements = Annotated[
    str | None,
    typer.Option(
        "--elements",
        metavar="Li,O",
        show_default=False,
        rich_help_panel=CHOOSING,
        help="Keep only crystals that have all of these elements, perhaps among others.",
    ),
]
ExcludedElements = Annotated[
    str | None,
    typer.Option(
        "--exclude-elements",
        metavar="Pb,Cd",
        show_default=False,
        rich_help_panel=CHOOSING,
        help="Keep only crystals that have none of these elements.",
    ),
]
ChemicalSystems = Annotated[
    str | None,
    typer.Option(
        "--chemsys",
        metavar="Li-Fe-O,...",
        show_default=False,
        rich_help_panel=CHOOSING,
        help="Keep only crystals of these systems: with exactly the elements of one of them.",
    ),
]


def named_model(ctx: typer.Context, model: str | None, *, unrelaxed: bool) -> str | None:
    """Return the model of `--model`; of a setting only without `--unrelaxed`: it is one for relaxed structures."""
    return None if unrelaxed and "model" not in given(ctx) else model


def given(ctx: typer.Context) -> set[str]:
    """Return the names of the parameters that are given on the command line, not by settings or defaults."""
    return {name for name in ctx.params if (source := ctx.get_parameter_source(name)) and source.name == "COMMANDLINE"}
