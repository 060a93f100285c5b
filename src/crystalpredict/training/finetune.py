"""A labelled table and a checkpoint to start from in, a checkpoint folder out; killed at any moment, it goes on.

A run's folder is a checkpoint folder at its end. Beside the checkpoint's files it holds
provenance.json    what the run was told, of what data and which model, with which versions: enough to go on
metrics.json       errors on the validation and the test part
dropped.csv        rows and labels left out, and why
splits.csv         the part of each row
training/          crystals.npz, config.json, state.npz, log.csv; the last three for each member of an ensemble
or, with folds, one such folder for each, fold-1 and so on, and the errors over all of them.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, astuple, replace
from math import sqrt
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

from crystalpredict._files import write_atomically, write_json
from crystalpredict.checkpoints.checkpoint import Checkpoint, save_checkpoint
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
from crystalpredict.evaluation.metrics import metrics_of
from crystalpredict.nn import ModelConfig, ensemble_of
from crystalpredict.properties import Property
from crystalpredict.training import distributed
from crystalpredict.training.calibrate import calibrate
from crystalpredict.training.config import TrainingConfig
from crystalpredict.training.model_card import card_of
from crystalpredict.training.plan import Plan
from crystalpredict.training.trainer import Trainer

FEW = 1000  # training crystals, below which an encoder learns slowly
GOLDEN_CRYSTALS, GOLDEN_ATOMS = 8, 60  # of golden.json: few and small


def settings_for(crystals: int, atoms: float, *, scratch: bool, directions: bool = False) -> TrainingConfig:
    """Settings that suit so many training crystals of so many `atoms` on average: found by trial, see docs/log.md.

    16 to 64 crystals a step, so that an epoch of few crystals still has some; steps grow with the root of the number of
    crystals; a quarter of the epochs without a better validation error ends the run. From few crystals an encoder that
    was trained before learns little but their accidents, so that it learns slowly. One with new `directions`, whose
    steps are six times as long, has learnt what there is in a quarter of them; it first gets worse than what it started
    from, and goes on to the end.
    """
    at_once = min(64, max(16, crystals // 25))
    steps = (120 if scratch else 15 if directions else 60) * sqrt(crystals)
    epochs = max(10, round(steps * at_once / crystals))
    few = not scratch and crystals < FEW
    return TrainingConfig(
        epochs=epochs,
        patience=epochs if directions else max(5, epochs // 4),
        batch_atoms=max(1, round(at_once * atoms)),
        learning_rate=2e-3 if few else 1e-3,
        encoder_rate=0.1 if few else 1.0,
        muon_rate=1.0,
        schedule="one_cycle",
        ema=0.99 if steps < 2000 else 0.998,
    )


def refuse_unlearnable(table: CrystalTable, splits: Sequence[IntArray]) -> None:
    """DataError if in some fold a property has too few labels to train on, or none to choose the epoch by."""
    encoded = encoded_labels(table, table.properties)
    for parts in splits:
        scale_of_labels(encoded[parts == TRAIN], table.properties)
        for column, prop in enumerate(table.properties):
            rows_with_labels(parts == VALIDATION, encoded[:, [column]], f"validation ({prop.name})")


def lay_out(folder: Path, crystals: LabelledCrystals, splits: Sequence[IntArray], plan: Plan) -> None:
    """Write all that the run or its folds need; provenance.json, which makes it resumable, comes last."""
    for own, parts in zip(run_folders(folder, plan), splits, strict=True):
        replace(crystals.table, splits=parts).save(own / "training" / "crystals.npz")
        _write_csv(own / "splits.csv", ("id", "split"), zip(crystals.table.ids, map(PARTS.get, parts), strict=True))
    lost = sorted((*crystals.dropped, *crystals.holes), key=attrgetter("row"))
    _write_csv(folder / "dropped.csv", ("file", "row", "id", "reason"), map(astuple, lost))
    plan.save(folder)


def run_folders(folder: Path, plan: Plan) -> list[Path]:
    """Folders of the folds, or the folder itself."""
    return [folder / f"fold-{number}" for number in range(1, plan.folds + 1)] or [folder]


def open_trainings(folder: Path, plan: Plan, device: str, jobs: int = 1) -> Iterator[Trainer]:
    """The training of a run's folder, or of each member of its ensemble, at its beginning or where it was."""
    config = replace(TrainingConfig.from_dict(plan.training), device=device)
    table = CrystalTable.load(folder / "training" / "crystals.npz")
    model = ModelConfig.from_dict(plan.model)
    neighbors = neighbor_table(table, model.radius, jobs=jobs, merging=model.merging)
    for number, run in enumerate(training_folders(folder, plan)):
        own = replace(config, seed=config.seed + number)
        begun = (run / "state.npz").exists()
        yield Trainer(run, table, neighbors, model, own, start=None if begun else plan.base_checkpoint())


def training_folders(folder: Path, plan: Plan) -> list[Path]:
    """Where a run, or each member of its ensemble, keeps what it needs to go on."""
    training = folder / "training"
    if plan.members == 1:
        return [training]
    return [training / f"member-{number}" for number in range(1, plan.members + 1)]


def finish(trainings: Sequence[Trainer], folder: Path, plan: Plan) -> dict[str, dict[str, Any]]:
    """Write what was trained, one network or several as one, as a checkpoint into the run's folder.

    Returns the errors, by part and property, that metrics.json keeps.
    """
    training = trainings[0]
    networks = [member.kept() for member in trainings]
    table = training.data.table
    report: dict[str, dict[str, Any]] = {}
    for part in (VALIDATION, TEST):
        rows = np.flatnonzero(table.splits == part)
        if len(rows):
            values = np.mean([training.predicted(rows, network) for network in networks], axis=0)
            report[PARTS[part]] = errors_of(training.properties, training.data.encoded[rows], values)
    if distributed.rank():
        return report
    small = np.flatnonzero(table.sizes <= max(GOLDEN_ATOMS, int(table.sizes.min())))[:GOLDEN_CRYSTALS]
    epochs = [member.kept_epoch for member in trainings]
    base = plan.base or {}
    trained = np.unique(table.numbers[np.repeat(table.splits, table.sizes) == TRAIN])
    facts = {
        "settings": asdict(training.config),
        "crystals": {PARTS[part]: int((table.splits == part).sum()) for part in PARTS},
        "epoch": epochs[0] if plan.members == 1 else epochs,
        "elements_seen": sorted({*trained.tolist(), *base.get("elements_seen", ())}),
        "learnt": sorted({*(prop.identity for prop in training.properties), *map(tuple, base.get("learnt", ()))}),
        "base": plan.base,
    }
    name = folder.resolve().name
    checkpoint = Checkpoint(
        name, ensemble_of(networks).cpu(), training.properties, training.data.mean, training.data.deviation, facts
    )
    if not plan.learnt:  # else the model knows crystals of the validation part, and intervals would be far too narrow
        checkpoint = replace(
            checkpoint, calibration=calibrate(checkpoint, table, training.data.neighbors, domain=False)
        )
    write_json(folder / "metrics.json", report)
    card = card_of(name, plan, report, epochs, calibrated=checkpoint.calibration is not None)
    save_checkpoint(checkpoint, folder, [table.crystal(row) for row in small], card)
    return report


def errors_of(properties: Sequence[Property], labels: FloatArray, values: FloatArray) -> dict[str, Any]:
    """Errors by property of values (R, P) against labels (R, P), both on the trained scale: there and in the unit."""
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
    """Mean and sample deviation over the folds of the mean absolute error on test, by property and scale.

    A fold without test labels of a property has None.
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
        file.write(text.getvalue().encode("utf-8", "backslashreplace"))  # ids of JSON may be no text


def lines_of_start(crystals: LabelledCrystals, start: Checkpoint) -> list[str]:
    """What of the data is new to the model that the training starts from, and what it may know already."""
    lines = []
    seen = start.training.get("elements_seen", ())
    new = sorted(set(np.unique(crystals.table.numbers).tolist()) - set(seen)) if seen else []
    if new:
        lines.append(f"elements new to {start.name}: {', '.join(ELEMENTS[number - 1] for number in new)}")
    if known := learnt_targets(crystals.table.properties, start):
        lines.append(f"{start.name} learnt {', '.join(known)} itself: crystals that it knows flatter the errors below")
    return lines


def learnt_targets(properties: Sequence[Property], start: Checkpoint) -> list[str]:
    """Names of the properties that the model to start from has learnt itself."""
    learnt = {name for name, *_ in start.learnt}  # in whatever unit, or as a logarithm
    return [prop.name for prop in properties if prop.name in learnt]
