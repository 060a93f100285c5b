"""Stability of predicted crystals: their formation energies compared with the hull of known phases.

The energy above hull of a crystal is its formation energy less that of the most stable mixture of known phases of the
same composition (crystalpredict.stability.hull), and not below 0. A network that was trained on labels of it predicts
it too, but too low for unstable crystals (docs/log.md); that output is used only without a formation energy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from crystalpredict.checkpoints.registry import REFERENCE_ENERGIES, reference_energies_folder
from crystalpredict.crystals.composition import MIN_AMOUNT, compositions_of, element_amounts
from crystalpredict.crystals.crystal import ELEMENTS, Crystal, FloatArray, Neighbors
from crystalpredict.crystals.fingerprint import SCALED_NUMBERS, scaled_fingerprints
from crystalpredict.prediction.conventions import shifts_of
from crystalpredict.properties import E_ABOVE_HULL, FORMATION_ENERGY, NEAREST_KNOWN, PROPERTIES, STABILITY, Property
from crystalpredict.stability.conventions import Convention
from crystalpredict.stability.hull import HullPoint, hull_points
from crystalpredict.stability.reference import Composition, ReferenceEnergies

if TYPE_CHECKING:
    from crystalpredict.checkpoints.checkpoint import Checkpoint

MIN_METAL_PROBABILITY = 0.5  # above it a crystal counts as a metal
# A network learns these gaps from crystals that are no metals; they are 0 where a probability says metal. But a crystal
# whose PBE gap is as large as this, eV, is none, whatever the probability says: gaps by HSE and measured ones are
# larger, and measured labels are those of another crystal of the formula at times.
METALS = {"bandgap_hse": ("metal_probability_hse", 0.1), "bandgap_experiment": ("metal_probability_experiment", 1.0)}
# The absolute error teaches the median, which is 0 for semiconductors among look-alikes that are mostly metals. A gap
# below the first, eV, is replaced by the gap that the crystal has if it is no metal, unless the probability of a metal
# is at least the third; where it is, a gap below the second is 0 (mp2018/val).
MIN_GAP_NONMETAL, MAX_GAP_METAL, SURE_METAL = 0.1, 0.5, 0.7
TWO_STAGE_GAP = {"bandgap", "metal_probability", "bandgap_nonmetal"}
HULL_PROPERTIES = frozenset({E_ABOVE_HULL, "hull_distance", "decomposes_to", "known_phase", NEAREST_KNOWN})


@dataclass(frozen=True)
class Hull:
    """Known phases that stability is measured against; those that come with the package, unless others are given.

    Attributes:
        others: the phases to use instead.
        convention: of the formation energies of the phases, and of those that are predicted.
    """

    others: ReferenceEnergies | None = None
    convention: Convention = Convention.mp2018

    @cached_property
    def phases(self) -> ReferenceEnergies:
        """The phases, which are read when they are needed first."""
        return bundled_reference(self.convention) if self.others is None else self.others


@cache
def bundled_reference(convention: Convention = Convention.mp2018) -> ReferenceEnergies:
    """Return the reference energies that come with the package.

    Args:
        convention: of the formation energies.

    Raises:
        CheckpointError: a file is missing or altered.
    """
    return ReferenceEnergies.load(reference_energies_folder() / REFERENCE_ENERGIES).in_convention(convention)


def has_formation_energy(properties: Sequence[Property]) -> bool:
    """Return whether a model with these properties predicts formation energies in eV/atom."""
    known = next(prop for prop in PROPERTIES if prop.name == FORMATION_ENERGY).identity
    return any(prop.identity == known for prop in properties)


def needs_hull(
    properties: Sequence[Property], asked: Sequence[Property], convention: Convention = Convention.mp2018
) -> bool:
    """Return whether one of the properties `asked` of a model with `properties` depends on the hull."""
    names = HULL_PROPERTIES if convention == Convention.mp2018 else HULL_PROPERTIES | {FORMATION_ENERGY}
    return has_formation_energy(properties) and any(prop.name in names for prop in asked)


def stability_properties(properties: Sequence[Property]) -> tuple[Property, ...]:
    """Return what follows from the formation energy of a model, besides the properties that it has itself."""
    if not has_formation_energy(properties):
        return ()
    names = {prop.name for prop in properties}
    above_hull = next(prop for prop in PROPERTIES if prop.name == E_ABOVE_HULL)
    own = [prop for prop in STABILITY if prop.name != "e_above_hull_by_network" or E_ABOVE_HULL in names]
    return tuple(prop for prop in (above_hull, *own) if prop.name not in names)


def formula_of(composition: Composition) -> str:
    """Return the reduced formula of a composition, as rows have it."""
    return _formula_of(tuple(composition.items()))


@lru_cache(10**4)  # the same phases are named again and again
def _formula_of(composition: tuple[tuple[int, float], ...]) -> str:
    from crystalpredict.io.from_pymatgen import reduced_formula

    amounts = {ELEMENTS[number - 1]: round(amount, 6) for number, amount in composition}
    if all(amount == int(amount) for amount in amounts.values()):
        return reduced_formula({symbol: int(amount) for symbol, amount in amounts.items()})
    return "".join(f"{symbol}{amount:g}" for symbol, amount in amounts.items())


def decomposition_of(phases: ReferenceEnergies, point: HullPoint) -> str:
    """Return the phases of a point of the hull with their shares of the atoms; a phase alone without a number."""
    names = []
    mixture = point.mixture
    for number, _ in mixture:
        phase = phases.phase(number) if number >= 0 else None
        known = f" ({phase.identifier})" if phase and phase.identifier else ""
        names.append(f"{formula_of(phase.composition)}{known}" if phase else ELEMENTS[-number - 1])
    if len(names) == 1:
        return names[0]
    return " + ".join(f"{share:.3f} {name}" for share, name in zip((share for _, share in mixture), names, strict=True))


class HullComparison:
    """The hull at the compositions of B crystals.

    Attributes:
        shifts: formation energy of each crystal in the hull's convention less that of 2018 (B,), eV/atom.
        energies: hull energy of each composition (B,) less this shift, eV/atom: a formation energy of 2018, as networks
            predict it, less this is the distance to the hull.
    """

    def __init__(
        self, hull: Hull, crystals: Sequence[Crystal], neighbors: Sequence[Neighbors] = (), radius: float = 0.0
    ) -> None:
        """Compare crystals with a hull.

        Args:
            hull: known phases.
            crystals: B crystals.
            neighbors: their neighbour lists; none: they are searched if they are needed.
            radius: of these lists, Å.
        """
        self.phases, self.crystals, self.neighbors, self.radius = hull.phases, crystals, neighbors, radius
        self.compositions = compositions_of(crystals)
        self.points = hull_points(self.phases, self.compositions)
        self.shifts = shifts_of(crystals, hull.convention)
        self.energies: FloatArray = np.array([point.energy for point in self.points], dtype=float) - self.shifts

    def decomposition(self, row: int) -> str:
        """Return the phases of the hull at the composition of a crystal, with their shares of the atoms.

        For instance `0.625 Fe2O3 (mp-19770) + 0.375 Li2O (mp-1960)`; a phase alone stands without a number.

        Args:
            row: of the crystal.
        """
        return decomposition_of(self.phases, self.points[row])

    def known_phase(self, row: int, energy: float) -> str:
        """Return the lowest known phase of a crystal's composition, and how far above it the crystal is; "" if none.

        Args:
            row: of the crystal.
            energy: its formation energy in the convention of 2018, eV/atom.
        """
        number = self._numbers[row]
        if number is None:
            return ""
        above = energy + self.shifts[row] - self.phases.energies[number]
        return f"{self.phases.identifiers[number]} ({above:+.4f} eV/atom)"

    def nearest_known(self, row: int) -> str:
        """Return the known crystal of a crystal's composition with the nearest structure, and its distance.

        For instance `mp-149 (distance 0.012)`. A phase of one's own, whose structure is not known, is named too. If no
        phase of the composition is known, the text says so, and names that of the same elements with the nearest one.

        Args:
            row: of the crystal.
        """
        number = self._numbers[row]
        if number is None:
            other, _ = self.phases.nearest_in_composition(self.compositions[row])
            if other is None:
                return "no known phase of these elements"
            phase = self.phases.phase(other)
            return f"no known phase of this composition; nearest: {formula_of(phase.composition)} ({phase.identifier})"
        lowest, crystals = self.phases.identifiers[number], self.phases.crystals
        known = crystals.of_phase(number) if crystals else []
        parts = [] if lowest in known else [f"{lowest} (no structure)"]  # of a phase of one's own
        if crystals and known:
            name, distance = crystals.nearest(number, self._fingerprints[row])
            parts.insert(0, f"{name} (distance {distance:.3f})" if np.isfinite(distance) else f"{name} (no distance)")
        return ", ".join(parts)

    @cached_property
    def _numbers(self) -> list[int | None]:
        """Number of the known phase of the composition of each crystal (B,)."""
        return [self.phases.find(composition) for composition in self.compositions]

    @cached_property
    def _fingerprints(self) -> FloatArray:
        """Fingerprints of the crystals (B, 4), not a number for one of which no phase of its composition is known."""
        rows = [row for row, number in enumerate(self._numbers) if number is not None]
        found = np.full((len(self.crystals), SCALED_NUMBERS), np.nan)
        lists = [self.neighbors[row] for row in rows] if self.neighbors else []
        found[rows] = scaled_fingerprints([self.crystals[row] for row in rows], lists, self.radius if lists else 0.0)
        return found


def physical_centres(
    checkpoint: Checkpoint, plain: FloatArray, crystals: Sequence[Crystal], comparison: HullComparison | None
) -> FloatArray:
    """Return predictions (B, outputs) on the trained scale that are physically possible and agree with the hull.

    Gaps agree with the probabilities of a metal [M10]. An element has no formation energy below 0, which is its ground
    state's by definition.

    Args:
        checkpoint: of the network.
        plain: from `Checkpoint.interval_centres`, (B, outputs).
        crystals: the B crystals.
        comparison: the hull at their compositions; None: the energy above hull stays the network's.
    """
    centres = plain.copy()
    columns = {prop.name: column for column, prop in enumerate(checkpoint.properties)}
    _set_gaps(centres, plain, columns)
    if not has_formation_energy(checkpoint.properties):
        return centres
    energies = centres[:, columns[FORMATION_ENERGY]]  # a view
    single = (element_amounts(crystals) > MIN_AMOUNT).sum(axis=1) == 1
    energies[single] = np.maximum(energies[single], 0)
    if comparison is not None and E_ABOVE_HULL in columns:
        centres[:, columns[E_ABOVE_HULL]] = np.maximum(energies - comparison.energies, 0)
    return centres


def hold_metals_too(low: FloatArray, high: FloatArray, plain: FloatArray, columns: Mapping[str, int]) -> None:
    """Make intervals of crystals that may be metals hold 0, the gap of a metal, and the gap of a semiconductor.

    Args:
        low: lower ends of the intervals, to be changed, (B, outputs, levels).
        high: their upper ends.
        plain: predictions as the network gives them, (B, outputs).
        columns: of the outputs by name.
    """
    if columns.keys() >= TWO_STAGE_GAP:
        rows, gap = _may_be_metals(plain, columns), columns["bandgap"]
        low[rows, gap] = 0
        high[rows, gap] = np.maximum(high[rows, gap], plain[rows, columns["bandgap_nonmetal"], None])


def _may_be_metals(plain: FloatArray, columns: Mapping[str, int]) -> NDArray[np.bool_]:
    """Return which of B crystals get the gap of a semiconductor though a metal is more probable, (B,)."""
    metal = plain[:, columns["metal_probability"]]
    return (metal >= MIN_METAL_PROBABILITY) & (metal < SURE_METAL) & (plain[:, columns["bandgap"]] < MIN_GAP_NONMETAL)


def _set_gaps(centres: FloatArray, plain: FloatArray, columns: Mapping[str, int]) -> None:
    """Make the gaps among predictions (B, outputs) agree with the probabilities of a metal [M10].

    Args:
        centres: to be changed.
        plain: as the network gives them.
        columns: of the outputs by name.
    """
    gaps = centres[:, columns["bandgap"]] if "bandgap" in columns else np.zeros(len(centres))  # a view
    clear = gaps.copy()
    if columns.keys() >= TWO_STAGE_GAP:
        metal = plain[:, columns["metal_probability"]]
        missed = (metal < SURE_METAL) & (gaps < MIN_GAP_NONMETAL)
        gaps[missed] = np.maximum(gaps, plain[:, columns["bandgap_nonmetal"]])[missed]
        gaps[(metal >= SURE_METAL) & (gaps < MAX_GAP_METAL)] = 0
        clear = np.where(_may_be_metals(plain, columns), clear, gaps)
    for gap, (probability, least) in METALS.items():
        if gap in columns and probability in columns:
            metals = (plain[:, columns[probability]] > MIN_METAL_PROBABILITY) & (clear < least)
            centres[metals, columns[gap]] = 0
