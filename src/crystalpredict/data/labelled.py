"""Labelled crystals: read the structures of a labelled table, and split them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from crystalpredict.crystals.crystal import Crystal, FloatArray, IntArray
from crystalpredict.data.dataset import (
    TEST,
    TRAIN,
    VALIDATION,
    CrystalTable,
)
from crystalpredict.data.labels import Dropped, LabelledTable
from crystalpredict.data.splits import fingerprint, split_folds, split_groups
from crystalpredict.errors import DataError, UsageError
from crystalpredict.io.entries import Entry
from crystalpredict.io.reader import Reader
from crystalpredict.io.worker_pool import Limits

PARTS = {TRAIN: "train", VALIDATION: "val", TEST: "test"}


@dataclass(frozen=True)
class LabelledCrystals:
    """Crystals of a labelled table, with what is needed to split them.

    Attributes:
        table: C crystals and their labels, all in the training part.
        formulas: reduced formulas, (C,).
        fingerprints: (C, 4).
        splits: content of the table's split column, or empty, (C,).
        dropped: rows that were left out, with reasons.
        holes: labels that were left out, with reasons.
    """

    table: CrystalTable
    formulas: tuple[str, ...]
    fingerprints: FloatArray
    splits: tuple[str, ...]
    dropped: tuple[Dropped, ...]
    holes: tuple[Dropped, ...]


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
        labelled.holes,
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


def parts_of(
    crystals: LabelledCrystals, by: str, validation: float, test: float, folds: int, seed: int
) -> list[IntArray]:
    """Return TRAIN, VALIDATION or TEST of each crystal (C,), for each fold.

    Args:
        crystals: C labelled crystals.
        by: formula, random or column. A column without validation rows gets them from its training rows, by formula.
        validation: fraction of the crystals.
        test: fraction of the crystals; not used by a column.
        folds: number of folds of a cross-validation; 0: one split.
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
        raise UsageError("--kfold 1 leaves nothing to train on: at least 2")
    if folds:
        return split_folds(groups, folds, validation, seed)
    return [split_groups(groups, validation, test, seed)]


def _parts_of_column(crystals: LabelledCrystals, validation: float, seed: int) -> IntArray:
    numbers = {name: part for part, name in PARTS.items()}
    unknown = [row for row, name in enumerate(crystals.splits) if name not in numbers]
    if unknown:
        first = unknown[0]
        what = repr(crystals.splits[first]) if crystals.splits[first] else "nothing"
        raise UsageError(
            f"--split-by column: {what} in the column split for id {crystals.table.ids[first]}, the first of "
            f"{len(unknown)} such rows: write train, val or test there"
        )
    parts = np.array([numbers[name] for name in crystals.splits])
    train = np.flatnonzero(parts == TRAIN)
    if not (parts == VALIDATION).any() and len(train):
        parts[train] = split_groups([crystals.formulas[row] for row in train], validation, 0.0, seed)
    return parts
