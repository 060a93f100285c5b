"""Fill missing training labels with predictions of a slower, more accurate model, to teach a fast one (distillation).

python scripts/distil.py crystals.npz crystalframer-elastic -o distilled.npz --atoms 20 --without elastic/test.jsonl.gz

Training crystals of at most --atoms atoms that have no label of what the teacher predicts get its values; one of the
same id as a crystal with labels gets those. Left out are the formulas of validation crystals that have these labels,
and those of the files --without: what a model is measured on stays unknown to it (Hinton et al., arXiv:1503.02531).
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from crystalpredict.checkpoints.checkpoint import Checkpoint, load_checkpoint
from crystalpredict.checkpoints.registry import find_model
from crystalpredict.crystals.crystal import FloatArray, IntArray
from crystalpredict.data.dataset import TRAIN, VALIDATION, CrystalTable, neighbor_table, read_jsonl, table_from_rows
from crystalpredict.properties import Property
from crystalpredict.training.calibrate import outputs_and_features

NUMBERS = 119  # atomic numbers, 0 for none
Composition = frozenset[tuple[int, float]]


def main() -> None:
    """Predict, fill in, write, and say how much."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="prepared crystals (scripts/prepare.py)")
    parser.add_argument("teacher", help="a bundled model or a checkpoint folder")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--atoms", type=int, default=20, help="of the largest crystals that are filled in")
    parser.add_argument(
        "--properties", nargs="+", metavar="NAME", help="that are filled in [default: all of the teacher]"
    )
    parser.add_argument("--without", nargs="*", type=Path, default=[], metavar="FILE", help="crystals to keep unknown")
    options = parser.parse_args()
    table, teacher = CrystalTable.load(options.table), load_checkpoint(find_model(options.teacher))
    wanted = [prop for prop in teacher.properties if prop.name in (options.properties or [prop.name])]
    if missing := set(wanted) - set(table.properties):
        parser.exit(2, f"{options.table}: no column for {', '.join(prop.name for prop in missing)}\n")
    columns = [table.properties.index(prop) for prop in wanted]
    labels = table.labels.copy()
    known = np.isfinite(labels[:, columns]).any(axis=1)
    hidden = compositions(table, np.flatnonzero(known & (table.splits == VALIDATION)))
    hidden |= compositions_of_files(options.without)
    rows = np.flatnonzero((table.splits == TRAIN) & ~known & (table.sizes <= options.atoms))
    rows = np.array([row for row in rows if composition(table, row) not in hidden])
    measured = {table.ids[row]: labels[row, columns] for row in np.flatnonzero(known & (table.splits == TRAIN))}
    if not len(rows):
        parser.exit(2, f"{options.table}: no training crystal of at most {options.atoms} atoms to label\n")
    values = predicted(teacher, table.take(rows), wanted)
    copied = np.array([table.ids[row] in measured for row in rows])
    for place in np.flatnonzero(copied):
        values[place] = measured[table.ids[rows[place]]]
    labels[np.ix_(rows, columns)] = values
    replace(table, labels=labels).save(options.output)
    print(f"{options.output}: {len(rows) - copied.sum():,} crystals labelled by {teacher.name}, {copied.sum():,} by id")


def composition(table: CrystalTable, row: int) -> Composition:
    """Share of each element, for a look-up."""
    numbers = table.numbers[table.first[row] : table.first[row + 1]].tolist()
    return frozenset((number, round(count / len(numbers), 5)) for number, count in Counter(numbers).items())


def element_shares(table: CrystalTable, rows: IntArray) -> FloatArray:
    """Share of each element in some rows, (R, 119)."""
    atoms = [table.numbers[table.first[row] : table.first[row + 1]] for row in rows]
    counts = np.stack([np.bincount(own, minlength=NUMBERS) for own in atoms])
    return np.asarray(counts / table.sizes[rows, None])


def compositions(table: CrystalTable, rows: IntArray) -> set[Composition]:
    """Those of some rows."""
    return {composition(table, row) for row in rows}


def compositions_of_files(paths: Sequence[Path]) -> set[Composition]:
    """Those of all crystals of some JSONL files."""
    tables = [table_from_rows((row, VALIDATION) for row in read_jsonl(path)) for path in paths]
    return {found for table in tables for found in compositions(table, np.arange(len(table)))}


def predicted(teacher: Checkpoint, table: CrystalTable, wanted: Sequence[Property]) -> FloatArray:
    """The teacher's values of some properties for all crystals of a table (C, properties), in the properties' units."""
    model = teacher.model.config
    neighbors = neighbor_table(table, model.radius, jobs=os.cpu_count() or 1, merging=model.merging)
    outputs, _ = outputs_and_features(teacher, table, neighbors, range(len(table)), strained=False)
    values = teacher.decode(outputs)
    return np.stack([values[prop.name] for prop in wanted], axis=1)


if __name__ == "__main__":
    main()
