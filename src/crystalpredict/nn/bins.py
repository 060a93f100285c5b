"""Pack crystals into a batch of arrays: atoms in bins, neighbours padded to one width in each part; without torch.

Attention needs q.k for every pair of neighbours. Crystals are packed into bins of T slots, so that one dense product
per bin gives these products without gathering vectors. Products between different crystals of a bin are not used. Bins
of crystals with similar neighbour counts form a part, which is padded to its own width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from crystalpredict.crystals.crystal import Crystal, IntArray, Neighbors

MISSING_DISTANCE = 1.0e3  # Å, distance of a missing neighbour: its Gaussian is exactly 0
GOOD_SLOTS_PER_ATOM = 1.02  # a packing with so few slots is not improved further
MIN_SLOTS = 48  # of a bin, so that small crystals share one
PART_ATOMS = 192  # atoms of a part: a smaller part has less padding, a larger one larger matrix products
Array = TypeVar("Array")  # of NumPy, or a tensor


@dataclass(frozen=True)
class Part(Generic[Array]):
    """G bins of T slots with M neighbours each.

    Attributes:
        neighbors: slot of each neighbour inside its bin, (G, T, M).
        distances: Å, MISSING_DISTANCE for a missing neighbour, (G, T, M).
        vectors: from an atom to its neighbour, Å, 0 for a missing one, (G, T, M, 3); None if the neighbour lists have
            no vectors.
    """

    neighbors: Array
    distances: Array
    vectors: Array | None = None


@dataclass(frozen=True)
class Cells(Generic[Array]):
    """Positions and lattices of a batch, always in double precision on the CPU, where the phases of waves are computed.

    Attributes:
        positions: Cartesian, Å, 0 in an empty slot, (N, 3).
        lattices: rows a, b, c, Å, (B, 3, 3).
    """

    positions: Array
    lattices: Array


@dataclass(frozen=True)
class Batch(Generic[Array]):
    """B crystals in N slots, those of all parts in order; some slots are empty.

    Attributes:
        elements: atomic number - 1 of each species on a site, (N, S).
        occupancies: of each species, 0 in an empty slot, (N, S).
        crystals: index of the crystal of each slot, B for an empty slot, (N,).
        counts: number of equivalent atoms that a slot represents, 0 for an empty slot, (N,).
        n_atoms: atoms of each crystal, (B,).
        parts: the bins.
        cells: positions and lattices; None unless the neighbour lists have vectors and list every atom.
    """

    elements: Array
    occupancies: Array
    crystals: Array
    counts: Array
    n_atoms: Array
    parts: tuple[Part[Array], ...]
    cells: Cells[Array] | None = None


Arrays = Batch[NDArray[Any]]


def arrays_of(
    crystals: Sequence[Crystal],
    neighbors: Sequence[Neighbors],
    dtype: DTypeLike = np.float32,
    part_atoms: int = PART_ATOMS,
) -> Arrays:
    """Return one batch of crystals as arrays.

    Args:
        crystals: B crystals.
        neighbors: their neighbour lists, (B,).
        dtype: of real numbers.
        part_atoms: about so many listed atoms in a part.
    """
    sizes = np.array([edges.size for edges in neighbors])
    widths = np.array([edges.max_edge_count for edges in neighbors])
    starts = np.empty(len(crystals), dtype=np.int64)  # first slot of each crystal
    parts = []
    total = 0
    for rows in split_by_atoms(sizes, widths, part_atoms):
        inside, bins, slots = pack(sizes[rows])
        parts.append(_part([neighbors[row] for row in rows], inside, (bins, slots, int(widths[rows].max())), dtype))
        starts[rows] = total + inside
        total += bins * slots
    slot = np.repeat(starts - np.cumsum(sizes) + sizes, sizes) + np.arange(sizes.sum())  # of each listed atom
    mixed = max(crystal.numbers.shape[1] for crystal in crystals)
    elements = np.zeros((total, mixed), dtype=np.int64)
    occupancies = np.zeros((total, mixed), dtype=dtype)
    owners = np.full(total, len(crystals), dtype=np.int64)
    counts = np.zeros(total, dtype=dtype)
    for columns in {crystal.numbers.shape[1] for crystal in crystals}:
        alike = np.array([crystal.numbers.shape[1] == columns for crystal in crystals])
        chosen = slot[np.repeat(alike, sizes)]
        pairs = [pair for pair, wanted in zip(zip(crystals, neighbors, strict=True), alike, strict=True) if wanted]
        elements[chosen, :columns] = np.concatenate([crystal.numbers[edges.atoms] for crystal, edges in pairs]) - 1
        occupancies[chosen, :columns] = np.concatenate([crystal.occupancies[edges.atoms] for crystal, edges in pairs])
    elements[occupancies == 0] = 0  # padding columns may hold any number
    owners[slot] = np.repeat(np.arange(len(crystals)), sizes)
    counts[slot] = np.concatenate([edges.counts for edges in neighbors])
    n_atoms = np.array([crystal.n_atoms for crystal in crystals])
    cells = _cells(crystals, neighbors, slot, total)
    return Batch(elements, occupancies, owners, counts, n_atoms, tuple(parts), cells)


def _cells(
    crystals: Sequence[Crystal], neighbors: Sequence[Neighbors], slot: IntArray, slots: int
) -> Cells[NDArray[Any]] | None:
    """Return the cells of a batch of `slots` slots; None without vectors or if equivalent atoms are merged.

    `slot` (listed atoms,) is the slot of each atom.
    """
    if any(edges.vectors is None or edges.size < edges.counts.sum() for edges in neighbors):
        return None
    positions = np.zeros((slots, 3))
    positions[slot] = np.concatenate([crystal.positions for crystal in crystals])
    lattices = np.stack([crystal.lattice for crystal in crystals]).astype(float)
    return Cells(positions, lattices)


def _part(
    neighbors: Sequence[Neighbors], starts: IntArray, shape: tuple[int, int, int], dtype: DTypeLike
) -> Part[NDArray[Any]]:
    """Return the part whose crystals start at the slots `starts` (crystals,); shape is (bins, slots, width)."""
    bins, slots, width = shape
    sizes = np.array([edges.size for edges in neighbors])
    slot = np.repeat(starts - np.cumsum(sizes) + sizes, sizes) + np.arange(sizes.sum())
    counts = np.concatenate([edges.edge_counts for edges in neighbors])  # edges of each listed atom
    cell = np.repeat(slot * width - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
    home = np.repeat(starts % slots, [len(edges.indices) for edges in neighbors])  # first slot inside the bin
    indices = np.zeros(bins * slots * width, dtype=np.int64)
    distances = np.full(bins * slots * width, MISSING_DISTANCE, dtype=dtype)
    indices[cell] = np.concatenate([edges.indices for edges in neighbors]) + home
    distances[cell] = np.concatenate([edges.distances for edges in neighbors])
    found = [edges.vectors for edges in neighbors if edges.vectors is not None]
    vectors = None
    if len(found) == len(neighbors):
        table = np.zeros((bins * slots * width, 3), dtype=dtype)
        table[cell] = np.concatenate(found)
        vectors = table.reshape(bins, slots, width, 3)
    return Part(indices.reshape(shape), distances.reshape(shape), vectors)


def split_by_crystal(values: NDArray[Any], owners: Any, sizes: Sequence[int]) -> list[NDArray[Any]]:
    """Return the values of the listed atoms of each crystal, in their order, from those of all slots.

    Args:
        values: of the slots of a batch, (N, ...).
        owners: `Batch.crystals` of arrays or tensors, (N,).
        sizes: listed atoms of each crystal, (B,).
    """
    order = np.asarray(owners if isinstance(owners, np.ndarray) else owners.cpu()).argsort(kind="stable")
    return np.split(values[order], np.cumsum(sizes))[:-1]  # empty slots come after


def pack(sizes: IntArray) -> tuple[IntArray, int, int]:
    """Return first slot of each crystal (B,), number of bins, and slots per bin.

    First-fit decreasing bin packing. Several bin sizes are tried; the one with the fewest slots in total is used, or
    the first that leaves almost no slot empty.

    Args:
        sizes: atoms of each crystal, (B,).
    """
    total = int(sizes.sum())
    least = max(int(sizes.max()), min(total, MIN_SLOTS))
    even = (-(-total // bins) for bins in range(total // least, -(-2 * total // (3 * least)) - 1, -1))
    packings = []
    for slots in chain(even, (least * sixteenths // 16 for sixteenths in range(16, 25))):
        bins, offsets = first_fit(sizes, slots)
        filled = int((offsets + sizes).max())
        count = int(bins.max()) + 1
        packings.append((bins * filled + offsets, count, filled))
        if count * filled <= GOOD_SLOTS_PER_ATOM * total:
            break
    return min(packings, key=lambda packing: packing[1] * packing[2])


def first_fit(sizes: IntArray, slots: int) -> tuple[IntArray, IntArray]:
    """Return the bin of each crystal (B,) and its first slot in the bin (B,).

    Args:
        sizes: atoms of each crystal, at most `slots`, (B,).
        slots: of a bin.
    """
    used: list[int] = []
    bins, offsets = [0] * len(sizes), [0] * len(sizes)
    all_sizes = sizes.tolist()
    for crystal in np.argsort(-sizes, kind="stable").tolist():
        size = all_sizes[crystal]
        home = next((b for b, filled in enumerate(used) if filled + size <= slots), len(used))
        if home == len(used):
            used.append(0)
        bins[crystal], offsets[crystal] = home, used[home]
        used[home] += size
    return np.array(bins), np.array(offsets)


def split_by_atoms(sizes: IntArray, widths: IntArray, atoms: int) -> list[IntArray]:
    """Return the indices of the crystals of each group; crystals with similar neighbour counts are together.

    Args:
        sizes: listed atoms of each crystal, (B,).
        widths: largest neighbour count of an atom, (B,).
        atoms: about so many in a group. A larger crystal has a group of its own.
    """
    order = np.lexsort((sizes, widths))
    groups: list[list[int]] = []
    held = atoms
    for crystal in order:
        if held + sizes[crystal] > atoms:
            groups.append([])
            held = 0
        groups[-1].append(int(crystal))
        held += int(sizes[crystal])
    return [np.array(group) for group in groups]
