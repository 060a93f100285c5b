"""Energy of the convex hull at given compositions, and the phases that a crystal would decompose to.

The hull energy at a composition x is the least energy of any mixture of known phases of that composition,

    min_w sum_p w_p E_p    where    sum_p w_p x_p = x,  w_p >= 0,

a linear programme with as many constraints as elements (Ong et al., Chem. Mater. 20, 1798 (2008)). The revised simplex
method solves it for many compositions at once, each step in NumPy for all of them; the pure elements are the first
basis. Facets of whole phase diagrams by Qhull give the same energies, but take ten times as long, since most systems of
a screen come once (docs/log.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from crystalpredict.crystals.crystal import ELEMENTS, FloatArray, IntArray
from crystalpredict.stability.reference import Composition, ReferenceEnergies

COMPOSITIONS_PER_CHUNK = 250  # solved together: more padding and memory above, more calls below
MAX_STEPS = 200  # of the simplex method: some ten are usual
MAX_STEPS_PER_ELEMENT = 20  # if that is more: 87 elements take 300
ENERGY_TOLERANCE = 1e-9  # eV/atom, by which a phase must lie below the present mixture to enter it
AMOUNT_TOLERANCE = 1e-9  # of a phase in a mixture, below which it counts as absent
ON_HULL = 1e-6  # eV/atom, above the hull, that is rounding
ABSENT = 1e6  # eV/atom, of rows that only pad a table: no mixture takes them


@dataclass(frozen=True, eq=False)
class HullPoint:
    """The hull at one composition of n elements.

    Attributes:
        energy: hull energy, eV/atom; formation energies less this are distances to the hull.
        basis: numbers of the phases in the reference (n,), -z for the pure element z where the reference has no entry.
        amounts: their shares of the atoms (n,); 0 for those that are absent.
    """

    energy: float
    basis: IntArray
    amounts: FloatArray

    @property
    def mixture(self) -> list[tuple[int, float]]:
        """Numbers of the phases that are present with their shares of the atoms, the largest share first."""
        pairs = zip(self.basis.tolist(), self.amounts.tolist(), strict=True)
        return sorted((pair for pair in pairs if pair[1] > AMOUNT_TOLERANCE), key=lambda pair: -pair[1])


def hull_points(reference: ReferenceEnergies, compositions: Sequence[Composition]) -> list[HullPoint]:
    """Return the hull of known phases at each of some compositions.

    A pure element has the energy 0 of its reference state, also if the reference lacks that phase.

    Args:
        reference: phases with formation energies in eV/atom.
        compositions: atomic numbers to amounts, each of any sum.
    """
    systems = [tuple(sorted(z for z, amount in each.items() if amount > 0)) for each in compositions]
    points: list[HullPoint | None] = [None] * len(systems)
    for size in set(map(len, systems)):
        rows = [row for row, system in enumerate(systems) if len(system) == size]
        for start in range(0, len(rows), COMPOSITIONS_PER_CHUNK):
            own = rows[start : start + COMPOSITIONS_PER_CHUNK]
            wanted = np.array([[compositions[row][z] for z in systems[row]] for row in own], dtype=float)
            found = _solve(reference, np.array([systems[row] for row in own]), wanted)
            for row, point in zip(own, found, strict=True):
                points[row] = point
    return [point for point in points if point]


def _solve(reference: ReferenceEnergies, systems: IntArray, wanted: FloatArray) -> list[HullPoint]:
    """Return the hull at B compositions: amounts `wanted` (B, n) of the elements `systems` (B, n)."""
    size = systems.shape[1]
    distinct, which = np.unique(systems, axis=0, return_inverse=True)
    which = which.reshape(-1)
    rows, phases = reference.within(distinct)
    counts = np.bincount(rows, minlength=len(distinct))
    place = size + np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)  # after the pure elements
    width = size + int(counts.max(initial=0))
    fractions = np.zeros((len(distinct), width, size))
    fractions[:, :size] = np.eye(size)
    energies = np.full((len(distinct), width), ABSENT)
    energies[:, :size] = 0
    energies[rows, place] = reference.energies[phases]
    lengths = reference.first[phases + 1] - reference.first[phases]
    entries = np.repeat(reference.first[phases] - np.cumsum(lengths) + lengths, lengths) + np.arange(lengths.sum())
    columns = np.zeros((len(distinct), len(ELEMENTS) + 1), dtype=np.int64)  # of an element in its system
    np.put_along_axis(columns, distinct, np.arange(size)[None], axis=1)
    home = np.repeat(rows, lengths)
    fractions[home, np.repeat(place, lengths), columns[home, reference.elements[entries]]] = reference.shares[entries]
    numbers = np.full((len(distinct), width), -1)
    numbers[:, :size] = [[reference.pure.get(z, -z) for z in row] for row in distinct.tolist()]
    numbers[rows, place] = phases
    energies, numbers = energies[which], numbers[which]
    wanted = wanted / wanted.sum(axis=1, keepdims=True)
    basis, amounts = simplex(fractions[which], energies, wanted)
    hull = (np.take_along_axis(energies, basis, axis=1) * amounts).sum(axis=1)
    mixed = np.take_along_axis(numbers, basis, axis=1)
    return list(map(HullPoint, hull.tolist(), mixed, amounts))


def simplex(fractions: FloatArray, energies: FloatArray, wanted: FloatArray) -> tuple[IntArray, FloatArray]:
    """Return B mixtures of least energy, found together by the revised simplex method.

    Args:
        fractions: atomic fractions of the phases (B, m, n); the first n phases are the pure elements in their order.
        energies: of the phases (B, m), eV/atom.
        wanted: atomic fractions of the mixtures (B, n).

    Returns:
        Phases of each mixture (B, n) and their shares of the atoms (B, n).
    """
    size = wanted.shape[1]
    basis = np.tile(np.arange(size), (len(wanted), 1))
    amounts = wanted.copy()
    inverse = np.tile(np.eye(size), (len(wanted), 1, 1))
    active = np.arange(len(wanted))
    steps = max(MAX_STEPS, MAX_STEPS_PER_ELEMENT * size)
    for step in range(steps):
        potentials = np.einsum(
            "bi,bij->bj", np.take_along_axis(energies[active], basis[active], axis=1), inverse[active]
        )
        rest = fractions if len(active) == len(fractions) else fractions[active]  # a copy, large for many elements
        above = energies[active] - np.matmul(rest, potentials[:, :, None])[:, :, 0]  # of the present mixture
        # late, the first that lowers the energy: with this rule (Bland's) no cycle is possible
        entering = above.argmin(axis=1) if step < steps // 2 else (above < -ENERGY_TOLERANCE).argmax(axis=1)
        lower = above[np.arange(len(active)), entering] < -ENERGY_TOLERANCE
        active, entering = active[lower], entering[lower]
        if not len(active):
            break
        rows = np.arange(len(active))
        change = np.einsum("bij,bj->bi", inverse[active], fractions[active, entering])
        ratios = np.where(change > AMOUNT_TOLERANCE, amounts[active] / np.maximum(change, AMOUNT_TOLERANCE), np.inf)
        least = ratios.min(axis=1)
        tied = ratios <= least[:, None] + AMOUNT_TOLERANCE
        leaving = np.where(tied, basis[active], energies.shape[1]).argmin(axis=1)
        own = np.maximum(amounts[active] - least[:, None] * change, 0)
        own[rows, leaving] = least
        amounts[active] = own
        pivot = inverse[active, leaving] / change[rows, leaving][:, None]
        updated = inverse[active] - change[:, :, None] * pivot[:, None]
        updated[rows, leaving] = pivot
        inverse[active] = updated
        basis[active, leaving] = entering
    return basis, amounts
