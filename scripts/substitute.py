"""Add crystals that nobody measured, with elements exchanged, labelled by a teacher: more to learn from.

python scripts/substitute.py crystals.npz crystalformer-mp-ensemble -o more.npz --without mp2018/test.jsonl.gz

In a training crystal of at most --atoms atoms some elements give way to others that the training crystals have in their
place: two elements are alike as often as two formulas differ in them alone (as in Hautier et al., Inorg. Chem. 50,
656 (2011), by formulas instead of structures). The cell is scaled by the volumes of the elements, which least squares
find. Formulas of validation crystals and of the files --without are left out. A student then learns what the teacher,
say an ensemble, makes of crystals that neither has seen (Hinton et al., arXiv:1503.02531).
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
from distil import composition, compositions, predicted

from crystalpredict.checkpoint import load_checkpoint
from crystalpredict.crystal import FloatArray, IntArray
from crystalpredict.dataset import TRAIN, VALIDATION, CrystalTable, read_jsonl, table_of_rows
from crystalpredict.registry import find_model

ELEMENTS = 119  # atomic numbers, 0 for none
SECOND = 0.4  # of the crystals have a second element exchanged


def main() -> None:
    """Exchange, predict, write, and say how much."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="prepared crystals (scripts/prepare.py)")
    parser.add_argument("teacher", help="a bundled model or a checkpoint folder")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--count", type=int, default=100_000, help="of new crystals")
    parser.add_argument("--atoms", type=int, default=20, help="of the largest crystals to exchange elements in")
    parser.add_argument("--without", nargs="*", type=Path, default=[], metavar="FILE", help="crystals to keep unknown")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    table, teacher = CrystalTable.load(options.table), load_checkpoint(find_model(options.teacher))
    if missing := set(teacher.properties) - set(table.properties):
        parser.exit(2, f"{options.table}: no column for {', '.join(prop.name for prop in missing)}\n")
    hidden = compositions(table, np.flatnonzero(table.splits == VALIDATION))
    for path in options.without:
        others = table_of_rows((row, VALIDATION) for row in read_jsonl(path))
        hidden |= compositions(others, np.arange(len(others)))
    train = np.flatnonzero(table.splits == TRAIN)
    parents = train[table.sizes[train] <= options.atoms]
    if not len(parents):
        parser.exit(2, f"{options.table}: no training crystal of at most {options.atoms} atoms\n")
    random = np.random.default_rng(options.seed)
    chosen = table.take(random.choice(parents, options.count))
    new = exchanged(chosen, alike(table, train), volumes(table, train), random)
    other = np.flatnonzero(np.logical_or.reduceat(new.numbers != chosen.numbers, new.first[:-1]))
    new = new.take(np.array([row for row in other if composition(new, row) not in hidden]))
    labels = np.full_like(new.labels, np.nan)
    labels[:, [table.properties.index(prop) for prop in teacher.properties]] = predicted(teacher, new)
    joined(table, new, labels).save(options.output)
    print(f"{options.output}: {len(new):,} crystals with exchanged elements, labelled by {teacher.name}")


def alike(table: CrystalTable, rows: IntArray) -> FloatArray:
    """How many pairs of formulas of the crystals `rows` differ only in having one element for the other (119, 119)."""
    places: dict[tuple[int, frozenset[tuple[int, int]]], set[int]] = defaultdict(set)
    for row in rows:
        counts = Counter(table.numbers[table.first[row] : table.first[row + 1]].tolist())
        divisor = int(np.gcd.reduce(list(counts.values())))
        formula = {number: count // divisor for number, count in counts.items()}
        for number, count in formula.items():
            others = frozenset(pair for pair in formula.items() if pair[0] != number)
            if others:
                places[count, others].add(number)
    pairs = np.zeros((ELEMENTS, ELEMENTS))
    for elements in places.values():
        them = sorted(elements)
        pairs[np.ix_(them, them)] += 1 / len(them)  # a place that anything takes says little of each pair
    np.fill_diagonal(pairs, 0)
    return pairs


def volumes(table: CrystalTable, rows: IntArray) -> FloatArray:
    """Logarithm of the volume of an atom of each element, Å^3 (119,), whose means are nearest to the crystals `rows`.

    Geometric means: between two formulas that differ in one element, they foresee the change of half of the cells
    within 4 %, arithmetic ones within 8 %.
    """
    counts = np.zeros((len(rows), ELEMENTS))
    for place, row in enumerate(rows):
        np.add.at(counts[place], table.numbers[table.first[row] : table.first[row + 1]], 1)
    atoms = counts.sum(axis=1)
    measured = np.log(np.abs(np.linalg.det(table.lattices[rows].astype(float))) / atoms)
    prior = np.sqrt(3.0) * np.eye(ELEMENTS)  # as if each element were in three cells of 20 Å^3 an atom
    shares = np.vstack([counts / atoms[:, None], prior])
    found, *_ = np.linalg.lstsq(shares, np.append(measured, np.log(20) * prior.sum(axis=1)))
    return np.asarray(found)


def exchanged(table: CrystalTable, pairs: FloatArray, volume: FloatArray, random: np.random.Generator) -> CrystalTable:
    """The crystals with one or two elements exchanged, by the shares of `pairs`, in cells scaled accordingly."""
    numbers, lattices = table.numbers.copy(), table.lattices.copy()
    for row in range(len(table)):
        atoms = slice(table.first[row], table.first[row + 1])
        old = table.numbers[atoms]
        elements = np.unique(old)
        wanted = min(len(elements), 1 + (random.random() < SECOND))
        instead = np.arange(ELEMENTS)
        for element in random.permutation(elements)[:wanted]:
            weights = pairs[element].copy()
            weights[elements] = 0  # no two elements become one
            weights[instead[elements]] = 0
            if weights.any():
                instead[element] = random.choice(ELEMENTS, p=weights / weights.sum())
        numbers[atoms] = instead[old]
        lattices[row] *= np.exp((volume[numbers[atoms]] - volume[old]).mean() / 3)
    ids = np.array([f"{name}-exchanged" for name in table.ids])
    return CrystalTable(
        ids, table.splits, table.first, lattices, table.fractional, numbers, table.labels, table.properties
    )


def joined(table: CrystalTable, new: CrystalTable, labels: FloatArray) -> CrystalTable:
    """Both tables in one, the second with other labels."""
    return CrystalTable(
        np.concatenate([table.ids, new.ids]), np.concatenate([table.splits, new.splits]),
        np.concatenate([table.first, table.first[-1] + new.first[1:]]),
        np.concatenate([table.lattices, new.lattices]), np.concatenate([table.fractional, new.fractional]),
        np.concatenate([table.numbers, new.numbers]), np.concatenate([table.labels, labels]), table.properties,
    )  # fmt: skip


if __name__ == "__main__":
    main()
