"""The bundled checkpoints, with their checksums, and those a user installed: names to folders, without torch."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from crystalpredict._files import file_sha256
from crystalpredict.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from crystalpredict.checkpoints.files import CheckpointConfig
    from crystalpredict.checkpoints.model_index import Index
    from crystalpredict.properties import Property

CHECKPOINT_FILES = (
    "config.json", "model.safetensors", "calibration.safetensors", "domain.safetensors", "golden.json", "README.md",
)  # fmt: skip
REFERENCE_ENERGIES, ELEMENT_ENERGIES = "energies.safetensors", "elements.json"
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
        _verify_files(self.folder, self.sha256)


def _verify_files(folder: Path, sha256: Mapping[str, str]) -> None:
    """CheckpointError unless every file of a bundled folder is there, unaltered."""
    for file, expected in sha256.items():
        path = folder / file
        if not path.is_file():
            raise CheckpointError(f"{path}: missing; install crystalpredict again")
        if file_sha256(path) != expected:
            raise CheckpointError(f"{path}: altered since its release (sha256 differs); install crystalpredict again")


def models_folder() -> Path:
    """models/ inside the installed package, or that of the checkout for an editable install."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "models", package.parents[1] / "models"):
        if (folder / "index.json").is_file():
            return folder
    raise CheckpointError("no bundled models: models/index.json is missing; install crystalpredict again")


def bundled_models() -> dict[str, BundledModel]:
    """The bundled checkpoints by name, in the order of the index."""
    folder, index = models_folder(), _index()
    return {
        name: BundledModel(
            name=name,
            folder=folder / entry.folder,
            summary=entry.summary,
            properties=entry.properties,
            format_version=entry.format_version,
            sha256={file: item.sha256 for file, item in entry.files.items()},
            size=sum(item.bytes for item in entry.files.values()),
            default=name == index.default,
        )
        for name, entry in index.models.items()
    }


def _index() -> Index:
    from crystalpredict._schema import read_json_file, record_of
    from crystalpredict.checkpoints.model_index import Index

    path = models_folder() / "index.json"
    return record_of(read_json_file(path), Index, path)


def reference_energies_folder() -> Path:
    """Folder of the bundled reference energies, whose files are unaltered."""
    entry = _index().reference_energies
    folder = models_folder() / entry.folder
    _verify_files(folder, {file: item.sha256 for file, item in entry.files.items()})
    return folder


def reference_energies_sha256() -> str:
    """Return the sha256 of the bundled reference energies, as the index has it."""
    return _index().reference_energies.files[REFERENCE_ENERGIES].sha256


def default_model() -> BundledModel:
    """The checkpoint that is used when none is named."""
    return next(model for model in bundled_models().values() if model.default)


def user_models_folder() -> Path:
    """Where a user's models are installed: the folder in CRYSTALPREDICT_MODELS, or in the user's data folder."""
    if named := os.environ.get(MODELS_VARIABLE):
        return Path(os.path.expanduser(named))
    from platformdirs import user_data_path

    return user_data_path("crystalpredict", appauthor=False) / "models"


def cache_folder(name: str) -> Path:
    """Where predictions are kept: the folder named, or, of `auto`, that of the environment or of the user's caches."""
    if name != "auto":
        return Path(os.path.expanduser(name))
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(os.path.expanduser(named))
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


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that is too long
        return False


def find_model(name: str | os.PathLike[str] | None = None) -> Path:
    """Folder of a bundled model, checked against the index, of an installed one, or of a path; None: the default."""
    if isinstance(name, os.PathLike):  # a path always means a folder
        name = str(Path(name).absolute())
    bundled = bundled_models()
    if name is None or name == "default":
        name = default_model().name
    if name in bundled:
        bundled[name].verify_files()
        return bundled[name].folder
    installed = installed_models()
    folder = Path(os.path.expanduser(name))  # as it is where there is no such user
    if name in installed:
        _refuse_another(folder, installed[name])
        return installed[name]
    if name and _is_folder(folder):
        return folder.absolute()
    known = [*bundled, *installed]
    near = get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
    raise UsageError(f"no model {name!r}, neither by name nor as a folder: {hint}")


def _refuse_another(folder: Path, installed: Path) -> None:
    """UsageError if a folder with the name of an installed model holds another one."""
    from crystalpredict._schema import read_json_file

    try:
        alike = read_json_file(folder / "config.json") == read_json_file(installed / "config.json")
    except CheckpointError:  # no model
        return
    if not alike:
        raise UsageError(f"{folder}: an installed model, and another in a folder here: name ./{folder} or {installed}")


def config_of_model(folder: Path) -> CheckpointConfig | None:
    """What a checkpoint's config.json says, without torch; None where `load_checkpoint` has a complaint."""
    from crystalpredict.checkpoints.files import read_config

    try:
        return read_config(folder)
    except CheckpointError:
        return None


def radius_of_model(folder: Path) -> float | None:
    """Radius of a checkpoint's neighbour lists, Å; None where `load_checkpoint` has a complaint."""
    config = config_of_model(folder)
    return config.model.radius if config else None


def properties_of_model(folder: Path) -> tuple[Property, ...]:
    """Properties of a checkpoint; none where `load_checkpoint` has a complaint."""
    config = config_of_model(folder)
    return tuple(prop.plain for prop in config.properties) if config else ()


def needs_vectors(folder: Path) -> bool:
    """Whether a checkpoint's neighbour lists need vectors (ModelConfig.vectors)."""
    config = config_of_model(folder)
    return config is not None and config.model.vectors


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
