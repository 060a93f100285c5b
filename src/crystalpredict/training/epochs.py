"""Training data of a run: order of the epochs, steps, batches and standardised labels."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from crystalpredict.crystals.crystal import Crystal, FloatArray, IntArray, Neighbors
from crystalpredict.data.dataset import (
    TRAIN,
    VALIDATION,
    CrystalTable,
    NeighborTable,
    encoded_labels,
    rows_with_labels,
    scale_of_labels,
)
from crystalpredict.errors import UsageError
from crystalpredict.nn.batch import CrystalBatch, batches_of
from crystalpredict.properties import find_property
from crystalpredict.training.config import TrainingConfig

RARE_LABEL_FRACTION = 0.2  # of the training crystals; a property with fewer labels is rare


class TrainingData:
    """Crystals, neighbour lists and labels of a run.

    Attributes:
        properties: those that are trained on, (P,).
        encoded: labels on the trained scale, not a number where missing, (C, P).
        mean: of the encoded training labels, (P,).
        deviation: standard deviation of the encoded training labels, (P,).
        weights: of each property in the loss, (P,).
        sizes: listed atoms of each crystal, (C,).
        edges: edges of each crystal, (C,).
        train_rows: rows of the table with training labels.
        validation_rows: rows of the table with validation labels.
    """

    def __init__(
        self, table: CrystalTable, neighbors: NeighborTable, config: TrainingConfig, device: torch.device
    ) -> None:
        self.table, self.neighbors, self.config, self.device = table, neighbors, config, device
        names = config.properties or [prop.name for prop in table.properties]
        self.properties = tuple(find_property(name, table.properties) for name in names)
        self.encoded = encoded_labels(table, self.properties)
        self.sizes = np.diff(neighbors.sites)
        self.edges = np.diff(neighbors.first[neighbors.sites])
        self.train_rows = rows_with_labels(table.splits == TRAIN, self.encoded, "training")
        self.validation_rows = rows_with_labels(table.splits == VALIDATION, self.encoded, "validation")
        if unknown := {*config.weights, *config.losses} - {prop.name for prop in self.properties}:
            raise UsageError(f"losses of properties that are not trained on: {', '.join(sorted(unknown))}")
        self.weights = np.array([config.weights.get(prop.name, 1.0) for prop in self.properties], dtype=np.float32)
        self.mean, self.deviation = scale_of_labels(self.encoded[self.train_rows], self.properties)

    def weights_by_loss(self) -> dict[str, FloatArray]:
        """Return the weights of the properties (P,) for each loss, 0 for a property with another loss."""
        names = np.array([self.config.losses.get(prop.name, self.config.loss) for prop in self.properties])
        return {str(name): np.where(names == name, self.weights, np.float32(0)) for name in np.unique(names)}

    def labels(self, rows: IntArray) -> tuple[FloatArray, float]:
        """Return standardised labels (R, P) of some rows, and the summed loss weights of those that exist."""
        labels = ((self.encoded[rows] - self.mean) / self.deviation).astype(np.float32)
        return labels, float((np.isfinite(labels) * self.weights).sum())

    def order(self, epoch: int) -> IntArray:
        """Return the rows of an epoch in order. It depends on seed and epoch only, so a resumed run repeats it."""
        rows = self.train_rows
        labelled = np.isfinite(self.encoded[rows])
        rare = labelled[:, labelled.mean(axis=0) < RARE_LABEL_FRACTION].any(axis=1)
        repeated = np.repeat(rows, np.where(rare, self.config.repeat_rare, 1))
        return np.random.default_rng([self.config.seed, epoch]).permutation(repeated)

    def steps(self, order: IntArray, start: int = 0) -> Iterator[IntArray]:
        """Yield the rows of each step, about `batch_atoms` atoms, from a position in the order onwards."""
        ends = np.cumsum(self.table.sizes[order])
        while start < len(order):
            before = ends[start - 1] if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, before + self.config.batch_atoms, side="right")))
            yield order[start:stop]
            start = stop

    def crystals(self, rows: IntArray) -> tuple[list[Crystal], list[Neighbors]]:
        """Return the crystals of some rows and their neighbour lists."""
        return [self.table.crystal(row) for row in rows], [self.neighbors.neighbors(row) for row in rows]

    def batches(self, rows: IntArray, atoms: int) -> Iterator[tuple[IntArray, CrystalBatch]]:
        """Yield batches of about `atoms` listed atoms on the device, with the positions of their crystals in `rows`."""
        for part, batch in batches_of(*self.crystals(rows), atoms):
            yield part, batch.to(self.device)

    def errors(self, rows: IntArray, values: FloatArray) -> tuple[dict[str, float], dict[str, float]]:
        """Return mean absolute errors by property, on the trained scale and in the unit of the property.

        Args:
            rows: of the table, R of them.
            values: predictions for them on the trained scale, (R, P).
        """
        scaled, in_unit = {}, {}
        for column, prop in enumerate(self.properties):
            labels = self.encoded[rows, column]
            known = np.isfinite(labels)
            if known.any():
                value, label = prop.clip(values[known, column]), labels[known]
                scaled[prop.name] = float(np.abs(value - label).mean())
                in_unit[prop.name] = float(np.abs(prop.decode(value) - prop.in_unit(label)).mean())
        return scaled, in_unit
