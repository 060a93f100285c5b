"""Calibrate a checkpoint folder: intervals by the validation part of its data, warnings by the training part.

python scripts/calibrate.py models/crystalformer-mp crystals.npz --cache neighbors --reference others.safetensors

Writes calibration.safetensors, names it in config.json and, for a bundled model, in models/index.json. To be run
again whenever the weights change. It ends in figures from within the validation part, in JSON: ten times a tenth of its
chemical systems is left out, the rest calibrates, and the intervals are held against the labels of that tenth.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from export import refresh_index

from crystalpredict.checkpoints.checkpoint import Checkpoint, load_checkpoint, save_calibration, verify_golden
from crystalpredict.crystals.primitive import primitive_sizes
from crystalpredict.data.dataset import VALIDATION, CrystalTable, NeighborTable, encoded_labels, neighbor_table
from crystalpredict.prediction.decoder import OutputDecoder
from crystalpredict.prediction.derived import PARENTS, derivable, derive
from crystalpredict.prediction.stability import Hull, HullComparison, physical_centres
from crystalpredict.properties import ELASTIC, Property
from crystalpredict.stability.reference import ReferenceEnergies
from crystalpredict.training.calibrate import calibrate, chemical_systems, grouping_of, outputs_and_features
from crystalpredict.uncertainty import DEFAULT_LEVEL, LEVELS
from crystalpredict.uncertainty.applicability import Domain
from crystalpredict.uncertainty.calibration import Calibration
from crystalpredict.uncertainty.intervals import conformal_quantile, fit_errors, folds_by_system

FOLDS = 10


def main() -> None:
    """Calibrate, write, check, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the checkpoint, which is changed")
    parser.add_argument("table", type=Path, help="the prepared crystals that it was trained on")
    parser.add_argument("--began", type=Path, help="checkpoint that it began with, whose crystals it knows too")
    parser.add_argument("--cache", type=Path, help="folder of the neighbour lists [default: beside the table]")
    parser.add_argument(
        "--reference", type=Path, help="reference energies without the validation part [default: all that are bundled]"
    )
    parser.add_argument("--intervals-only", action="store_true", help="keep the statistics of the training part")
    parser.add_argument("--domain-of", type=Path, help="checkpoint with the same features, whose statistics are kept")
    options = parser.parse_args()
    hull = Hull(ReferenceEnergies.load(options.reference) if options.reference else None)
    began = load_checkpoint(options.began) if options.began else None
    if began and began.calibration is None:
        parser.error(f"{options.began}: not calibrated itself, so its training crystals are not known")
    checkpoint = load_checkpoint(options.folder)
    kept = load_checkpoint(options.domain_of) if options.domain_of else checkpoint
    known = options.intervals_only or options.domain_of is not None
    if known and kept.calibration is None:
        parser.error(f"{options.domain_of or options.folder}: not calibrated, so it has no statistics to keep")
    table = CrystalTable.load(options.table)
    cache = options.cache or options.table.parent / "neighbors"
    model = checkpoint.model.config
    neighbors = neighbor_table(table, model.radius, cache, os.cpu_count() or 1, merging=model.merging)
    calibration = calibrate(checkpoint, table, neighbors, domain=not known, hull=hull)
    if calibration is None:
        parser.error("too few labels in the validation part")
    if known:
        calibration = replace(calibration, domain=kept.calibration.domain)
    elif began:
        calibration = replace(calibration, domain=joined(began, calibration.domain))
    save_calibration(calibration, options.folder)
    verify_golden(load_checkpoint(options.folder), options.folder)
    refresh_index(options.folder)
    print(json.dumps(figures(load_checkpoint(options.folder), table, neighbors, hull), indent=1))


def joined(began: Checkpoint, domain: Domain) -> Domain:
    """The crystals of the checkpoint that a run began with, but the features of the run's own."""
    of_features = ("shift", "scale", "centroids", "reach")
    return replace(began.calibration.domain, **{name: getattr(domain, name) for name in of_features})


def elastic(checkpoint: Checkpoint) -> tuple[Property, ...]:
    """What is derived from a checkpoint's bulk and shear modulus."""
    return tuple(prop for prop in derivable(checkpoint.properties) if prop in ELASTIC)


def figures(checkpoint: Checkpoint, table: CrystalTable, neighbors: NeighborTable, hull: Hull) -> dict[str, Any]:
    """Coverage and width of the intervals in cross-validation, and the share of crystals without a warning."""
    rows = np.flatnonzero(table.splits == VALIDATION).tolist()
    outputs, features = outputs_and_features(checkpoint, table, neighbors, rows)
    crystals = [table.crystal(row) for row in rows]
    warnings = checkpoint.calibration.domain.warnings(crystals, [neighbors.neighbors(row) for row in rows], features)
    labels = encoded_labels(table, checkpoint.properties)[rows]
    ends, constant = in_turns(checkpoint, crystals, outputs, features, labels, hull)
    known = {prop.name: prop.in_unit(labels[:, i]) for i, prop in enumerate(checkpoint.properties)}
    known |= {prop.name: derive(prop.name, *(known[name] for name in PARENTS)) for prop in elastic(checkpoint)}
    correlation = checkpoint.calibration.errors.correlation
    found: dict[str, Any] = {
        "crystals": len(rows),
        "without_warning": round(1 - float(np.mean([bool(warning) for warning in warnings])), 4),
        "correlations": correlation.round(3).tolist(),
    }
    for column, prop in enumerate((*checkpoint.properties, *elastic(checkpoint))):
        having = np.flatnonzero(np.isfinite(known[prop.name]))
        label, own = known[prop.name][having], ends[having, column]
        inside = (label[:, None] >= own[..., 0] - 1e-9) & (label[:, None] <= own[..., 1] + 1e-9)
        shown = LEVELS.index(DEFAULT_LEVEL)
        sizes = table.sizes[rows][having]
        third = np.searchsorted(np.quantile(sizes, [1 / 3, 2 / 3]), sizes)  # crystals of one size are in one
        found[prop.name] = {
            "crystals": len(having),
            "coverage": dict(zip(map(str, LEVELS), inside.mean(axis=0).round(4).tolist(), strict=True)),
            f"coverage{DEFAULT_LEVEL}_by_third": [
                round(float(inside[third == part, shown].mean()), 4) for part in range(3)
            ],
            "mean_width": mean_width(prop.encode(own[:, shown])),
        }
        if column < constant.shape[1]:
            equal = constant[having, column]
            inside = (prop.encode(label) >= equal[:, 0]) & (prop.encode(label) <= equal[:, 1])
            found[prop.name]["coverage_constant"] = round(float(inside.mean()), 4)
            found[prop.name]["mean_width_constant"] = mean_width(equal)
    return found


def mean_width(ends: np.ndarray) -> float:
    """Mean of upper minus lower ends (R, 2)."""
    return round(float(np.diff(ends, axis=1).mean()), 4)


def in_turns(
    checkpoint: Checkpoint,
    crystals: list[Any],
    outputs: np.ndarray,
    features: np.ndarray,
    labels: np.ndarray,
    hull: Hull,
) -> tuple[np.ndarray, np.ndarray]:
    """Intervals of each crystal calibrated by others: ends (R, properties and derived, levels, 2) in their units.

    And the ends (R, outputs, 2), on the trained scale, of intervals of one width for all crystals of a property.
    """
    scale, comparison = checkpoint.deviation, HullComparison(hull, crystals)
    centres = physical_centres(checkpoint, checkpoint.interval_centres(outputs), crystals, comparison)
    standard = [(values - checkpoint.mean) / scale for values in (centres, labels)]
    sizes = primitive_sizes(crystals)
    targets = [prop.name for prop in (*checkpoint.properties, *elastic(checkpoint))]
    folds = folds_by_system(chemical_systems(crystals), FOLDS, seed=1)
    ends = np.empty((len(crystals), len(targets), len(LEVELS), 2))
    constant = np.empty((*centres.shape, 2))
    for fold in range(FOLDS):
        out, own = np.flatnonzero(folds == fold), folds != fold
        errors = fit_errors(
            *(values[own] for values in standard), sizes[own], features[own], checkpoint.minima,
            grouping_of(checkpoint, outputs[own], [crystals[row] for row in np.flatnonzero(own)]),
        )  # fmt: skip
        decoder = OutputDecoder(replace(checkpoint, calibration=Calibration(errors)), targets, hull=hull)
        begun = decoder.begin(outputs[out], [crystals[row] for row in out])
        ends[out] = decoder.bounds(begun, decoder.values(begun), features[out])
        for column, prop in enumerate(checkpoint.properties):
            misses = np.abs(labels[own, column] - centres[own, column])
            half = conformal_quantile(misses[np.isfinite(misses)], DEFAULT_LEVEL / 100)
            constant[out, column] = prop.clip(centres[out, column, None] + np.array([-half, half]))
    return ends, constant


if __name__ == "__main__":
    main()
