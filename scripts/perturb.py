"""Add perturbed copies of relaxed training crystals to a prepared file.

python scripts/perturb.py crystals.npz -o more.npz --copies 2 --volume 0.1 --strain 0.05 --strained 0.5 \\
    --displacement 0.2 --displaced 0.4

Copies have the labels of the relaxed crystal.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np

from crystalpredict.data.dataset import TRAIN, VALIDATION, CrystalTable
from crystalpredict.data.perturb import Perturbation, joined, perturbed
from crystalpredict.errors import CrystalPredictError
from crystalpredict.properties import VOLUME_CHANGE


def main() -> None:
    """Choose, perturb, write, and say how much."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--copies", type=float, default=1.0, help="of each crystal; below 1, of some")
    parser.add_argument("--atoms", type=int, default=40, help="of the largest crystals that are copied")
    parser.add_argument("--min-atoms", type=int, default=1, help="of the smallest")
    parser.add_argument("--relaxed", type=float, default=1.0, help="share of the relaxed crystals that are kept")
    parser.add_argument("--of", choices=("train", "validation"), default="train", help="part whose crystals are copied")
    parser.add_argument("--labels", nargs="+", metavar="NAME", help="that copies keep [default: all]")
    parser.add_argument("--seed", type=int, default=1)
    for field in fields(Perturbation):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=float, default=field.default)
    options = parser.parse_args()
    table = CrystalTable.load(options.table)
    part = TRAIN if options.of == "train" else VALIDATION
    how = Perturbation(**{field.name: getattr(options, field.name) for field in fields(Perturbation)})
    names = [prop.name for prop in table.properties]
    known = np.isfinite(table.labels[:, names.index(VOLUME_CHANGE.name)])
    known &= (table.splits == part) & (table.sizes <= options.atoms) & (table.sizes >= options.min_atoms)
    rows = np.flatnonzero(known)
    random = np.random.default_rng(options.seed)
    copies = []
    for number in range(int(np.ceil(options.copies))):
        chosen = random.permutation(len(rows))[: round(len(rows) * min(1.0, options.copies - number))]
        copies.append(perturbed(table, rows[chosen], how, options.seed * 100 + number)[0])
    kept = (random.random(len(table)) < options.relaxed) | (table.splits != part)
    dropped = [column for column, name in enumerate(names) if name not in (options.labels or names)]
    for found in copies:
        found.labels[:, dropped] = np.nan
    joined([table.take(np.flatnonzero(kept)), *copies]).save(options.output)
    added = sum(map(len, copies))
    print(f"{options.output}: {kept.sum():,} crystals and {added:,} perturbed copies of {len(rows):,}")


if __name__ == "__main__":
    try:
        main()
    except CrystalPredictError as error:
        sys.exit(f"error: {error}")
