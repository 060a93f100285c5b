"""Label crystals with formation energies by an interatomic potential, to teach a network more of them.

python scripts/teach_energies.py crystals.npz sevenn -o taught.npz --atoms 40 --without mp2018/test.jsonl.gz

Training crystals without a formation energy get that of the same id; others of at most --atoms atoms get the energy by
the potential, and what sets the two apart, which is linear in the shares of the elements, and in those of the metals
with a Hubbard U where there is oxygen or fluorine (A. Jain et al., Phys. Rev. B 84, 045115 (2011)). Least absolute
deviations on --sample crystals with a label find it; elements that these lack are left out, and so are the formulas of
validation crystals and of the files --without. A potential is named as for `crystalpredict predict --relax`. Energies
are kept in a file beside the output: a run that was stopped goes on. Potentials learn from calculations of known
crystals, test crystals among them: say so on a card.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from distil import composition, compositions, compositions_of_files, element_shares

from crystalpredict._files import write_atomically
from crystalpredict.crystals.crystal import FloatArray, IntArray
from crystalpredict.data.dataset import TRAIN, VALIDATION, CrystalTable
from crystalpredict.io.to_ase import atoms_of_crystal
from crystalpredict.prediction.potentials import calculator_of, identity_of_potential
from crystalpredict.properties import FORMATION_ENERGY

WITH_U = (23, 24, 25, 26, 27, 28, 42, 74)  # V, Cr, Mn, Fe, Co, Ni, Mo, W
ANIONS = (8, 9)  # beside which these have a U
STEPS, SMALLEST = 30, 3e-3  # of reweighting; eV/atom, below which a deviation has no larger weight
RIDGE = 1e-6
KEPT_EVERY = 200  # crystals


def main() -> None:
    """Compute energies, fit, label, write, and say how well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="prepared crystals (scripts/prepare.py)")
    parser.add_argument("potential", help="chgnet, sevenn or module:function")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--atoms", type=int, default=40, help="of the largest crystals that are labelled")
    parser.add_argument("--sample", type=int, default=5000, help="crystals with labels, by which both are compared")
    parser.add_argument("--without", nargs="*", type=Path, default=[], metavar="FILE", help="crystals to keep unknown")
    options = parser.parse_args()
    table = CrystalTable.load(options.table)
    column = [prop.name for prop in table.properties].index(FORMATION_ENERGY)
    labels = table.labels.copy()
    hidden = compositions(table, np.flatnonzero(table.splits == VALIDATION)) | compositions_of_files(options.without)
    train = np.flatnonzero(table.splits == TRAIN)
    known = train[np.isfinite(labels[train, column])]
    by_id = dict(zip(table.ids[known].tolist(), labels[known, column].tolist(), strict=True))
    copied = np.array([row for row in train if np.isnan(labels[row, column]) and table.ids[row] in by_id], dtype=int)
    labels[copied, column] = [by_id[table.ids[row]] for row in copied]
    small = known[table.sizes[known] <= options.atoms]
    sample = np.random.default_rng(0).permutation(small)[: options.sample]
    elements = {number for row in sample.tolist() for number, _ in composition(table, row)}
    wanted = np.array(
        [
            row
            for row in train[np.isnan(labels[train, column]) & (table.sizes[train] <= options.atoms)]
            if (own := composition(table, row)) not in hidden and {number for number, _ in own} <= elements
        ],
        dtype=int,
    )
    if not len(sample) or not len(wanted):
        parser.exit(
            2, f"{options.table}: no training crystal of at most {options.atoms} atoms to learn from or to label\n"
        )
    kept = options.output.with_suffix(".energies.npz")
    energies = energies_of(table, np.concatenate([sample, wanted]), options.potential, kept)
    terms = terms_of(table, sample)
    rest = labels[sample, column] - energies[: len(sample)]
    fitted = least_absolute(terms, rest)
    labels[wanted, column] = energies[len(sample) :] + terms_of(table, wanted) @ fitted
    replace(table, labels=labels).save(options.output)
    errors = np.abs(rest - terms @ fitted)
    print(
        f"{options.output}: {len(wanted):,} crystals labelled by the potential, {len(copied):,} by id; {len(sample):,} "
        f"labels are {errors.mean():.4f} eV/atom off on average, {np.median(errors):.4f} in the median"
    )


def energies_of(table: CrystalTable, rows: IntArray, potential: str, kept: Path) -> FloatArray:
    """Energies of some rows by a potential, eV/atom, (R,).

    Args:
        table: of crystals.
        rows: of them, (R,).
        potential: as for `calculator_of`.
        kept: file of energies by row, which is read, if it is of this table and this potential, and written.
    """
    known: dict[int, float] = {}
    origin = f"{identity_of_potential(potential)} {table.checksum()}"
    if kept.exists():
        with np.load(kept, allow_pickle=False) as file:
            if str(file["origin"]) == origin:
                known = dict(zip(file["rows"].tolist(), file["energies"].tolist(), strict=True))
    new = [row for row in rows.tolist() if row not in known]
    calculator = calculator_of(potential, "cpu") if new else None
    for place, row in enumerate(new, start=1):
        atoms = atoms_of_crystal(table.crystal(row))
        known[row] = float(calculator.get_potential_energy(atoms)) / len(atoms)
        if place % KEPT_EVERY == 0 or place == len(new):
            with write_atomically(kept) as file:
                np.savez(file, origin=origin, rows=np.array([*known]), energies=np.array([*known.values()]))
    return np.array([known[row] for row in rows.tolist()])


def terms_of(table: CrystalTable, rows: IntArray) -> FloatArray:
    """Shares of the elements, and of those with a Hubbard U where they have one, of some rows, (R, terms)."""
    shares = element_shares(table, rows)
    corrected = shares[:, ANIONS].any(axis=1)
    return np.hstack([shares, shares[:, WITH_U] * corrected[:, None]])


def least_absolute(terms: FloatArray, values: FloatArray) -> FloatArray:
    """Weights of terms with the least absolute deviations, by reweighted least squares, (terms,).

    Args:
        terms: (R, terms).
        values: that weighted terms add up to, (R,).
    """
    weights, found = np.ones(len(values)), np.zeros(terms.shape[1])
    for _ in range(STEPS):
        weighted = terms * weights[:, None]
        found = np.linalg.solve(weighted.T @ terms + RIDGE * np.eye(terms.shape[1]), weighted.T @ values)
        weights = 1 / np.maximum(np.abs(values - terms @ found), SMALLEST)
    return found


if __name__ == "__main__":
    main()
