"""Neighbour lists of periodic cells: vesin where it is installed, plain NumPy where it is not."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import cache

import numpy as np

from crystalpredict.crystal import FloatArray, IntArray, Neighbors

# atoms i and j of pairs (P, 2), distances (P,) in Å, vectors (P, 3) from i to j in Å, or None if not wanted; each pair
# of atoms, or of an atom and an image of it, is there once
Pairs = tuple[IntArray, FloatArray, FloatArray | None]

LONGEST_RADIUS = 100.0  # Å, of the lists of a network: a million neighbours of each atom
MANY = 1000  # atoms, above which a search by several threads pays
SHORT = 2**16  # atoms, whose numbers are sorted digit by digit, which is faster
_CHUNK = 4_000_000  # distances held at once by the NumPy search


def find_neighbors(lattice: FloatArray, positions: FloatArray, radius: float, *, vectors: bool = False) -> Neighbors:
    """Every edge shorter than `radius` (Å), images and the self edge included, grouped by centre atom [M5].

    lattice (3, 3), rows a, b, c; positions (n, 3), Cartesian, not necessarily inside the cell. `vectors`: with the
    vector of each edge, which takes longer.
    """
    return find_neighbors_of_many([(lattice, positions)], radius, vectors=vectors)[0]


def find_neighbors_of_many(
    cells: Sequence[tuple[FloatArray, FloatArray]], radius: float, *, vectors: bool = False
) -> list[Neighbors]:
    """The same of many cells, lattice and positions, at once: they are grouped together, in a third of the time."""
    if not cells:
        return []
    search = vesin_pairs if _have_vesin() else numpy_pairs
    found = [
        search(np.asarray(lattice, float), np.asarray(positions, float), radius, vectors=vectors)
        for lattice, positions in cells
    ]
    bounds = np.concatenate([[0], np.cumsum([len(positions) for _, positions in cells])])
    own = np.arange(bounds[-1])
    atoms = own - np.repeat(bounds[:-1], np.diff(bounds))
    pairs, lengths = (np.concatenate([part[column] for part in found]) for column in (0, 1))
    starts = np.repeat(bounds[:-1], [len(part[1]) for part in found])
    one, two = pairs.T
    centres = np.concatenate([own, one + starts, two + starts])  # the self edge comes first in each group
    order = np.argsort(centres.astype(np.uint16) if len(own) <= SHORT else centres, kind="stable")
    along = None
    if vectors:
        half = np.concatenate([part[2] for part in found if part[2] is not None])
        along = np.concatenate([np.zeros((len(own), 3)), half, -half])[order]
    return Neighbors.of_many(
        bounds,
        np.concatenate([[0], np.cumsum(np.bincount(centres, minlength=len(own)))]),
        np.concatenate([atoms, two, one])[order],
        np.concatenate([np.zeros(len(own)), lengths, lengths])[order],
        atoms,
        np.ones(len(own), dtype=np.int64),
        along,
    )


@cache
def _have_vesin() -> bool:
    return importlib.util.find_spec("vesin") is not None


def vesin_pairs(lattice: FloatArray, positions: FloatArray, radius: float, *, vectors: bool = False) -> Pairs:
    """Pairs by vesin's cell list; linear in the number of atoms."""
    import vesin

    finder = vesin.NeighborList(cutoff=radius, full_list=False, n_threads=1 if len(positions) < MANY else 0)
    pairs, lengths, *rest = finder.compute(positions, lattice, periodic=True, quantities="PdD" if vectors else "Pd")
    pairs = pairs.astype(np.int64)
    if len(lengths) and lengths.max() >= radius:
        near = lengths < radius
        pairs, lengths, rest = pairs[near], lengths[near], [part[near] for part in rest]
    return pairs, lengths, rest[0] if vectors else None


def numpy_pairs(lattice: FloatArray, positions: FloatArray, radius: float, *, vectors: bool = False) -> Pairs:
    """Pairs by trying every pair and image; quadratic in the number of atoms.

    Atoms are first moved into the cell; image n of axis a can then be within the radius only if
    |n| <= radius / h_a + 1, h_a being the spacing of the lattice planes.
    """
    inverse = np.linalg.inv(lattice)
    fractional = positions @ inverse
    wrapped = (fractional - np.floor(fractional)) @ lattice
    reach = np.floor(radius * np.linalg.norm(inverse, axis=0)).astype(int) + 1  # |row of the reciprocal| = 1 / h_a
    images = np.stack(np.meshgrid(*(np.arange(-r, r + 1) for r in reach), indexing="ij"), -1).reshape(-1, 3)
    shifts = images @ lattice  # (I, 3)
    home = len(images) // 2
    rows = max(1, _CHUNK // (len(wrapped) * len(images)))
    found: list[tuple[IntArray, FloatArray, FloatArray]] = []
    for start in range(0, len(wrapped), rows):
        centre = wrapped[start : start + rows]
        apart = (wrapped[None] - centre[:, None])[:, :, None] + shifts  # (rows, n, I, 3)
        squared = np.einsum("ijnx,ijnx->ijn", apart, apart)
        i, j, n = np.nonzero(squared < radius**2)
        once = (i + start < j) | ((i + start == j) & (n > home))  # images after the home cell mirror those before it
        i, j, n = i[once], j[once], n[once]
        found.append((np.stack([i + start, j], axis=1), np.sqrt(squared[i, j, n]), apart[i, j, n]))
    pairs, distances, along = (np.concatenate(part) for part in zip(*found, strict=True))
    return pairs, distances, along if vectors else None
