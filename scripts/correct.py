"""Bring training crystals to the cells that a model predicts they relax to, for the second network of that model.

python scripts/correct.py perturbed.npz crystalformer-mp-unrelaxed -o corrected.npz --share 0.6

A model with two stages has a network for crystals as they are given and one for them as the first relaxes them, with
the errors that it makes. The second learns from these crystals, with the labels of the relaxed ones.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from crystalpredict import load_model
from crystalpredict.data.dataset import TRAIN, CrystalTable
from crystalpredict.io.reader import entries_of_crystals
from crystalpredict.prediction.predictor import Predictor
from crystalpredict.properties import FORMATION_ENERGY, VOLUME_CHANGE

WINDOW = 500  # crystals that are relaxed together


def main() -> None:
    """Choose, relax, write, and say how much."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="prepared and perturbed crystals (scripts/perturb.py)")
    parser.add_argument("model", help="a model for unrelaxed structures with a head of relaxation")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--share", type=float, default=1.0, help="of the training crystals")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    table, random = CrystalTable.load(options.table), np.random.default_rng(options.seed)
    model = load_model(options.model, targets=[FORMATION_ENERGY], uncertainty=False)
    if model.checkpoint.relaxation is None:
        parser.error(f"{options.model} has no head of relaxation")
    if VOLUME_CHANGE not in table.properties:
        parser.error(f"{options.table} has no column volume_change")
    chosen = (random.random(len(table)) < options.share) | (table.splits != TRAIN)
    new = corrected(model, table.take(np.flatnonzero(chosen)))
    new.save(options.output)
    print(f"{options.output}: {len(new):,} crystals, {(new.splits == TRAIN).sum():,} to learn from")


def corrected(model: Predictor, table: CrystalTable) -> CrystalTable:
    """The crystals as a model relaxes them, with the changes of the volume that are left; others are left out."""
    crystals_now, labels = {}, table.labels.copy()
    changes = labels[:, table.properties.index(VOLUME_CHANGE)]  # a view
    for start in range(0, len(table), WINDOW):
        crystals = [table.crystal(row) for row in range(start, min(start + WINDOW, len(table)))]
        entries = list(entries_of_crystals(crystals, model.config.radius))
        rows = [start + number for number, entry in enumerate(entries) if entry.neighbors]
        relaxed = model.relaxed_by_network(entries)
        for row, crystal, change in zip(rows, relaxed.crystals, relaxed.log_changes, strict=True):
            crystals_now[row] = crystal
            changes[row] = VOLUME_CHANGE.in_unit(VOLUME_CHANGE.encode(changes[row]) - change)
    return replace(table.moved(crystals_now), labels=labels).take(np.array(list(crystals_now)))


if __name__ == "__main__":
    main()
