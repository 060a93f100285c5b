"""Training on a GPU at the speed of the GPU: batches of one shape, and a step that is one CUDA graph.

A step of the network is some thousand short kernels, which a processor launches more slowly than a GPU runs them. A
CUDA graph launches them all by one call, but repeats them exactly: same shapes, same places in memory. So the table of
crystals lies on the device, and from a few numbers for each slot the graph puts a batch together there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from crystalpredict.crystals.crystal import FloatArray, IntArray
from crystalpredict.data.dataset import CrystalTable, NeighborTable
from crystalpredict.nn.batch import FAR, PART_ATOMS, CrystalBatch, Part, first_fit

SPARE = 1.05  # room in a step beyond what the largest of those looked at needs
RARE_STEPS = 0.005  # share of the steps that may need more room than a step has: they are made the ordinary way
FIRST_STEPS = 3  # made the ordinary way, so that all that is made once is there before the graph


class FixedBatches:
    """A table of ordered crystals on a device, of which batches of one shape are made there.

    A batch has one part of `bins` bins of `slots` slots, `width` neighbours each, and room for `room` crystals.
    """

    def __init__(
        self, table: CrystalTable, neighbors: NeighborTable, steps: Sequence[IntArray], device: torch.device
    ) -> None:
        """`steps`, rows of typical batches, decide the shape; crystals with more atoms than a bin has slots are out."""
        self.sizes, self.n_atoms = np.diff(neighbors.sites), table.sizes
        self.first_site = neighbors.sites[:-1]
        widths = np.diff(neighbors.first)
        widest = np.maximum.reduceat(widths, self.first_site)
        self.slots = int(min(self.sizes.max(), PART_ATOMS))
        self.fitting = self.sizes <= self.slots
        self.width = int(widest[self.fitting].max())
        fitting = (self.sizes[rows[self.fitting[rows]]] for rows in steps)
        last = [int(first_fit(sizes, self.slots)[0].max()) for sizes in fitting if len(sizes)]  # bins, counted from 0
        self.bins = int(np.quantile(last, 1 - RARE_STEPS) * SPARE) + 1
        self.room = int(max(len(rows) for rows in steps) * SPARE) + 1
        self.device = device
        owners = np.repeat(np.arange(len(table)), self.sizes)
        elements = table.numbers[table.first[owners] + neighbors.atoms].astype(np.int64) - 1
        # one site more, which empty slots hold: no neighbours, stands for no atom
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
        """Where the crystals go, (3, N), and their atoms, (room,); None if they do not fit.

        Of each slot: its site in the table, the first slot in its bin of its crystal, and the crystal, counted from 0.
        """
        sizes = self.sizes[rows]
        if len(rows) > self.room or not self.fitting[rows].all():
            return None
        homes, offsets = first_fit(sizes, self.slots)
        if homes.max() >= self.bins:
            return None
        inside = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)  # of each site, in its crystal
        slot = np.repeat(homes * self.slots + offsets, sizes) + inside
        placed = np.empty((3, self.bins * self.slots), dtype=np.int64)
        placed[:] = [[len(self.counts) - 1], [0], [self.room]]
        placed[0, slot] = np.repeat(self.first_site[rows], sizes) + inside
        placed[1, slot] = np.repeat(offsets, sizes)
        placed[2, slot] = np.repeat(np.arange(len(rows)), sizes)
        n_atoms = np.ones(self.room, dtype=np.float32)
        n_atoms[: len(rows)] = self.n_atoms[rows]
        return placed, n_atoms

    def batches_for(self, rows: IntArray) -> int:
        """Batches that hold the crystals with room to spare."""
        slots = self.bins * self.slots
        return min(max(int(self.sizes[rows].sum() / (0.8 * slots)), len(rows) // self.room) + 1, len(rows))

    def of(self, rows: IntArray) -> CrystalBatch | None:
        """The batch of some crystals; None if they do not fit."""
        placing = self.place(rows)
        return placing and self.batch(*(self._on_device(array) for array in placing))

    def batch(self, placed: Tensor, n_atoms: Tensor) -> CrystalBatch:
        """The batch of what `place` returned, made on the device; crystals beyond those of the rows have no atom."""
        sites, homes, owners = placed
        columns = torch.arange(self.width, device=self.device)
        edges = self.first[sites][:, None] + columns
        missing = edges >= self.first[sites + 1][:, None]
        edges = edges.masked_fill(missing, 0)
        neighbors = (self.indices[edges] + homes[:, None]).masked_fill(missing, 0)
        distances = self.distances[edges].masked_fill(missing, FAR)
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
    """A training step on batches of one shape, captured as a CUDA graph after some steps made the ordinary way.

    `compute` takes a batch, labels (room, outputs), not a number where there is none, and `numbers`; it changes
    weights in place and returns the loss. It must not wait for the device.
    """

    def __init__(
        self, batches: FixedBatches, outputs: int, compute: Callable[[CrystalBatch, Tensor, Tensor], Tensor]
    ) -> None:
        self.batches, self.compute = batches, compute
        device = batches.device
        self.placed = torch.zeros(3, batches.bins * batches.slots, dtype=torch.int64, device=device)
        self.n_atoms = torch.ones(batches.room, device=device)
        self.labels = torch.full((batches.room, outputs), torch.nan, device=device)
        self.numbers = torch.zeros(3, device=device)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.steps = 0
        self.loss = torch.zeros((), device=device)

    def run(self, rows: IntArray, labels: FloatArray, numbers: tuple[float, float, float]) -> Tensor | None:
        """One step on the crystals `rows` with labels (rows, outputs); None, and nothing done, if they do not fit."""
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
        if self.steps <= FIRST_STEPS or not self.placed.is_cuda:
            return self._once()
        if self.graph is None:
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.loss = self._once()
        self.graph.replay()
        return self.loss.clone()

    def _once(self) -> Tensor:
        return self.compute(self.batches.batch(self.placed, self.n_atoms), self.labels, self.numbers)
