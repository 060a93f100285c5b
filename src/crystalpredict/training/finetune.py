"""Fine-tune a checkpoint on a labelled table, or train from scratch; a run that was killed can be resumed.

The folder of a finished run is a checkpoint folder. Besides the checkpoint it holds
provenance.json    options, data, base model and versions of the run; it is enough to resume
metrics.json       errors on the validation and the test set
dropped.csv        rows and labels that were left out, with reasons
splits.csv         part of the split of each row
training/          crystals.npz, config.json, state.npz and log.csv, the last three for each ensemble member;
                   domain.safetensors, what the training data of the base model were like
With cross-validation there is one such folder for each fold (fold-1, fold-2, ...), and metrics.json of all folds; with
a learning curve, one for each fraction (train-25-percent, ...), and learning-curve.csv.
"""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, astuple, replace
from importlib.util import find_spec
from math import sqrt
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from crystalpredict._files import write_atomically, write_json
from crystalpredict._schema import SchemaError, record
from crystalpredict.checkpoints.checkpoint import Checkpoint, save_checkpoint
from crystalpredict.checkpoints.registry import find_model
from crystalpredict.crystals.crystal import ELEMENTS, FloatArray, IntArray
from crystalpredict.data.dataset import (
    TEST,
    TRAIN,
    VALIDATION,
    CrystalTable,
    encoded_labels,
    neighbor_table,
    rows_with_labels,
    scale_of_labels,
)
from crystalpredict.data.labelled import PARTS, LabelledCrystals
from crystalpredict.errors import NO_MATPLOTLIB, CheckpointError, DataError, UsageError, printable
from crystalpredict.evaluation.metrics import metrics_of
from crystalpredict.nn import Crystalformer, ensemble_of
from crystalpredict.properties import Property
from crystalpredict.training import distributed
from crystalpredict.training.calibrate import calibrate, domain_of_training, errors_of_crystals
from crystalpredict.training.config import TrainingConfig
from crystalpredict.training.forgotten import describe_changes, describe_lost_properties
from crystalpredict.training.kernel import Kernel, fit_kernel, kernel_inputs
from crystalpredict.training.model_card import model_card
from crystalpredict.training.plan import Plan
from crystalpredict.training.run_folder import LOG_COLUMNS
from crystalpredict.training.trainer import Trainer
from crystalpredict.uncertainty.calibration import DOMAIN_FILE, Calibration, domain_from_bytes, domain_to_bytes
from crystalpredict.uncertainty.intervals import MIN_CALIBRATION_LABELS

if TYPE_CHECKING:
    from crystalpredict.nn import ModelConfig
    from crystalpredict.uncertainty.applicability import Domain


MIN_CRYSTALS_FULL_RATE = 1000  # training crystals; with fewer, a pre-trained encoder has a lower learning rate
LOG = logging.getLogger(__name__)
GOLDEN_CRYSTALS, GOLDEN_ATOMS = 8, 60  # number and largest size of the crystals in golden.json


def settings_for(crystals: int, atoms: float, *, scratch: bool, directions: bool = False) -> TrainingConfig:
    """Return settings for a training set, found by trial (docs/log.md).

    A step has 16 to 64 crystals. The number of steps grows with the square root of the number of crystals. Early
    stopping ends the run after a quarter of the epochs without a smaller validation error. A pre-trained encoder
    overfits a small training set, so its learning rate is lower there.

    Args:
        crystals: in the training set.
        atoms: mean number of atoms of a crystal.
        scratch: whether the weights start at random.
        directions: whether new direction weights are added. Their steps take six times as long, and a quarter of the
            steps is enough; the error first rises, so there is no early stopping.
    """
    step_crystals = min(64, max(16, crystals // 25))
    steps = (120 if scratch else 15 if directions else 60) * sqrt(crystals)
    epochs = max(10, round(steps * step_crystals / crystals))
    slow = not scratch and crystals < MIN_CRYSTALS_FULL_RATE
    return TrainingConfig(
        epochs=epochs,
        patience=epochs if directions else max(5, epochs // 4),
        batch_atoms=max(1, round(step_crystals * atoms)),
        learning_rate=2e-3 if slow else 1e-3,
        encoder_rate=0.1 if slow else 1.0,
        muon_rate=1.0,
        schedule="one_cycle",
        ema=0.99 if steps < 2000 else 0.998,
    )


def check_labels(table: CrystalTable, splits: Sequence[IntArray]) -> None:
    """Check that every property has training and validation labels.

    Args:
        table: C crystals with labels.
        splits: part of each crystal, (C,), for each fold.

    Raises:
        DataError: in some fold, a property has too few training labels or no validation label.
    """
    for prop in table.properties:
        try:
            record(asdict(prop), Property)
        except SchemaError as error:
            raise DataError(f"{printable(prop.label[:60])}: rename the column ({printable(str(error))})") from None
    encoded = encoded_labels(table, table.properties)
    for parts in splits:
        scale_of_labels(encoded[parts == TRAIN], table.properties)
        for column, prop in enumerate(table.properties):
            rows_with_labels(parts == VALIDATION, encoded[:, [column]], f"validation ({prop.name})")


def prepare_run(
    folder: Path, crystals: LabelledCrystals, splits: Sequence[IntArray], plan: Plan, domain: Domain | None
) -> None:
    """Write the files that the run or its folds need; provenance.json, which makes it resumable, is the last.

    Args:
        folder: of the run.
        crystals: C of them, with labels.
        splits: part of each crystal, (C,), for each fold.
        plan: of the run.
        domain: of the base model.
    """
    for own, parts in zip(run_folders(folder, plan), splits, strict=True):
        replace(crystals.table, splits=parts).save(own / "training" / "crystals.npz")
        if domain:
            with write_atomically(own / "training" / DOMAIN_FILE) as file:
                file.write(domain_to_bytes(domain))
        _write_csv(own / "splits.csv", ("id", "split"), zip(crystals.table.ids, map(PARTS.get, parts), strict=True))
    lost = sorted((*crystals.dropped, *crystals.dropped_labels), key=attrgetter("row"))
    _write_csv(folder / "dropped.csv", ("file", "row", "id", "reason"), map(astuple, lost))
    plan.save(folder)


def run_folders(folder: Path, plan: Plan) -> list[Path]:
    """Return the folders of the folds, or the folder itself without folds."""
    return [folder / f"fold-{number}" for number in range(1, plan.folds + 1)] or [folder]


def open_trainings(folder: Path, plan: Plan, device: str, jobs: int = 1) -> Iterator[Trainer]:
    """Yield the trainer of each ensemble member, new or in its last saved state.

    Args:
        folder: of a run, or of one of its folds.
        plan: of the run.
        device: name of the device to train on.
        jobs: processes that compute neighbour lists.
    """
    config = replace(plan.training, device=device)
    table = CrystalTable.load(folder / "training" / "crystals.npz")
    model = plan.model
    neighbors = neighbor_table(table, model.radius, jobs=jobs, merging=model.merging)
    for number, run in enumerate(training_folders(folder, plan)):
        own = replace(config, seed=config.seed + number)
        resumed = (run / "state.npz").exists()
        yield Trainer(run, table, neighbors, model, own, start=None if resumed else plan.base_checkpoint())


def training_folders(folder: Path, plan: Plan) -> list[Path]:
    """Return the folder of the training state of each ensemble member."""
    training = folder / "training"
    if plan.members == 1:
        return [training]
    return [training / f"member-{number}" for number in range(1, plan.members + 1)]


def finish(trainings: Sequence[Trainer], folder: Path, plan: Plan) -> dict[str, dict[str, Any]]:
    """Write the trained network or ensemble as a checkpoint into the folder of the run.

    Returns:
        Content of metrics.json: metrics by part of the split, property and unit.
    """
    training = trainings[0]
    table = training.data.table
    networks = [member.final_network() for member in trainings]
    kernel, features = _kernel_of(training, networks[0]) if plan.training.kernel else (None, None)
    if kernel:
        networks = [kernel.readout_of(networks[0])]
    report: dict[str, dict[str, Any]] = {}
    for part in (VALIDATION, TEST):
        rows = np.flatnonzero(table.splits == part)
        if len(rows):
            values = np.mean([training.predict(rows, network) for network in networks], axis=0)
            report[PARTS[part]] = errors_of(training.properties, training.data.encoded[rows], values)
    if distributed.rank():
        return report
    small = np.flatnonzero(table.sizes <= max(GOLDEN_ATOMS, int(table.sizes.min())))[:GOLDEN_CRYSTALS]
    epochs = [member.final_epoch for member in trainings]
    elements, learnt = (plan.base["elements_seen"], plan.base["learnt"]) if plan.base else ([], [])
    trained = np.unique(table.numbers[np.repeat(table.splits, table.sizes) == TRAIN])
    facts = {
        "settings": asdict(training.config) | (kernel.choices if kernel else {}),
        "crystals": {PARTS[part]: int((table.splits == part).sum()) for part in PARTS},
        "epoch": epochs[0] if plan.members == 1 else epochs,
        "elements_seen": sorted({*trained.tolist(), *elements}),
        "learnt": sorted({*(prop.identity for prop in training.properties), *learnt}),
        "base": plan.base,
    }
    name = folder.resolve().name
    checkpoint = Checkpoint(
        name, ensemble_of(networks).cpu(), training.properties, training.data.mean, training.data.deviation, facts,
        training_domain=_domain_of_run(folder, plan, training, features),
    )  # fmt: skip
    if not plan.learnt:  # else the base model was trained on validation crystals, and intervals would be too narrow
        calibration = calibrate(checkpoint, table, training.data.neighbors, domain=False)
        if kernel and features is not None and not calibration:
            calibration = _calibration_left_out(checkpoint, training, kernel, features)
        checkpoint = replace(checkpoint, calibration=calibration)
    write_json(folder / "metrics.json", report)
    changes = _changes_from_base(plan, checkpoint)
    for line in changes:
        LOG.info("%s", line)
    card = model_card(plan, report, epochs, checkpoint, changes)
    save_checkpoint(checkpoint, folder, [table.crystal(row) for row in small], card)
    return report


def _kernel_of(training: Trainer, network: Crystalformer) -> tuple[Kernel, FloatArray]:
    """Return a kernel regression of the training crystals, which set its scale, and their features (R, D).

    Args:
        training: without an epoch.
        network: its network.
    """
    data, rows = training.data, training.data.train_rows
    data.mean, data.deviation = scale_of_labels(data.encoded[rows], training.properties)  # not those of the base model
    inputs = kernel_inputs(network, len(rows), data.batches(rows, training.split_atoms))
    kernel = fit_kernel(inputs, (data.encoded[rows] - data.mean) / data.deviation, training.config.seed)
    states = network.config.states
    return kernel, inputs[:, states - network.config.width : states]


def _calibration_left_out(
    checkpoint: Checkpoint, training: Trainer, kernel: Kernel, features: FloatArray
) -> Calibration | None:
    """Return the calibration by training crystals that are left out one by one; None if they are too few, or many."""
    data, rows = training.data, training.data.train_rows
    if (np.isfinite(kernel.left_out).sum(axis=0) < MIN_CALIBRATION_LABELS).any():
        return None
    crystals, outputs = [data.table.crystal(row) for row in rows], np.nan_to_num(kernel.left_out)
    return Calibration(errors_of_crystals(checkpoint, crystals, data.encoded[rows], outputs, features))


def _changes_from_base(plan: Plan, checkpoint: Checkpoint) -> list[str]:
    """Return a message about the changes from the base model; none if its files are gone or others now."""
    try:
        base = plan.base_checkpoint()
        return describe_changes(base, find_model(plan.base["folder"]), checkpoint) if plan.base and base else []
    except (CheckpointError, UsageError):
        return []


def _domain_of_run(folder: Path, plan: Plan, training: Trainer, features: FloatArray | None) -> Domain | None:
    """Return the statistics of all training crystals; None if those of the base model are unknown.

    Args:
        folder: of the run.
        plan: of the run.
        training: the first of the run.
        features: of the training crystals, (R, D), where predictions need similar ones; None: they are not compared.
    """
    path = folder / "training" / DOMAIN_FILE
    if plan.base and not path.is_file():
        return None
    try:
        base = domain_from_bytes(path.read_bytes(), plan.model.features) if plan.base else None
    except (OSError, ValueError):
        raise UsageError(f"{path}: damaged: start the run again in another folder") from None
    return domain_of_training(training.data.table, training.data.neighbors, base, features)


def errors_of(properties: Sequence[Property], labels: FloatArray, values: FloatArray) -> dict[str, Any]:
    """Return metrics by property, on the trained scale and in the property's unit.

    Args:
        properties: P of them.
        labels: on the trained scale, not a number where missing, (R, P).
        values: predictions on the trained scale, (R, P).
    """
    report: dict[str, Any] = {}
    for column, prop in enumerate(properties):
        known = np.isfinite(labels[:, column])
        if known.any():
            label, value = labels[known, column], values[known, column]
            scales = {prop.unit: (prop.in_unit(label), prop.decode(value))}
            if prop.transform != "none":
                scales = {prop.trained_unit: (label, value), **scales}
            report[prop.name] = {scale: asdict(metrics_of(*pair)) for scale, pair in scales.items()}
    return report


def mean_of_folds(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return mean and sample standard deviation over the folds of the test error (MAE), by property and unit.

    The error of a fold without test labels of a property is None.
    """
    summary: dict[str, Any] = {}
    tests = [report["test"] for report in reports]
    for name, scales in {name: scales for test in tests for name, scales in test.items()}.items():
        for scale in scales:
            errors = [test[name][scale]["mae"] if name in test else None for test in tests]
            known = [error for error in errors if error is not None]
            deviation = float(np.std(known, ddof=1)) if len(known) > 1 else float("nan")
            summary.setdefault(name, {})[scale] = {
                "mae": float(np.mean(known)),
                "deviation": deviation,
                "folds": errors,
            }
    return summary


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    with write_atomically(path) as file:
        file.write(text.getvalue().encode("utf-8", "backslashreplace"))  # ids from JSON may contain lone surrogates


def describe_start(crystals: LabelledCrystals, start: Checkpoint) -> list[str]:
    """Return messages about the data and the base model: elements new to it, and targets that it was trained on."""
    lines = []
    seen = start.training.get("elements_seen", ())
    new = sorted(set(np.unique(crystals.table.numbers).tolist()) - set(seen)) if seen else []
    if new:
        lines.append(f"elements new to {start.name}: {', '.join(ELEMENTS[number - 1] for number in new)}")
    if known := learnt_targets(crystals.table.properties, start):
        lines.append(
            f"{start.name} was itself trained on {', '.join(known)}: errors on crystals it was trained on are too small"
        )
    return lines + describe_lost_properties(start, crystals.table.properties)


def learnt_targets(properties: Sequence[Property], start: Checkpoint) -> list[str]:
    """Return the names of the properties that the base model was itself trained on."""
    learnt = {name for name, *_ in start.learnt}  # in any unit, or as a logarithm
    return [prop.name for prop in properties if prop.name in learnt]


def with_directions(network: ModelConfig, name: str) -> ModelConfig:
    """Return the network of the model `name` with directions added; UsageError if that is not possible."""
    if network.attention != "real":
        raise UsageError(f"--directions: {name} has {network.attention} attention, to which none can be added")
    return replace(network, attention="framed")


def draw_losses(folder: Path, plan: Plan) -> None:
    """Draw a run's log as loss.png, or its members' as loss-1.png and so on, if matplotlib is installed."""
    if not find_spec("matplotlib"):
        LOG.info("no picture of the loss: %s", NO_MATPLOTLIB)
        return
    from crystalpredict.evaluation.plots import loss_curve

    runs = training_folders(folder, plan)
    for number, training in enumerate(runs, start=1):
        with (training / "log.csv").open(encoding="utf-8") as file:
            epochs = list(csv.DictReader(file))
        columns = {name: [float(row[name]) for row in epochs] for name in epochs[0]}
        errors = {name: values for name, values in columns.items() if name not in LOG_COLUMNS}
        name = "loss.png" if len(runs) == 1 else f"loss-{number}.png"
        with write_atomically(folder / name) as image:
            image.write(loss_curve(columns["epoch"], columns["loss"], errors))


def figures_of(report: dict[str, Any]) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Yield each part, property and scale of a report with its errors."""
    for part, properties in report.items():
        for name, scales in properties.items():
            for scale, figures in scales.items():
                yield part, name, scale, figures
