"""Find crystals that are the same as an earlier one: `--duplicates`."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from crystalpredict.crystals.crystal import Crystal, FloatArray
from crystalpredict.crystals.fingerprint import SCALED_NUMBERS, fingerprint_distances, scaled_fingerprints
from crystalpredict.errors import UsageError
from crystalpredict.io.inputs import expand
from crystalpredict.io.matching import CrystalMatcher
from crystalpredict.io.reader import Reader
from crystalpredict.io.sources import sources_of
from crystalpredict.prediction.rows import name_of

LOG = logging.getLogger(__name__)
READ_RADIUS = 3.0  # Å, of the neighbours of crystals that are only read
SIMILAR = 0.1  # largest distance between the fingerprints of crystals that are compared
FIRST_ROOM = 8  # fingerprints of a formula, before the array grows


class Duplicates:
    """Crystals so far, the first of each kind, by their formulas.

    A crystal is compared with those of its formula whose fingerprints are similar, the most similar first.
    """

    def __init__(self) -> None:
        self.firsts: dict[str, _Firsts] = defaultdict(_Firsts)
        self.matcher = CrystalMatcher()

    def first_like(self, path: str, index: int, formula: str, crystal: Crystal) -> str:
        """Return the name of the first crystal that is the same; empty for one that is new, which is added.

        Args:
            path: Of the crystal.
            index: Of the crystal in its file.
            formula: Its reduced formula.
            crystal: The crystal.
        """
        known, new = self.firsts[formula], _Kept(name_of(path, index), crystal, self.matcher)
        for other in known.similar(new):
            if self.matcher.same(new.reduced, other.reduced):
                return other.name
        known.add(new)
        return ""

    def add_known(self, inputs: Sequence[str], jobs: int = 1, structure_column: str | None = None) -> None:
        """Add the crystals in files; those that are not read cost a line of the log.

        Args:
            inputs: As for `crystalpredict.io.inputs.expand`.
            jobs: Reader processes.
            structure_column: Column of tables with the structures; None: the usual names.

        Raises:
            UsageError: There is no such file, or no crystal in the files.
        """
        count = failed = 0
        with Reader(sources_of(expand(inputs), structure_column), READ_RADIUS, jobs, merge=False) as reader:
            for entry in reader.entries():
                if entry.crystal is None:
                    failed += 1
                    LOG.warning("%s: no known crystal: %s", entry.path, entry.error)
                    continue
                count += 1
                name = name_of(entry.path, entry.index)
                self.firsts[entry.formula].add(_Kept(name, entry.crystal, self.matcher))
        if not count:
            raise UsageError(f"--known {inputs[0]}: none of {failed} structures can be read")
        LOG.info("%d known crystals", count)


@dataclass
class _Kept:
    """A crystal; what is needed to compare it is computed when another one has its formula."""

    name: str
    crystal: Crystal
    matcher: CrystalMatcher

    @cached_property
    def print(self) -> FloatArray:
        return np.asarray(scaled_fingerprints([self.crystal])[0])

    @cached_property
    def reduced(self) -> Any:
        return self.matcher.reduced(self.crystal)


class _Firsts:
    """The crystals of one formula, with their fingerprints in one array."""

    def __init__(self) -> None:
        self.kept: list[_Kept] = []
        self.prints = np.zeros((0, SCALED_NUMBERS))
        self.filled = 0

    def similar(self, new: _Kept) -> list[_Kept]:
        """Return the crystals with fingerprints similar to that of a new one, the most similar first."""
        if not self.kept:
            return []
        while self.filled < len(self.kept):
            if self.filled == len(self.prints):
                room = np.zeros((max(FIRST_ROOM, self.filled), self.prints.shape[1]))
                self.prints = np.concatenate([self.prints, room])
            self.prints[self.filled] = self.kept[self.filled].print
            self.filled += 1
        distances = fingerprint_distances(self.prints[: self.filled], new.print)
        near = np.flatnonzero(distances <= SIMILAR)
        return [self.kept[place] for place in near[distances[near].argsort(kind="stable")].tolist()]

    def add(self, new: _Kept) -> None:
        self.kept.append(new)
