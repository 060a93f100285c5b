"""Decode the outputs of a network into property values, intervals and applicability warnings."""

from __future__ import annotations

from collections.abc import Sequence
from math import log

import numpy as np

from crystalpredict.checkpoints.checkpoint import Checkpoint
from crystalpredict.crystals.crystal import Crystal, FloatArray, Neighbors
from crystalpredict.crystals.primitive import primitive_size
from crystalpredict.prediction.derived import PARENTS, asked_for, derive, derived_bounds
from crystalpredict.uncertainty.intervals import ErrorModel, interval_bounds


class OutputDecoder:
    """Decodes the outputs of a checkpoint's network into some of its properties or derived ones."""

    def __init__(self, checkpoint: Checkpoint, targets: Sequence[str] = (), *, uncertainty: bool = True) -> None:
        """Choose the properties.

        Args:
            checkpoint: its network's outputs are decoded.
            targets: names or aliases of properties; none: all of the checkpoint.
            uncertainty: whether to compute intervals, if the checkpoint is calibrated.
        """
        self.checkpoint = checkpoint
        self.properties = asked_for(checkpoint.properties, targets)
        calibration = checkpoint.calibration
        self.errors: ErrorModel | None = calibration.errors if calibration and uncertainty else None
        self.domain = calibration.domain if calibration else None
        names = [prop.name for prop in checkpoint.properties]
        self._parents = [names.index(name) for name in PARENTS if name in names]
        self._own = [names.index(prop.name) if prop.name in names else -1 for prop in self.properties]

    def values(self, outputs: FloatArray) -> FloatArray:
        """Return values (B, properties) in their units from standardised outputs (B, outputs)."""
        decoded = self.checkpoint.decode(outputs)
        columns = [
            decoded[prop.name] if prop.name in decoded else derive(prop.name, *(decoded[name] for name in PARENTS))
            for prop in self.properties
        ]
        return np.stack(columns, axis=1)

    def bounds(self, outputs: FloatArray, features: FloatArray, crystals: Sequence[Crystal]) -> FloatArray:
        """Return the ends of the intervals (B, properties, levels, 2) in the properties' units.

        Without a calibration the array has no properties.

        Args:
            outputs: standardised outputs, (B, outputs).
            features: network features, (B, D).
            crystals: the B crystals.
        """
        if not self.errors or not crystals:
            return np.empty((len(crystals), 0, 0, 2))
        checkpoint = self.checkpoint
        centres = checkpoint.interval_centres(outputs)
        sizes = np.array([primitive_size(crystal) for crystal in crystals])
        standardised = (centres - checkpoint.mean) / checkpoint.deviation
        widths = self.errors.halfwidths(standardised, sizes, features) * checkpoint.deviation[:, None]
        ends = interval_bounds(checkpoint.properties, centres, widths)
        columns = []
        for prop, own in zip(self.properties, self._own, strict=True):
            if own >= 0:
                columns.append(ends[:, own])
                continue
            one, two = self._parents
            both = (widths[:, one] * log(10), widths[:, two] * log(10))
            correlation = np.nan_to_num(self.errors.correlation[one, two])
            moduli = (10 ** centres[:, one], 10 ** centres[:, two])
            columns.append(derived_bounds(prop.name, *moduli, both, float(correlation)))
        return np.stack(columns, axis=1)

    def domain_warnings(
        self, crystals: Sequence[Crystal], neighbors: Sequence[Neighbors], features: FloatArray
    ) -> list[str]:
        """Return how each of B crystals differs from the training data; "" if it does not, or without a calibration."""
        return self.domain.warnings(crystals, neighbors, features) if self.domain else [""] * len(crystals)
