"""Find bundled and installed models by name, install and remove them; torch is not imported."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from crystalpredict._files import file_sha256
from crystalpredict.checkpoints.other_folders import refuse_other_folder
from crystalpredict.errors import CheckpointError, UsageError, hint_of

if TYPE_CHECKING:
    from crystalpredict.checkpoints.files import CheckpointConfig
    from crystalpredict.checkpoints.model_index import Index
    from crystalpredict.properties import Property

CHECKPOINT_FILES = (
    "config.json", "model.safetensors", "calibration.safetensors", "domain.safetensors", "relaxation.safetensors",
    "golden.json", "README.md",
)  # fmt: skip
REFERENCE_ENERGIES, ELEMENT_ENERGIES = "energies.safetensors", "elements.json"
CACHE_VARIABLE = "CRYSTALPREDICT_CACHE"  # environment variable with the folder of cached predictions
MODELS_VARIABLE = "CRYSTALPREDICT_MODELS"  # environment variable with the folder of installed models


@dataclass(frozen=True)
class BundledModel:
    """A checkpoint that is part of the package.

    Attributes:
        name: to be given to --model.
        folder: of the checkpoint.
        summary: one sentence.
        properties: names of the predicted properties.
        format_version: of the checkpoint.
        sha256: of each file, by name.
        size: of all files, bytes.
        default: whether this model is used if none is named.
    """

    name: str
    folder: Path
    summary: str
    properties: tuple[str, ...]
    format_version: int
    sha256: dict[str, str]
    size: int
    default: bool

    def verify_files(self) -> None:
        """Compare all files with their checksums.

        Raises:
            CheckpointError: a file is missing or altered.
        """
        _verify_files(self.folder, self.sha256)


def _verify_files(folder: Path, sha256: Mapping[str, str]) -> None:
    """Raise CheckpointError if a file of a bundled folder is missing or altered."""
    for file, expected in sha256.items():
        path = folder / file
        if not path.is_file():
            raise CheckpointError(f"{path}: missing; install crystalpredict again")
        if file_sha256(path) != expected:
            raise CheckpointError(f"{path}: altered since its release (sha256 differs); install crystalpredict again")


def models_folder() -> Path:
    """Return the folder of the bundled models: in the package, or in the repository of an editable installation.

    Raises:
        CheckpointError: there is none.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "models", package.parents[1] / "models"):
        if (folder / "index.json").is_file():
            return folder
    raise CheckpointError("no bundled models: models/index.json is missing; install crystalpredict again")


def bundled_models() -> dict[str, BundledModel]:
    """Return the bundled models by name, in the order of models/index.json.

    Raises:
        CheckpointError: the index is missing or damaged.
    """
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
    """Return the folder of the bundled reference energies.

    Raises:
        CheckpointError: a file is missing or altered.
    """
    entry = _index().reference_energies
    folder = models_folder() / entry.folder
    _verify_files(folder, {file: item.sha256 for file, item in entry.files.items()})
    return folder


def reference_energies_sha256() -> str:
    """Return the sha256 of the bundled reference energies, as the index has it."""
    return _index().reference_energies.files[REFERENCE_ENERGIES].sha256


def default_model() -> BundledModel:
    """Return the model that is used if none is named."""
    return next(model for model in bundled_models().values() if model.default)


def user_models_folder() -> Path:
    """Return the folder of installed models: that in CRYSTALPREDICT_MODELS, or one in the user's data folder."""
    if named := os.environ.get(MODELS_VARIABLE):
        return Path(os.path.expanduser(named))
    from platformdirs import user_data_path

    return user_data_path("crystalpredict", appauthor=False) / "models"


def cache_folder(name: str) -> Path:
    """Return the folder of cached predictions; `auto`: from CRYSTALPREDICT_CACHE, or in the user's cache folder."""
    if name != "auto":
        return Path(os.path.expanduser(name))
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(os.path.expanduser(named))
    from platformdirs import user_cache_path

    return user_cache_path("crystalpredict", appauthor=False)


def installed_models() -> dict[str, Path]:
    """Return the folders of installed models, by name."""
    try:
        folders = sorted(path.parent for path in user_models_folder().glob("*/config.json"))
    except OSError:
        return {}
    return {folder.name: folder for folder in folders if _is_name(folder.name)}


def install_model(folder: Path, name: str, *, replace: bool = False) -> Path:
    """Copy a checkpoint into the folder of installed models, completely or not at all.

    Args:
        folder: of the checkpoint.
        name: by which `find_model` will find it.
        replace: whether an installed model of this name may be replaced.

    Returns:
        The new folder.

    Raises:
        UsageError: the name is taken or invalid, a file is a link, or the folder cannot be written.
    """
    if not _is_name(name):
        raise UsageError(f"{name!r} cannot be the name of a model: choose letters, digits, -, _ and . with --name")
    if name in (*bundled_models(), "default"):
        raise UsageError(f"{name!r} is the name of a bundled model: choose another with --name")
    target = user_models_folder() / name
    if target.exists() and not replace:
        raise UsageError(f"{name!r} is already installed: use --replace, or another --name")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{name}.") as temporary:
            new, old = Path(temporary, "new"), Path(temporary, "old")
            new.mkdir()
            for file in CHECKPOINT_FILES:
                if (folder / file).is_symlink():
                    raise UsageError(f"{folder / file}: a symbolic link: put the file itself there")
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
    """Delete an installed model.

    Raises:
        UsageError: it is not installed, or cannot be removed.
    """
    if name not in installed_models():
        raise UsageError(f"{name!r} is not an installed model; installed: {', '.join(installed_models()) or 'none'}")
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


def find_model(name: str | os.PathLike[str] | None = None, *, unrelaxed: bool = False) -> Path:
    """Return the folder of a model.

    Args:
        name: of a bundled or installed model, or path of a checkpoint folder; None: the default model.
        unrelaxed: whether the model is to predict from unrelaxed structures what they relax to.

    Raises:
        UsageError: there is no such model, the name is ambiguous, the folder is no checkpoint, or the model is not one
            for unrelaxed structures.
        CheckpointError: a file of a bundled model is missing or altered.
    """
    if unrelaxed:
        special = _index().unrelaxed
        folder = find_model(special if name is None else name)
        config = config_of_model(folder)
        if config and not config.unrelaxed:
            raise UsageError(
                f"model {folder.name} learnt from relaxed structures only: leave out --model, or use {special}"
            )
        return folder
    if isinstance(name, os.PathLike):  # never the name of a model
        name = str(Path(name).absolute())
    bundled = bundled_models()
    if name is None or name == "default":
        name = default_model().name
    if name in bundled:
        bundled[name].verify_files()
        return bundled[name].folder
    installed = installed_models()
    folder = Path(os.path.expanduser(name))  # unchanged if there is no such user
    if name in installed:
        _refuse_ambiguous(folder, installed[name])
        return installed[name]
    if name and _is_folder(folder):
        refuse_other_folder(folder)
        return folder.absolute()
    raise UsageError(f"no model {name!r}, neither by name nor as a folder: {hint_of(name, [*bundled, *installed])}")


def _refuse_ambiguous(folder: Path, installed: Path) -> None:
    """Raise a UsageError if a folder in the working directory is another model with the name of an installed one."""
    from crystalpredict._schema import read_json_file

    try:
        same = read_json_file(folder / "config.json") == read_json_file(installed / "config.json")
    except CheckpointError:  # not a model
        return
    if not same:
        raise UsageError(
            f"{folder}: the name of an installed model and of another one in this folder: use ./{folder} or {installed}"
        )


def config_of_model(folder: Path) -> CheckpointConfig | None:
    """Return config.json of a checkpoint, or None if it is damaged, which `load_checkpoint` reports later."""
    from crystalpredict.checkpoints.files import read_config

    try:
        return read_config(folder)
    except CheckpointError:
        return None


def properties_of_model(folder: Path) -> tuple[Property, ...]:
    """Return the properties of a checkpoint, or none if it is damaged, which `load_checkpoint` reports later."""
    config = config_of_model(folder)
    return tuple(prop.plain for prop in config.properties) if config else ()


def identity_of(folder: Path) -> dict[str, str]:
    """Return what predictions depend on: the version of this program, and sha256 of the files, or "" if missing."""
    from crystalpredict._version import __version__

    files = {
        "model": "model.safetensors", "calibration": "calibration.safetensors", "settings of the model": "config.json",
    }  # fmt: skip
    sums = {key: file_sha256(folder / file) if (folder / file).is_file() else "" for key, file in files.items()}
    return {"version": __version__, **sums}


def weights_sha256(folder: Path) -> str:
    """Return the sha256 of the weights in a checkpoint folder."""
    return file_sha256(folder / "model.safetensors")
