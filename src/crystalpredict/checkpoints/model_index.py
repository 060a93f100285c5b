"""models/index.json, the list of bundled models with the checksums of their files, as dataclasses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from crystalpredict._schema import Count, FileName, Sha256, Summary, Word

# of checkpoints; 2 added attention other than that of the paper, 3 ensembles, 4 models for unrelaxed structures and
# properties on request, with a maximum, without intervals or in percent of change, 5 heads of relaxation, 6 stages and
# a readout of the states of all blocks
FORMAT_VERSION = 6
FormatVersion = Annotated[int, Meta(ge=1, le=FORMAT_VERSION)]


@dataclass(frozen=True)
class IndexFile:
    """A file of a bundled model."""

    sha256: Sha256
    bytes: Count


@dataclass(frozen=True)
class IndexModel:
    """A bundled model, whose checkpoint is in `folder`."""

    folder: FileName
    summary: Summary
    properties: Annotated[tuple[Word, ...], Meta(min_length=1)]
    format_version: FormatVersion
    files: Annotated[dict[FileName, IndexFile], Meta(min_length=1)]

    def __post_init__(self) -> None:
        """Raise a ValueError if a file that every checkpoint has is missing."""
        for name in ("config.json", "model.safetensors", "golden.json"):
            if name not in self.files:
                raise ValueError(f"files: {name} is missing")


@dataclass(frozen=True)
class IndexFolder:
    """A bundled folder that is no model."""

    folder: FileName
    files: Annotated[dict[FileName, IndexFile], Meta(min_length=1)]


@dataclass(frozen=True)
class Index:
    """index.json, the bundled models by name.

    Attributes:
        default: name of the model that is used if none is named.
        unrelaxed: name of the model for unrelaxed structures.
        models: by name.
        reference_energies: of the known phases.
    """

    default: FileName
    unrelaxed: FileName
    models: Annotated[dict[FileName, IndexModel], Meta(min_length=1)]
    reference_energies: IndexFolder

    def __post_init__(self) -> None:
        """Raise a ValueError if the default, or the model for unrelaxed structures, is not one of the models."""
        for name in ("default", "unrelaxed"):
            if getattr(self, name) not in self.models:
                raise ValueError(f"{name} is {getattr(self, name)!r}, which is not one of the models")
