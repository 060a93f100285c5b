"""Fingerprints of known crystals, by which the one that is nearest to a crystal of its composition is found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crystalpredict.crystals.crystal import FloatArray, IntArray
from crystalpredict.crystals.fingerprint import SCALED_NUMBERS, fingerprint_distances
from crystalpredict.stability.identifiers import Identifiers, Picked, numbers_of

PRINT_UNIT = 16.0  # of stored fingerprints: half precision ends at 65,504, and heavy crystals have up to 130,000
LAST_DIGIT = 5e-4  # of a distance: half precision has eleven binary digits
PRINTS = "fingerprints"  # names of the arrays in a file; polymorphs are the crystals above the lowest of a composition
POLYMORPH_STEPS, POLYMORPH_IDENTIFIERS = "polymorph_steps", "polymorph_identifiers"
POLYMORPH_PRINTS = "polymorph_fingerprints"
CRYSTAL_ARRAYS = (PRINTS, POLYMORPH_STEPS, POLYMORPH_IDENTIFIERS, POLYMORPH_PRINTS)


@dataclass(frozen=True)
class KnownCrystals:
    """K known crystals, several of some compositions.

    Attributes:
        phases: number of the phase of each crystal's composition in the reference energies (K,).
        identifiers: of the crystals (K,).
        prints: their fingerprints without the first number, which is that of the composition, in PRINT_UNIT (K, 3).
    """

    phases: IntArray
    identifiers: Sequence[str]
    prints: NDArray[np.float16]

    @classmethod
    def of(
        cls,
        lowest: IntArray,
        phases: IntArray,
        identifiers: Sequence[str],
        energies: FloatArray,
        fingerprints: FloatArray,
    ) -> KnownCrystals:
        """Return crystals in the order in which a file has them: the lowest of each composition, then the others.

        Args:
            lowest: number of the lowest crystal of each phase (N,).
            phases: number of the phase of each crystal (K,).
            identifiers: of the crystals (K,).
            energies: formation energies of the crystals (K,), eV/atom.
            fingerprints: of the crystals, from `scaled_fingerprints` (K, 4).
        """
        others = np.setdiff1d(np.arange(len(phases)), lowest)
        order = np.concatenate([lowest, others[np.lexsort((energies[others], phases[others]))]])
        prints = (fingerprints[order, 1:] / PRINT_UNIT).astype(np.float16)
        return cls(phases[order], Picked(order, identifiers), prints)

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, NDArray[Any]], identifiers: NDArray[np.uint32]) -> KnownCrystals | None:
        """Return the crystals in a file; None if it has none.

        Args:
            arrays: of the file.
            identifiers: numbers of the identifiers of the N phases.

        Raises:
            ValueError: The arrays do not fit.
        """
        if PRINTS not in arrays:
            return None
        prints, steps, others, polymorphs = (arrays.get(name, np.zeros(0)) for name in CRYSTAL_ARRAYS)
        places = np.cumsum(steps.astype(np.int64))
        fits = prints.shape == (len(identifiers), SCALED_NUMBERS - 1)
        fits &= len(others) == len(steps) and polymorphs.shape == (len(steps), SCALED_NUMBERS - 1)
        if not fits or places[-1:].sum() >= max(len(identifiers), 1):
            raise ValueError("fingerprints do not fit the phases")
        return cls(
            np.concatenate([np.arange(len(identifiers)), places]),
            Identifiers(np.concatenate([identifiers, others])),
            np.concatenate([prints, polymorphs]),
        )

    def arrays(self, phases: int) -> dict[str, NDArray[Any]]:
        """Return the arrays of a file, given the number of phases; the crystals must be ordered as `of` does."""
        steps = np.diff(self.phases[phases:], prepend=0)
        if steps.max(initial=0) > np.iinfo(np.uint16).max:
            raise ValueError("polymorphs are too far apart for the file")
        polymorphs = [self.identifiers[place] for place in range(phases, len(self.phases))]
        return {
            PRINTS: self.prints[:phases],
            POLYMORPH_STEPS: steps.astype(np.uint16),
            POLYMORPH_IDENTIFIERS: numbers_of(polymorphs),
            POLYMORPH_PRINTS: self.prints[phases:],
        }

    def renumbered(self, numbers: IntArray) -> KnownCrystals:
        """Return the same crystals with other numbers of the phases, given the new number of each (N,)."""
        return KnownCrystals(numbers[self.phases], self.identifiers, self.prints)

    def of_phase(self, phase: int) -> list[str]:
        """Return the identifiers of the crystals of a phase, given its number."""
        return [self.identifiers[row] for row in self._rows(phase).tolist()]

    def nearest(self, phase: int, fingerprint: FloatArray) -> tuple[str, float]:
        """Return the identifier of the crystal of a phase that is nearest, and its distance.

        Of several that are equally near, as far as the stored numbers say, it is the lowest in energy.

        Args:
            phase: number of the phase, of which a crystal is known.
            fingerprint: from `scaled_fingerprints` (4,).
        """
        rows = self._rows(phase)
        distances = fingerprint_distances(self.prints[rows].astype(float) * PRINT_UNIT, fingerprint[1:])
        best = int((distances <= distances.min() + LAST_DIGIT).argmax())  # the first, also if none is a number
        return self.identifiers[int(rows[best])], float(distances[best])

    def _rows(self, phase: int) -> IntArray:
        first, last = np.searchsorted(self._sorted_phases, [phase, phase + 1])
        return self._order[first:last]

    @cached_property
    def _order(self) -> IntArray:
        return self.phases.argsort(kind="stable")

    @cached_property
    def _sorted_phases(self) -> IntArray:
        return self.phases[self._order]
