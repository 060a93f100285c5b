"""The crystals of a run in the order, the steps and the batches of its epochs, with their labels standardised."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from crystalpredict.crystals.crystal import FloatArray, IntArray
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

RARE = 0.2  # a property with labels for fewer than this share of the crystals is rare


class TrainingData:
    """C crystals of a table with their neighbours and labels, as a run takes them.

    properties (P,), those trained on; encoded (C, P), labels on the trained scale, not a number where missing; mean and
    deviation (P,) of the training labels; weights (P,) of the loss; sizes and edges (C,), listed atoms and edges.
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
        if unknown := set(config.weights) - {prop.name for prop in self.properties}:
            raise UsageError(f"weights for what is not trained on: {', '.join(sorted(unknown))}")
        self.weights = np.array([config.weights.get(prop.name, 1.0) for prop in self.properties], dtype=np.float32)
        self.mean, self.deviation = scale_of_labels(self.encoded[self.train_rows], self.properties)

    def labels(self, rows: IntArray) -> tuple[FloatArray, float]:
        """Standardised labels (rows, P), and the sum of the weights of those that are known."""
        labels = ((self.encoded[rows] - self.mean) / self.deviation).astype(np.float32)
        return labels, float((np.isfinite(labels) * self.weights).sum())

    def order(self, epoch: int) -> IntArray:
        """Rows of an epoch in its order: a function of seed and epoch alone, so that a resumed run repeats it."""
        rows = self.train_rows
        labelled = np.isfinite(self.encoded[rows])
        rare = labelled[:, labelled.mean(axis=0) < RARE].any(axis=1)
        shown = np.repeat(rows, np.where(rare, self.config.repeat_rare, 1))
        return np.random.default_rng([self.config.seed, epoch]).permutation(shown)

    def steps(self, order: IntArray, start: int = 0) -> Iterator[IntArray]:
        """Rows of each step from a position in the order on: some `batch_atoms` atoms."""
        ends = np.cumsum(self.table.sizes[order])
        while start < len(order):
            before = ends[start - 1] if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, before + self.config.batch_atoms, side="right")))
            yield order[start:stop]
            start = stop

    def batches(self, rows: IntArray, atoms: int) -> Iterator[tuple[IntArray, CrystalBatch]]:
        """Batches of some `atoms` atoms of the crystals `rows`, on the device, each with its positions in `rows`."""
        crystals = [self.table.crystal(row) for row in rows]
        neighbors = [self.neighbors.neighbors(row) for row in rows]
        for part, batch in batches_of(crystals, neighbors, atoms):
            yield part, batch.to(self.device)
