"""What a fine-tuning was told, of what data and model, with which versions: enough to go on, or to do it again."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, TypedDict

from msgspec import Meta

from crystalpredict._files import file_sha256, write_json
from crystalpredict._schema import AtomicNumber, Sha256, read_json_file, record_of
from crystalpredict._version import __version__
from crystalpredict.checkpoints.checkpoint import Checkpoint, load_checkpoint
from crystalpredict.checkpoints.files import Identity
from crystalpredict.checkpoints.registry import find_model, weights_sha256
from crystalpredict.data.frames import digest_of
from crystalpredict.errors import CheckpointError, UsageError
from crystalpredict.io.table_formats import ID_PROP, RawTable
from crystalpredict.nn import ModelConfig
from crystalpredict.training.config import TrainingConfig

LIBRARIES = ("numpy", "pymatgen", "safetensors", "torch")


class Origin(TypedDict):
    """The table of a run: its path, and the sha256 of the file; or what it is called, and that of its columns."""

    path: str
    sha256: Sha256


def origin_of(path: Path, raw: RawTable | None) -> Origin:
    """Return where a labelled table comes from: a file, or memory if it is `raw` already."""
    return {
        "path": str(path),
        "sha256": digest_of(raw) if raw else file_sha256(path / ID_PROP if path.is_dir() else path),
    }


class Base(TypedDict):
    """The model that a run starts from, the sha256 of its weights, and what it had learnt from what elements."""

    name: str
    folder: str
    sha256: Sha256
    learnt: list[Identity]
    elements_seen: list[AtomicNumber]


@dataclass(frozen=True)
class Plan:
    """What a run was told, as provenance.json keeps it."""

    command: list[str]
    data: Origin
    base: Base | None
    """The model it starts from; none from scratch."""
    learnt: list[str]
    """Names of the targets that this model learnt itself, perhaps from the same crystals."""
    model: ModelConfig
    training: TrainingConfig
    folds: Annotated[int, Meta(ge=0, le=10_000)]
    notes: list[str]
    """What was said of the data."""
    versions: dict[str, str]
    started: str
    members: Annotated[int, Meta(ge=1, le=100)] = 1
    """Networks trained, each with another seed, whose mean is the model."""

    @classmethod
    def new(
        cls, command: Sequence[str], data: Origin, base: tuple[Path, Checkpoint, Sequence[str]] | None,
        model: ModelConfig, training: TrainingConfig, folds: int, notes: Sequence[str], members: int = 1,
    ) -> Plan:  # fmt: skip
        """The plan of a run that begins now; `base`: folder of a checkpoint, it, and targets it learnt."""
        start: Base | None = None
        learnt: Sequence[str] = ()
        if base:
            folder, model_of_base, learnt = base
            start = Base(
                name=folder.name,
                folder=str(folder),
                sha256=weights_sha256(folder),
                learnt=sorted(model_of_base.learnt),
                elements_seen=list(model_of_base.training.get("elements_seen", ())),
            )
        versions = {"crystalpredict": __version__} | {name: version(name) for name in LIBRARIES}
        return cls(
            list(command), data, start, list(learnt), model, training,
            folds, list(notes), versions | {"python": platform.python_version()},
            datetime.now(UTC).isoformat(timespec="seconds"), members,
        )  # fmt: skip

    @classmethod
    def load(cls, folder: Path) -> Plan:
        """The plan of a run that began before; UsageError if there is none."""
        path = folder / "provenance.json"
        try:
            return record_of(read_json_file(path), cls, path)
        except CheckpointError as error:
            if not path.exists():
                raise UsageError(f"{folder}: no run to resume (no provenance.json); start it with -o") from None
            raise UsageError(str(error).replace("fetch it again", "start the run again")) from None

    def save(self, folder: Path) -> None:
        """Write provenance.json."""
        write_json(folder / "provenance.json", asdict(self))

    def base_checkpoint(self) -> Checkpoint | None:
        """The model to start from, if it is still what it was."""
        if self.base is None:
            return None
        folder = find_model(self.base["folder"])
        checkpoint = load_checkpoint(folder)
        if weights_sha256(folder) != self.base["sha256"]:
            raise UsageError(f"{folder}: not the model that the run began with (other weights); start the run again")
        return checkpoint
