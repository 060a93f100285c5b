"""How well PBE gaps tell metals from semiconductors, and what becomes of half-Heuslers.

python benchmarks/gaps.py DATA [--model NAME] [--part val|test]

DATA is the folder of the labelled data; its mp2018 part is predicted, and the half-Heuslers of mp2018/train and
mp2019/train: a class of semiconductors among metals that look the same. Prints one line of JSON.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from arguments import parser_of_part
from provenance import provenance
from unrelaxed import predicted

from crystalpredict import load_model
from crystalpredict.checkpoints.registry import find_model
from crystalpredict.crystals.crystal import FloatArray
from crystalpredict.data.dataset import crystal_of_row, read_jsonl
from crystalpredict.prediction.predictor import Predictor

GAP, METAL = "bandgap", "metal_probability"
MAX_METAL = 0.01  # eV; labels up to it are metals'
CALLED_METAL = 0.05  # eV; a prediction below it calls a crystal a metal
CLEAR_GAP = 0.2  # eV; labels beyond it are clearly semiconductors'
SMALL_GAP = 0.1  # eV; below it a half-Heusler is as good as called a metal
Row = dict[str, Any]


def is_half_heusler(row: Row) -> bool:
    """Whether a primitive cell is that of MgAgAs: face-centred cubic, three elements at quarters of the diagonal."""
    if len(row["species"]) != 3 or len(set(row["species"])) != 3:
        return False
    lengths, angles = np.array(row["lattice"][:3]), np.array(row["lattice"][3:])
    if np.ptp(lengths) > 0.01 * lengths.mean() or np.abs(angles - 60).max() > 0.5:
        return False
    steps = 4 * (np.array(row["frac_coords"]) - row["frac_coords"][0])
    whole = np.round(steps)
    even = bool(np.ptp(whole % 4, axis=1).max() == 0)  # along the body diagonal
    return even and bool(np.abs(steps - whole).max() < 0.04 and len(set(whole[:, 0] % 4)) == 3)


def area_under_curve(scores: FloatArray, positive: FloatArray) -> float:
    """Probability that a score of a positive case exceeds that of a negative one."""
    order = np.sort(scores[~positive])
    below = np.searchsorted(order, scores[positive], "left") + np.searchsorted(order, scores[positive], "right")
    return float(below.mean() / 2 / len(order))


def values_of(predictor: Predictor, rows: Sequence[Row]) -> list[FloatArray]:
    """Predictions of each target, in their order, each (R,)."""
    found = predicted(predictor, [crystal_of_row(row) for row in rows])
    return [np.array([each.values[column] for each in found]) for column in predictor.columns]


def main() -> None:
    """Measure and print."""
    parser = parser_of_part(__doc__)
    parser.add_argument("--model")
    options = parser.parse_args()
    predictor = load_model(find_model(options.model), targets=[GAP, METAL])
    rows = [row for row in read_jsonl(options.data / f"mp2018/{options.part}.jsonl.gz") if row[GAP] is not None]
    labels = np.array([row[GAP] for row in rows])
    found, probabilities = values_of(predictor, rows)
    metals, called = labels <= MAX_METAL, found < CALLED_METAL
    training = [
        row
        for name in ("mp2018", "mp2019")
        for row in read_jsonl(options.data / f"{name}/train.jsonl.gz")
        if (row.get(GAP) or 0) > MAX_METAL and is_half_heusler(row)
    ]
    gaps, theirs = np.array([row[GAP] for row in training]), values_of(predictor, training)[0]
    result = provenance() | {
        "crystals": len(rows),
        "mae": round(float(np.abs(found - labels).mean()), 4),
        "mae_of_metals": round(float(np.abs(found - labels)[metals].mean()), 4),
        "area_under_curve": round(area_under_curve(probabilities, metals), 4),
        "semiconductors_called_metals": round(float(called[labels > CLEAR_GAP].mean()), 4),
        "metals_given_a_gap": round(float((found[metals] > SMALL_GAP).mean()), 4),
        "half_heuslers_of_training": len(training),
        "half_heuslers_with_small_gap": round(float((theirs < SMALL_GAP).mean()), 3),
        "half_heuslers_mae": round(float(np.abs(theirs - gaps).mean()), 3),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
