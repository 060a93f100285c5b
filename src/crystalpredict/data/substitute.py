"""Crystals made of known ones by the exchange of an element, whose relaxed cells are known too."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from crystalpredict.io.matching import structure_matcher

MAX_TRIES = 8  # known crystals that are compared with one
Row = dict[str, Any]


def substituted(targets: Sequence[Row], known: Sequence[Row], random: np.random.Generator) -> Iterator[tuple[Row, Row]]:
    """Yield crystals in random order, each with a known crystal in which one element was exchanged for one of its own.

    The two have the same structure by pymatgen's StructureMatcher, but for the size of the cell and what it tolerates;
    the cell is that of the known crystal.

    Args:
        targets: rows of relaxed crystals, with `lattice`, `species` and `frac_coords`.
        known: rows of crystals to exchange elements in.
        random: decides the order and which of several known crystals is taken.
    """
    by_others: dict[Any, list[tuple[Row, str]]] = defaultdict(list)
    counts: Counter[str]
    for row in known:
        counts = Counter(row["species"])
        for symbol in counts if len(counts) > 1 else ():
            by_others[_others(counts, symbol)].append((row, symbol))
    alike = structure_matcher()
    for number in random.permutation(len(targets)).tolist():
        row = targets[number]
        counts = Counter(row["species"])
        choices = [
            (other, old, new) for new in sorted(counts) for other, old in by_others[_others(counts, new)] if old != new
        ]
        for choice in random.permutation(len(choices))[:MAX_TRIES].tolist():
            other, old, new = choices[choice]
            cell = {**other, "species": [new if symbol == old else symbol for symbol in other["species"]]}
            if alike(cell, row):
                yield row, cell
                break


def _others(counts: Counter[str], symbol: str) -> tuple[Any, ...]:
    """Return elements and numbers of atoms in a cell besides one element, and the number of that."""
    return (*sorted((each, count) for each, count in counts.items() if each != symbol), counts[symbol])
