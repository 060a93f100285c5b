"""Calibrate a checkpoint folder: intervals by the validation part of its data, warnings by the training part.

python scripts/calibrate.py models/crystalformer-mp crystals.npz --cache neighbors

Writes calibration.safetensors, names it in config.json and, for a bundled model, in models/index.json. To be run again
whenever the weights change. It ends in figures from within the validation part, in JSON: ten times a tenth of it is left
out, the rest calibrates, and the intervals are held against the labels of that tenth.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: waiting threads leave the core to others

import numpy as np

from crystalpredict.calibrate import calibrate, outputs_and_features
from crystalpredict.checkpoint import Checkpoint, load_checkpoint, save_calibration, verify_golden
from crystalpredict.dataset import VALIDATION, CrystalTable, NeighborTable, encoded_labels, neighbor_table
from crystalpredict.equivalence import primitive_size
from crystalpredict.uncertainty import LEVELS, SHOWN, conformal_quantile, fit_errors
from export import enter_in_index

FOLDS = 10


def main() -> None:
    """Calibrate, write, check, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the checkpoint, which is changed")
    parser.add_argument("table", type=Path, help="the prepared crystals that it was trained on")
    parser.add_argument("--cache", type=Path, help="folder of the neighbour lists [default: beside the table]")
    options = parser.parse_args()
    checkpoint = load_checkpoint(options.folder)
    table = CrystalTable.load(options.table)
    cache = options.cache or options.table.parent / "neighbors"
    neighbors = neighbor_table(table, checkpoint.model.config.radius, cache, jobs=os.cpu_count() or 1)
    calibration = calibrate(checkpoint, table, neighbors, domain=True)
    if calibration is None:
        parser.error("too few labels in the validation part")
    save_calibration(calibration, options.folder)
    verify_golden(load_checkpoint(options.folder), options.folder)
    index = options.folder.parent / "index.json"
    entry = json.loads(index.read_text())["models"].get(options.folder.name) if index.exists() else None
    if entry:
        enter_in_index(options.folder, entry["summary"], entry["properties"], default=False)
    print(json.dumps(figures(load_checkpoint(options.folder), table, neighbors), indent=1))


def figures(checkpoint: Checkpoint, table: CrystalTable, neighbors: NeighborTable) -> dict[str, Any]:
    """Coverage and width of the intervals in cross-validation, and the share of crystals without a warning."""
    rows = np.flatnonzero(table.splits == VALIDATION)
    outputs, features = outputs_and_features(checkpoint, table, neighbors, rows)
    crystals = [table.crystal(row) for row in rows]
    domain = checkpoint.calibration.domain
    reasons = domain.reasons(crystals, [neighbors.neighbors(row) for row in rows], features)
    found: dict[str, Any] = {"crystals": len(rows), "without_warning": round(float(np.mean([not r for r in reasons])), 4)}
    centres, labels = checkpoint.centres(outputs), encoded_labels(table, checkpoint.properties)[rows]
    sizes = np.array([primitive_size(crystal) for crystal in crystals])
    standard = [(values - checkpoint.mean) / checkpoint.deviation for values in (centres, labels)]
    folds = np.random.default_rng(1).permutation(len(rows)) % FOLDS
    widths = np.empty((*centres.shape, len(LEVELS)))
    constant = np.empty(centres.shape)
    for fold in range(FOLDS):
        out, own = folds == fold, folds != fold
        errors = fit_errors(*(values[own] for values in standard), sizes[own], features[own], checkpoint.floors)
        widths[out] = errors.halfwidths(standard[0][out], sizes[out], features[out])
        for column, misses in enumerate(np.abs(standard[1][own] - standard[0][own]).T):
            constant[out, column] = conformal_quantile(misses[np.isfinite(misses)], SHOWN / 100)
    shown = LEVELS.index(SHOWN)
    for column, prop in enumerate(checkpoint.properties):
        known = np.flatnonzero(np.isfinite(labels[:, column]))
        scale, misses = checkpoint.deviation[column], np.abs(standard[1][known, column] - standard[0][known, column])
        inside = misses[:, None] <= widths[known, column]
        order = np.argsort(table.sizes[rows[known]], kind="stable")
        both = np.stack([widths[known, column, shown], constant[known, column]], axis=1)[:, None] * scale
        ends = prop.raised(bounds_on_scale(centres[known, column], both[:, 0]))
        mean_widths = np.diff(ends, axis=-1)[..., 0].mean(axis=0)
        found[prop.name] = {
            "crystals": len(known),
            "coverage": dict(zip(map(str, LEVELS), inside.mean(axis=0).round(4).tolist(), strict=True)),
            f"coverage_{SHOWN}_by_third": [round(float(inside[part, shown].mean()), 4) for part in np.array_split(order, 3)],
            "mean_width": round(float(mean_widths[0]), 4),
            "mean_width_constant": round(float(mean_widths[1]), 4),
            "coverage_constant": round(float((misses <= constant[known, column]).mean()), 4),
        }
    return found


def bounds_on_scale(centres: np.ndarray, halfwidths: np.ndarray) -> np.ndarray:
    """Ends (R, kinds, 2) of intervals on the trained scale; centres (R,), halfwidths (R, kinds)."""
    return np.stack([centres[:, None] - halfwidths, centres[:, None] + halfwidths], axis=-1)


if __name__ == "__main__":
    main()
