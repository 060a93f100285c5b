"""Identifiers of the Materials Project as numbers: a hundred thousand texts would take most of the time of loading."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from crystalpredict.crystals.crystal import IntArray
from crystalpredict.errors import DataError

PREFIXES = ("mp-", "mvc-")  # files keep the number of an identifier and which of these it has
PREFIX_SHIFT = 30  # bit of an identifier's number from which on the file keeps the prefix


class Identifiers(Sequence[str]):
    """Identifiers that are stored as numbers."""

    def __init__(self, numbers: NDArray[np.uint32]) -> None:
        """Keep the numbers (N,)."""
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, place: int) -> str:  # type: ignore[override]
        number = int(self.numbers[place])
        return f"{PREFIXES[number >> PREFIX_SHIFT]}{number & ((1 << PREFIX_SHIFT) - 1)}"


class Picked(Sequence[str]):
    """Some of the identifiers of one or two sequences, in another order."""

    def __init__(self, order: IntArray, first: Sequence[str], second: Sequence[str] = ()) -> None:
        """Keep the sequences, and the place of each identifier in them, one after the other."""
        self.order, self.first, self.second = order, first, second

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, place: int) -> str:  # type: ignore[override]
        number = int(self.order[place])
        return self.first[number] if number < len(self.first) else self.second[number - len(self.first)]


def numbers_of(identifiers: Iterable[str]) -> NDArray[np.uint32]:
    """Return the numbers by which identifiers are stored.

    Raises:
        DataError: One is not of the Materials Project.
    """
    return np.array([_number_of(text) for text in identifiers], dtype=np.uint32)


def _number_of(identifier: str) -> int:
    parts = re.fullmatch(r"(mp-|mvc-)([0-9]{1,9})", identifier)
    if parts is None:
        raise DataError(f"{identifier!r} is no identifier of the Materials Project, such as mp-149")
    return PREFIXES.index(parts[1]) << PREFIX_SHIFT | int(parts[2])
