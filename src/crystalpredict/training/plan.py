"""Options, data, base model and versions of a fine-tuning run, from which it can be resumed or repeated."""

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
    """The table of a run: path and sha256 of the file; for a table in memory, a name and the sha256 of its columns."""

    path: str
    sha256: Sha256


def origin_of(path: Path, raw: RawTable | None) -> Origin:
    """Return the origin of a labelled table: a file, or the `raw` table in memory."""
    return {
        "path": str(path),
        "sha256": digest_of(raw) if raw else file_sha256(path / ID_PROP if path.is_dir() else path),
    }


class Base(TypedDict):
    """The base model of a run: sha256 of its weights, its trained properties and the elements of its training data."""

    name: str
    folder: str
    sha256: Sha256
    learnt: list[Identity]
    elements_seen: list[AtomicNumber]


@dataclass(frozen=True)
class Plan:
    """Parameters of a run, as in provenance.json."""

    command: list[str]
    data: Origin
    base: Base | None
    """The base model; None from scratch."""
    learnt: list[str]
    """Names of the targets that the base model was trained on, perhaps with the same crystals."""
    model: ModelConfig
    training: TrainingConfig
    folds: Annotated[int, Meta(ge=0, le=10_000)]
    notes: list[str]
    """Messages about the data."""
    versions: dict[str, str]
    started: str
    members: Annotated[int, Meta(ge=1, le=100)] = 1
    """Number of ensemble members, trained with different seeds."""

    @classmethod
    def new(
        cls, command: Sequence[str], data: Origin, base: tuple[Path, Checkpoint, Sequence[str]] | None,
        model: ModelConfig, training: TrainingConfig, folds: int, notes: Sequence[str], members: int = 1,
    ) -> Plan:  # fmt: skip
        """Return the plan of a new run; `base`: folder of the base model, its checkpoint, and the targets it learnt."""
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
        """Return the plan of an earlier run.

        Raises:
            UsageError: The folder has none, or it is damaged.
        """
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
        """Return the base model; None from scratch.

        Raises:
            UsageError: Its weights changed since the run began.
        """
        if self.base is None:
            return None
        folder = find_model(self.base["folder"])
        checkpoint = load_checkpoint(folder)
        if weights_sha256(folder) != self.base["sha256"]:
            raise UsageError(
                f"{folder}: the weights of the base model changed since the run began; start the run again"
            )
        return checkpoint
