"""Decode the outputs of a network into property values, intervals and applicability warnings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import expm1, log

import numpy as np

from crystalpredict.checkpoints.checkpoint import Checkpoint
from crystalpredict.crystals.crystal import Crystal, FloatArray, IntArray, Neighbors
from crystalpredict.crystals.primitive import primitive_sizes
from crystalpredict.prediction.conventions import total_energies
from crystalpredict.prediction.derived import PARENTS, asked_for, derive, derived_bounds
from crystalpredict.prediction.stability import (
    Hull,
    HullComparison,
    hold_metals_too,
    needs_hull,
    physical_centres,
)
from crystalpredict.prediction.thermal import Matter, matter_of
from crystalpredict.properties import (
    DEFORMATION,
    DERIVED,
    E_ABOVE_HULL,
    FORMATION_ENERGY,
    NEAREST_KNOWN,
    VOLUME_CHANGE,
    Property,
)
from crystalpredict.uncertainty import DEFAULT_LEVEL, LEVELS
from crystalpredict.uncertainty.intervals import ErrorModel, interval_bounds

# of the logarithm of a cell's volume over the relaxed one, the end of its interval that is nearer to 0; 97.3 % of the
# crystals of mp2018/val stay below, and most measured cells, which PBE makes up to 5 % larger
MAX_SURE_LOG_RATIO = 0.006
MAX_SURE_LOG_RATIO_ELEMENT = 0.04  # of an element: measured cells of soft metals are up to 7 % larger than those of PBE
MAX_HALFWIDTH = 0.08  # of the interval that counts: far from training cells they are so wide that nothing would be sure
MAX_LOG_RATIO = 0.055  # of this logarithm, for a model without intervals
SEE_UNRELAXED = ": see --unrelaxed"
# with a model for unrelaxed structures, few of whose training cells are beyond these
MIN_LEARNT_LOG_RATIO, MAX_LEARNT_LOG_RATIO = -0.7, 0.5
FURTHER = ", further than this model learnt: relax it by other means"
MODULI = {prop.name for prop in DERIVED}


@dataclass(frozen=True)
class Outputs:
    """Outputs of a network for B crystals, on the trained scale.

    Attributes:
        crystals: the B crystals.
        comparison: the hull at their compositions; None if no property needs it.
        plain: raised to what is physically possible, (B, outputs).
        centres: the same, in agreement with the hull, (B, outputs).
        stability: standardised energies above hull by the network, (B,), or None.
        deformations: strain, in percent, and displacement, Å, of the crystals on relaxation, (B, 2), or None.
    """

    crystals: Sequence[Crystal]
    comparison: HullComparison | None
    plain: FloatArray
    centres: FloatArray
    stability: FloatArray | None = None
    deformations: FloatArray | None = None

    @cached_property
    def sizes(self) -> IntArray:
        """Number of atoms in the primitive cell of each crystal, (B,)."""
        return primitive_sizes(self.crystals)

    @cached_property
    def matter(self) -> Matter:
        """Densities, atomic masses and sizes of the primitive cells of the crystals."""
        return matter_of(self.crystals)


def volume_warning(log_ratio: float, low: float, high: float, hint: str = SEE_UNRELAXED) -> str:
    """Return the warning about a cell that is not relaxed.

    Args:
        log_ratio: logarithm of its volume over the relaxed one.
        low: lower end of the interval of this logarithm.
        high: its upper end; the same as the lower one if there is no interval.
        hint: end of the text.
    """
    sign = 1 if log_ratio > 0 else -1
    size, *ends = (sign * 100 * expm1(value) for value in (log_ratio, *sorted((low, high), key=lambda end: sign * end)))
    span = f" ({max(ends[0], 0):.0f} to {ends[1]:.0f})" if low < high else ""
    return f"cell is {size:.0f} %{span} {'larger' if sign > 0 else 'smaller'} than it would relax to{hint}"


class OutputDecoder:
    """Decodes the outputs of a checkpoint's network into some of its properties or derived ones."""

    def __init__(
        self, checkpoint: Checkpoint, targets: Sequence[str] = (), *, uncertainty: bool = True, hull: Hull | None = None
    ) -> None:
        """Choose the properties.

        Args:
            checkpoint: its network's outputs are decoded.
            targets: names or aliases of properties; none: all of the checkpoint.
            uncertainty: whether to compute intervals, if the checkpoint is calibrated.
            hull: known phases that stability is measured against; None: those that come with the package.
        """
        self.checkpoint = checkpoint
        asked = asked_for(checkpoint.properties, targets)
        self.properties = [prop for prop in asked if not prop.is_text]
        self.texts = [prop.name for prop in asked if prop.is_text]
        calibration = checkpoint.calibration
        self.errors: ErrorModel | None = calibration.errors if calibration and uncertainty else None
        self.domain = checkpoint.domain
        self._outputs = {prop.name: column for column, prop in enumerate(checkpoint.properties)}
        names = {name for prop in self.properties for name in self._sources_of(prop)}
        self._sources = [self._outputs[name] for name in sorted(names & self._outputs.keys())]
        hull = hull or Hull()
        self._hull = hull if needs_hull(checkpoint.properties, asked, hull.convention) else None
        self.needs_energies = self._hull is not None or not {FORMATION_ENERGY, "total_energy"}.isdisjoint(
            prop.name for prop in asked
        )

    def _sources_of(self, prop: Property) -> tuple[str, ...]:
        """Return the names of the outputs whose errors determine the interval of a property."""
        if prop.name in self._outputs:
            return (prop.name,)
        if prop.name in MODULI:
            return PARENTS
        if prop in DEFORMATION:
            return ()
        # hull and element energies are known: what remains is the error of the formation energy
        return (E_ABOVE_HULL if prop.name == "e_above_hull_by_network" else FORMATION_ENERGY,)

    def begin(
        self,
        outputs: FloatArray,
        crystals: Sequence[Crystal],
        neighbors: Sequence[Neighbors] = (),
        deformations: FloatArray | None = None,
    ) -> Outputs:
        """Return what values, intervals and texts of some crystals are made of.

        Args:
            outputs: standardised outputs, (B, outputs).
            crystals: the B crystals.
            neighbors: their neighbour lists; none: they are searched if they are needed.
            deformations: strain, in percent, and displacement, Å, of the crystals on relaxation, (B, 2), if known.
        """
        radius = self.checkpoint.config.radius
        comparison = HullComparison(self._hull, crystals, neighbors, radius) if self._hull else None
        plain = self.checkpoint.interval_centres(outputs)
        centres = physical_centres(self.checkpoint, plain, crystals, comparison)
        return Outputs(crystals, comparison, plain, centres, self.checkpoint.stability(outputs), deformations)

    def values(self, found: Outputs) -> FloatArray:
        """Return values (B, properties) in their units.

        Args:
            found: from `begin`.
        """
        columns = [self._value(prop, found) for prop in self.properties]
        return np.stack(columns, axis=1) if columns else np.empty((len(found.crystals), 0))

    def _value(self, prop: Property, found: Outputs) -> FloatArray:
        """Return the values (B,) of a property."""
        centres, comparison = found.centres, found.comparison
        if prop.name in self._outputs:
            values = np.asarray(prop.in_unit(centres[:, self._outputs[prop.name]]))
            return values + comparison.shifts if prop.name == FORMATION_ENERGY and comparison is not None else values
        if prop.name in MODULI:
            bulk, shear = (10 ** centres[:, self._outputs[name]] for name in PARENTS)
            return derive(prop.name, bulk, shear, found.matter)
        if prop in DEFORMATION:
            none = np.zeros((len(centres), len(DEFORMATION)))
            return (none if found.deformations is None else found.deformations)[:, DEFORMATION.index(prop)]
        energies = centres[:, self._outputs[FORMATION_ENERGY]]
        if prop.name == "total_energy":
            return total_energies(found.crystals, energies)
        if prop.name == "e_above_hull_by_network":
            return np.asarray(found.plain[:, self._outputs[E_ABOVE_HULL]])
        assert comparison is not None
        distances = energies - comparison.energies
        return np.maximum(distances, 0) if prop.name == E_ABOVE_HULL else distances

    def bounds(self, found: Outputs, values: FloatArray, features: FloatArray) -> FloatArray:
        """Return the ends of the intervals (B, properties, levels, 2) in the properties' units.

        Without a calibration the array has no properties.

        Args:
            found: from `begin`.
            values: from `values`, (B, properties).
            features: network features, (B, D).
        """
        crystals, centres = found.crystals, found.centres
        if not self.errors or not crystals:
            return np.empty((len(crystals), 0, 0, 2))
        widths = self._halfwidths(found, features, np.arange(len(crystals)), self._sources)
        ends = interval_bounds(self.checkpoint.properties, centres, widths)
        hold_metals_too(ends[:, :, :, 0], ends[:, :, :, 1], found.plain, self._outputs)
        if found.comparison is not None and FORMATION_ENERGY in self._outputs:
            ends[:, self._outputs[FORMATION_ENERGY]] += found.comparison.shifts[:, None, None]
        columns = [self._ends(prop, values[:, i], found, widths, ends) for i, prop in enumerate(self.properties)]
        return np.stack(columns, axis=1) if columns else np.empty((len(crystals), 0, 0, 2))

    def _halfwidths(self, found: Outputs, features: FloatArray, rows: IntArray, columns: Iterable[int]) -> FloatArray:
        """Return half the widths of the intervals of R crystals, (R, outputs, levels), on the trained scale."""
        assert self.errors is not None
        checkpoint = self.checkpoint
        stability = None if found.stability is None else found.stability[rows]
        standardised = (found.centres[rows] - checkpoint.mean) / checkpoint.deviation
        halves = self.errors.halfwidths(standardised, found.sizes[rows], features[rows], stability, columns)
        return halves * checkpoint.deviation[:, None]

    def _ends(
        self, prop: Property, values: FloatArray, found: Outputs, widths: FloatArray, ends: FloatArray
    ) -> FloatArray:
        """Return the ends (B, levels, 2) of the intervals of a property with values (B,)."""
        if prop.name in self._outputs:
            return ends[:, self._outputs[prop.name]]
        if prop.name in MODULI:
            assert self.errors is not None
            one, two = (self._outputs[name] for name in PARENTS)
            both = (widths[:, one] * log(10), widths[:, two] * log(10))
            correlation = np.nan_to_num(self.errors.correlation[one, two])
            bulk, shear = (10 ** found.centres[:, column] for column in (one, two))
            return derived_bounds(prop.name, bulk, shear, both, float(correlation), found.matter)
        if prop in DEFORMATION:
            return np.stack([values, values], axis=-1)[:, None].repeat(widths.shape[2], axis=1)
        (source,) = self._sources_of(prop)
        half = widths[:, self._outputs[source]]
        low, high = values[:, None] - half, values[:, None] + half
        return np.asarray(prop.decode(np.stack([low, high], axis=-1)))

    def texts_of(self, found: Outputs) -> list[dict[str, str]]:
        """Return the texts of each of B crystals by column.

        Args:
            found: from `begin`.
        """
        comparison = found.comparison
        if not self.texts or comparison is None:
            return [{} for _ in found.crystals]
        energies = found.centres[:, self._outputs[FORMATION_ENERGY]].tolist()
        written: dict[str, Callable[[int], str]] = {
            "decomposes_to": comparison.decomposition,
            "known_phase": lambda row: comparison.known_phase(row, energies[row]),
            NEAREST_KNOWN: comparison.nearest_known,
        }
        return [{name: written[name](row) for name in self.texts} for row in range(len(energies))]

    def volume_warnings(self, found: Outputs, features: FloatArray) -> list[str]:
        """Return how each of B cells differs from the cell that it would relax to; "" if it hardly does.

        Args:
            found: from `begin`.
            features: network features, (B, D).
        """
        texts = [""] * len(found.crystals)
        column = self._outputs.get(VOLUME_CHANGE.name)
        if column is None:
            return texts
        logs = -found.centres[:, column]  # of the volume over the relaxed one
        if self.checkpoint.unrelaxed:
            far = (logs < MIN_LEARNT_LOG_RATIO) | (logs > MAX_LEARNT_LOG_RATIO)
            return [volume_warning(log, log, log, FURTHER) if yes else "" for log, yes in zip(logs, far, strict=True)]
        rows = np.flatnonzero(np.abs(logs) > (MAX_SURE_LOG_RATIO if self.errors else MAX_LOG_RATIO))
        half: FloatArray = np.zeros(len(rows))
        if self.errors and len(rows):
            half = self._halfwidths(found, features, rows, [column])[:, column, LEVELS.index(DEFAULT_LEVEL)]
        for row, log_ratio, width in zip(rows.tolist(), logs[rows].tolist(), half.tolist(), strict=True):
            one = len(np.unique(found.crystals[row].main_numbers)) == 1
            limit = MAX_SURE_LOG_RATIO_ELEMENT if one else MAX_SURE_LOG_RATIO
            if abs(log_ratio) - min(width, MAX_HALFWIDTH) > limit:
                texts[row] = volume_warning(log_ratio, log_ratio - width, log_ratio + width)
        return texts

    def domain_warnings(
        self, found: Outputs, neighbors: Sequence[Neighbors], features: FloatArray, volumes_known: Sequence[bool]
    ) -> list[str]:
        """Return how each of B crystals differs from the training data; "" if it does not, or without a domain.

        Args:
            found: from `begin`.
            neighbors: of the crystals, (B,).
            features: network features, (B, D).
            volumes_known: whether the network, if it predicts relaxed volumes, is trusted to judge the volume of each
                crystal, (B,).
        """
        if self.domain is None:
            return [""] * len(neighbors)
        known = volumes_known if VOLUME_CHANGE.name in self._outputs else None
        return self.domain.warnings(found.crystals, neighbors, features, known)
