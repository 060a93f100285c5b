"""Add perturbed copies of relaxed training crystals to a prepared file.

python scripts/perturb.py crystals.npz -o more.npz --copies 2 --volume 0.1 --strain 0.05 --strained 0.5 \\
    --displacement 0.2 --displaced 0.4

Copies have the labels of the relaxed crystal. With --as-given, their formation energies are those at their own volume,
by the equation of state with a bulk modulus that the given model predicts where it is not labelled.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np

from crystalpredict.crystals.crystal import FloatArray, IntArray
from crystalpredict.data.dataset import TRAIN, VALIDATION, CrystalTable, neighbor_table
from crystalpredict.data.perturb import Perturbation, add_strain_energy, joined, perturbed
from crystalpredict.errors import CrystalPredictError
from crystalpredict.properties import FORMATION_ENERGY, VOLUME_CHANGE


def main() -> None:
    """Choose, perturb, write, and say how much."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--copies", type=float, default=1.0, help="of each crystal; below 1, of some")
    parser.add_argument("--atoms", type=int, default=40, help="of the largest crystals that are copied")
    parser.add_argument("--min-atoms", type=int, default=1, help="of the smallest")
    parser.add_argument("--relaxed", type=float, default=1.0, help="share of the relaxed crystals that are kept")
    parser.add_argument("--as-given", type=Path, metavar="MODEL", help="checkpoint folder that predicts bulk moduli")
    parser.add_argument("--of", choices=("train", "validation"), default="train", help="part whose crystals are copied")
    parser.add_argument("--labels", nargs="+", metavar="NAME", help="that copies keep [default: all]")
    parser.add_argument("--seed", type=int, default=1)
    for field in fields(Perturbation):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=float, default=field.default)
    options = parser.parse_args()
    if options.as_given and (options.strained or options.displaced):
        parser.error("--as-given knows the energies of other volumes, not those of strained cells or displaced atoms")
    table = CrystalTable.load(options.table)
    part = TRAIN if options.of == "train" else VALIDATION
    how = Perturbation(**{field.name: getattr(options, field.name) for field in fields(Perturbation)})
    names = [prop.name for prop in table.properties]
    needed = [VOLUME_CHANGE.name, *([FORMATION_ENERGY] if options.as_given else [])]
    known = np.isfinite(table.labels[:, [names.index(name) for name in needed]]).all(axis=1)
    known &= (table.splits == part) & (table.sizes <= options.atoms) & (table.sizes >= options.min_atoms)
    rows = np.flatnonzero(known)
    random = np.random.default_rng(options.seed)
    moduli = bulk_moduli(table, rows, options.as_given) if options.as_given else None
    copies = []
    for number in range(int(np.ceil(options.copies))):
        chosen = random.permutation(len(rows))[: round(len(rows) * min(1.0, options.copies - number))]
        found, whole = perturbed(table, rows[chosen], how, options.seed * 100 + number)
        copies.append(found if moduli is None else add_strain_energy(found, moduli[chosen[whole]]))
    kept = (random.random(len(table)) < options.relaxed) | (table.splits != part)
    dropped = [column for column, name in enumerate(names) if name not in (options.labels or names)]
    for found in copies:
        found.labels[:, dropped] = np.nan
    joined([table.take(np.flatnonzero(kept)), *copies]).save(options.output)
    added = sum(map(len, copies))
    print(f"{options.output}: {kept.sum():,} crystals and {added:,} perturbed copies of {len(rows):,}")


def bulk_moduli(table: CrystalTable, rows: IntArray, model: Path) -> FloatArray:
    """Return the bulk moduli of some crystals, GPa, (R,): labels, and predictions where there are none."""
    from crystalpredict.checkpoints.checkpoint import load_checkpoint
    from crystalpredict.training.calibrate import outputs_and_features

    checkpoint = load_checkpoint(model)
    part = table.take(rows)
    config = checkpoint.model.config
    neighbors = neighbor_table(part, config.radius, None, os.cpu_count() or 1, merging=config.merging)
    outputs, _ = outputs_and_features(checkpoint, part, neighbors, range(len(rows)))
    column = [prop.name for prop in checkpoint.properties].index("bulk_modulus")
    predicted = 10.0 ** (outputs[:, column] * checkpoint.deviation[column] + checkpoint.mean[column])
    labels = part.labels[:, [prop.name for prop in table.properties].index("bulk_modulus")]
    return np.where(np.isfinite(labels), labels, predicted)


if __name__ == "__main__":
    try:
        main()
    except CrystalPredictError as error:
        sys.exit(f"error: {error}")
