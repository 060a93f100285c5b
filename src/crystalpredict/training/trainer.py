"""The training engine: a table of labelled crystals in, weights out; resumable after any step, seeded, no pickle.

Needs torch and NumPy only. One step takes some `batch_atoms` atoms of randomly chosen crystals, deals them out to the
threads of a CPU and, under torchrun, to the processes, splits each share into smaller batches of alike neighbour counts
and adds up their gradients, so that little is padded and memory is bounded.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from crystalpredict._files import write_atomically
from crystalpredict.crystals.crystal import FloatArray, IntArray
from crystalpredict.data.dataset import (
    CrystalTable,
    NeighborTable,
)
from crystalpredict.errors import DataError, UsageError
from crystalpredict.nn import Crystalformer, ModelConfig
from crystalpredict.nn.batch import CrystalBatch
from crystalpredict.nn.devices import is_out_of_memory
from crystalpredict.nn.factory import needs_host
from crystalpredict.nn.threads import BatchThreads, balanced_split, one_thread
from crystalpredict.training import distributed
from crystalpredict.training.config import TrainingConfig, learning_rate
from crystalpredict.training.cuda_graph import CapturedStep, FixedBatches
from crystalpredict.training.epochs import TrainingData
from crystalpredict.training.losses import LOSSES
from crystalpredict.training.optimizer import READOUT, Optimiser, move_towards
from crystalpredict.training.run_folder import DATA, Progress, log_epoch, read_state, refuse_another_run, write_state

if TYPE_CHECKING:
    from crystalpredict.checkpoints.checkpoint import Checkpoint

LEAST_SPLIT = 32  # atoms; if these are too many for the memory, fewer will not help
LEAST_SHARE = 80  # listed atoms of a step for a thread: with fewer, operations are too short
SAVE_AFTER = 10.0  # seconds since the last state, from which the end of an epoch is worth another
HEAD = f"{READOUT}2."  # the last layer: a row for each property


class Interrupted(Exception):
    """The training was asked to stop, and has saved what it needs to go on."""


class Trainer:
    """A run in a folder: `config.json`, `state.npz` (all that is needed to go on) and `log.csv`.

    Set `interrupted` to make it stop after the step at hand.
    """

    def __init__(
        self, folder: Path, table: CrystalTable, neighbors: NeighborTable, model: ModelConfig, config: TrainingConfig,
        start: Checkpoint | None = None,
    ) -> None:  # fmt: skip
        """`start`, of this `model` or of it without directions, gives first weights and the scale of what it knows."""
        if model.members > 1:
            raise UsageError("an ensemble is not trained: train its members, each with a seed of its own")
        if model.vectors and neighbors.vectors is None:
            raise DataError(f"a network with {model.attention} attention needs neighbour lists made with vectors")
        self.folder, self.config = folder, config
        self.device = distributed.join_group(config.device)
        self.batch_threads = BatchThreads(self.device)
        self.split_atoms = config.split_atoms  # halved where memory runs out
        self.data = TrainingData(table, neighbors, config, self.device)
        self.properties = self.data.properties
        self.device_weights = torch.from_numpy(self.data.weights).to(self.device)  # now: no step may wait for a copy
        torch.manual_seed(config.seed)
        self.model = Crystalformer(replace(model, outputs=len(self.properties))).to(self.device)
        self.average = Crystalformer(self.model.config).to(self.device).requires_grad_(False)
        self.best: dict[str, Tensor] = {}
        self.kept_epoch, self.best_error = 0, math.inf
        if start:
            self._adopt(start)
        if config.freeze_encoder:
            self.model.requires_grad_(False)
            self.model.readout.requires_grad_(True)
        self.learning = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimiser = Optimiser(self.model, config)
        self.epoch, self.step, self.position = 0, 0, 0
        self.losses: list[Tensor] = []  # of the steps of this epoch
        self.interrupted, self.saved = False, time.monotonic()
        self.captured = self._captured()
        if begun := (folder / "state.npz").exists():
            refuse_another_run(folder, self._facts())
            self._load()
        elif not start:
            first = self.data.order(0)[: min(256, len(self.data.train_rows))]
            ((_, batch),) = self.data.batches(first, atoms=int(self.data.table.sizes[first].sum()))
            self.model.fit_width_norm(batch)
        if distributed.rank() == 0:
            with write_atomically(folder / "config.json") as file:
                file.write(json.dumps(self._facts(), indent=2).encode())
        if not begun:  # last, for a state without its config.json could not be resumed
            self.average.load_state_dict(self.model.state_dict())
            self.save()

    def _captured(self) -> CapturedStep | None:
        """Steps as a CUDA graph, where there is CUDA and the network asks nothing of the host."""
        if self.device.type != "cuda" or distributed.size() > 1 or needs_host(self.model.config, self.device):
            return None
        try:
            batches = FixedBatches(
                self.data.table, self.data.neighbors, list(self.data.steps(self.data.order(0))), self.device
            )
        except torch.OutOfMemoryError:
            return None
        return CapturedStep(batches, len(self.properties), self._captured_update)

    def _adopt(self, start: Checkpoint) -> None:
        """Take over weights and scale of a checkpoint; a property new to it begins at the mean of its labels."""
        known = {prop.identity: row for row, prop in enumerate(start.properties)}
        rows = [known.get(prop.identity) for prop in self.properties]
        state = start.model.state_dict()
        for name in (f"{HEAD}weight", f"{HEAD}bias"):
            old = state[name]
            state[name] = torch.stack([torch.zeros_like(old[0]) if row is None else old[row] for row in rows])
        for name, value in self.model.state_dict().items():
            if name.endswith("direction_weights"):  # new ones begin at 0: the network computes what the checkpoint does
                state.setdefault(name, torch.zeros_like(value))
        self.model.load_state_dict(state)
        for column, row in enumerate(rows):
            if row is not None:
                self.data.mean[column], self.data.deviation[column] = start.mean[row], start.deviation[row]

    @property
    def finished(self) -> bool:
        """Whether the last epoch is done, or patience at its end."""
        patience = self.config.patience
        return self.epoch >= self.config.epochs or 0 < patience <= self.epoch - self.kept_epoch

    def run(self, report: Callable[[Progress], None], save_every: float = 120.0) -> None:
        """Train to the end, saving the state every `save_every` seconds and after each epoch."""
        started = time.monotonic()
        if self.config.patience and self.step == 0:
            # what it starts from may be better than anything that follows
            errors, in_unit = self.errors(self.data.validation_rows)
            best = self._note_error(errors)
            report(Progress(0, 0, 0.0, math.nan, 0.0, 0.0, errors, in_unit, best))
        while not self.finished:
            order = self.data.order(self.epoch)
            for rows in self.data.steps(order, self.position):
                done = (self.epoch + self.position / len(order)) / self.config.epochs
                rate = learning_rate(self.config, self.step, done)
                self.losses.append(self._update(rows, rate))
                self.position += len(rows)
                self.step += 1
                if self.step % 20 == 0:
                    loss, seconds = self._mean_loss(self.losses[-200:]), time.monotonic() - started
                    report(Progress(self.epoch, self.step, done, loss, rate, seconds))
                if time.monotonic() - self.saved > save_every:
                    self.save()
                self._stop_if_asked()
            self.epoch, self.position = self.epoch + 1, 0
            done = self.epoch / self.config.epochs
            errors, in_unit = self.errors(self.data.validation_rows)
            best = self._note_error(errors)
            progress = Progress(
                self.epoch, self.step, done, self._mean_loss(self.losses), learning_rate(self.config, self.step, done),
                time.monotonic() - started, errors, in_unit, best,
            )  # fmt: skip
            if not distributed.rank():
                log_epoch(self.folder, [prop.name for prop in self.properties], progress)
            report(progress)
            self.losses.clear()
            if self.finished or time.monotonic() - self.saved > SAVE_AFTER:
                self.save()
            self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        """Save and raise Interrupted if some process was asked to stop, or one would wait for another that stopped."""
        if distributed.any_of(self.interrupted, self.device):
            self.save()
            raise Interrupted

    def _mean_loss(self, losses: list[Tensor]) -> float:
        return self._finite(float(torch.stack(losses).mean()), "loss") if losses else math.nan

    def _finite(self, value: float, what: str) -> float:
        """The value; DataError if it is not a number, before anything ruined is saved."""
        if not math.isfinite(value):
            raise DataError(f"the {what} is not a number at step {self.step}: lower the learning rate, check labels")
        return value

    def _note_error(self, errors: dict[str, float]) -> bool:
        """Keep the averaged weights if they are the best so far: by the mean of the errors over their deviations."""
        deviations = {prop.name: self.data.deviation[i] for i, prop in enumerate(self.properties)}
        error = float(np.mean([value / deviations[name] for name, value in errors.items()]))
        if errors:
            self._finite(error, "validation error")
        if error >= self.best_error:
            self.kept_epoch = self.kept_epoch if self.config.patience else self.epoch
            return False
        self.best_error, self.kept_epoch = error, self.epoch
        if self.config.patience:
            self.best = {name: value.clone() for name, value in self.average.state_dict().items()}
        return True

    def kept(self) -> Crystalformer:
        """Network with the weights to keep: the best averaged ones with `patience`, the last ones without."""
        model = Crystalformer(self.model.config).to(self.device)
        model.load_state_dict(self.best or self.average.state_dict())
        return model.eval()

    def errors(self, rows: IntArray) -> tuple[dict[str, float], dict[str, float]]:
        """Mean absolute errors of the averaged weights on crystals, by property: on the trained scale, in its unit."""
        values, encoded = self.predicted(rows, self.average), self.data.encoded[rows]
        scaled, in_unit = {}, {}
        for column, prop in enumerate(self.properties):
            known = np.isfinite(encoded[:, column])
            if known.any():
                value, label = prop.raised(values[known, column]), encoded[known, column]
                scaled[prop.name] = float(np.abs(value - label).mean())
                in_unit[prop.name] = float(np.abs(prop.decode(value) - prop.in_unit(label)).mean())
        return scaled, in_unit

    def predicted(self, rows: IntArray, model: Crystalformer) -> FloatArray:
        """What a model of this run says of crystals (rows, outputs), on the trained scale."""
        outputs = torch.zeros(len(rows), len(self.properties), device=self.device)

        def predict(own: IntArray) -> None:
            with torch.no_grad():
                for part, batch in self._batches_to_predict(rows[own]):
                    outputs[torch.from_numpy(own[part])] = model(batch)[: len(part)]

        self.batch_threads.map(predict, self._shares(rows))
        (outputs,) = distributed.summed_together([outputs])
        return np.asarray(outputs.cpu().numpy() * self.data.deviation + self.data.mean)

    def _update(self, rows: IntArray, rate: float) -> Tensor:
        """One optimiser step on the crystals `rows`; mean loss of their standardised labels. Never waits for a GPU."""
        share = 1 - min(self.config.ema, (1 + self.step) / (10 + self.step))  # forget the initial weights soon
        while True:
            try:
                if self.captured:
                    labels, count = self.data.labels(rows)
                    loss = self.captured.run(rows, labels, (1 / count, rate, share))
                    if loss is not None:
                        return loss
                total = self._accumulate(rows)
                break
            except (RuntimeError, MemoryError) as error:
                least = not self.captured and self.split_atoms <= LEAST_SPLIT
                if not is_out_of_memory(error) or distributed.size() > 1 or least:
                    raise
            # out here the error is gone, and with its traceback all that the attempt had in memory
            self.captured, self.split_atoms = None, self.split_atoms if self.captured else self.split_atoms // 2
        with one_thread():
            self._change(rate, share)
        return total

    def _change(self, rate: float | Tensor, share: float | Tensor) -> None:
        """Step along the gradients, and move the averaged weights towards the new ones by `share` of the way."""
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        self.optimiser.step(rate)
        move_towards(list(self.average.parameters()), list(self.model.parameters()), share)

    def _captured_update(self, batch: CrystalBatch, labels: Tensor, numbers: Tensor) -> Tensor:
        """The whole of a step on a batch; `numbers`: one over the count of labels, rate, share of the average."""
        scale, rate, share = numbers.unbind()
        loss = self._loss(self.model(batch), labels) * scale
        for parameter, gradient in zip(self.learning, torch.autograd.grad(loss, self.learning), strict=True):
            parameter.grad = gradient
        self._change(rate, share)
        return loss.detach()

    def _accumulate(self, rows: IntArray) -> Tensor:
        """Set the gradients of the loss of the crystals `rows`, over all threads and processes; the loss."""
        labels, count = self.data.labels(rows)

        def sums(own: IntArray) -> list[Tensor]:
            """Loss, and gradients of what learns, of the crystals at the positions `own`."""
            total = [torch.zeros((), device=self.device), *(torch.zeros_like(parameter) for parameter in self.learning)]
            for part, batch in self.data.batches(rows[own], self.split_atoms):
                target = torch.from_numpy(labels[own[part]]).to(self.device, non_blocking=True)
                loss = self._loss(self.model(batch), target) / count
                # not backward(), which adds to the parameters: threads would add in any order
                torch._foreach_add_(total, [loss.detach(), *torch.autograd.grad(loss, self.learning)])
            return total

        total, *others = self.batch_threads.map(sums, self._shares(rows))
        for other in others:
            torch._foreach_add_(total, other)
        loss, *gradients = distributed.summed_together(total)
        for parameter, gradient in zip(self.learning, gradients, strict=True):
            parameter.grad = gradient
        return loss.clone()  # a view of what was summed together would keep the gradients of its step

    def _shares(self, rows: IntArray) -> list[IntArray]:
        """Positions in `rows` of the crystals of each thread of this process."""
        size, atoms = distributed.size(), int(self.data.sizes[rows].sum())
        threads = min(self.batch_threads.threads, max(1, atoms // (size * LEAST_SHARE)))
        return balanced_split(self.data.edges[rows], size * threads)[distributed.rank() :: size]

    def _loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Sum of the losses (B, outputs), times their weights, of the labels that are known."""
        known = torch.isfinite(target)
        target = torch.where(known, target, 0.0)
        loss = LOSSES[self.config.loss](output, target, reduction="none") * self.device_weights
        return torch.where(known, loss, 0.0).sum()

    def _batches_to_predict(self, rows: IntArray) -> Iterator[tuple[IntArray, CrystalBatch]]:
        """The same, on CUDA in the shape of a captured step."""
        fixed = self.captured.batches if self.captured else None
        for own in balanced_split(self.data.sizes[rows], fixed.batches_for(rows) if fixed else 1):
            if fixed and (whole := fixed.of(rows[own])):
                yield own, whole
            else:
                yield from ((own[part], batch) for part, batch in self.data.batches(rows[own], self.split_atoms))

    def _facts(self) -> dict[str, Any]:
        return {
            "model": self.model.config.to_dict(),
            "training": asdict(self.config),
            "properties": [
                asdict(prop) | {"mean": float(mean), "deviation": float(deviation)}
                for prop, mean, deviation in zip(self.properties, self.data.mean, self.data.deviation, strict=True)
            ],
            "crystals": {"train": len(self.data.train_rows), "validation": len(self.data.validation_rows)},
            DATA: self.data.table.checksum(),
        }

    def save(self) -> None:
        """Write `state.npz`: weights, their mean, the optimiser's moments and the position in the data."""
        self._mean_loss(self.losses)
        self.saved = time.monotonic()
        if distributed.rank():
            return
        numbers = {
            "losses": torch.stack(self.losses).cpu().numpy() if self.losses else np.zeros(0, dtype=np.float32),
            "position": np.array([self.epoch, self.step, self.position, self.kept_epoch]),
            "error": np.array([self.best_error]),
            "scale": np.stack([self.data.mean, self.data.deviation]),
        }
        states = {"model": self.model.state_dict(), "average": self.average.state_dict(), "best": self.best}
        write_state(self.folder, numbers, states | self.optimiser.moments())

    def _load(self) -> None:
        numbers, states = read_state(self.folder)
        self.epoch, self.step, self.position, self.kept_epoch = (int(value) for value in numbers["position"])
        self.best_error = float(numbers["error"][0])
        self.data.mean, self.data.deviation = numbers["scale"]
        self.losses = list(torch.from_numpy(numbers.get("losses", np.zeros(0))).to(self.device))
        self.model.load_state_dict(states.pop("model"))
        self.average.load_state_dict(states.pop("average"))
        self.best = {name: value.to(self.device) for name, value in states.pop("best", {}).items()}
        self.optimiser.load(states)
