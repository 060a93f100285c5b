"""The training engine: a table of labelled crystals in, weights out; resumable after any step, seeded, no pickle.

Needs torch and NumPy only. One step takes some `batch_atoms` atoms of randomly chosen crystals, splits them into
smaller batches of alike neighbour counts and adds up their gradients, so that little is padded and memory is bounded.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from crystalpredict.atomic_write import write_atomically
from crystalpredict.batching import CrystalBatch, batches_of
from crystalpredict.crystal import FloatArray, IntArray
from crystalpredict.dataset import TRAIN, VALIDATION, CrystalTable, NeighborTable
from crystalpredict.devices import is_out_of_memory
from crystalpredict.errors import DataError
from crystalpredict.nn import Crystalformer, ModelConfig
from crystalpredict.properties import PROPERTIES, find_property

LEAST_SPLIT = 32  # atoms; if these are too many for the memory, fewer will not help
RARE = 0.2  # a property with labels for fewer than this share of the crystals is rare


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that decides the weights, beside the network and the data; optimiser settings are the paper's."""

    properties: tuple[str, ...] = tuple(prop.name for prop in PROPERTIES)
    epochs: int = 20
    batch_atoms: int = 1800
    """Atoms of an optimiser step: 64 crystals of the Materials Project."""
    split_atoms: int = 640
    """Atoms that go through the network at once; changes speed, not the result."""
    repeat_rare: int = 1
    """How often an epoch shows a crystal that carries a rare label."""
    learning_rate: float = 5e-4
    schedule: Literal["inverse_sqrt", "one_cycle"] = "inverse_sqrt"
    warmup: float = 0.05
    """Share of the one cycle in which the learning rate rises."""
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 1e-5
    """Of all but biases."""
    clip: float = 1.0
    ema: float = 0.998
    """Decay per step of the running mean of the weights, which is what is kept."""
    seed: int = 123
    device: str = "cpu"

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainingConfig:
        """The config of a JSON object; an unknown key is an error."""
        unknown = set(values) - {f.name for f in fields(cls)}
        if unknown:
            raise DataError(f"training config has unknown keys: {', '.join(sorted(unknown))}")
        lists: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        return cls(**lists)


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


class Training:
    """A run in a folder: `config.json`, `state.npz` (all that is needed to go on) and `log.csv`."""

    def __init__(
        self,
        folder: Path,
        table: CrystalTable,
        neighbors: NeighborTable,
        model: ModelConfig,
        config: TrainingConfig,
    ) -> None:
        self.folder, self.table, self.neighbors, self.config = folder, table, neighbors, config
        self.device = torch.device(config.device)
        self.split_atoms = config.split_atoms  # halved where memory runs out
        self.encoded = encoded_labels(table, config.properties)  # (C, outputs)
        self.train_rows = rows_with_labels(table.splits == TRAIN, self.encoded)
        self.validation_rows = rows_with_labels(table.splits == VALIDATION, self.encoded)
        self.mean, self.deviation = scale_of_labels(self.encoded[self.train_rows], config.properties)
        torch.manual_seed(config.seed)
        self.model = Crystalformer(replace(model, outputs=len(config.properties))).to(self.device)
        self.average = Crystalformer(self.model.config).to(self.device).requires_grad_(False)
        self.optimiser = optimiser_of(self.model, config)
        self.epoch, self.step, self.position = 0, 0, 0
        if (folder / "state.npz").exists():
            self._load()
        else:
            first = self._order(0)[: min(256, len(self.train_rows))]
            ((_, batch),) = self._batches(first, atoms=int(self.table.sizes[first].sum()))
            self.model.fit_width_norm(batch)
            self.average.load_state_dict(self.model.state_dict())
        self._write_config()

    def run(self, report: Callable[[Progress], None], save_every: float = 120.0) -> None:
        """Train to the end, saving the state every `save_every` seconds and after each epoch."""
        started = saved = time.monotonic()
        losses: list[Tensor] = []
        while self.epoch < self.config.epochs:
            order = self._order(self.epoch)
            for rows in self._steps(order):
                done = (self.epoch + self.position / len(order)) / self.config.epochs
                rate = learning_rate(self.config, self.step, done)
                losses.append(self._update(rows, rate))
                self.position += len(rows)
                self.step += 1
                if self.step % 20 == 0:
                    loss, seconds = self._mean_loss(losses[-200:]), time.monotonic() - started
                    report(Progress(self.epoch, self.step, done, loss, rate, seconds))
                if time.monotonic() - saved > save_every:
                    self._mean_loss(losses)
                    self.save()
                    saved = time.monotonic()
            self.epoch, self.position = self.epoch + 1, 0
            done = self.epoch / self.config.epochs
            progress = Progress(
                self.epoch, self.step, done, self._mean_loss(losses),
                learning_rate(self.config, self.step, done), time.monotonic() - started, self.validate(),
            )  # fmt: skip
            self._log(progress)
            report(progress)
            losses.clear()
            self.save()
            saved = time.monotonic()

    def _mean_loss(self, losses: list[Tensor]) -> float:
        """Mean of the losses; DataError if it is not a number, before anything ruined is saved."""
        if not losses:
            return math.nan
        mean = float(torch.stack(losses).mean())
        if not math.isfinite(mean):
            raise DataError(
                f"the loss is not a number at step {self.step}: lower the learning rate, look at the labels"
            )
        return mean

    def validate(self) -> dict[str, float]:
        """Mean absolute error of the averaged weights on the validation crystals, trained scale, by property."""
        rows = self.validation_rows
        predicted = np.full((len(rows), len(self.config.properties)), np.nan)
        with torch.no_grad():
            for part, batch in self._batches(rows, self.split_atoms):
                predicted[part] = self.average(batch).cpu().numpy()
        errors = np.abs(predicted * self.deviation + self.mean - self.encoded[rows])
        return {
            name: float(np.nanmean(error))
            for name, error in zip(self.config.properties, errors.T, strict=True)
            if not np.isnan(error).all()
        }

    def _update(self, rows: IntArray, rate: float) -> Tensor:
        """One optimiser step on the crystals `rows`; their mean absolute error over all labels, standardised.

        Nothing in it waits for the device, so a GPU computes while the next crystals are collated.
        """
        try:
            total = self._accumulate(rows)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or self.split_atoms <= LEAST_SPLIT:
                raise
            self.split_atoms //= 2
            self.optimiser.zero_grad()
            return self._update(rows, rate)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        self.optimiser.zero_grad()
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))  # forget the initial weights soon
        torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - decay)
        return total

    def _accumulate(self, rows: IntArray) -> Tensor:
        """Add the gradients of the loss of the crystals `rows`; the loss."""
        labels = ((self.encoded[rows] - self.mean) / self.deviation).astype(np.float32)
        count = int(np.isfinite(labels).sum())
        total = torch.zeros((), device=self.device)
        for part, batch in self._batches(rows, self.split_atoms):
            target = torch.from_numpy(labels[part]).to(self.device, non_blocking=True)
            known = torch.isfinite(target)
            error = (self.model(batch) - torch.where(known, target, 0.0)).abs()
            loss = torch.where(known, error, 0.0).sum() / count
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return total

    def _order(self, epoch: int) -> IntArray:
        """Rows of an epoch in its order: a function of seed and epoch alone, so that a resumed run repeats it."""
        rows = self.train_rows
        labelled = np.isfinite(self.encoded[rows])
        rare = labelled[:, labelled.mean(axis=0) < RARE].any(axis=1)
        shown = np.repeat(rows, np.where(rare, self.config.repeat_rare, 1))
        return np.random.default_rng([self.config.seed, epoch]).permutation(shown)

    def _steps(self, order: IntArray) -> Iterator[IntArray]:
        """Rows of each step from the current position on: some `batch_atoms` atoms."""
        ends = np.cumsum(self.table.sizes[order])
        start = self.position
        while start < len(order):
            before = ends[start - 1] if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, before + self.config.batch_atoms, side="right")))
            yield order[start:stop]
            start = stop

    def _batches(self, rows: IntArray, atoms: int) -> Iterator[tuple[IntArray, CrystalBatch]]:
        """Batches of the crystals `rows` on the device, each with its positions in `rows`."""
        crystals = [self.table.crystal(row) for row in rows]
        neighbors = [self.neighbors.neighbors(row) for row in rows]
        for part, batch in batches_of(crystals, neighbors, atoms):
            yield part, batch.to(self.device)

    def _write_config(self) -> None:
        content = {
            "model": asdict(self.model.config),
            "training": asdict(self.config),
            "normalisation": {
                name: {"mean": float(mean), "deviation": float(deviation)}
                for name, mean, deviation in zip(self.config.properties, self.mean, self.deviation, strict=True)
            },
            "crystals": {"train": len(self.train_rows), "validation": len(self.validation_rows)},
        }
        with write_atomically(self.folder / "config.json") as file:
            file.write(json.dumps(content, indent=2).encode())

    def _log(self, progress: Progress) -> None:
        path = self.folder / "log.csv"
        fresh = not path.exists()
        assert progress.errors is not None
        with path.open("a", encoding="utf-8") as file:
            if fresh:
                names = ["epoch", "step", "seconds", "learning_rate", "loss", *self.config.properties]
                file.write(",".join(names) + "\n")
            errors = [f"{progress.errors.get(name, math.nan):.5f}" for name in self.config.properties]
            numbers = [f"{progress.seconds:.0f}", f"{progress.learning_rate:.3g}", f"{progress.loss:.5f}"]
            file.write(",".join([str(progress.epoch), str(progress.step), *numbers, *errors]) + "\n")

    def save(self) -> None:
        """Write `state.npz`: weights, their mean, the optimiser's moments and the position in the data."""
        arrays: dict[str, Any] = {"position": np.array([self.epoch, self.step, self.position])}
        for kind, model in (("model", self.model), ("average", self.average)):
            arrays |= {f"{kind}/{name}": value.cpu().numpy() for name, value in model.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            for key, value in self.optimiser.state[parameter].items():
                arrays[f"{key}/{name}"] = value.cpu().numpy()
        with write_atomically(self.folder / "state.npz") as file:
            np.savez(file, **arrays)

    def _load(self) -> None:
        with np.load(self.folder / "state.npz", allow_pickle=False) as file:
            arrays = {name: torch.from_numpy(file[name]) for name in file.files}
        self.epoch, self.step, self.position = (int(value) for value in arrays.pop("position"))
        parts: dict[str, dict[str, Tensor]] = {}
        for key, value in arrays.items():
            kind, name = key.split("/", 1)
            parts.setdefault(kind, {})[name] = value
        self.model.load_state_dict(parts.pop("model"))
        self.average.load_state_dict(parts.pop("average"))
        for name, parameter in self.model.named_parameters():
            self.optimiser.state[parameter] = {kind: values[name].to(self.device) for kind, values in parts.items()}


def averaged_weights(folder: Path) -> dict[str, Tensor]:
    """State dict of the averaged weights of a run."""
    prefix = "average/"
    with np.load(folder / "state.npz", allow_pickle=False) as file:
        names = [name for name in file.files if name.startswith(prefix)]
        return {name.removeprefix(prefix): torch.from_numpy(file[name]) for name in names}


def encoded_labels(table: CrystalTable, names: Sequence[str]) -> FloatArray:
    """Labels of the named properties (C, outputs) on the trained scale, not a number where missing."""
    missing = set(names) - set(table.properties)
    if missing:
        raise DataError(f"no labels for {', '.join(sorted(missing))} in the data; it has {', '.join(table.properties)}")
    columns = (table.labels[:, table.properties.index(name)].astype(float) for name in names)
    return np.stack([find_property(name).encode(column) for name, column in zip(names, columns, strict=True)], axis=1)


def scale_of_labels(encoded: FloatArray, names: Sequence[str]) -> tuple[FloatArray, FloatArray]:
    """Mean and population deviation (outputs,) of the training labels (rows, outputs); DataError if one is constant."""
    for name, column in zip(names, encoded.T, strict=True):
        if len(np.unique(column[np.isfinite(column)])) < 2:
            raise DataError(f"{name}: no two different labels to train on")
    return np.nanmean(encoded, axis=0), np.nanstd(encoded, axis=0)


def rows_with_labels(wanted: np.ndarray, encoded: FloatArray) -> IntArray:
    """Rows that are `wanted` (C,) and have at least one label; encoded (C, P)."""
    rows = np.flatnonzero(wanted & np.isfinite(encoded).any(axis=1))
    if not len(rows):
        raise DataError("no crystal with a usable label in the training or the validation part of the data")
    return rows


def optimiser_of(model: Crystalformer, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW; biases do not decay."""
    parameters = dict(model.named_parameters())
    groups = [
        {"params": [p for n, p in parameters.items() if not n.endswith("bias")], "weight_decay": config.weight_decay},
        {"params": [p for n, p in parameters.items() if n.endswith("bias")], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True)


def learning_rate(config: TrainingConfig, step: int, done: float) -> float:
    """Learning rate of a step; `done` is the share of the training behind it.

    inverse_sqrt: rate sqrt(4000 / (4000 + step)), the paper's. one_cycle: linear rise to the rate, cosine fall to 0.
    """
    if config.schedule == "inverse_sqrt":
        return config.learning_rate * math.sqrt(4000 / (4000 + step))
    if done < config.warmup:
        return config.learning_rate * max(done / config.warmup, 0.01)
    fall = (done - config.warmup) / (1 - config.warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * fall))
