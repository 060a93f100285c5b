"""Folders that are given for a checkpoint and are none: what they are, and what to give instead."""

from __future__ import annotations

import re
from pathlib import Path

from crystalpredict.errors import UsageError, printable

CONFIG, WEIGHTS = "config.json", "model.safetensors"  # of every checkpoint
TRAINING_FILES = {"state.npz", "crystals.npz"}  # of the folder `training` of a run
MAX_NAMED = 4  # folders in a message
NO_CHECKPOINT = (
    f"no checkpoint, it has no {CONFIG}: give a folder that finetune or models import wrote, or one of the names that "
    "crystalpredict models list prints"
)


def refuse_other_folder(folder: Path) -> None:
    """Raise UsageError for a folder that is no checkpoint; what a checkpoint itself lacks is found when it is read.

    Args:
        folder: Existing folder that is to be used as a model.
    """
    try:
        names = {path.name for path in folder.iterdir()}
    except OSError:  # reading the checkpoint gives the error
        return
    if names & TRAINING_FILES:
        raise UsageError(printable(f"{folder}: the state of a training: give the folder of the run, which is above it"))
    if not names & {CONFIG, WEIGHTS}:
        raise UsageError(printable(f"{folder}: {_what_it_is(folder, names)}"))


def _what_it_is(folder: Path, names: set[str]) -> str:
    """Return what a folder with these names in it is, and what to give instead."""
    models = [str(folder / name) for name in sorted(names, key=_by_number) if _is_checkpoint(folder / name)]
    if "learning-curve.json" in names:
        what = "a learning curve, with a model for each fraction of the training set"
    elif any(re.fullmatch(r"fold-\d+", name) for name in names):
        what = "a cross-validation, with a model for each fold"
    elif {"provenance.json", "training"} <= names:
        return f"a training that has not ended: continue it by crystalpredict finetune --resume {folder}"
    elif models:
        what = "a folder of models"
    else:
        return NO_CHECKPOINT
    if not models:
        return f"{what}, none of which has ended: run finetune again"
    others = f" or another of its {len(models)}" if len(models) > MAX_NAMED else ""
    return f"{what}: give one of them, {', '.join(models[-MAX_NAMED:])}{others}"


def _is_checkpoint(folder: Path) -> bool:
    return all((folder / name).is_file() for name in (CONFIG, WEIGHTS))


def _by_number(name: str) -> tuple[float, str]:
    """Return a key to sort names by the number in them: train-100-percent after train-25-percent."""
    number = re.search(r"\d+(\.\d+)?", name)
    return float(number[0]) if number else 0.0, name
