"""Splits of labelled crystals into training, validation and test parts, and what leaks from one into another."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence

import numpy as np

from crystalpredict.crystals.crystal import FloatArray, IntArray, Neighbors
from crystalpredict.data.dataset import TEST, TRAIN, VALIDATION
from crystalpredict.errors import UsageError

RADII = (2.0, 3.0, 4.5)  # Å, of the Gaussians in a fingerprint
ALIKE = 2e-3  # relative difference of fingerprints below which two crystals are taken for the same


def split_groups(groups: Sequence[Hashable], validation: float, test: float, seed: int) -> IntArray:
    """TRAIN, VALIDATION or TEST for each row (R,); rows of one group stay together.

    `validation` and `test` are shares of the rows. Groups are taken in random order, and go where they still fit.
    """
    if validation + test >= 1:
        raise UsageError(
            f"--validation {validation:g} and --test {test:g} leave nothing to train on: give smaller shares"
        )
    rows = _rows_of_groups(groups)
    wanted = {TEST: _share(test, len(groups)), VALIDATION: _share(validation, len(groups))}
    splits = np.full(len(groups), TRAIN)
    for own in _shuffled(rows, seed):
        part = next((part for part, room in wanted.items() if len(own) <= room), None)
        if part is not None:
            splits[own] = part
            wanted[part] -= len(own)
    for part, share in ((VALIDATION, validation), (TEST, test), (TRAIN, 1.0)):
        if share > 0 and not (splits == part).any():
            raise UsageError(
                f"{len(groups)} rows in {len(rows)} groups cannot be split into training, validation and test parts: "
                "use --split-by random, or a column of your own with --split-by column"
            )
    return splits


def split_folds(groups: Sequence[Hashable], folds: int, validation: float, seed: int) -> list[IntArray]:
    """For each of `folds` the parts of all rows (R,): each row is in TEST once, rows of one group together."""
    rows = _rows_of_groups(groups)
    if len(rows) < folds + 1:
        raise UsageError(f"--kfold {folds} needs more than {folds} groups of rows, and there are {len(rows)}")
    fold = np.empty(len(groups), dtype=np.int64)
    filled = np.zeros(folds, dtype=np.int64)
    for own in _shuffled(rows, seed):
        fold[own] = emptiest = filled.argmin()
        filled[emptiest] += len(own)
    parts = []
    for number in range(folds):
        rest = np.flatnonzero(fold != number)
        splits = np.full(len(groups), TEST)
        splits[rest] = split_groups([groups[row] for row in rest.tolist()], validation, 0.0, seed)
        parts.append(splits)
    return parts


def fingerprint(numbers: IntArray, neighbors: Neighbors) -> FloatArray:
    """What two descriptions of one crystal share, whatever their cells: (1 + len(RADII),).

    numbers (m,), atomic numbers of the listed atoms. The mean over atoms of Z_i, and of sum_j Z_i Z_j exp(-r²/s²).
    """
    weights = neighbors.counts / neighbors.counts.sum()
    charges = numbers[np.repeat(np.arange(neighbors.size), neighbors.widths)] * numbers[neighbors.indices]
    sums = [
        np.add.reduceat(charges * np.exp(-((neighbors.distances / radius) ** 2)), neighbors.first[:-1])
        for radius in RADII
    ]
    return np.array([weights @ numbers, *(weights @ each for each in sums)])


def repeated_rows(formulas: Sequence[str], fingerprints: FloatArray) -> list[list[int]]:
    """Groups of rows, in order, whose crystals are the same: one formula and like fingerprints (R, 4)."""
    groups = []
    for rows in _rows_of_groups(formulas).values():
        rows.sort(key=lambda row: tuple(fingerprints[row][1:]))
        prints = fingerprints[rows]
        alike = np.isclose(prints[1:], prints[:-1], rtol=ALIKE, atol=0).all(axis=1)
        groups += [sorted(group.tolist()) for group in np.split(rows, np.flatnonzero(~alike) + 1) if len(group) > 1]
    return sorted(groups)


def _rows_of_groups(groups: Iterable[Hashable]) -> dict[Hashable, list[int]]:
    rows: dict[Hashable, list[int]] = defaultdict(list)
    for row, group in enumerate(groups):
        rows[group].append(row)
    return rows


def _shuffled(rows: dict[Hashable, list[int]], seed: int) -> list[list[int]]:
    groups = list(rows.values())
    return [groups[number] for number in np.random.default_rng(seed).permutation(len(groups))]


def _share(share: float, rows: int) -> int:
    """Rows of a share, at least one of a share that is wanted."""
    return max(1, round(share * rows)) if share > 0 else 0
