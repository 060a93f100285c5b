"""The bundled checkpoints, with their checksums, and those a user installed: names to folders, without torch."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crystalpredict._files import file_sha256
from crystalpredict.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from crystalpredict.properties import Property

CHECKPOINT_FILES = ("config.json", "model.safetensors", "calibration.safetensors", "golden.json", "README.md")
LARGEST_JSON = 2**24  # bytes
CACHE_VARIABLE = "CRYSTALPREDICT_CACHE"  # of the environment: where predictions are kept
MODELS_VARIABLE = "CRYSTALPREDICT_MODELS"  # of the environment: where models are installed


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
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "models", package.parents[1] / "models"):
        if (folder / "index.json").is_file():
            return folder
    raise CheckpointError("no bundled models: models/index.json is missing; install crystalpredict again")


def bundled_models() -> dict[str, BundledModel]:
    """The bundled checkpoints by name, in the order of the index."""
    folder = models_folder()
    try:
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        names = [name for entry in index["models"].values() for name in (entry["folder"], *entry["files"])]
        if odd := [name for name in names if not _is_name(name)]:
            raise ValueError(f"{odd[0]!r} is no name of a file")
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


def user_models_folder() -> Path:
    """Where a user's models are installed: the folder in CRYSTALPREDICT_MODELS, or in the user's data folder."""
    if named := os.environ.get(MODELS_VARIABLE):
        return Path(named).expanduser()
    from platformdirs import user_data_path

    return user_data_path("crystalpredict", appauthor=False) / "models"


def cache_folder(name: str) -> Path:
    """Where predictions are kept: the folder named, or, of `auto`, that of the environment or of the user's caches."""
    if name != "auto":
        return Path(name).expanduser()
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("crystalpredict", appauthor=False)


def installed_models() -> dict[str, Path]:
    """Folders of the models that the user installed, by name."""
    try:
        folders = sorted(path.parent for path in user_models_folder().glob("*/config.json"))
    except OSError:
        return {}
    return {folder.name: folder for folder in folders if _is_name(folder.name)}


def install_model(folder: Path, name: str, *, replace: bool = False) -> Path:
    """Copy a checkpoint folder to where `find_model` finds it by name; the new folder. Whole or not at all."""
    if not _is_name(name):
        raise UsageError(f"{name!r} is no name for a model: use letters, digits, -, _ and . only; say it with --name")
    if name in (*bundled_models(), "default"):
        raise UsageError(f"{name!r} is the name of a bundled model: choose another with --name")
    target = user_models_folder() / name
    if target.exists() and not replace:
        raise UsageError(f"{name!r} is installed already: say --replace, or another --name")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{name}.") as temporary:
            new, old = Path(temporary, "new"), Path(temporary, "old")
            new.mkdir()
            for file in CHECKPOINT_FILES:
                if (folder / file).is_symlink():
                    raise UsageError(f"{folder / file}: a link: put the file itself there")
                if (folder / file).is_file():
                    shutil.copyfile(folder / file, new / file)
            if target.exists():
                target.rename(old)
            new.rename(target)
    except OSError as error:
        hint = f"name another folder in {MODELS_VARIABLE}"
        raise UsageError(f"{target}: cannot be written ({error.strerror}): {hint}") from None
    return target


def remove_model(name: str) -> None:
    """Delete a model that the user installed."""
    if name not in installed_models():
        raise UsageError(f"{name!r} is not installed: {', '.join(installed_models()) or 'no model'} is")
    folder = installed_models()[name]
    try:
        folder.unlink() if folder.is_symlink() else shutil.rmtree(folder)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be removed ({error.strerror})") from None


def _is_name(text: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*", text) is not None


def find_model(name: str | None = None) -> Path:
    """Folder of a bundled model, checked against the index, of an installed one, or of a path; None: the default."""
    bundled = bundled_models()
    if name is None or name == "default":
        name = default_model().name
    if name in bundled:
        bundled[name].verify_files()
        return bundled[name].folder
    installed = installed_models()
    folder = Path(name).expanduser()
    if name in installed:
        _refuse_another(folder, installed[name])
        return installed[name]
    if name and folder.is_dir():
        return folder.absolute()
    known = [*bundled, *installed]
    near = get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
    raise UsageError(f"no model {name!r}, neither by name nor as a folder: {hint}")


def _refuse_another(folder: Path, installed: Path) -> None:
    """UsageError if a folder with the name of an installed model holds another one."""
    try:
        alike = _config_of(folder) == _config_of(installed)
    except (OSError, ValueError):  # no model
        return
    if not alike:
        raise UsageError(f"{folder}: an installed model, and another in a folder here: name ./{folder} or {installed}")


def _config_of(folder: Path) -> Any:
    """The config.json of a checkpoint; ValueError, among others, if it is none."""
    try:
        return json.loads(checkpoint_file(folder / "config.json", LARGEST_JSON))
    except (CheckpointError, RecursionError) as error:
        raise ValueError(str(error)) from error


def checkpoint_file(path: Path, most: int) -> bytes:
    """What is in a file of a checkpoint; CheckpointError if it is a link, no file, or longer than `most` bytes.

    OSError if it cannot be read. A link may lead to a device without end, or to what others must not see.
    """
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise CheckpointError(f"{path}: a link, or no file: put the file itself there")
    if (size := path.stat().st_size) > most:
        raise CheckpointError(f"{path}: {size:,} bytes, far more than belong there; fetch it again")
    return path.read_bytes()


def radius_of_model(folder: Path) -> float | None:
    """Radius of a checkpoint's neighbour lists, Å, without torch; None where `load_checkpoint` has a complaint."""
    from crystalpredict.crystals.neighbors import LONGEST_RADIUS

    try:
        radius = float(_config_of(folder)["model"]["radius"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return radius if 0 < radius <= LONGEST_RADIUS else None


def properties_of_model(folder: Path) -> tuple[Property, ...]:
    """Properties of a checkpoint, without torch; none where `load_checkpoint` has a complaint."""
    from crystalpredict.properties import Property

    try:
        entries = _config_of(folder)["properties"]
        scale = ("mean", "deviation")
        return tuple(Property.from_dict({k: v for k, v in entry.items() if k not in scale}) for entry in entries)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ()


def needs_vectors(folder: Path) -> bool:
    """Whether a checkpoint's neighbour lists need vectors (ModelConfig.vectors), without torch."""
    try:
        model = _config_of(folder)["model"]
        return bool(model.get("attention", "real") != "real")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def identity_of(folder: Path) -> dict[str, str]:
    """What a checkpoint's predictions depend on: the version of this program and sha256 of its files, "" for none."""
    from crystalpredict._version import __version__

    files = {
        "model": "model.safetensors",
        "calibration": "calibration.safetensors",
        "settings of the model": "config.json",
    }
    sums = {fact: file_sha256(folder / file) if (folder / file).is_file() else "" for fact, file in files.items()}
    return {"version": __version__, **sums}


def weights_sha256(folder: Path) -> str:
    """sha256 of the weights in a checkpoint folder."""
    return file_sha256(folder / "model.safetensors")
