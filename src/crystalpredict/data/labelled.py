"""Read the structures of a labelled table, and split them into training, validation and test sets."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np

from crystalpredict.crystals.crystal import Crystal, FloatArray, IntArray
from crystalpredict.crystals.fingerprint import fingerprint
from crystalpredict.data.dataset import TEST, TRAIN, VALIDATION, CrystalTable
from crystalpredict.data.labels import Dropped, LabelledTable
from crystalpredict.data.splits import split_folds, split_groups
from crystalpredict.errors import DataError, UsageError
from crystalpredict.io.entries import Entry
from crystalpredict.io.reader import Reader
from crystalpredict.io.worker_pool import Limits

PARTS = {TRAIN: "train", VALIDATION: "val", TEST: "test"}


@dataclass(frozen=True)
class LabelledCrystals:
    """Crystals of a labelled table, with what is needed to split them.

    Attributes:
        table: C crystals and their labels, all in the training set.
        formulas: reduced formulas, (C,).
        fingerprints: of the crystals, which find duplicates (`crystalpredict.data.splits.fingerprint`), (C, 4).
        splits: content of the table's split column, or "", (C,).
        dropped: rows that were left out.
        dropped_labels: labels that were left out.
    """

    table: CrystalTable
    formulas: tuple[str, ...]
    fingerprints: FloatArray
    splits: tuple[str, ...]
    dropped: tuple[Dropped, ...]
    dropped_labels: tuple[Dropped, ...]

    def take(self, rows: IntArray) -> LabelledCrystals:
        """Return some of the crystals, in the order of their rows (R,)."""
        return replace(
            self,
            table=self.table.take(rows),
            formulas=tuple(self.formulas[row] for row in rows),
            fingerprints=self.fingerprints[rows],
            splits=tuple(self.splits[row] for row in rows),
        )


def read_crystals(
    labelled: LabelledTable, radius: float, jobs: int = 1,
    watch: Callable[[Iterable[Entry]], Iterable[Entry]] = iter,
    limits: Limits | None = None,
) -> LabelledCrystals:  # fmt: skip
    """Return the ordered crystals of a labelled table.

    Args:
        labelled: table of labels and structure sources.
        radius: of the neighbour lists that the fingerprints are computed from, Å.
        jobs: reader processes.
        watch: wraps the iterator over the structures, for example in a progress bar.
        limits: of time and memory for each file.

    Raises:
        DataError: no row has a structure to train on.
    """
    rows: list[int] = []
    formulas: list[str] = []
    dropped = list(labelled.dropped)
    prints: list[FloatArray] = []
    crystals: list[Crystal] = []
    with Reader(labelled.sources, radius, jobs, limits=limits) as reader:
        for row, found in enumerate(_by_source(watch(reader.entries()))):
            entry = found[0]
            crystal, neighbors = entry.crystal, entry.neighbors
            reason = entry.error
            if len(found) > 1:
                reason = f"{len(found)} structures: a labelled row must have one"
            elif crystal and (crystal.occupancies != 1).any():
                reason = "partly occupied sites: give an ordered model to train on"
            if reason or crystal is None or neighbors is None:
                dropped.append(Dropped(labelled.path, int(labelled.rows[row]), labelled.ids[row], reason))
                continue
            rows.append(row)
            formulas.append(entry.formula)  # not the entry, whose neighbour list would fill the memory
            crystals.append(crystal)
            prints.append(fingerprint(crystal.numbers[neighbors.atoms, 0], neighbors))
    if not rows:
        raise DataError(f"{labelled.path}: no row has a structure to train on; the first: {dropped[0].reason}")
    sizes = [crystal.n_atoms for crystal in crystals]
    table = CrystalTable(
        ids=np.array([labelled.ids[row] for row in rows]),
        splits=np.full(len(rows), TRAIN),
        first=np.concatenate([[0], np.cumsum(sizes)]),
        lattices=np.array([crystal.lattice for crystal in crystals]),
        fractional=np.concatenate([crystal.positions @ np.linalg.inv(crystal.lattice) for crystal in crystals]),
        numbers=np.concatenate([crystal.numbers[:, 0] for crystal in crystals]),
        labels=labelled.labels[rows],
        properties=labelled.properties,
    )
    return LabelledCrystals(
        table,
        tuple(formulas),
        np.array(prints),
        tuple(labelled.splits[row] for row in rows),
        tuple(dropped),
        labelled.dropped_labels,
    )


def _by_source(entries: Iterable[Entry]) -> Iterable[list[Entry]]:
    """Yield the entries of each source together."""
    own: list[Entry] = []
    for entry in entries:
        if entry.index == 0 and own:
            yield own
            own = []
        own.append(entry)
    if own:
        yield own


def split_crystals(
    crystals: LabelledCrystals, by: str, validation: float, test: float, folds: int, seed: int
) -> list[IntArray]:
    """Return TRAIN, VALIDATION or TEST of each crystal (C,), for each fold.

    Args:
        crystals: C labelled crystals.
        by: `formula`, `random` or `column`. If the column has no validation rows, they are taken from its training
            rows, by formula.
        validation: fraction of the crystals.
        test: fraction of the crystals; not used with `column`.
        folds: number of folds of a cross-validation; 0: a single split.
        seed: of the random order.

    Raises:
        UsageError: the split is impossible.
    """
    if by == "column":
        if folds:
            raise UsageError("--kfold makes its own splits: leave out --split-by column")
        return [_parts_of_column(crystals, validation, seed)]
    groups = crystals.formulas if by == "formula" else range(len(crystals.formulas))
    if folds == 1:
        raise UsageError("--kfold 1 leaves nothing to train on: use at least 2 folds")
    if folds:
        return split_folds(groups, folds, validation, seed)
    return [split_groups(groups, validation, test, seed)]


def use_fraction(
    crystals: LabelledCrystals, parts: IntArray, fraction: float, seed: int
) -> tuple[LabelledCrystals, IntArray]:
    """Return the crystals and their parts with a random fraction of the training crystals only.

    With one seed, the crystals of a smaller fraction are among those of a larger one.

    Args:
        crystals: C labelled crystals.
        parts: of each crystal, (C,).
        fraction: of the training crystals, which is rounded to at least one.
        seed: of the random choice.
    """
    train = np.flatnonzero(parts == TRAIN)
    order = np.random.default_rng(seed).permutation(len(train))
    left_out = train[order[max(1, round(fraction * len(train))) :]]
    rows = np.setdiff1d(np.arange(len(parts)), left_out)
    return crystals.take(rows), parts[rows]


def _parts_of_column(crystals: LabelledCrystals, validation: float, seed: int) -> IntArray:
    """Return TRAIN, VALIDATION or TEST for each crystal (C,) by the split column of the table."""
    numbers = {name: part for part, name in PARTS.items()}
    unknown = [row for row, name in enumerate(crystals.splits) if name not in numbers]
    if unknown:
        first = unknown[0]
        found = repr(crystals.splits[first]) if crystals.splits[first] else "nothing"
        raise UsageError(
            f"--split-by column: {found} in the column split of {len(unknown)} rows, the first with the id "
            f"{crystals.table.ids[first]}: write train, val or test there"
        )
    parts = np.array([numbers[name] for name in crystals.splits])
    train = np.flatnonzero(parts == TRAIN)
    if not (parts == VALIDATION).any() and len(train):
        parts[train] = split_groups([crystals.formulas[row] for row in train], validation, 0.0, seed)
    return parts
