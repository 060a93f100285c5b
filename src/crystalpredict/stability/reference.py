"""Formation energies of known phases, the lowest of each composition, which define the convex hull."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crystalpredict._files import write_atomically
from crystalpredict.crystals.crystal import FloatArray, IntArray
from crystalpredict.errors import DataError
from crystalpredict.stability.conventions import Convention
from crystalpredict.stability.identifiers import Identifiers, Picked, numbers_of
from crystalpredict.stability.known_crystals import CRYSTAL_ARRAYS, KnownCrystals

MAX_ELEMENTS_BY_SUBSETS = 6  # of a system whose subsystems are enumerated; of larger ones all systems are compared
SAME_COMPOSITION = 1e-5  # largest difference of atomic fractions that is rounding
FILE_ARRAYS = ("systems", "counts", "amounts", "energies", "identifiers")
SHIFT_PREFIX = "shift_"  # of the name of an array, before that of a convention

Composition = Mapping[int, float]  # atomic number to amount


@dataclass(frozen=True)
class Phase:
    """A known phase: composition, formation energy in eV/atom, and an identifier such as mp-149."""

    composition: Composition
    energy: float
    identifier: str


@dataclass(frozen=True)
class ReferenceEnergies:
    """N phases sorted by chemical system, those of one system together.

    Attributes:
        systems: atomic numbers of each system (S, K), ascending, padded by 0; the rows are sorted.
        starts: first phase of each system (S + 1,).
        amounts: amounts of the system's elements, one phase after the other.
        energies: formation energies (N,), eV/atom.
        identifiers: identifier of each phase (N,).
        shifts: formation energies of other conventions less those here (N,), eV/atom; none where they are not known.
        crystals: known crystals of the compositions of the phases, the higher ones too; None if there are none.
    """

    systems: NDArray[np.uint8]
    starts: IntArray
    amounts: FloatArray
    energies: FloatArray
    identifiers: Sequence[str]
    shifts: Mapping[Convention, FloatArray] = field(default_factory=dict)
    crystals: KnownCrystals | None = None

    @classmethod
    def of_phases(cls, phases: Iterable[Phase], fingerprints: FloatArray | None = None) -> ReferenceEnergies:
        """Return the lowest phase of each composition.

        Args:
            phases: M phases.
            fingerprints: of the crystal of each phase, from `scaled_fingerprints` (M, 4); None: not known.

        Raises:
            DataError: a phase has no elements, or an energy or an amount that is not a number.
        """
        phases = list(phases)
        for phase in phases:
            present = [amount for amount in phase.composition.values() if amount > 0]
            if not (present and np.isfinite([*present, phase.energy]).all()):
                raise DataError(f"{phase.identifier}: a phase needs a composition and an energy that are numbers")
        parts = [sorted((z, amount) for z, amount in phase.composition.items() if amount > 0) for phase in phases]
        width = max(map(len, parts), default=1)
        elements = np.array([_padded([z for z, _ in part], width) for part in parts], dtype=np.uint8)
        amounts = np.array([_padded([amount for _, amount in part], width) for part in parts], dtype=float)
        energies = np.array([phase.energy for phase in phases], dtype=float)
        identifiers = [phase.identifier for phase in phases]
        found, numbers = cls._lowest(elements.reshape(-1, width), amounts.reshape(-1, width), energies, identifiers)
        if fingerprints is None:
            return found
        lowest = found.identifiers.order if isinstance(found.identifiers, Picked) else np.arange(len(found))
        return replace(found, crystals=KnownCrystals.of(lowest, numbers, identifiers, energies, fingerprints))

    @classmethod
    def _lowest(
        cls, elements: NDArray[np.uint8], amounts: FloatArray, energies: FloatArray, *identifiers: Sequence[str]
    ) -> tuple[ReferenceEnergies, IntArray]:
        """Return the lowest of N phases at each composition, and the number that the composition of each has (N,).

        Elements (N, K) ascend; 0 pads both arrays.
        """
        shares = np.round(amounts / amounts.sum(axis=1, keepdims=True), 6)
        order = np.lexsort((energies, *shares.T[::-1], *elements.T[::-1]))
        elements, amounts, shares = elements[order], amounts[order], shares[order]
        other_system = np.ones(len(order), dtype=bool)
        other_system[1:] = (elements[1:] != elements[:-1]).any(axis=1)
        lowest = other_system.copy()
        lowest[1:] |= (shares[1:] != shares[:-1]).any(axis=1)
        numbers = np.empty(len(order), dtype=np.int64)
        numbers[order] = np.cumsum(lowest) - 1
        order, elements, amounts = order[lowest], elements[lowest], amounts[lowest]
        starts = np.flatnonzero(other_system[lowest])
        ends = np.concatenate([starts, [len(order)]]).astype(np.int64)
        found = cls(elements[starts], ends, amounts[elements > 0], energies[order], Picked(order, *identifiers))
        return found, numbers

    @classmethod
    def load(cls, path: Path) -> ReferenceEnergies:
        """Return the phases in a file that `save` wrote.

        Raises:
            DataError: the file is not one of reference energies, or is damaged.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            arrays = load(path.read_bytes())
            systems, counts, amounts, energies, identifiers = (arrays[name] for name in FILE_ARRAYS)
            shifts = {
                Convention(name.removeprefix(SHIFT_PREFIX)): array.astype(float)
                for name, array in arrays.items()
                if name not in (*FILE_ARRAYS, *CRYSTAL_ARRAYS)
            }
            crystals = KnownCrystals.of_arrays(arrays, identifiers)
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise DataError(f"{path}: no file of reference energies ({error}): install crystalpredict again") from None
        sizes = (systems > 0).sum(axis=1)
        fits = len(counts) == len(systems) and len(energies) == len(identifiers) == counts.sum()
        fits &= all(each.shape == energies.shape and np.isfinite(each).all() for each in (energies, *shifts.values()))
        if not (fits and len(amounts) == (sizes * counts).sum()):
            raise DataError(f"{path}: damaged reference energies: install crystalpredict again")
        starts = np.concatenate([[0], np.cumsum(counts.astype(np.int64))])
        names = Identifiers(identifiers)
        return cls(systems, starts, amounts.astype(float), energies.astype(float), names, shifts, crystals)

    def in_convention(self, convention: Convention) -> ReferenceEnergies:
        """Return the same phases with formation energies converted from the convention of 2018 to another.

        Raises:
            DataError: there are no shifts to that convention.
        """
        if convention == Convention.mp2018:
            return self
        if convention not in self.shifts:
            raise DataError(f"these reference energies have no shifts to the convention {convention}")
        return replace(self, energies=self.energies + self.shifts[convention], shifts={})

    def save(self, path: Path) -> None:
        """Write the phases. Amounts must be whole numbers, and identifiers those of the Materials Project."""
        from safetensors.numpy import save

        arrays: dict[str, NDArray[Any]] = {
            "systems": self.systems,
            "counts": np.diff(self.starts).astype(np.uint32),
            "amounts": self.amounts.astype(np.uint16),
            "energies": self.energies.astype(np.float32),
            "identifiers": numbers_of(self.identifiers),
        }
        arrays |= {SHIFT_PREFIX + name: shift.astype(np.float32) for name, shift in self.shifts.items()}
        arrays |= self.crystals.arrays(len(self)) if self.crystals else {}
        with write_atomically(path) as file:
            file.write(save(arrays))

    def __len__(self) -> int:
        return len(self.energies)

    @cached_property
    def first(self) -> IntArray:
        """Index of the first amount of each phase, (N + 1,)."""
        sizes = np.repeat((self.systems > 0).sum(axis=1), np.diff(self.starts))
        return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)

    @cached_property
    def elements(self) -> IntArray:
        """Atomic number of each of the amounts."""
        rows = np.repeat(self.systems, np.diff(self.starts), axis=0)
        return rows[rows > 0].astype(np.int64)

    @cached_property
    def shares(self) -> FloatArray:
        """The amounts as shares of the atoms of their phase."""
        totals = np.add.reduceat(self.amounts, self.first[:-1])
        return np.asarray(self.amounts / np.repeat(totals, np.diff(self.first)))

    @cached_property
    def pure(self) -> dict[int, int]:
        """Number of the phase that is a pure element, by atomic number."""
        rows = np.flatnonzero((self.systems > 0).sum(axis=1) == 1)
        return {int(self.systems[row, 0]): int(self.starts[row]) for row in rows}

    def phase(self, number: int) -> Phase:
        """Return the phase with a number from 0 to N - 1."""
        own = slice(self.first[number], self.first[number + 1])
        composition = dict(zip(self.elements[own].tolist(), self.amounts[own].tolist(), strict=True))
        return Phase(composition, float(self.energies[number]), self.identifiers[number])

    def with_phases(self, phases: Iterable[Phase]) -> ReferenceEnergies:
        """Return these phases and others, only the lowest of each composition; crystals stay known."""
        others = ReferenceEnergies.of_phases(phases)
        width = max(self.systems.shape[1], others.systems.shape[1])
        rows = [own._rows(width) for own in (self, others)]
        elements, amounts = (np.concatenate(parts) for parts in zip(*rows, strict=True))
        energies = np.concatenate([self.energies, others.energies])
        found, numbers = self._lowest(elements, amounts, energies, self.identifiers, others.identifiers)
        crystals = self.crystals.renumbered(numbers[: len(self)]) if self.crystals else None
        return replace(found, crystals=crystals)

    def _rows(self, width: int) -> tuple[NDArray[np.uint8], FloatArray]:
        """Return the elements and amounts of each phase (N, width), padded by 0."""
        systems = np.pad(self.systems, ((0, 0), (0, width - self.systems.shape[1])))
        elements = np.repeat(systems, np.diff(self.starts), axis=0)
        amounts = np.zeros(elements.shape)
        amounts[elements > 0] = self.amounts
        return elements, amounts

    def of_system(self, elements: Iterable[int]) -> list[int]:
        """Return the numbers of the phases that consist of some of these elements."""
        _, found = self._subsystems(np.array([sorted(elements)]))
        return [number for row in found.tolist() for number in range(self.starts[row], self.starts[row + 1])]

    def find(self, composition: Composition) -> int | None:
        """Return the number of the phase of a composition; None if there is none."""
        number, difference = self.nearest_in_composition(composition)
        return number if difference < SAME_COMPOSITION else None

    def nearest_in_composition(self, composition: Composition) -> tuple[int | None, float]:
        """Return the number of the phase of the same elements whose composition is nearest; None if there is none.

        The number comes with the largest difference of the atomic fractions.
        """
        elements = tuple(sorted(composition))
        width = self.systems.shape[1]
        if not len(self.systems) or len(elements) > width:
            return None, np.inf
        key = _as_keys(np.array([_padded(elements, width)], dtype=np.uint8))
        row = int(np.searchsorted(self._keys, key)[0])
        if row == len(self._keys) or self._keys[row] != key[0]:
            return None, np.inf
        own = slice(self.first[self.starts[row]], self.first[self.starts[row + 1]])
        amounts = np.array([composition[z] for z in elements], dtype=float)
        differences = np.abs(self.shares[own].reshape(-1, len(elements)) - amounts / amounts.sum()).max(axis=1)
        best = int(differences.argmin())
        return int(self.starts[row]) + best, float(differences[best])

    def within(self, systems: IntArray) -> tuple[IntArray, IntArray]:
        """Return the phases below the pure elements that consist of elements of each system.

        Args:
            systems: atomic numbers (B, n), ascending in each row.

        Returns:
            Pairs of a row of `systems` (P,) and the number of a phase (P,), sorted by the first.
        """
        asked, found = self._subsystems(systems)
        counts = self.starts[found + 1] - self.starts[found]
        rows = np.repeat(asked, counts)
        ends = np.cumsum(counts)
        phases = np.arange(len(rows)) + np.repeat(self.starts[found] - ends + counts, counts)
        below = self.energies[phases] < 0  # others lie above mixtures of the elements
        return rows[below], phases[below]

    def _subsystems(self, systems: IntArray) -> tuple[IntArray, IntArray]:
        """Return pairs of a row of `systems` (B, n) and a row of `self.systems` whose elements are all in it."""
        size, width = systems.shape[1], self.systems.shape[1]
        if size > MAX_ELEMENTS_BY_SUBSETS or not len(self.systems):
            found = [np.flatnonzero(np.isin(self.systems, [0, *row]).all(axis=1)) for row in systems.tolist()]
            return np.repeat(np.arange(len(systems)), list(map(len, found))), np.concatenate(found)
        padded = np.pad(systems, ((0, 0), (0, 1)))
        subsets = [c for k in range(1, min(size, width) + 1) for c in combinations(range(size), k)]
        columns = np.array([_padded(subset, width, size) for subset in subsets])
        keys = _as_keys(padded[:, columns].astype(np.uint8).reshape(-1, width))
        places = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        there = np.flatnonzero(self._keys[places] == keys)
        return there // len(subsets), places[there]

    @cached_property
    def _keys(self) -> NDArray[np.bytes_]:
        return _as_keys(self.systems)


def _padded(numbers: Sequence[Any], width: int, empty: int = 0) -> tuple[Any, ...]:
    return (*numbers, *[empty] * (width - len(numbers)))


def _as_keys(systems: NDArray[np.uint8]) -> NDArray[np.bytes_]:
    """Return rows (S, K) as byte strings (S,), which can be sorted and searched as a whole."""
    return np.ascontiguousarray(systems).view(f"S{systems.shape[1]}").reshape(-1)
