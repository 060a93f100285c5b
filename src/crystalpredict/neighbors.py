"""Neighbour lists of periodic cells: vesin where it is installed, plain NumPy where it is not."""

from __future__ import annotations

import importlib.util
from functools import cache

import numpy as np

from crystalpredict.crystal import FloatArray, IntArray, Neighbors

# centre (E,), neighbour (E,), distance (E,) in Å, vector (E, 3) from centre to neighbour in Å, or None if not wanted
Edges = tuple[IntArray, IntArray, FloatArray, FloatArray | None]

LONGEST_RADIUS = 100.0  # Å, of the lists of a network: a million neighbours of each atom
MANY = 1000  # atoms, above which a search by several threads pays
_CHUNK = 4_000_000  # distances held at once by the NumPy search


def find_neighbors(lattice: FloatArray, positions: FloatArray, radius: float, *, vectors: bool = False) -> Neighbors:
    """Every edge shorter than `radius` (Å), images and the self edge included, grouped by centre atom [M5].

    lattice (3, 3), rows a, b, c; positions (n, 3), Cartesian, not necessarily inside the cell. `vectors`: with the
    vector of each edge, which takes longer.
    """
    search = vesin_edges if _have_vesin() else numpy_edges
    centres, indices, distances, found = search(
        np.asarray(lattice, float), np.asarray(positions, float), radius, vectors=vectors
    )
    n = len(positions)
    own = np.arange(n)
    first = np.arange(n + 1)  # the self edge comes first in each group
    first[1:] += np.cumsum(np.bincount(centres, minlength=n))
    order = np.argsort(centres, kind="stable")
    place = np.arange(len(centres)) + centres[order] + 1
    all_indices, all_distances = np.empty(first[-1], dtype=np.int64), np.zeros(first[-1])
    all_indices[first[:-1]] = own
    all_indices[place], all_distances[place] = indices[order], distances[order]
    all_vectors = None
    if found is not None:
        all_vectors = np.zeros((len(all_indices), 3))
        all_vectors[place] = found[order]
    return Neighbors(first, all_indices, all_distances, own, np.ones(n, dtype=np.int64), all_vectors)


@cache
def _have_vesin() -> bool:
    return importlib.util.find_spec("vesin") is not None


def vesin_edges(lattice: FloatArray, positions: FloatArray, radius: float, *, vectors: bool = False) -> Edges:
    """Edges by vesin's cell list, self edges left out; linear in the number of atoms."""
    import vesin

    # half of the list, of which the other half is the mirror image, takes two thirds of the time
    finder = vesin.NeighborList(cutoff=radius, full_list=False, n_threads=1 if len(positions) < MANY else 0)
    pairs, lengths, *rest = finder.compute(positions, lattice, periodic=True, quantities="PdD" if vectors else "Pd")
    if len(lengths) and lengths.max() >= radius:
        rest = [part[lengths < radius] for part in rest]
        pairs, lengths = pairs[lengths < radius], lengths[lengths < radius]
    pairs = pairs.astype(np.int64)
    ends = pairs.T.ravel()
    both = np.concatenate([rest[0], -rest[0]]) if vectors else None
    return ends, np.concatenate([pairs[:, 1], pairs[:, 0]]), np.concatenate([lengths, lengths]), both


def numpy_edges(lattice: FloatArray, positions: FloatArray, radius: float, *, vectors: bool = False) -> Edges:
    """Edges by trying every pair and image, self edges left out; quadratic in the number of atoms.

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
    found: list[tuple[IntArray, IntArray, FloatArray, FloatArray]] = []
    for start in range(0, len(wrapped), rows):
        centre = wrapped[start : start + rows]
        apart = (wrapped[None] - centre[:, None])[:, :, None] + shifts  # (rows, n, I, 3)
        squared = np.einsum("ijnx,ijnx->ijn", apart, apart)
        own = np.arange(len(centre))
        squared[own, start + own, home] = np.inf
        i, j, n = np.nonzero(squared < radius**2)
        found.append((i + start, j, np.sqrt(squared[i, j, n]), apart[i, j, n]))
    centres, indices, distances, along = (np.concatenate(part) for part in zip(*found, strict=True))
    return centres, indices, distances, along if vectors else None
