"""Split labelled crystals into training, validation and test sets, and find duplicates."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence

import numpy as np

from crystalpredict.crystals.crystal import FloatArray, IntArray
from crystalpredict.data.dataset import TEST, TRAIN, VALIDATION
from crystalpredict.errors import UsageError

SAME_FINGERPRINT = 2e-3  # largest relative difference between the fingerprints of equal crystals


def split_groups(groups: Sequence[Hashable], validation: float, test: float, seed: int) -> IntArray:
    """Return TRAIN, VALIDATION or TEST for each row (R,); rows of one group stay together.

    Groups are taken in random order; each goes into the test or validation set if it still fits, else into training.

    Args:
        groups: of each row, (R,).
        validation: fraction of the rows.
        test: fraction of the rows.
        seed: of the random order.

    Raises:
        UsageError: a part would be empty.
    """
    if validation + test >= 1:
        raise UsageError(
            f"--validation {validation:g} and --test {test:g} leave nothing to train on: give smaller fractions"
        )
    rows = _rows_of_groups(groups)
    wanted = {TEST: _rows_of_fraction(test, len(groups)), VALIDATION: _rows_of_fraction(validation, len(groups))}
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
    """Return the parts of all rows (R,) for each fold; each row is in TEST once, rows of one group together.

    Args:
        groups: of each row, (R,).
        folds: number of folds.
        validation: fraction of the remaining rows of each fold.
        seed: of the random order.

    Raises:
        UsageError: there are too few groups.
    """
    rows = _rows_of_groups(groups)
    if len(rows) < folds + 1:
        raise UsageError(f"--kfold {folds} needs more than {folds} groups of rows, but there are {len(rows)}")
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


def repeated_rows(formulas: Sequence[str], fingerprints: FloatArray) -> list[list[int]]:
    """Return groups of rows with equal crystals, which have one formula and nearly the same fingerprint.

    Args:
        formulas: reduced formula of each row, (R,).
        fingerprints: (R, 4).
    """
    groups = []
    for rows in _rows_of_groups(formulas).values():
        rows.sort(key=lambda row: tuple(fingerprints[row][1:]))
        prints = fingerprints[rows]
        alike = np.isclose(prints[1:], prints[:-1], rtol=SAME_FINGERPRINT, atol=0).all(axis=1)
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


def _rows_of_fraction(fraction: float, rows: int) -> int:
    """Return a fraction of a number of rows, at least 1 unless the fraction is 0."""
    return max(1, round(fraction * rows)) if fraction > 0 else 0
