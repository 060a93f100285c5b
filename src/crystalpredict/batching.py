"""Crystals in, one CrystalBatch of tensors out: atoms packed into bins, neighbours padded to one width.

Attention needs q.k for every pair of atoms that are neighbours. Crystals are packed into bins of T slots, so that
one dense product per bin gives all of them without a gather of vectors; pairs of different crystals that share a bin
are computed and never looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from crystalpredict.crystal import Crystal, IntArray, Neighbors

FAR = 1.0e3  # Å; the distance of a missing neighbour: its Gaussian and its radial basis are exactly 0
MIN_SLOTS = 64  # a bin holds at least this many atoms, so that small crystals share one


@dataclass(frozen=True)
class CrystalBatch:
    """B crystals in G bins of T slots; N = G T slots, some of them empty; M neighbours a slot.

    elements (N, S), atomic number - 1; occupancies (N, S), 0 in an empty slot; neighbors (G, T, M), slot of the
    neighbour inside its bin; distances (G, T, M), Å, `FAR` where there is no neighbour; crystals (N,), the crystal of
    a slot, B for an empty one; n_atoms (B,).
    """

    elements: Tensor
    occupancies: Tensor
    neighbors: Tensor
    distances: Tensor
    crystals: Tensor
    n_atoms: Tensor

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> CrystalBatch:
        """The batch on another device, its real numbers in another precision."""
        return CrystalBatch(
            *(
                getattr(self, f.name).to(device, dtype if getattr(self, f.name).is_floating_point() else None)
                for f in fields(self)
            )
        )


def collate(
    crystals: Sequence[Crystal], neighbors: Sequence[Neighbors], dtype: torch.dtype = torch.float32
) -> CrystalBatch:
    """One batch of the crystals, in their order."""
    sizes = np.array([crystal.n_atoms for crystal in crystals])
    starts, bins, slots = pack(sizes)
    width = max(edges.widest for edges in neighbors)
    mixed = max(crystal.numbers.shape[1] for crystal in crystals)
    elements = np.zeros((bins * slots, mixed), dtype=np.int64)
    occupancies = np.zeros((bins * slots, mixed))
    owners = np.full(bins * slots, len(crystals), dtype=np.int64)
    indices = np.zeros((bins * slots, width), dtype=np.int64)
    distances = np.full((bins * slots, width), FAR)
    for number, (crystal, edges, start) in enumerate(zip(crystals, neighbors, starts, strict=True)):
        rows = slice(start, start + crystal.n_atoms)
        elements[rows, : crystal.numbers.shape[1]] = crystal.numbers - 1
        occupancies[rows, : crystal.numbers.shape[1]] = crystal.occupancies
        owners[rows] = number
        counts = np.diff(edges.first)
        row = np.repeat(np.arange(start, start + crystal.n_atoms), counts)
        column = np.arange(len(edges.indices)) - np.repeat(edges.first[:-1], counts)
        indices[row, column] = edges.indices + start % slots
        distances[row, column] = edges.distances
    elements[occupancies == 0] = 0  # padding columns may hold any number
    return CrystalBatch(
        torch.from_numpy(elements),
        torch.from_numpy(occupancies).to(dtype),
        torch.from_numpy(indices).view(bins, slots, width),
        torch.from_numpy(distances).to(dtype).view(bins, slots, width),
        torch.from_numpy(owners),
        torch.from_numpy(sizes),
    )


def pack(sizes: IntArray) -> tuple[IntArray, int, int]:
    """First slot of each crystal, number of bins, slots per bin; first-fit by decreasing size.

    sizes (B,), atoms of each crystal. No crystal straddles two bins.
    """
    total = int(sizes.sum())
    slots = max(int(sizes.max()), min(total, MIN_SLOTS))
    room: list[int] = []
    starts = np.empty(len(sizes), dtype=np.int64)
    for crystal in np.argsort(-sizes, kind="stable"):
        size = int(sizes[crystal])
        home = next((b for b, free in enumerate(room) if free >= size), len(room))
        if home == len(room):
            room.append(slots)
        starts[crystal] = home * slots + slots - room[home]
        room[home] -= size
    return starts, len(room), slots


def batches_of(
    crystals: Sequence[Crystal], neighbors: Sequence[Neighbors], atoms: int
) -> Iterator[tuple[IntArray, CrystalBatch]]:
    """Batches of about `atoms` atoms, each with the indices of its crystals; little is padded in any of them."""
    sizes = np.array([crystal.n_atoms for crystal in crystals])
    widths = np.array([edges.widest for edges in neighbors])
    for rows in split_by_atoms(sizes, widths, atoms):
        yield rows, collate([crystals[row] for row in rows], [neighbors[row] for row in rows])


def split_by_atoms(sizes: IntArray, widths: IntArray, atoms: int) -> list[IntArray]:
    """Indices of the crystals of each batch, about `atoms` atoms in each; alike neighbour counts stay together.

    sizes (B,), atoms; widths (B,), most neighbours of an atom. A crystal larger than `atoms` has a batch of its own.
    """
    order = np.lexsort((sizes, widths))
    batches: list[list[int]] = []
    held = atoms
    for crystal in order:
        if held + sizes[crystal] > atoms:
            batches.append([])
            held = 0
        batches[-1].append(int(crystal))
        held += int(sizes[crystal])
    return [np.array(batch) for batch in batches]
