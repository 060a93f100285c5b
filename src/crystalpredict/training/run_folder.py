"""What a training run keeps in its folder beside `config.json`: `state.npz`, to go on from, and `log.csv`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crystalpredict._files import write_atomically
from crystalpredict.errors import UsageError

DATA = "checksum of the data"  # in config.json
LOG_COLUMNS = ("epoch", "step", "seconds", "learning_rate", "loss")  # of log.csv, before the errors by property


@dataclass(frozen=True)
class Progress:
    """Where a training stands: after `step` of the run, `done` of 1; loss of the last steps; seconds so far here."""

    epoch: int
    step: int
    done: float
    loss: float
    learning_rate: float
    seconds: float
    errors: dict[str, float] | None = None
    """Mean absolute error on the validation crystals by property, on the trained scale, at the end of an epoch."""
    errors_in_unit: dict[str, float] | None = None
    best: bool = False
    """Whether no epoch before was better."""


def refuse_another_run(folder: Path, facts: Mapping[str, Any]) -> None:
    """UsageError if the run in a folder is not what `facts`, as its `config.json` has them, say.

    Device and length may differ: a run can be made longer or shorter on its way.
    """
    try:
        before = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        was, now = (
            each["model"] | each["training"] | {"properties": [prop["name"] for prop in each["properties"]]}
            | {name: each[name] for name in (DATA,) if name in each}
            | {f"{part} crystals": count for part, count in each["crystals"].items()}
            for each in (before, json.loads(json.dumps(facts)))
        )  # fmt: skip
    except (OSError, ValueError, LookupError, TypeError):
        raise UsageError(f"{folder}: its config.json is lost or damaged: begin anew in another folder") from None
    compared = now.keys() & was.keys() - {"device", "split_atoms", "epochs"}
    for name in sorted(compared, key=lambda name: (name == DATA, name)):  # what says least last
        if was[name] != now[name]:
            raise UsageError(
                f"{folder}: {name} was {was[name]} when this run began, and is {now[name]} now: "
                "go on with what it was, or name another folder"
            )


def log_epoch(folder: Path, properties: Sequence[str], progress: Progress) -> None:
    """Add an epoch to log.csv; what a run that was killed wrote of it and of later ones goes."""
    path = folder / "log.csv"
    names = [f"{name}_error" if name in LOG_COLUMNS else name for name in properties]
    header = ",".join([*LOG_COLUMNS, *names])
    rows = path.read_text(encoding="utf-8").splitlines()[1:] if path.exists() else []
    rows = [row for row in rows if int(row.split(",")[0]) < progress.epoch]
    errors = [f"{(progress.errors or {}).get(name, math.nan):.5g}" for name in properties]
    numbers = [f"{progress.seconds:.0f}", f"{progress.learning_rate:.3g}", f"{progress.loss:.5g}"]
    rows.append(",".join([str(progress.epoch), str(progress.step), *numbers, *errors]))
    with write_atomically(path) as file:
        file.write(("\n".join([header, *rows]) + "\n").encode())


def write_state(folder: Path, numbers: Mapping[str, np.ndarray], states: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Write `state.npz`: arrays by name, and tensors of a kind, such as weights or moments, by the parameter's name."""
    tensors = {f"{kind}/{name}": value.cpu().numpy() for kind, state in states.items() for name, value in state.items()}
    with write_atomically(folder / "state.npz") as file:
        np.savez(file, **(dict(numbers) | tensors))  # type: ignore[arg-type]


def read_state(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, dict[str, Tensor]]]:
    """What `write_state` was given."""
    numbers: dict[str, np.ndarray] = {}
    states: dict[str, dict[str, Tensor]] = {}
    with np.load(folder / "state.npz", allow_pickle=False) as file:
        for key in file.files:
            kind, _, name = key.partition("/")
            if name:
                states.setdefault(kind, {})[name] = torch.from_numpy(file[key])
            else:
                numbers[kind] = file[key]
    return numbers, states


def kept_state(folder: Path) -> dict[str, Tensor]:
    """State dict of the averaged weights that a run keeps: the best ones with patience, the last ones without."""
    states = read_state(folder)[1]
    return states.get("best") or states["average"]
