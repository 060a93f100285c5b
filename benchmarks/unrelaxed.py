"""Errors and intervals on structures that are not relaxed, and how energies rise away from the relaxed volume.

python benchmarks/unrelaxed.py DATA [--model NAME] [--unrelaxed-model NAME] [--part val|test] [--as-given]

DATA is the folder of the labelled data. For each kind of structure: mean absolute error of the formation energy,
eV/atom, and the share of labels inside 90 % intervals, by a model of relaxed crystals and by that for unrelaxed ones.
Prints one line of JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from arguments import parser_of_part
from provenance import provenance

from crystalpredict import load_model
from crystalpredict.checkpoints.registry import find_model
from crystalpredict.crystals.crystal import Crystal, FloatArray
from crystalpredict.data.dataset import crystal_of_row, read_jsonl
from crystalpredict.data.substitute import substituted
from crystalpredict.io.reader import entries_of_crystals
from crystalpredict.prediction.predictor import Predictor
from crystalpredict.prediction.relaxation import scaled
from crystalpredict.prediction.rows import Prediction
from crystalpredict.prediction.strain_energy import EV_PER_GPA_A3

COLUMN = "formation_energy_eV_per_atom"
MAX_ATOMS = 40
SUBSTITUTED = 300
Row = dict[str, Any]


def predicted(predictor: Predictor, crystals: Sequence[Crystal]) -> list[Prediction]:
    """Predictions for crystals."""
    found: list[Prediction] = []
    radius = predictor.model.config.radius
    for start in range(0, len(crystals), 500):
        found += predictor.predictions(entries_of_crystals(crystals[start : start + 500], radius))
    return found


def scores(predictor: Predictor, crystals: Sequence[Crystal], labels: FloatArray) -> dict[str, float]:
    """Error and coverage of formation energies, share of rows with a warning of the volume, error of the volume."""
    rows = predicted(predictor, crystals)
    values = np.array([row.values.get(COLUMN, np.nan) for row in rows])
    ends = np.array([row.intervals.get(COLUMN, (np.nan, np.nan)) for row in rows])
    told = [any("would relax" in text for text in row.warnings) for row in rows]
    return {
        "crystals": len(rows),
        "mae": round(float(np.nanmean(np.abs(values - labels))), 4),
        "bias": round(float(np.nanmean(values - labels)), 4),
        "inside_90": round(float(np.mean((labels >= ends[:, 0]) & (labels <= ends[:, 1]))), 3),
        "width_90": round(float(np.nanmean(ends[:, 1] - ends[:, 0])), 3),
        "warned": round(float(np.mean(told)), 3),
    }


def strained(crystal: Crystal, random: np.random.Generator, size: float) -> Crystal:
    """A crystal with a random symmetric strain, whose components have the standard deviation `size`."""
    strain = random.normal(size=(3, 3)) * size
    deformed = np.eye(3) + (np.triu(strain) + np.triu(strain, 1).T)
    return replace(crystal, lattice=crystal.lattice @ deformed, positions=crystal.positions @ deformed)


def displaced(crystal: Crystal, random: np.random.Generator, size: float) -> Crystal:
    """A crystal whose atoms are moved by `size` (Å), each in a random direction."""
    shifts = random.normal(size=crystal.positions.shape)
    return replace(crystal, positions=crystal.positions + size * shifts / np.linalg.norm(shifts, axis=1)[:, None])


def sets(data: Path, part: str) -> dict[str, tuple[list[Crystal], FloatArray]]:
    """Crystals and labels of each kind."""
    rows = [row for row in read_jsonl(data / f"mp2018/{part}.jsonl.gz") if len(row["species"]) <= MAX_ATOMS]
    relaxed = [crystal_of_row(row) for row in rows]
    labels = np.array([row["formation_energy"] for row in rows])
    random = np.random.default_rng(1)
    ways: dict[str, Callable[[Crystal], Crystal]] = {
        "as relaxed": lambda crystal: crystal,
        "volume -10 %": lambda crystal: scaled(crystal, np.log(0.9)),
        "volume -8 %": lambda crystal: scaled(crystal, np.log(0.92)),
        "volume -5 %": lambda crystal: scaled(crystal, np.log(0.95)),
        "volume +5 %": lambda crystal: scaled(crystal, np.log(1.05)),
        "volume +8 %": lambda crystal: scaled(crystal, np.log(1.08)),
        "volume +10 %": lambda crystal: scaled(crystal, np.log(1.1)),
        "strain 3 %": lambda crystal: strained(crystal, random, 0.03),
        "atoms moved by 0.1 Å": lambda crystal: displaced(crystal, random, 0.1),
        "atoms moved by 0.2 Å": lambda crystal: displaced(crystal, random, 0.2),
    }
    found = {f"mp2018/{part}, {name}": ([way(each) for each in relaxed], labels) for name, way in ways.items()}
    for name in ("hypothetical", "hydride_pairs"):
        own = list(read_jsonl(data / f"more/{name}/{part}.jsonl.gz"))
        for kind in ("relaxed", "unrelaxed"):
            some = [row for row in own if kind == "relaxed" or row.get("unrelaxed")]
            cells = [crystal_of_row(row["unrelaxed"] if kind == "unrelaxed" else row) for row in some]
            found[f"{name}/{part}, {kind}"] = (cells, np.array([row["formation_energy"] for row in some]))
    known = [row for name in ("mp2018", "mp2019") for row in read_jsonl(data / f"{name}/train.jsonl.gz")]
    pairs = substituted(rows, [row for row in known if len(row["species"]) <= MAX_ATOMS], np.random.default_rng(3))
    made = list(islice(pairs, SUBSTITUTED))
    found[f"mp2018/{part}, substituted"] = (
        [crystal_of_row(cell) for _, cell in made], np.array([row["formation_energy"] for row, _ in made])
    )  # fmt: skip
    return found


def as_given(predictor: Predictor, data: Path, part: str) -> dict[str, Any]:
    """How formation energies change with the volume, by a model of crystals as they stand."""
    rows = [row for row in read_jsonl(data / f"mp2018/{part}.jsonl.gz") if len(row["species"]) <= MAX_ATOMS]
    crystals = [crystal_of_row(row) for row in rows]
    steps = np.linspace(-0.1, 0.1, 21)
    energies = np.stack([energies_of(predictor, [scaled(each, np.log1p(step)) for each in crystals]) for step in steps])
    lowest = np.abs(steps[energies.argmin(axis=0)])
    moduli = [row for row in read_jsonl(data / f"elastic/{part}.jsonl.gz") if len(row["species"]) <= MAX_ATOMS]
    stiff = [crystal_of_row(row) for row in moduli]
    wide = 0.05
    three = [energies_of(predictor, [scaled(each, np.log1p(step)) for each in stiff]) for step in (-wide, 0, wide)]
    curvature = (three[0] + three[2] - 2 * three[1]) / wide**2  # K V0 of an atom
    volumes = np.array([each.volume / each.n_atoms for each in stiff])
    ratio = curvature / volumes / EV_PER_GPA_A3 / np.array([row["bulk_modulus"] for row in moduli])
    return {
        "minimum_within_3_percent": round(float((lowest < 0.0301).mean()), 3),
        "minimum_at_the_edge": round(float((lowest > 0.0999).mean()), 3),
        "bulk_modulus_within_1.5": round(float(((ratio > 1 / 1.5) & (ratio < 1.5)).mean()), 3),
    }


def energies_of(predictor: Predictor, crystals: Sequence[Crystal]) -> FloatArray:
    """Predicted formation energies, eV/atom."""
    return np.array([row.values.get(COLUMN, np.nan) for row in predicted(predictor, crystals)])


def main() -> None:
    """Measure and print."""
    parser = parser_of_part(__doc__)
    parser.add_argument("--model")
    parser.add_argument("--unrelaxed-model")
    parser.add_argument("--as-given", action="store_true", help="measure only how energies change with the volume")
    options = parser.parse_args()
    default = load_model(find_model(options.model), targets=["formation_energy"])
    result: dict[str, Any] = provenance()
    if options.as_given:
        result["as_given"] = as_given(default, options.data, options.part)
    else:
        other = load_model(find_model(options.unrelaxed_model, unrelaxed=True), targets=["formation_energy"])
        for name, (crystals, labels) in sets(options.data, options.part).items():
            result[name] = {
                "default": scores(default, crystals, labels), "unrelaxed": scores(other, crystals, labels)
            }  # fmt: skip
            print(name, result[name], flush=True)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
