"""Arguments and results of the tools of the server, from which their JSON schemas are made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from crystalpredict._schema import SchemaError, record
from crystalpredict.errors import UsageError

MAX_STRUCTURES = 200  # of a call
MAX_TEXT = 2**20  # characters of the text of a structure
MAX_RELAXED = 20  # structures that a call relaxes
MAX_SECONDS = 600.0  # of relaxing one structure
MAX_EVALUATED = 2000  # rows of a labelled table
MAX_ORDERINGS = 20  # of a disordered crystal

Structure = Annotated[
    str,
    Meta(
        max_length=MAX_TEXT,
        description="Text of a structure file: CIF, POSCAR, extended XYZ with a lattice, or pymatgen's JSON. Give "
        "the content itself, not a path.",
    ),
]
Path = Annotated[
    str,
    Meta(
        max_length=4096,
        description="Path of a structure file, a folder, an archive or a table of structures, below the folder of this "
        "server.",
    ),
]
Structures = Annotated[list[Structure], Meta(max_length=MAX_STRUCTURES)]
Paths = Annotated[list[Path], Meta(max_length=MAX_STRUCTURES)]
Names = Annotated[list[Annotated[str, Meta(max_length=100)]], Meta(max_length=50)]
ModelName = Annotated[
    str, Meta(max_length=200, description="Name of a model, from list_models. Default: the model of this server.")
]
Unrelaxed = Annotated[
    bool,
    Meta(
        description="True if the structures are not relaxed, such as candidates by substitution or from a generator: "
        "the properties of the crystals that they relax to are predicted then."
    ),
]


@dataclass(frozen=True)
class PredictRequest:
    """Arguments of `predict`."""

    structures: Structures = field(default_factory=list)
    paths: Paths = field(default_factory=list)
    properties: Annotated[
        Names,
        Meta(description="Names or aliases of properties, from list_properties. Default: the main ones of the model."),
    ] = field(default_factory=list)
    unrelaxed: Unrelaxed = False
    orderings: Annotated[
        int,
        Meta(
            ge=0,
            le=MAX_ORDERINGS,
            description="Of disordered crystals (shared or partly occupied sites), also predict so many ordered "
            "supercells; 0: the average site alone.",
        ),
    ] = 0
    model: ModelName = ""


@dataclass(frozen=True)
class HullRequest:
    """Arguments of `hull`."""

    system: Annotated[
        str,
        Meta(
            max_length=200,
            description="Chemical system, Li-Fe-O, or a formula, LiFeO2. Default: the elements of the structures.",
        ),
    ] = ""
    structures: Structures = field(default_factory=list)
    paths: Paths = field(default_factory=list)
    within_eV_per_atom: Annotated[
        float,
        Meta(ge=0, le=100, description="Known phases at most so far above the hull, eV/atom; own structures always."),
    ] = 0.05
    unrelaxed: Unrelaxed = False
    model: ModelName = ""


@dataclass(frozen=True)
class RelaxRequest:
    """Arguments of `relax`."""

    structures: Annotated[list[Structure], Meta(max_length=MAX_RELAXED)] = field(default_factory=list)
    paths: Annotated[list[Path], Meta(max_length=MAX_RELAXED)] = field(default_factory=list)
    method: Annotated[
        Literal["volume", "potential"],
        Meta(
            description="volume: a network predicts volume, shape and positions of the relaxed crystal, whose symmetry "
            "stays; fast. potential: relax cell and atoms by the interatomic potential of this "
            "server, if it was started with one; seconds to minutes for a structure."
        ),
    ] = "volume"
    force_eV_per_A: Annotated[
        float, Meta(ge=1e-4, le=10, description="By a potential: relaxed if no force exceeds this, eV/Å.")
    ] = 0.05
    steps: Annotated[int, Meta(ge=1, le=2000, description="By a potential: steps of a structure, at most.")] = 500
    seconds: Annotated[
        float, Meta(gt=0, le=MAX_SECONDS, description="By a potential: time for a structure, at most, s.")
    ] = 60.0
    write_cif: Annotated[bool, Meta(description="Whether results have the relaxed cell as a CIF without symmetry.")] = (
        True
    )


@dataclass(frozen=True)
class EvaluateRequest:
    """Arguments of `evaluate`."""

    data: Annotated[
        str,
        Meta(
            max_length=4096,
            description="Path of a table (CSV, JSON lines, JSON, Parquet) with a column of structures and columns of "
            "labels, or of a folder with id_prop.csv; below the folder of this server.",
        ),
    ]
    properties: Annotated[
        Names,
        Meta(
            description="Properties to compare, `bandgap`, or with the column of their labels, `bandgap=my_gap`. "
            "Default: all that the table has labels of."
        ),
    ] = field(default_factory=list)
    structure_column: Annotated[
        str, Meta(max_length=200, description="Column with the structures. Default: cif, poscar, structure, path, ...")
    ] = ""
    unrelaxed: Unrelaxed = False
    model: ModelName = ""


@dataclass(frozen=True)
class NoArguments:
    """A tool without arguments."""


Number = Annotated[float | None, Meta(description="In the unit beside it; null if there is no value.")]
End = Annotated[float | None, Meta(description="End of the 90 % interval, in the same unit; null without intervals.")]
Unit = Annotated[str, Meta(description="Unit of value, low90 and high90; empty for a number without a unit.")]
Warnings = Annotated[
    list[str],
    Meta(
        description="Reasons to doubt all values of this structure, such as a crystal unlike the training data or a "
        "cell that is not relaxed. Report them with the values."
    ),
]
Error = Annotated[str | None, Meta(description="Why there are no values; null if there are.")]
NameOfRow = Annotated[str, Meta(description="Path, or `structures[i]` for the i-th text, counted from 0.")]


@dataclass(frozen=True)
class Orderings:
    """A property of ordered supercells of a disordered crystal, in the unit of the property."""

    count: int
    mean: float | None
    lowest: float | None
    highest: float | None


@dataclass(frozen=True)
class PropertyValue:
    """A predicted property.

    The interval holds the true value in 90 % of cases, over crystals like those of the validation data. The true value
    is that of PBE calculations for most properties, not a measured one: gaps of PBE are smaller than measured ones.
    """

    property: str
    unit: Unit
    value: Annotated[float | str | None, Meta(description="In the unit beside it; a text for phases; null if unknown.")]
    low90: End = None
    high90: End = None
    orderings: Annotated[
        Orderings | None, Meta(description="Of ordered supercells, if asked for and if the crystal is disordered.")
    ] = None


@dataclass(frozen=True)
class PredictedStructure:
    """The predictions of one structure."""

    name: NameOfRow
    index: Annotated[int, Meta(description="Number of the structure in its file, from 0.")]
    formula: str | None
    n_atoms: Annotated[int | None, Meta(description="Atoms of the cell as given.")]
    values: list[PropertyValue]
    warnings: Warnings
    error: Error


@dataclass(frozen=True)
class PredictResult:
    """Result of `predict`."""

    model: str
    results: Annotated[list[PredictedStructure], Meta(description="One for each structure: texts first, then paths.")]


@dataclass(frozen=True)
class HullPhase:
    """A phase of the diagram."""

    formula: str
    name: Annotated[str, Meta(description="Id of a known phase in the Materials Project, or the name of a structure.")]
    source: Annotated[str, Meta(description="reference: known; predicted: one of the given structures.")]
    formation_energy_eV_per_atom: float
    formation_energy_low90: End
    formation_energy_high90: End
    energy_above_hull_eV_per_atom: Annotated[float, Meta(description="0 on the hull; the given structures take part.")]
    hull_distance_eV_per_atom: Annotated[
        float | None,
        Meta(description="Of a given structure to the hull of all other phases: below 0 if it is new and stable."),
    ]
    decomposes_to: Annotated[str, Meta(description="Phases on the hull at its composition; empty if it is stable.")]
    warnings: Warnings


@dataclass(frozen=True)
class HullResult:
    """Result of `hull`."""

    model: str
    elements: list[str]
    stable: int
    phases: Annotated[list[HullPhase], Meta(description="Stable ones first, then by energy above the hull.")]
    failed: Annotated[list[str], Meta(description="Structures that could not be predicted, each with the reason.")]
    left_out: Annotated[list[str], Meta(description="Structures with elements that the system has not.")]
    not_shown: Annotated[int, Meta(description="Phases further above the hull, or beyond the longest list.")]


@dataclass(frozen=True)
class RelaxedStructure:
    """A structure as it is predicted to relax, or as a potential relaxed it."""

    name: NameOfRow
    index: int
    formula: str | None
    volume_A3: Annotated[float | None, Meta(description="Of the cell as given, Å^3.")]
    relaxed_volume_A3: Annotated[float | None, Meta(description="Å^3.")]
    volume_change_percent: float | None
    volume_change_low90: End
    volume_change_high90: End
    strain_percent: Annotated[
        float | None, Meta(description="Predicted, largest along any axis, apart from the volume; null by a potential.")
    ]
    displacement_A: Annotated[
        float | None, Meta(description="Predicted, of the atom that moves most, Å; null by a potential.")
    ]
    cif: Annotated[str | None, Meta(description="The relaxed cell as a CIF without symmetry, if asked for.")]
    warnings: Warnings
    error: Error


@dataclass(frozen=True)
class RelaxResult:
    """Result of `relax`."""

    method: Annotated[str, Meta(description="volume, or the name of the potential.")]
    results: list[RelaxedStructure]


@dataclass(frozen=True)
class PropertyScore:
    """Errors of a property."""

    property: str
    unit: Annotated[str, Meta(description="Unit of the errors.")]
    crystals: int
    mean_absolute_error: Number
    mean_absolute_error_low95: Number
    mean_absolute_error_high95: Number
    median_error: Number
    root_mean_square_error: Number
    r2: Number
    interval_coverage_90: Annotated[
        float | None, Meta(description="Share of the labels in their 90 % intervals; null without intervals.")
    ]


@dataclass(frozen=True)
class EvaluateResult:
    """Result of `evaluate`."""

    model: str
    rows: Annotated[int, Meta(description="Of the table.")]
    predicted: int
    scores: list[PropertyScore]
    notes: list[str]
    lost: Annotated[list[str], Meta(description="Why rows are left out, with their number.")]


@dataclass(frozen=True)
class ModelEntry:
    """A model."""

    name: str
    summary: str
    properties: list[str]
    default: bool
    for_unrelaxed_structures: bool


@dataclass(frozen=True)
class ModelList:
    """Result of `list_models`."""

    models: list[ModelEntry]
    potential: Annotated[str | None, Meta(description="Interatomic potential of `relax`; null if there is none.")]


@dataclass(frozen=True)
class PropertyEntry:
    """A property."""

    name: str
    label: str
    unit: str
    aliases: list[str]
    has_interval: bool
    by_default: Annotated[bool, Meta(description="Whether `predict` gives it without being asked.")]


@dataclass(frozen=True)
class PropertyList:
    """Result of `list_properties`."""

    model: str
    properties: list[PropertyEntry]


@dataclass(frozen=True)
class PropertiesRequest:
    """Arguments of `list_properties`."""

    unrelaxed: Unrelaxed = False
    model: ModelName = ""


def schema_of(kind: type) -> dict[str, Any]:
    """Return the JSON schema of a record, with an object at its root, as the protocol requires."""
    (schema,), parts = msgspec.json.schema_components([kind], ref_template="#/$defs/{name}")
    name = schema["$ref"].rpartition("/")[2]
    root = {**parts.pop(name), "additionalProperties": False}
    return {**root, "$defs": parts} if parts else root


def arguments_of(value: Any, kind: type[Any]) -> Any:
    """Return the arguments of a call as a record.

    Raises:
        UsageError: One is unknown, missing, or out of bounds.
    """
    try:
        return record(value, kind)
    except SchemaError as error:
        raise UsageError(f"arguments: {error}") from None


def plain(result: Any) -> dict[str, Any]:
    """Return a record as objects of JSON."""
    return dict(msgspec.to_builtins(result))
