"""Train a network on a table of labelled crystals: seeded, and resumable after any step.

One step takes about `batch_atoms` atoms of randomly chosen crystals and splits them over the threads of a CPU and,
under torchrun, over the processes. Each thread computes smaller batches of crystals with similar neighbour counts and
sums their gradients. This bounds the memory and keeps the padding small.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from crystalpredict._files import write_json
from crystalpredict.crystals.crystal import FloatArray, IntArray
from crystalpredict.data.dataset import CrystalTable, NeighborTable
from crystalpredict.errors import DataError, UsageError
from crystalpredict.nn import Crystalformer, ModelConfig
from crystalpredict.nn.batch import CrystalBatch
from crystalpredict.nn.devices import is_out_of_memory
from crystalpredict.nn.factory import needs_host
from crystalpredict.nn.inference import run_in_batches
from crystalpredict.nn.threads import BatchThreads, balanced_split, one_thread
from crystalpredict.training import distributed
from crystalpredict.training.config import TrainingConfig, learning_rate
from crystalpredict.training.cuda_graph import CapturedStep, FixedBatches
from crystalpredict.training.epochs import TrainingData
from crystalpredict.training.losses import summed_loss
from crystalpredict.training.optimizer import READOUTS, Optimiser, move_towards
from crystalpredict.training.run_folder import DATA, Progress, log_epoch, reading_state, refuse_another_run, write_state

if TYPE_CHECKING:
    from crystalpredict.checkpoints.checkpoint import Checkpoint

MIN_SPLIT_ATOMS = 32  # if a batch of these does not fit into memory, a smaller one does not help
MIN_THREAD_ATOMS = 80  # listed atoms of a step for each thread: with fewer, the operations are too short
MIN_SAVE_INTERVAL = 10.0  # seconds: an epoch that ends sooner after the last state does not save another
LAST_LAYERS = tuple(f"{readout}2." for readout in READOUTS)  # prefixes of parameters with a row for each property


class Interrupted(Exception):
    """The training was interrupted, after saving a state from which it can be resumed."""


class Trainer:
    """A training run in a folder, which holds `config.json`, `state.npz` (to resume from) and `log.csv`.

    Attributes:
        data: crystals, labels and their scale.
        model: the network being trained.
        average: the network with the running mean of the weights.
        final_epoch: epoch whose weights are the result of the run.
        interrupted: set it to stop the run after the current step.
    """

    def __init__(
        self, folder: Path, table: CrystalTable, neighbors: NeighborTable, model: ModelConfig, config: TrainingConfig,
        start: Checkpoint | None = None,
    ) -> None:  # fmt: skip
        """Start a run, or load the state of the one in the folder.

        Args:
            folder: of the run.
            table: crystals, labels and splits.
            neighbors: neighbour lists of the crystals of the table.
            model: shape of the network.
            config: settings.
            start: checkpoint that provides the first weights and the scale of its properties. Its network has the
                shape `model`, or that without directions.

        Raises:
            UsageError: the folder holds another run, or the settings are impossible.
            DataError: the data do not suit the network.
        """
        if model.members > 1:
            raise UsageError("an ensemble cannot be trained as one network: train each member, with different seeds")
        if model.stages > 1:
            raise UsageError("two stages cannot be trained as one network: train each, and join them")
        if model.kernel_points:
            raise UsageError("a readout by kernel regression is not trained, but made of a trained network")
        if model.vectors and neighbors.vectors is None:
            raise DataError(f"a network with {model.attention} attention needs neighbour lists made with vectors")
        self.folder, self.config = folder, config
        self.device = distributed.join_group(config.device)
        self.batch_threads = BatchThreads(self.device)
        self.split_atoms = config.split_atoms  # halved when memory runs out
        self.data = TrainingData(table, neighbors, config, self.device)
        self.properties = self.data.properties
        self.device_weights = {  # now: no step waits for the copy
            name: torch.from_numpy(weights).to(self.device) for name, weights in self.data.weights_by_loss().items()
        }
        torch.manual_seed(config.seed)
        self.model = Crystalformer(replace(model, outputs=len(self.properties))).to(self.device)
        self.average = Crystalformer(self.model.config).to(self.device).requires_grad_(False)
        self.best: dict[str, Tensor] = {}
        self.final_epoch, self.best_error = 0, math.inf
        if start:
            self._load_start(start)
        if config.freeze_encoder:
            for name, parameter in self.model.named_parameters():
                parameter.requires_grad_(name.startswith(READOUTS))
        self.trainable = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimiser = Optimiser(self.model, config)
        self.epoch, self.step, self.position = 0, 0, 0
        self.losses: list[Tensor] = []  # of each step of this epoch
        self.interrupted, self.saved = False, time.monotonic()
        self.captured = self._capture_step()
        if resumed := (folder / "state.npz").exists():
            refuse_another_run(folder, self._description())
            self._load()
        elif not start:
            first = self.data.order(0)[: min(256, len(self.data.train_rows))]
            ((_, batch),) = self.data.batches(first, atoms=int(self.data.table.sizes[first].sum()))
            self.model.fit_width_norm(batch)
        if distributed.rank() == 0:
            write_json(folder / "config.json", self._description())
        if not resumed:  # last: a state without config.json could not be resumed
            self.average.load_state_dict(self.model.state_dict())
            self.save()

    def _capture_step(self) -> CapturedStep | None:
        """Return a step that runs as a CUDA graph; None on a CPU, or if the network needs the host during a step."""
        if self.device.type != "cuda" or distributed.size() > 1 or needs_host(self.model.config, self.device):
            return None
        try:
            batches = FixedBatches(
                self.data.table, self.data.neighbors, list(self.data.steps(self.data.order(0))), self.device
            )
        except torch.OutOfMemoryError:
            return None
        return CapturedStep(batches, len(self.properties), self._captured_update)

    def _load_start(self, start: Checkpoint) -> None:
        """Copy weights and scale of a checkpoint; predictions of a new property start at the mean of its labels."""
        known = {prop.identity: row for row, prop in enumerate(start.properties)}
        rows = [known.get(prop.identity) for prop in self.properties]
        state = start.model.state_dict()
        for name in [name for name in state if name.startswith(LAST_LAYERS)]:
            old = state[name]
            state[name] = torch.stack([torch.zeros_like(old[0]) if row is None else old[row] for row in rows])
        for name, value in self.model.state_dict().items():
            if name.endswith("direction_weights"):  # new ones start at 0: they do not change the outputs
                state.setdefault(name, torch.zeros_like(value))
        self.model.load_state_dict(state)
        for column, row in enumerate(rows):
            if row is not None:
                self.data.mean[column], self.data.deviation[column] = start.mean[row], start.deviation[row]

    @property
    def finished(self) -> bool:
        """Whether the last epoch is done, or early stopping ended the run."""
        patience = self.config.patience
        return self.epoch >= self.config.epochs or 0 < patience <= self.epoch - self.final_epoch

    def run(self, report: Callable[[Progress], None], save_every: float = 120.0) -> None:
        """Train until the run is finished.

        Args:
            report: called with the progress every 20 steps and after each epoch.
            save_every: seconds between two states; one is also saved after an epoch.

        Raises:
            Interrupted: `interrupted` was set, in this process or another.
            DataError: the loss is not a number.
        """
        started = time.monotonic()
        if self.config.patience and self.step == 0:
            # the first weights may be better than all that follow
            errors, in_unit = self.errors(self.data.validation_rows)
            best = self._record_error(errors)
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
                self._stop_if_requested()
            self.epoch, self.position = self.epoch + 1, 0
            done = self.epoch / self.config.epochs
            errors, in_unit = self.errors(self.data.validation_rows)
            best = self._record_error(errors)
            progress = Progress(
                self.epoch, self.step, done, self._mean_loss(self.losses), learning_rate(self.config, self.step, done),
                time.monotonic() - started, errors, in_unit, best,
            )  # fmt: skip
            if not distributed.rank():
                log_epoch(self.folder, [prop.name for prop in self.properties], progress)
            report(progress)
            self.losses.clear()
            if self.finished or time.monotonic() - self.saved > MIN_SAVE_INTERVAL:
                self.save()
            self._stop_if_requested()

    def _stop_if_requested(self) -> None:
        """Save and raise Interrupted if any process is to stop: the others would wait for it."""
        if distributed.any_process(self.interrupted, self.device):
            self.save()
            raise Interrupted

    def _mean_loss(self, losses: list[Tensor]) -> float:
        return self._finite(float(torch.stack(losses).mean()), "loss") if losses else math.nan

    def _finite(self, value: float, what: str) -> float:
        """Return the value; raise DataError if it is not a number, before damaged weights are saved."""
        if not math.isfinite(value):
            raise DataError(
                f"the {what} is not a number at step {self.step}: lower the learning rate, and check the labels"
            )
        return value

    def _record_error(self, errors: dict[str, float]) -> bool:
        """Copy the averaged weights if their mean standardised error is the smallest so far; return whether it is."""
        deviations = {prop.name: self.data.deviation[i] for i, prop in enumerate(self.properties)}
        error = float(np.mean([value / deviations[name] for name, value in errors.items()]))
        if errors:
            self._finite(error, "validation error")
        if error >= self.best_error:
            self.final_epoch = self.final_epoch if self.config.patience else self.epoch
            return False
        self.best_error, self.final_epoch = error, self.epoch
        if self.config.patience:
            self.best = {name: value.clone() for name, value in self.average.state_dict().items()}
        return True

    def final_network(self) -> Crystalformer:
        """Return the network of the run: the averaged weights of the best epoch with early stopping, else the last."""
        model = Crystalformer(self.model.config).to(self.device)
        model.load_state_dict(self.best or self.average.state_dict())
        return model.eval()

    def errors(self, rows: IntArray) -> tuple[dict[str, float], dict[str, float]]:
        """Return the mean absolute errors of the averaged weights on some crystals; see `TrainingData.errors`."""
        return self.data.errors(rows, self.predict(rows, self.average))

    def predict(self, rows: IntArray, model: Crystalformer) -> FloatArray:
        """Return the predictions of a network of this run, on the trained scale (R, P).

        Args:
            rows: of the table, R of them.
            model: a network of the shape of `self.model`.

        Raises:
            DataError: a crystal does not fit into memory.
        """
        outputs = torch.zeros(len(rows), len(self.properties), device=self.device)

        def compute(own: IntArray, batch: CrystalBatch) -> None:
            outputs[torch.from_numpy(own)] = model(batch.to(self.device))[: len(own)]

        own = balanced_split(self.data.edges[rows], distributed.size())[distributed.rank()]
        if self.captured:
            own = self._predict_fixed(self.captured.batches, rows, compute)
        too_large, self.split_atoms = run_in_batches(
            *self.data.crystals(rows[own]), lambda part, batch: compute(own[part], batch), self.batch_threads,
            batch_atoms=self.split_atoms,
        )  # fmt: skip
        if too_large:
            first = self.data.table.ids[rows[own[min(too_large)]]]
            raise DataError(f"not enough memory for {len(too_large)} crystals, the first: id {first}")
        (outputs,) = distributed.sum_over_processes([outputs])
        return np.asarray(outputs.cpu().numpy() * self.data.deviation + self.data.mean)

    def _predict_fixed(
        self, fixed: FixedBatches, rows: IntArray, compute: Callable[[IntArray, CrystalBatch], None]
    ) -> IntArray:
        """Compute batches of the shape of a captured step; return the positions in `rows` of what does not fit it."""
        left: list[IntArray] = [np.empty(0, dtype=np.int64)]
        with torch.inference_mode():
            for own in balanced_split(self.data.sizes[rows], fixed.batches_for(rows)):
                if batch := fixed.batch_of(rows[own]):
                    compute(own, batch)
                else:
                    left.append(own)
        return np.concatenate(left)

    def _update(self, rows: IntArray, rate: float) -> Tensor:
        """Do one optimiser step on some crystals; return the mean loss of their labels, still on the device."""
        ema_step = 1 - min(self.config.ema, (1 + self.step) / (10 + self.step))  # drops the first weights early
        while True:
            try:
                if self.captured:
                    labels, count = self.data.labels(rows)
                    loss = self.captured.run(rows, labels, (1 / count, rate, ema_step))
                    if loss is not None:
                        return loss
                total = self._compute_gradients(rows)
                break
            except (RuntimeError, MemoryError) as error:
                smallest = not self.captured and self.split_atoms <= MIN_SPLIT_ATOMS
                if not is_out_of_memory(error) or distributed.size() > 1 or smallest:
                    raise
            # not in the handler: the traceback keeps the tensors of the failed attempt in memory
            self.captured, self.split_atoms = None, self.split_atoms if self.captured else self.split_atoms // 2
        with one_thread():
            self._apply_gradients(rate, ema_step)
        return total

    def _apply_gradients(self, rate: float | Tensor, ema_step: float | Tensor) -> None:
        """Do an optimiser step, then move the averaged weights by the fraction `ema_step` towards the new ones."""
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        self.optimiser.step(rate)
        move_towards(list(self.average.parameters()), list(self.model.parameters()), ema_step)

    def _captured_update(self, batch: CrystalBatch, labels: Tensor, numbers: Tensor) -> Tensor:
        """Do a whole step on a batch; `numbers` (3,): one over the number of labels, learning rate, `ema_step`."""
        scale, rate, ema_step = numbers.unbind()
        loss = self._loss(self.model(batch), labels) * scale
        for parameter, gradient in zip(self.trainable, torch.autograd.grad(loss, self.trainable), strict=True):
            parameter.grad = gradient
        self._apply_gradients(rate, ema_step)
        return loss.detach()

    def _compute_gradients(self, rows: IntArray) -> Tensor:
        """Set the gradients of the loss of some crystals, summed over threads and processes; return the loss."""
        labels, count = self.data.labels(rows)

        def sums(own: IntArray) -> list[Tensor]:
            """Return the loss and the gradients of the crystals at some positions in `rows`."""
            total = [
                torch.zeros((), device=self.device),
                *(torch.zeros_like(parameter) for parameter in self.trainable),
            ]
            for part, batch in self.data.batches(rows[own], self.split_atoms):
                target = torch.from_numpy(labels[own[part]]).to(self.device, non_blocking=True)
                loss = self._loss(self.model(batch), target) / count
                # not backward(): threads would add to the same gradients, in random order
                torch._foreach_add_(total, [loss.detach(), *torch.autograd.grad(loss, self.trainable)])
            return total

        total, *others = self.batch_threads.map(sums, self._positions_of_threads(rows))
        for other in others:
            torch._foreach_add_(total, other)
        loss, *gradients = distributed.sum_over_processes(total)
        for parameter, gradient in zip(self.trainable, gradients, strict=True):
            parameter.grad = gradient
        return loss.clone()  # a view would keep the gradients of this step in memory

    def _positions_of_threads(self, rows: IntArray) -> list[IntArray]:
        """Return the positions in `rows` of the crystals of each thread of this process."""
        size, atoms = distributed.size(), int(self.data.sizes[rows].sum())
        threads = min(self.batch_threads.threads, max(1, atoms // (size * MIN_THREAD_ATOMS)))
        return balanced_split(self.data.edges[rows], size * threads)[distributed.rank() :: size]

    def _loss(self, output: Tensor, target: Tensor) -> Tensor:
        return summed_loss(self.device_weights, output, target)

    def _description(self) -> dict[str, Any]:
        """Return the content of config.json."""
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
        """Write `state.npz`: weights, averaged weights, moments of the optimiser and position in the data."""
        self._mean_loss(self.losses)
        self.saved = time.monotonic()
        if distributed.rank():
            return
        numbers = {
            "losses": torch.stack(self.losses).cpu().numpy() if self.losses else np.zeros(0, dtype=np.float32),
            "position": np.array([self.epoch, self.step, self.position, self.final_epoch]),
            "error": np.array([self.best_error]),
            "scale": np.stack([self.data.mean, self.data.deviation]),
        }
        states = {"model": self.model.state_dict(), "average": self.average.state_dict(), "best": self.best}
        write_state(self.folder, numbers, states | self.optimiser.moments())

    def _load(self) -> None:
        with reading_state(self.folder) as (numbers, states):
            self.epoch, self.step, self.position, self.final_epoch = (int(value) for value in numbers["position"])
            self.best_error = float(numbers["error"][0])
            self.data.mean, self.data.deviation = numbers["scale"].reshape(2, len(self.properties))
            self.losses = list(torch.from_numpy(numbers.get("losses", np.zeros(0))).to(self.device))
            self.model.load_state_dict(states.pop("model"))
            self.average.load_state_dict(states.pop("average"))
            self.best = {name: value.to(self.device) for name, value in states.pop("best", {}).items()}
            self.optimiser.load(states)
