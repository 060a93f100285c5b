"""Steps that a relaxation by a potential takes from a cell as it is, and from two starts that are predicted for it.

python benchmarks/relax.py TABLE.jsonl.gz [--change volume|strain|atoms|element] [--known TABLE.jsonl.gz ...]
    [--potential chgnet] [--crystals 20] [--max-atoms 12]

Rows of the table have a relaxed crystal, its formation energy in eV/atom, and either the cell that its relaxation began
with (`unrelaxed`), or none. Then the crystal is changed: the volume of every other one by +10 %, and of the rest by
-10 %; or the cell is strained by 3 %; or each atom is moved by 0.2 Å; or the start is a crystal of the known tables in
which one element was exchanged. Starts: `given`, `volume`, the same at the predicted volume, and `predicted`, the
predicted crystal. Prints one line for each crystal, and one line of JSON.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from provenance import provenance
from unrelaxed import COLUMN, displaced, strained

from crystalpredict import Predictor, Relaxation, load_model
from crystalpredict.checkpoints.registry import find_model
from crystalpredict.crystals.crystal import Crystal
from crystalpredict.data.dataset import crystal_of_row, read_jsonl
from crystalpredict.data.substitute import substituted
from crystalpredict.errors import StructureError
from crystalpredict.io.to_ase import atoms_of_crystal
from crystalpredict.prediction.relaxation import scaled
from crystalpredict.prediction.relaxation_by_potential import Relaxer

SEED = 0
STRAIN = 0.03
DISPLACEMENT = 0.2  # Å
SAME_ENERGY = 0.005  # eV/atom: ends that differ by less are one
STARTS = ("given", "volume", "predicted")
Row = dict[str, Any]


def starts(options: argparse.Namespace) -> Iterator[tuple[Row, Crystal]]:
    """Yield rows, in random order, each with the crystal that its relaxation starts from."""
    rows = [row for row in read_jsonl(options.table) if len(row["species"]) <= options.max_atoms]
    random = np.random.default_rng(SEED)
    if options.change == "element":
        known = [row for path in options.known for row in read_jsonl(path) if len(row["species"]) <= options.max_atoms]
        for row, cell in substituted(rows, known, random):
            yield row, crystal_of_row(cell)
        return
    for number, place in enumerate(random.permutation(len(rows)).tolist()):
        row = rows[place]
        relaxed = crystal_of_row(row)
        if "unrelaxed" in row:
            yield row, crystal_of_row(row["unrelaxed"])
        elif options.change == "strain":
            yield row, strained(relaxed, random, STRAIN)
        elif options.change == "atoms":
            yield row, displaced(relaxed, random, DISPLACEMENT)
        else:
            yield row, scaled(relaxed, float(np.log(0.9 if number % 2 else 1.1)))


def energy(model: Predictor, crystal: Crystal) -> float:
    """The predicted formation energy, eV/atom."""
    return model.predict([atoms_of_crystal(crystal)])[0][COLUMN]


def potential_energy(relaxer: Relaxer, crystal: Crystal) -> float:
    """The energy of a crystal by the potential, eV/atom."""
    atoms = atoms_of_crystal(crystal)
    atoms.calc = relaxer.calculator
    return float(atoms.get_potential_energy()) / len(atoms)


def summary(steps: dict[str, list[int]], energies: dict[str, list[float]]) -> dict[str, Any]:
    """Steps from each start, and how predicted starts compare with the cells as given."""
    counts = {name: np.array(each) for name, each in steps.items()}
    found: dict[str, Any] = {f"mean_steps_{name}": round(float(each.mean()), 1) for name, each in counts.items()}
    found |= {f"median_steps_{name}": float(np.median(each)) for name, each in counts.items()}
    for name in STARTS[1:]:
        change = np.array(energies[name]) - np.array(energies["given"])
        found[f"{name}_against_given"] = {
            "fewer_steps": int((counts[name] < counts["given"]).sum()),
            "more_steps": int((counts[name] > counts["given"]).sum()),
            "lower_energy": int((change < -SAME_ENERGY).sum()),
            "higher_energy": int((change > SAME_ENERGY).sum()),
        }
    return found


def main() -> None:
    """Relax, count and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--change", default="volume", choices=("volume", "strain", "atoms", "element"))
    parser.add_argument("--known", type=Path, nargs="*", default=[])
    parser.add_argument("--potential", default="chgnet")
    parser.add_argument("--crystals", type=int, default=20)
    parser.add_argument("--max-atoms", type=int, default=12)
    options = parser.parse_args()
    targets = ["formation_energy"]
    model = load_model(device="cpu", targets=targets, uncertainty=False)
    quick = load_model(find_model(unrelaxed=True), "cpu", targets, uncertainty=False)
    plain, predicted = (
        Relaxer(Relaxation(options.potential, predicted_start=flag), model.model.config, "cpu")
        for flag in (False, True)
    )
    steps: dict[str, list[int]] = {name: [] for name in STARTS}
    energies: dict[str, list[float]] = {name: [] for name in STARTS}
    errors: dict[str, list[float]] = {name: [] for name in ("as given", "--unrelaxed", *STARTS)}
    converged = failed = 0
    for row, start in islice(starts(options), options.crystals):
        (guess,) = quick.predict([atoms_of_crystal(start)])
        assert guess.relaxed is not None
        at_volume = scaled(start, float(np.log(guess.relaxed.volume / start.volume)))
        try:
            ends = {"given": plain.relaxed(start), "volume": plain.relaxed(at_volume)}
            ends["predicted"] = predicted.relaxed(start)
        except StructureError as error:
            failed += 1
            print(row["id"], error, flush=True)
            continue
        converged += all(end.converged for end in ends.values())
        values = {"as given": energy(model, start), "--unrelaxed": guess[COLUMN]}
        values |= {name: energy(model, end.crystal) for name, end in ends.items()}
        for name, value in values.items():
            errors[name].append(abs(value - row["formation_energy"]))
        for name, end in ends.items():
            steps[name].append(end.steps)
            energies[name].append(potential_energy(plain, end.crystal))
        print(row["id"], {name: (end.steps, round(energies[name][-1], 4)) for name, end in ends.items()}, flush=True)
    result = {"potential": options.potential, "table": "/".join(options.table.parts[-2:]), "change": options.change}
    result |= {"crystals": len(steps["given"]), "failed": failed, "converged": converged} | summary(steps, energies)
    result["mae_eV_per_atom"] = {name: round(float(np.mean(each)), 3) for name, each in errors.items()}
    print(json.dumps(result | provenance()))


if __name__ == "__main__":
    main()
