"""The calibration of a trained network: its errors on crystals it was not trained on, and what it was trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from crystalpredict.checkpoints.checkpoint import Checkpoint
from crystalpredict.crystals.crystal import FloatArray, IntArray
from crystalpredict.crystals.primitive import primitive_size
from crystalpredict.data.dataset import TRAIN, VALIDATION, CrystalTable, NeighborTable, encoded_labels
from crystalpredict.nn.batch import PART_ATOMS, collate, split_by_atoms
from crystalpredict.nn.threads import BatchThreads
from crystalpredict.uncertainty.applicability import fit_domain
from crystalpredict.uncertainty.calibration import Calibration
from crystalpredict.uncertainty.intervals import LEAST, fit_errors

BATCH_ATOMS = 2000


def calibrate(
    checkpoint: Checkpoint, table: CrystalTable, neighbors: NeighborTable, *, domain: bool
) -> Calibration | None:
    """The calibration by the validation part of a table; None if a property has fewer than LEAST labels there.

    `domain`: with statistics of the training part, whose features are computed too.
    """
    validation, train = (np.flatnonzero(table.splits == part).tolist() for part in (VALIDATION, TRAIN))
    labels = encoded_labels(table, checkpoint.properties)[validation]
    if (np.isfinite(labels).sum(axis=0) < LEAST).any():
        return None
    outputs, features = outputs_and_features(checkpoint, table, neighbors, validation)
    scale = checkpoint.deviation
    centres = (checkpoint.centres(outputs) - checkpoint.mean) / scale
    sizes = np.array([primitive_size(table.crystal(row)) for row in validation])
    errors = fit_errors(centres, (labels - checkpoint.mean) / scale, sizes, features, checkpoint.floors)
    if not domain:
        return Calibration(errors)
    _, features = outputs_and_features(checkpoint, table, neighbors, train)
    crystals, edges = [table.crystal(row) for row in train], [neighbors.neighbors(row) for row in train]
    return Calibration(errors, fit_domain(crystals, edges, features))


def outputs_and_features(
    checkpoint: Checkpoint, table: CrystalTable, neighbors: NeighborTable, rows: Sequence[int]
) -> tuple[FloatArray, FloatArray]:
    """Standardised outputs (R, outputs) and features (R, D) of the crystals in some rows."""
    model = checkpoint.model
    weight = next(model.parameters())
    outputs = np.empty((len(rows), model.config.outputs), dtype=np.float32)
    features = np.empty((len(rows), model.config.features), dtype=np.float32)
    edges = [neighbors.neighbors(row) for row in rows]
    sizes, widths = np.array([own.size for own in edges]), np.array([own.widest for own in edges])

    def compute(some: IntArray) -> None:
        crystals = [table.crystal(rows[row]) for row in some]
        batch = collate(crystals, [edges[row] for row in some], part_atoms=2 * PART_ATOMS)
        with torch.inference_mode():
            found = model.features(batch.to(weight.device, weight.dtype))
            features[some] = found.cpu().numpy()
            outputs[some] = model.readout(found).cpu().numpy()

    BatchThreads(weight.device).map(compute, split_by_atoms(sizes, widths, BATCH_ATOMS))
    return outputs, features
