"""Batches of crystals as tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crystalpredict.crystals.crystal import Crystal, IntArray, Neighbors
from crystalpredict.nn.bins import PART_ATOMS, Batch, Cells, Part, arrays_of, split_by_atoms


@dataclass(frozen=True)
class CrystalBatch(Batch[Tensor]):
    """B crystals in N slots as tensors."""

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> CrystalBatch:
        """Return the batch on another device, with real numbers in another precision."""
        return CrystalBatch(
            _moved(self.elements, device),
            _moved(self.occupancies, device, dtype),
            _moved(self.crystals, device),
            _moved(self.counts, device, dtype),
            _moved(self.n_atoms, device),
            tuple(_moved_part(part, device, dtype) for part in self.parts),
            self.cells,
        )


def _moved_part(part: Part[Tensor], device: torch.device | str, dtype: torch.dtype | None) -> Part[Tensor]:
    vectors = None if part.vectors is None else _moved(part.vectors, device, dtype)
    return Part(_moved(part.neighbors, device), _moved(part.distances, device, dtype), vectors)


def _moved(tensor: Tensor, device: torch.device | str, dtype: torch.dtype | None = None) -> Tensor:
    """Return the tensor on a device; a copy to a GPU does not block the CPU."""
    if torch.device(device).type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, dtype, non_blocking=True)


def collate(
    crystals: Sequence[Crystal],
    neighbors: Sequence[Neighbors],
    dtype: torch.dtype = torch.float32,
    part_atoms: int = PART_ATOMS,
) -> CrystalBatch:
    """Return one batch of crystals.

    Args:
        crystals: B crystals.
        neighbors: their neighbour lists, (B,).
        dtype: of real numbers.
        part_atoms: about so many listed atoms in a part.
    """
    double = dtype == torch.float64
    found = arrays_of(crystals, neighbors, np.float64 if double else np.float32, part_atoms)

    def real(array: Any) -> Tensor:
        return torch.from_numpy(array).to(dtype)

    parts = [
        Part(
            torch.from_numpy(part.neighbors),
            real(part.distances),
            None if part.vectors is None else real(part.vectors),
        )
        for part in found.parts
    ]
    cells = None
    if found.cells:
        cells = Cells(torch.from_numpy(found.cells.positions), torch.from_numpy(found.cells.lattices))
    return CrystalBatch(
        torch.from_numpy(found.elements),
        real(found.occupancies),
        torch.from_numpy(found.crystals),
        real(found.counts),
        torch.from_numpy(found.n_atoms),
        tuple(parts),
        cells,
    )


def batches_of(
    crystals: Sequence[Crystal], neighbors: Sequence[Neighbors], atoms: int, part_atoms: int = PART_ATOMS
) -> Iterator[tuple[IntArray, CrystalBatch]]:
    """Yield batches of about `atoms` listed atoms, each with the indices of its crystals."""
    sizes = np.array([edges.size for edges in neighbors])
    widths = np.array([edges.max_edge_count for edges in neighbors])
    for rows in split_by_atoms(sizes, widths, atoms):
        yield rows, collate([crystals[row] for row in rows], [neighbors[row] for row in rows], part_atoms=part_atoms)
