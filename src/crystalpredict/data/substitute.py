"""Crystals made from known ones by exchanging an element, if the relaxed cell of the result is known too."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from crystalpredict.io.matching import structure_matcher

MAX_TRIES = 8  # known crystals that are compared with one
Row = dict[str, Any]


def substituted(targets: Sequence[Row], known: Sequence[Row], random: np.random.Generator) -> Iterator[tuple[Row, Row]]:
    """Yield pairs of a crystal and a known crystal in which an element was exchanged to give the same composition.

    The two have the same structure by pymatgen's StructureMatcher, apart from their volumes. The cell of the second is
    that of the known crystal. Crystals come in random order; those without such a known crystal are left out.

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
    """Return what exchanging an element keeps: the other elements with their atoms in the cell, and its own atoms."""
    return (*sorted((each, count) for each, count in counts.items() if each != symbol), counts[symbol])
