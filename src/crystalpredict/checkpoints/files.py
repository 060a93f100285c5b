"""The JSON files of a checkpoint as dataclasses; reading them does not import torch."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from crystalpredict._schema import AtomicNumber, Number, Positive, Sha256, Text, read_json_file, record, record_of
from crystalpredict._version import __version__
from crystalpredict.checkpoints.model_index import FORMAT_VERSION, FormatVersion
from crystalpredict.errors import CheckpointError, printable
from crystalpredict.nn.config import ModelConfig
from crystalpredict.properties import OUTPUT_COLUMNS, VOLUME_CHANGE, Property

Coordinate = Annotated[float, Meta(ge=-1e5, le=1e5)]  # Å
Vector = tuple[Coordinate, Coordinate, Coordinate]
Identity = tuple[Text, Text, Text]  # Property.identity
_NEW_FIELDS = {"on_request": False, "maximum": None, "has_interval": True}  # of a property, in format 4, and defaults
_OLD_TRANSFORMS = ("none", "log10")


@dataclass(frozen=True, kw_only=True)
class TrainedProperty(Property):
    """A property of a checkpoint.

    Attributes:
        mean: of the training labels, on the trained scale.
        deviation: standard deviation of the training labels, on the trained scale.
    """

    mean: Number
    deviation: Positive

    @property
    def plain(self) -> Property:
        """The property without mean and deviation."""
        return Property(**{each.name: getattr(self, each.name) for each in fields(Property)})


@dataclass(frozen=True)
class TrainingFacts:
    """The entries of `CheckpointConfig.training` that are used in computations.

    Attributes:
        learnt: identities of the properties that the model and its base models were trained on.
        elements_seen: atomic numbers of the elements in the training data.
        unrelaxed: whether the model learnt from unrelaxed crystals what they relax to.
    """

    learnt: tuple[Identity, ...] = ()
    elements_seen: tuple[AtomicNumber, ...] = ()
    domain_sha256: Sha256 | None = None
    relaxation_sha256: Sha256 | None = None
    unrelaxed: bool = False


@dataclass(frozen=True)
class CheckpointConfig:
    """config.json of a checkpoint.

    Attributes:
        format_version: of the checkpoint.
        model: shape of the network.
        properties: of the outputs.
        weights_sha256: of model.safetensors.
        crystalpredict: version that wrote the checkpoint.
        training: free text and figures, and the entries of TrainingFacts.
        calibration_sha256: of calibration.safetensors, or None.
    """

    format_version: FormatVersion
    model: ModelConfig
    properties: Annotated[tuple[TrainedProperty, ...], Meta(min_length=1, max_length=4096)]
    weights_sha256: Sha256
    crystalpredict: Text = ""
    training: dict[str, Any] = field(default_factory=dict)
    calibration_sha256: Sha256 | None = None

    @property
    def unrelaxed(self) -> bool:
        """Whether the model is one for unrelaxed structures."""
        return bool(self.training.get("unrelaxed", False))

    def __post_init__(self) -> None:
        """Raise a ValueError if the parts contradict each other."""
        known = {field.name for field in fields(TrainingFacts)}
        facts = {name: value for name, value in self.training.items() if name in known}
        record(facts, TrainingFacts, "training")
        if len(self.properties) != self.model.outputs:
            raise ValueError(f"there are {len(self.properties)} properties for {self.model.outputs} outputs")
        head = self.training.get("relaxation_sha256") is not None
        if head and not (self.unrelaxed and self.model.members == 1 and self.model.attention == "real"):
            raise ValueError("a head of relaxation needs a single network of distances for unrelaxed structures")
        if self.model.stages > 1 and not head:
            raise ValueError("two stages need a head of relaxation")
        needed = format_version(self.model, self.properties, unrelaxed=self.unrelaxed, head=head)
        if needed > self.format_version:
            missing = ["", f"{self.model.attention} attention", "ensembles", "such properties or models"]
            missing += ["heads of relaxation", "stages, readout_of_states or kernel_points"]
            raise ValueError(f"format {self.format_version} has no {missing[needed - 1]}")
        if self.unrelaxed and VOLUME_CHANGE.identity not in [prop.identity for prop in self.properties]:
            raise ValueError("a model for unrelaxed structures must predict the volume change")
        for names in ([prop.name for prop in self.properties], [prop.column for prop in self.properties]):
            if len({name.lower() for name in names}) < len(names):
                raise ValueError("two of the properties have the same name")
            if taken := [name for name in names if name.lower() in OUTPUT_COLUMNS]:
                raise ValueError(f"a property has the name {taken[0]!r} of another output column")


@dataclass(frozen=True)
class GoldenCrystal:
    """An ordered crystal of golden.json with n atoms.

    Attributes:
        lattice: rows a, b, c, Å, (3, 3).
        positions: Cartesian, Å, (n, 3).
        numbers: atomic numbers, (n,).
        outputs: standardised outputs of the network, (outputs,).
    """

    lattice: tuple[Vector, Vector, Vector]
    positions: Annotated[tuple[Vector, ...], Meta(min_length=1, max_length=1000)]
    numbers: Annotated[tuple[AtomicNumber, ...], Meta(min_length=1, max_length=1000)]
    outputs: Annotated[tuple[Number, ...], Meta(min_length=1, max_length=4096)]

    def __post_init__(self) -> None:
        """Raise a ValueError if the number of positions is not that of the atoms."""
        if len(self.positions) != len(self.numbers):
            raise ValueError(f"there are {len(self.positions)} positions for {len(self.numbers)} numbers")


@dataclass(frozen=True)
class Golden:
    """golden.json of a checkpoint."""

    crystals: Annotated[tuple[GoldenCrystal, ...], Meta(min_length=1, max_length=1000)]


def property_record(prop: Property) -> dict[str, Any]:
    """Return a property as a JSON object, without the keys that older versions refuse if their values are defaults."""
    kept = {each.name for each in fields(Property) if each.name not in _NEW_FIELDS}
    return {name: value for name, value in asdict(prop).items() if name in kept or value != _NEW_FIELDS.get(name)}


def format_version(
    config: ModelConfig, properties: Iterable[Property] = (), *, unrelaxed: bool = False, head: bool = False
) -> int:
    """Return the oldest checkpoint format that can describe a network, so that older versions can read it."""
    if config.stages > 1 or config.readout_of_states or config.kernel_points:
        return 6
    if head:
        return 5
    if unrelaxed or any(
        _NEW_FIELDS.keys() & property_record(prop).keys() or prop.transform not in _OLD_TRANSFORMS
        for prop in properties
    ):
        return 4
    return 3 if config.members > 1 else 2 if config.vectors else 1


def json_bytes(config: dict[str, Any]) -> bytes:
    """Return the content of a JSON file of a checkpoint."""
    return (json.dumps(config, indent=2, allow_nan=False) + "\n").encode()


def read_config(folder: Path) -> CheckpointConfig:
    """Return config.json of a checkpoint folder.

    Raises:
        CheckpointError: the file is missing, damaged, or of an unknown format.
    """
    path = folder / "config.json"
    values = read_json_file(path)
    version = values.get("format_version", 0) if isinstance(values, dict) else 1
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        raise CheckpointError(
            f"{folder}: checkpoint format {printable(repr(version)[:40])}, but this crystalpredict {__version__} reads "
            f"1 to {FORMAT_VERSION}; use the version that wrote it, or a newer one"
        )
    return record_of(values, CheckpointConfig, path)


def read_golden(folder: Path) -> Golden:
    """Return golden.json of a checkpoint folder.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    path = folder / "golden.json"
    return record_of(read_json_file(path), Golden, path)
