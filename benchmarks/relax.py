"""Steps that a relaxation by a potential takes from a cell as it is, and from the volume that is predicted for it.

python benchmarks/relax.py TABLE.jsonl.gz [--potential chgnet] [--crystals 20] [--max-atoms 12]

Rows of the table have a relaxed crystal, its formation energy in eV/atom, and either the cell that its relaxation began
with (`unrelaxed`), or none: then the volume of every other one is changed by +10 %, and of the rest by -10 %.
Prints one line for each crystal, and one line of JSON.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from provenance import provenance
from unrelaxed import COLUMN

from crystalpredict import Predictor, Relaxation, load_model
from crystalpredict.checkpoints.registry import find_model
from crystalpredict.crystals.crystal import Crystal
from crystalpredict.data.dataset import crystal_of_row, read_jsonl
from crystalpredict.errors import StructureError
from crystalpredict.io.to_ase import atoms_of_crystal
from crystalpredict.prediction.relaxation import scaled
from crystalpredict.prediction.relaxation_by_potential import Relaxer

SEED = 0


def start_of(row: dict[str, Any], number: int) -> Crystal:
    """The crystal that a relaxation starts from."""
    if "unrelaxed" in row:
        return crystal_of_row(row["unrelaxed"])
    return scaled(crystal_of_row(row), float(np.log(0.9 if number % 2 else 1.1)))


def energy(model: Predictor, crystal: Crystal) -> float:
    """The predicted formation energy, eV/atom."""
    return model.predict([atoms_of_crystal(crystal)])[0][COLUMN]


def main() -> None:
    """Relax, count and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--potential", default="chgnet")
    parser.add_argument("--crystals", type=int, default=20)
    parser.add_argument("--max-atoms", type=int, default=12)
    options = parser.parse_args()
    rows = [row for row in read_jsonl(options.table) if len(row["species"]) <= options.max_atoms]
    rows = [rows[number] for number in np.random.default_rng(SEED).permutation(len(rows))[: options.crystals]]
    targets = ["formation_energy"]
    model = load_model(device="cpu", targets=targets, uncertainty=False)
    quick = load_model(find_model(unrelaxed=True), "cpu", targets, uncertainty=False)
    relaxers = {
        name: Relaxer(Relaxation(options.potential, predicted_volume=name == "predicted"), model.model.config, "cpu")
        for name in ("given", "predicted")
    }
    steps: dict[str, list[int]] = {name: [] for name in relaxers}
    errors: dict[str, list[float]] = {name: [] for name in ("as given", "--unrelaxed", *relaxers)}
    converged = 0
    for number, row in enumerate(rows):
        start, label = start_of(row, number), row["formation_energy"]
        try:
            ends = {name: relaxer.relaxed(start) for name, relaxer in relaxers.items()}
        except StructureError as error:
            print(row["id"], error)
            continue
        converged += all(end.converged for end in ends.values())
        found = {"as given": energy(model, start), "--unrelaxed": energy(quick, start)}
        found |= {name: energy(model, end.crystal) for name, end in ends.items()}
        for name, value in found.items():
            errors[name].append(abs(value - label))
        for name, end in ends.items():
            steps[name].append(end.steps)
        print(row["id"], {name: end.steps for name, end in ends.items()}, flush=True)
    result = {"potential": options.potential, "crystals": len(steps["given"]), "converged": converged}
    result |= {f"mean_steps_{name}": round(float(np.mean(each)), 1) for name, each in steps.items()}
    result |= {f"median_steps_{name}": float(np.median(each)) for name, each in steps.items()}
    result["mae_eV_per_atom"] = {name: round(float(np.mean(each)), 3) for name, each in errors.items()}
    print(json.dumps(result | provenance()))


if __name__ == "__main__":
    main()
