"""Neighbour lists of periodic cells: vesin where it is installed, plain NumPy where it is not."""

from __future__ import annotations

import importlib.util

import numpy as np

from crystalpredict.crystal import FloatArray, IntArray, Neighbors

Edges = tuple[IntArray, IntArray, FloatArray]  # centre (E,), neighbour (E,), distance (E,) in Å

_CHUNK = 4_000_000  # distances held at once by the NumPy search


def find_neighbors(lattice: FloatArray, positions: FloatArray, radius: float) -> Neighbors:
    """Every edge shorter than `radius` (Å), images and the self edge included, grouped by centre atom [M5].

    lattice (3, 3), rows a, b, c; positions (n, 3), Cartesian, not necessarily inside the cell.
    """
    search = vesin_edges if importlib.util.find_spec("vesin") else numpy_edges
    centres, indices, distances = search(np.asarray(lattice, float), np.asarray(positions, float), radius)
    n = len(positions)
    own = np.arange(n)
    centres = np.concatenate([own, centres])
    order = np.argsort(centres, kind="stable")  # the self edge comes first in each group
    first = np.zeros(n + 1, dtype=np.int64)
    np.cumsum(np.bincount(centres, minlength=n), out=first[1:])
    return Neighbors(
        first,
        np.concatenate([own, indices])[order],
        np.concatenate([np.zeros(n), distances])[order],
        own,
        np.ones(n, dtype=np.int64),
    )


def vesin_edges(lattice: FloatArray, positions: FloatArray, radius: float) -> Edges:
    """Edges by vesin's cell list, self edges left out; linear in the number of atoms."""
    import vesin

    finder = vesin.NeighborList(cutoff=radius, full_list=True)
    centres, indices, distances = finder.compute(positions, lattice, periodic=True, quantities="ijd")
    inside = distances < radius
    return centres[inside].astype(np.int64), indices[inside].astype(np.int64), distances[inside]


def numpy_edges(lattice: FloatArray, positions: FloatArray, radius: float) -> Edges:
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
    found: list[Edges] = []
    for start in range(0, len(wrapped), rows):
        centre = wrapped[start : start + rows]
        vectors = (wrapped[None] - centre[:, None])[:, :, None] + shifts  # (rows, n, I, 3)
        squared = np.einsum("ijnx,ijnx->ijn", vectors, vectors)
        own = np.arange(len(centre))
        squared[own, start + own, home] = np.inf
        i, j, n = np.nonzero(squared < radius**2)
        found.append((i + start, j, np.sqrt(squared[i, j, n])))
    centres, indices, distances = (np.concatenate(part) for part in zip(*found, strict=True))
    return centres, indices, distances
