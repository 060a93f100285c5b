"""Files of a training run: `config.json`, `state.npz` to resume from, and `log.csv`."""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NotRequired, TypedDict
from zipfile import BadZipFile, ZipFile

import numpy as np
import torch
from torch import Tensor

from crystalpredict._files import refuse_long, refuse_unwritable, write_atomically
from crystalpredict._schema import SchemaError, read_record
from crystalpredict.checkpoints.files import TrainedProperty
from crystalpredict.errors import UsageError

DATA: Final = "checksum of the data"  # in config.json
RunFacts = TypedDict(  # config.json
    "RunFacts",
    {
        "model": dict[str, Any],
        "training": dict[str, Any],
        "properties": list[TrainedProperty],
        "crystals": dict[str, int],
        "checksum of the data": NotRequired[str],  # missing in runs of older versions
    },
)
LOG_COLUMNS = ("epoch", "step", "seconds", "learning_rate", "loss")  # of log.csv, before the errors by property


@dataclass(frozen=True)
class Progress:
    """Progress of a training.

    Attributes:
        epoch: Complete epochs.
        step: Optimiser steps since the run began.
        done: Fraction of the training without early stopping.
        loss: Mean loss of the last steps, of standardised labels.
        learning_rate: Of the next step.
        seconds: Since the training was started or resumed.
        errors: Mean absolute error on the validation set by property, on the trained scale; None within an epoch.
        errors_in_unit: The same in the unit of each property.
        best: Whether this epoch is the best so far.
    """

    epoch: int
    step: int
    done: float
    loss: float
    learning_rate: float
    seconds: float
    errors: dict[str, float] | None = None
    errors_in_unit: dict[str, float] | None = None
    best: bool = False


def refuse_folder(folder: Path) -> None:
    """Raise UsageError if a new run cannot be written into the folder."""
    refuse_long(folder)
    if folder.is_dir() and not any(folder.iterdir()):
        refuse_unwritable(folder / "state.npz")
        return
    if (folder / "provenance.json").is_file():
        raise UsageError(f"{folder}: holds a run; continue it with --resume {folder}, or name another folder with -o")
    if folder.exists():
        raise UsageError(f"{folder}: not empty; name another folder with -o")
    if not folder.absolute().parent.is_dir():
        raise UsageError(f"{folder}: no directory {folder.absolute().parent}; create it first")
    refuse_unwritable(folder)


def refuse_another_run(folder: Path, facts: Mapping[str, Any]) -> None:
    """Raise UsageError if `facts`, in the form of config.json, differ from those of the run in a folder.

    The device and the number of epochs may differ.
    """
    try:
        before = read_record((folder / "config.json").read_bytes(), RunFacts)
    except (OSError, SchemaError):
        raise UsageError(f"{folder}: its config.json is missing or damaged: start again in another folder") from None
    was, now = (
        each["model"] | each["training"] | {"properties": [prop.name for prop in each["properties"]]}
        | {name: each[name] for name in (DATA,) if name in each}
        | {f"{part} crystals": count for part, count in each["crystals"].items()}
        for each in (before, read_record(json.dumps(facts), RunFacts))
    )  # fmt: skip
    compared = now.keys() & was.keys() - {"device", "split_atoms", "epochs"}
    for name in sorted(compared, key=lambda name: (name == DATA, name)):  # the least informative last
        if was[name] != now[name]:
            raise UsageError(
                f"{folder}: {name} was {was[name]} when this run began, and is {now[name]} now: "
                "use the earlier value, or name another folder"
            )


def log_epoch(folder: Path, properties: Sequence[str], progress: Progress) -> None:
    """Add an epoch to log.csv, and remove rows of this and later epochs, which a killed run may have written."""
    path = folder / "log.csv"
    names = [f"{name}_error" if name in LOG_COLUMNS else name for name in properties]
    header = ",".join([*LOG_COLUMNS, *names])
    rows = path.read_text(encoding="utf-8", errors="replace").splitlines()[1:] if path.exists() else []
    rows = [row for row in rows if re.match(r"\d{1,18},", row) and int(row.partition(",")[0]) < progress.epoch]
    errors = [f"{(progress.errors or {}).get(name, math.nan):.5g}" for name in properties]
    numbers = [f"{progress.seconds:.0f}", f"{progress.learning_rate:.3g}", f"{progress.loss:.5g}"]
    rows.append(",".join([str(progress.epoch), str(progress.step), *numbers, *errors]))
    with write_atomically(path) as file:
        file.write(("\n".join([header, *rows]) + "\n").encode())


def write_state(folder: Path, numbers: Mapping[str, np.ndarray], states: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Write state.npz: arrays by name, and tensors by kind of state, such as moments, and parameter."""
    tensors = {f"{kind}/{name}": value.cpu().numpy() for kind, state in states.items() for name, value in state.items()}
    with write_atomically(folder / "state.npz") as file:
        np.savez(file, **(dict(numbers) | tensors))  # type: ignore[arg-type]


@contextmanager
def reading_state(folder: Path) -> Iterator[tuple[dict[str, np.ndarray], dict[str, dict[str, Tensor]]]]:
    """Yield the arguments of `write_state`.

    Raises:
        UsageError: The file is damaged, or the block finds that it does not fit the network.
    """
    numbers: dict[str, np.ndarray] = {}
    states: dict[str, dict[str, Tensor]] = {}
    path = folder / "state.npz"
    try:
        with ZipFile(path) as members, np.load(path, allow_pickle=False) as file:
            if sum(member.file_size for member in members.infolist()) > path.stat().st_size:  # not compressed
                raise ValueError("members larger than the file")
            for key in file.files:
                kind, _, name = key.partition("/")
                if name:
                    states.setdefault(kind, {})[name] = torch.from_numpy(file[key])
                else:
                    numbers[kind] = file[key]
        mean, deviation = numbers["scale"]
        if not (np.isfinite([mean, deviation]).all() and (deviation > 0).all() and "average" in states):
            raise ValueError("no scale or no weights")
        yield numbers, states
    except (
        OSError, ValueError, TypeError, LookupError, AttributeError, EOFError, MemoryError, RuntimeError, BadZipFile,
        zlib.error,
    ):  # fmt: skip
        raise UsageError(f"{path}: damaged: start the run again in another folder") from None


def kept_state(folder: Path) -> dict[str, Tensor]:
    """Return the averaged weights of a run: the best ones with early stopping, otherwise the last ones."""
    with reading_state(folder) as (_, states):
        return states.get("best") or states["average"]
