"""Add perturbed copies of relaxed training crystals to a prepared file.

python scripts/perturb.py crystals.npz -o more.npz --copies 2 --volume 0.1 --strain 0.05 --strained 0.5 \\
    --displacement 0.2 --displaced 0.4

Copies have the labels of the relaxed crystal. With --as-given, their formation energies are those at their own volume,
by the equation of state with a bulk modulus that the given model predicts where it is not labelled. With --correction
the label is what is to be added to what the given model says of the copy: what it says of the relaxed crystal less what
it says of the copy, and the strain energy.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np

from crystalpredict.crystals.crystal import FloatArray, IntArray
from crystalpredict.data.dataset import TRAIN, VALIDATION, CrystalTable, neighbor_table
from crystalpredict.data.perturb import Perturbation, add_strain_energy, joined, perturbed, strain_energies
from crystalpredict.errors import CrystalPredictError
from crystalpredict.properties import FORMATION_ENERGY, VOLUME_CHANGE, VOLUME_CORRECTION, Property


def main() -> None:
    """Choose, perturb, write, and say how much."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--copies", type=float, default=1.0, help="of each crystal; below 1, of some")
    parser.add_argument("--atoms", type=int, default=40, help="of the largest crystals that are copied")
    parser.add_argument("--min-atoms", type=int, default=1, help="of the smallest")
    parser.add_argument("--relaxed", type=float, default=1.0, help="share of the relaxed crystals that are kept")
    energies_of = parser.add_mutually_exclusive_group()
    energies_of.add_argument(
        "--as-given", type=Path, metavar="MODEL", help="checkpoint folder that predicts bulk moduli"
    )
    energies_of.add_argument(
        "--correction", type=Path, metavar="MODEL", help="checkpoint folder whose energies are corrected"
    )
    parser.add_argument("--of", choices=("train", "validation"), default="train", help="part whose crystals are copied")
    parser.add_argument("--labels", nargs="+", metavar="NAME", help="that copies keep [default: all]")
    parser.add_argument("--seed", type=int, default=1)
    for field in fields(Perturbation):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=float, default=field.default)
    options = parser.parse_args()
    if (options.as_given or options.correction) and (options.strained or options.displaced):
        parser.error("without --strained and --displaced: the equation of state gives energies of other volumes only")
    table = CrystalTable.load(options.table)
    if options.correction and VOLUME_CORRECTION not in table.properties:
        table = with_property(table, VOLUME_CORRECTION)
    part = TRAIN if options.of == "train" else VALIDATION
    how = Perturbation(**{field.name: getattr(options, field.name) for field in fields(Perturbation)})
    names = [prop.name for prop in table.properties]
    needed = [VOLUME_CHANGE.name, *([FORMATION_ENERGY] if options.as_given else [])]
    known = np.isfinite(table.labels[:, [names.index(name) for name in needed]]).all(axis=1)
    known &= (table.splits == part) & (table.sizes <= options.atoms) & (table.sizes >= options.min_atoms)
    if options.correction:
        known &= table.labels[:, names.index(VOLUME_CHANGE.name)] == 0  # relaxed
    rows = np.flatnonzero(known)
    random = np.random.default_rng(options.seed)
    moduli = bulk_moduli(table, rows, options.as_given) if options.as_given else None
    energies = Energies(options.correction, table.take(rows)) if options.correction else None
    copies = []
    for number in range(int(np.ceil(options.copies))):
        chosen = random.permutation(len(rows))[: round(len(rows) * min(1.0, options.copies - number))]
        found, whole = perturbed(table, rows[chosen], how, options.seed * 100 + number)
        found = found if moduli is None else add_strain_energy(found, moduli[chosen[whole]])
        copies.append(found if energies is None else energies.corrected(found, chosen[whole]))
    if options.correction:
        table.labels[rows, table.properties.index(VOLUME_CORRECTION)] = 0.0
    kept = (random.random(len(table)) < options.relaxed) | (table.splits != part)
    dropped = [column for column, name in enumerate(names) if name not in (options.labels or names)]
    for found in copies:
        found.labels[:, dropped] = np.nan
    joined([table.take(np.flatnonzero(kept)), *copies]).save(options.output)
    added = sum(map(len, copies))
    print(f"{options.output}: {kept.sum():,} crystals and {added:,} perturbed copies of {len(rows):,}")


def bulk_moduli(table: CrystalTable, rows: IntArray, model: Path) -> FloatArray:
    """Return the bulk moduli of some crystals, GPa, (R,): labels, and predictions where there are none."""
    predicted = Energies(model, table.take(rows)).moduli
    labels = table.labels[rows, [prop.name for prop in table.properties].index("bulk_modulus")]
    return np.where(np.isfinite(labels), labels, predicted)


def with_property(table: CrystalTable, prop: Property) -> CrystalTable:
    """Return a table with a property more, without labels of it."""
    labels = np.column_stack([table.labels, np.full(len(table), np.nan)])
    return replace(table, labels=labels, properties=(*table.properties, prop))


class Energies:
    """What a model says of relaxed crystals.

    Attributes:
        energies: formation energies without a correction for the volume, eV/atom, not a number if it has none, (R,).
        moduli: bulk moduli, GPa, (R,).
    """

    def __init__(self, model: Path, table: CrystalTable) -> None:
        from crystalpredict.checkpoints.checkpoint import load_checkpoint

        self.checkpoint = load_checkpoint(model)
        self.energies, self.moduli = self._of(table)

    def corrected(self, copies: CrystalTable, rows: IntArray) -> CrystalTable:
        """Return copies of some of the crystals with labels of the change and the correction of the volume alone."""
        correction = self.energies[rows] - self._of(copies)[0] + strain_energies(copies, self.moduli[rows])
        labels = np.full_like(copies.labels, np.nan)
        change = copies.properties.index(VOLUME_CHANGE)
        labels[:, change] = copies.labels[:, change]
        labels[:, copies.properties.index(VOLUME_CORRECTION)] = correction
        return replace(copies, labels=labels)

    def _of(self, table: CrystalTable) -> tuple[FloatArray, FloatArray]:
        from crystalpredict.training.calibrate import outputs_and_features

        config = self.checkpoint.model.config
        neighbors = neighbor_table(table, config.radius, None, os.cpu_count() or 1, merging=config.merging)
        outputs, _ = outputs_and_features(self.checkpoint, table, neighbors, range(len(table)))
        values = outputs * self.checkpoint.deviation + self.checkpoint.mean
        names = [prop.name for prop in self.checkpoint.properties]
        unknown = np.full(len(values), np.nan)
        energies = values[:, names.index(FORMATION_ENERGY)] if FORMATION_ENERGY in names else unknown
        return energies, 10.0 ** values[:, names.index("bulk_modulus")]


if __name__ == "__main__":
    try:
        main()
    except CrystalPredictError as error:
        sys.exit(f"error: {error}")
