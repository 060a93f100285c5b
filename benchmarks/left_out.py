"""Whether intervals hold for crystals with elements that the training data lack, and whether warnings say so.

python benchmarks/left_out.py DATA FOLDER [--elements Ge Rh Sc Te Y] [--epochs 8]

DATA is the folder of the labelled data, FOLDER that of the training run, which goes on if it was stopped. A network
of the bundled shape is trained from random weights on the crystals of mp2018/train and mp2019/train of at most 20 atoms
without these elements, and calibrated on those of mp2018/val without them. Then mp2018/test is predicted: crystals
without these elements, and these together with those of mp2018/val that have one. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from coverage import crps
from provenance import provenance
from unrelaxed import predicted

from crystalpredict.checkpoints.checkpoint import Checkpoint
from crystalpredict.data.dataset import (
    TRAIN,
    VALIDATION,
    crystal_of_row,
    neighbor_table,
    read_jsonl,
    table_from_rows,
)
from crystalpredict.nn import ModelConfig
from crystalpredict.prediction.predictor import Predictor
from crystalpredict.training.calibrate import calibrate
from crystalpredict.training.config import TrainingConfig
from crystalpredict.training.trainer import Trainer

NAME, COLUMN = "formation_energy", "formation_energy_eV_per_atom"
KEYS = ("id", "lattice", "species", "frac_coords", NAME)
MAX_ATOMS = 20
Row = dict[str, Any]


def rows_of(data: Path, name: str) -> list[Row]:
    """Small crystals of a file with a label."""
    rows = read_jsonl(data / f"{name}.jsonl.gz")
    return [row for row in rows if len(row["species"]) <= MAX_ATOMS and row.get(NAME) is not None]


def trained(folder: Path, train: list[Row], validation: list[Row], epochs: int) -> Predictor:
    """A network trained and calibrated on rows."""
    parts = [(row, part) for rows, part in ((train, TRAIN), (validation, VALIDATION)) for row in rows]
    table = table_from_rows(({key: row[key] for key in KEYS}, part) for row, part in parts)
    model = ModelConfig()
    neighbors = neighbor_table(table, model.radius, folder / "neighbors", os.cpu_count() or 1, merging=model.merging)
    config = TrainingConfig(
        epochs=epochs, learning_rate=1e-3, schedule="one_cycle", muon_rate=2, weight_decay=0.1, batch_atoms=3600,
        split_atoms=640, ema=0.999,
    )  # fmt: skip
    run = Trainer(folder, table, neighbors, model, config)
    run.run(lambda progress: print(progress.epoch, progress.errors, file=sys.stderr) if progress.errors else None)
    network = run.final_network().eval()
    checkpoint = Checkpoint("left-out", network, run.properties, run.data.mean, run.data.deviation, {})
    calibration = calibrate(checkpoint, table, neighbors, domain=True)
    return Predictor(replace(checkpoint, calibration=calibration), "cpu")


def scores(predictor: Predictor, rows: list[Row]) -> dict[str, float]:
    """Error, coverage and width of 90 % intervals, ranked probability score, and share of rows with a warning."""
    found = predicted(predictor, [crystal_of_row(row) for row in rows])
    rows, found = zip(*((row, each) for row, each in zip(rows, found, strict=True) if each.bounds), strict=True)
    labels, values = np.array([row[NAME] for row in rows]), np.array([each.values[COLUMN] for each in found])
    low, high = np.array([each.intervals[COLUMN] for each in found]).T
    return {
        "crystals": len(rows),
        "mae": round(float(np.abs(values - labels).mean()), 4),
        "inside_90": round(float(((labels >= low) & (labels <= high)).mean()), 3),
        "width_90": round(float((high - low).mean()), 3),
        "crps": round(crps(labels, values, np.array([each.bounds[COLUMN] for each in found])), 4),
        "warned": round(float(np.mean([bool(each.warnings) for each in found])), 3),
    }


def main() -> None:
    """Train, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--elements", nargs="+", default=["Ge", "Rh", "Sc", "Te", "Y"])
    parser.add_argument("--epochs", type=int, default=8)
    options = parser.parse_args()
    left_out = set(options.elements)
    sets = {name: rows_of(options.data, name) for name in ("mp2018/train", "mp2019/train", "mp2018/val", "mp2018/test")}
    known = {name: [row for row in rows if not left_out & set(row["species"])] for name, rows in sets.items()}
    new = [row for name in ("mp2018/val", "mp2018/test") for row in sets[name] if left_out & set(row["species"])]
    train = known["mp2018/train"] + known["mp2019/train"]
    predictor = trained(options.folder, train, known["mp2018/val"], options.epochs)
    result = provenance() | {"elements": sorted(left_out), "trained_on": len(train), "epochs": options.epochs}
    result["known elements"] = scores(predictor, known["mp2018/test"])
    result["with an element left out"] = scores(predictor, new)
    for element in sorted(left_out & {symbol for row in new for symbol in row["species"]}):
        result[element] = scores(predictor, [row for row in new if element in row["species"]])
    print(json.dumps(result))


if __name__ == "__main__":
    main()
