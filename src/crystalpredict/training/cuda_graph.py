"""Training steps as a CUDA graph, on batches of one fixed shape.

A step runs about a thousand short kernels, which a CPU launches more slowly than a GPU runs them. A CUDA graph launches
all of them in one call, but repeats them exactly: same shapes, same addresses. The table of crystals is therefore
copied to the GPU, and the graph builds each batch there from a few numbers for each slot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from crystalpredict.crystals.crystal import FloatArray, IntArray
from crystalpredict.data.dataset import CrystalTable, NeighborTable
from crystalpredict.nn.batch import CrystalBatch
from crystalpredict.nn.bins import MISSING_DISTANCE, PART_ATOMS, Part, first_fit

SIZE_MARGIN = 1.05  # size of the fixed batch over that of the largest of the example steps
OVERSIZED_FRACTION = 0.005  # of the steps that may exceed the fixed batch; they run without the graph
WARMUP_STEPS = 3  # run without the graph first, because lazy initialisation cannot be captured


class FixedBatches:
    """A table of ordered crystals on a device, from which batches of one shape are built there.

    Attributes:
        bins: bins of a batch.
        slots: slots of a bin.
        width: neighbours of a slot.
        max_crystals: crystals of a batch.
        fitting: whether each crystal of the table fits into a bin, (C,).
    """

    def __init__(
        self, table: CrystalTable, neighbors: NeighborTable, steps: Sequence[IntArray], device: torch.device
    ) -> None:
        """Copy the table to the device and choose the shape of the batches.

        Args:
            table: C crystals.
            neighbors: their neighbour lists.
            steps: rows of example batches, which decide the shape.
            device: that holds the table.
        """
        self.sizes, self.n_atoms = np.diff(neighbors.sites), table.sizes
        self.first_site = neighbors.sites[:-1]
        widths = np.diff(neighbors.first)
        widest = np.maximum.reduceat(widths, self.first_site)
        self.slots = int(min(self.sizes.max(), PART_ATOMS))
        self.fitting = self.sizes <= self.slots
        self.width = int(widest[self.fitting].max())
        fitting = (self.sizes[rows[self.fitting[rows]]] for rows in steps)
        last = [int(first_fit(sizes, self.slots)[0].max()) for sizes in fitting if len(sizes)]  # bins, counted from 0
        self.bins = int(np.quantile(last, 1 - OVERSIZED_FRACTION) * SIZE_MARGIN) + 1
        self.max_crystals = int(max(len(rows) for rows in steps) * SIZE_MARGIN) + 1
        self.device = device
        owners = np.repeat(np.arange(len(table)), self.sizes)
        elements = table.numbers[table.first[owners] + neighbors.atoms].astype(np.int64) - 1
        # one more site for the empty slots: no neighbours, count 0
        self.first = self._on_device(np.append(neighbors.first, neighbors.first[-1]))
        self.elements = self._on_device(np.append(elements, 0))
        self.counts = self._on_device(np.append(neighbors.counts, 0).astype(np.float32))
        self.indices = self._on_device(np.append(neighbors.indices, 0).astype(np.int32))
        self.distances = self._on_device(np.append(neighbors.distances, 0).astype(np.float32))
        self.vectors = None
        if neighbors.vectors is not None:
            self.vectors = self._on_device(np.append(neighbors.vectors, np.zeros((1, 3), np.float32), axis=0))

    def _on_device(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    def place(self, rows: IntArray) -> tuple[IntArray, FloatArray] | None:
        """Return where the crystals are placed in a batch; None if they do not fit.

        Returns:
            For each slot its site in the table, the first slot of its crystal in the bin, and the number of its
            crystal, (3, N); and the number of atoms of each crystal, (max_crystals,).
        """
        sizes = self.sizes[rows]
        if len(rows) > self.max_crystals or not self.fitting[rows].all():
            return None
        homes, offsets = first_fit(sizes, self.slots)
        if homes.max() >= self.bins:
            return None
        inside = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)  # of each site, in its crystal
        slot = np.repeat(homes * self.slots + offsets, sizes) + inside
        placed = np.empty((3, self.bins * self.slots), dtype=np.int64)
        placed[:] = [[len(self.counts) - 1], [0], [self.max_crystals]]
        placed[0, slot] = np.repeat(self.first_site[rows], sizes) + inside
        placed[1, slot] = np.repeat(offsets, sizes)
        placed[2, slot] = np.repeat(np.arange(len(rows)), sizes)
        n_atoms = np.ones(self.max_crystals, dtype=np.float32)
        n_atoms[: len(rows)] = self.n_atoms[rows]
        return placed, n_atoms

    def batches_for(self, rows: IntArray) -> int:
        """Return a number of batches that is enough for the crystals."""
        slots = self.bins * self.slots
        return min(max(int(self.sizes[rows].sum() / (0.8 * slots)), len(rows) // self.max_crystals) + 1, len(rows))

    def batch_of(self, rows: IntArray) -> CrystalBatch | None:
        """Return the batch of some crystals; None if they do not fit."""
        placing = self.place(rows)
        return placing and self.batch(*(self._on_device(array) for array in placing))

    def batch(self, placed: Tensor, n_atoms: Tensor) -> CrystalBatch:
        """Return the batch that `place` describes, built on the device; its last crystals may be empty."""
        sites, homes, owners = placed
        columns = torch.arange(self.width, device=self.device)
        edges = self.first[sites][:, None] + columns
        missing = edges >= self.first[sites + 1][:, None]
        edges = edges.masked_fill(missing, 0)
        neighbors = (self.indices[edges] + homes[:, None]).masked_fill(missing, 0)
        distances = self.distances[edges].masked_fill(missing, MISSING_DISTANCE)
        shape = (self.bins, self.slots, self.width)
        vectors = None
        if self.vectors is not None:
            vectors = self.vectors[edges].masked_fill(missing[..., None], 0).view(*shape, 3)
        counts = self.counts[sites]
        return CrystalBatch(
            self.elements[sites][:, None],
            (counts > 0).float()[:, None],
            owners,
            counts,
            n_atoms,
            (Part(neighbors.view(shape), distances.view(shape), vectors),),
        )


class CapturedStep:
    """A training step on batches of one shape, captured as a CUDA graph after WARMUP_STEPS ordinary steps."""

    def __init__(
        self, batches: FixedBatches, outputs: int, compute: Callable[[CrystalBatch, Tensor, Tensor], Tensor]
    ) -> None:
        """Reserve the memory that the graph reads.

        Args:
            batches: of one shape.
            outputs: of the network.
            compute: takes a batch, labels (max_crystals, outputs), not a number where missing, and the `numbers` of
                `run`. It changes the weights in place, returns the loss, and must not wait for the device.
        """
        self.batches, self.compute = batches, compute
        device = batches.device
        self.placed = torch.zeros(3, batches.bins * batches.slots, dtype=torch.int64, device=device)
        self.n_atoms = torch.ones(batches.max_crystals, device=device)
        self.labels = torch.full((batches.max_crystals, outputs), torch.nan, device=device)
        self.numbers = torch.zeros(3, device=device)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.steps = 0
        self.loss = torch.zeros((), device=device)

    def run(self, rows: IntArray, labels: FloatArray, numbers: tuple[float, float, float]) -> Tensor | None:
        """Do one step; return its loss, or None without a step if the crystals do not fit.

        Args:
            rows: of the table, R of them.
            labels: standardised, (R, outputs).
            numbers: passed on to `compute`.
        """
        placing = self.batches.place(rows)
        if placing is None:
            return None
        padded = np.full(self.labels.shape, np.nan, dtype=np.float32)
        padded[: len(rows)] = labels
        arrays = (*placing, padded, np.array(numbers, dtype=np.float32))
        for target, array in zip((self.placed, self.n_atoms, self.labels, self.numbers), arrays, strict=True):
            source = torch.from_numpy(array)
            target.copy_(source.pin_memory() if target.is_cuda else source, non_blocking=True)
        self.steps += 1
        if self.steps <= WARMUP_STEPS or not self.placed.is_cuda:
            return self._once()
        if self.graph is None:
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.loss = self._once()
        self.graph.replay()
        return self.loss.clone()

    def _once(self) -> Tensor:
        return self.compute(self.batches.batch(self.placed, self.n_atoms), self.labels, self.numbers)
