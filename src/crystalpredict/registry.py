"""The bundled checkpoints and their checksums: names to folders, without torch."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from crystalpredict.errors import CheckpointError, UsageError


@dataclass(frozen=True)
class BundledModel:
    """A checkpoint that comes with the package, as models/index.json describes it."""

    name: str
    folder: Path
    summary: str
    properties: tuple[str, ...]
    format_version: int
    sha256: dict[str, str]
    size: int
    default: bool

    def verify_files(self) -> None:
        """CheckpointError unless every file is there, unaltered."""
        for file, expected in self.sha256.items():
            path = self.folder / file
            if not path.is_file():
                raise CheckpointError(f"{path}: missing; install crystalpredict again")
            if file_sha256(path) != expected:
                raise CheckpointError(
                    f"{path}: altered since its release (sha256 differs); install crystalpredict again"
                )


def models_folder() -> Path:
    """models/ inside the installed package, or that of the checkout for an editable install."""
    package = Path(__file__).resolve().parent
    for folder in (package / "models", package.parents[1] / "models"):
        if (folder / "index.json").is_file():
            return folder
    raise CheckpointError("no bundled models: models/index.json is missing; install crystalpredict again")


def bundled_models() -> dict[str, BundledModel]:
    """The bundled checkpoints by name, in the order of the index."""
    folder = models_folder()
    try:
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        return {
            name: BundledModel(
                name=name,
                folder=folder / entry["folder"],
                summary=entry["summary"],
                properties=tuple(entry["properties"]),
                format_version=entry["format_version"],
                sha256={file: item["sha256"] for file, item in entry["files"].items()},
                size=sum(item["bytes"] for item in entry["files"].values()),
                default=name == index["default"],
            )
            for name, entry in index["models"].items()
        }
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / 'index.json'}: damaged ({error!r}); install crystalpredict again") from error


def default_model() -> BundledModel:
    """The checkpoint that is used when none is named."""
    return next(model for model in bundled_models().values() if model.default)


def find_model(name: str | None = None) -> Path:
    """Folder of a bundled checkpoint or of a path, checked against the index where it is bundled; None: the default."""
    bundled = bundled_models()
    if name is None or name == "default":
        name = default_model().name
    if name in bundled:
        bundled[name].verify_files()
        return bundled[name].folder
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        return folder
    near = get_close_matches(name, bundled, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"bundled: {', '.join(bundled)}"
    raise UsageError(f"no model {name!r}, neither bundled nor a folder: {hint}")


def radius_of_model(folder: Path) -> float | None:
    """Radius of a checkpoint's neighbour lists, Å, without torch; None where `load_checkpoint` has a complaint."""
    try:
        radius = float(json.loads((folder / "config.json").read_text(encoding="utf-8"))["model"]["radius"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return radius if radius > 0 else None


def needs_vectors(folder: Path) -> bool:
    """Whether a checkpoint's neighbour lists need vectors (ModelConfig.vectors), without torch."""
    try:
        model = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model"]
        return bool(model.get("attention", "real") != "real")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def file_sha256(path: Path) -> str:
    """Hexadecimal sha256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
