"""Fingerprints of crystals: numbers by which equal crystals are found, in whichever cells they are given."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from crystalpredict.crystals.crystal import Crystal, FloatArray, IntArray, Neighbors
from crystalpredict.crystals.neighbors import CELLS_PER_DENSE_SEARCH, find_neighbors_of_many

FINGERPRINT_RADII = (2.0, 3.0, 4.5)  # Å, of the Gaussians in a fingerprint
SCALED_NUMBERS = 4  # of a fingerprint of a crystal that is scaled to ATOM_VOLUME
ATOM_VOLUME = 15.0  # Å^3
SCALED_RADIUS = 5.0  # Å, of the neighbours of a scaled crystal


def fingerprint(
    numbers: IntArray | FloatArray, neighbors: Neighbors, radii: Sequence[float] = FINGERPRINT_RADII
) -> FloatArray:
    """Return a fingerprint that does not depend on the cell, (1 + len(radii),).

    It is the mean over atoms of Z_i, and of sum_j Z_i Z_j exp(-r_ij²/s²) for each radius s.

    Args:
        numbers: atomic numbers of the listed atoms, (m,).
        neighbors: neighbour list of the crystal.
        radii: widths s of the Gaussians, Å.
    """
    weights = neighbors.counts / neighbors.counts.sum()
    charges = numbers[np.repeat(np.arange(neighbors.size), neighbors.edge_counts)] * numbers[neighbors.indices]
    sums = [
        np.add.reduceat(charges * np.exp(-((neighbors.distances / radius) ** 2)), neighbors.first[:-1])
        for radius in radii
    ]
    return np.array([weights @ numbers, *(weights @ each for each in sums)])


def scaled_fingerprints(
    crystals: Sequence[Crystal], lists: Sequence[Neighbors] = (), radius: float = 0.0
) -> FloatArray:
    """Return the fingerprints of B crystals that are scaled to ATOM_VOLUME for an atom, (B, SCALED_NUMBERS).

    They are the mean over atoms of Z_i, and of sum_j Z_i Z_j (1 - r_ij²/R²)^k over the neighbours within R,
    SCALED_RADIUS, for k of 1, 2 and 4. These smooth windows tell polymorphs apart better than Gaussians (docs/log.md).

    A site of several elements has the mean of their atomic numbers. A crystal with too many neighbours, such as one of
    many atoms in a box of vacuum, has numbers that are not a number.

    Args:
        crystals: the B crystals.
        lists: their neighbour lists, which save a search where they reach far enough; none: not known.
        radius: of these lists, Å.
    """
    found = np.full((len(crystals), SCALED_NUMBERS), np.nan)
    scales = np.array([(ATOM_VOLUME * each.n_atoms / each.volume) ** (1 / 3) for each in crystals])
    reach = radius * scales >= SCALED_RADIUS
    for start in range(0, len(crystals), CELLS_PER_DENSE_SEARCH):  # few lists are in memory at a time
        rows = range(start, min(start + CELLS_PER_DENSE_SEARCH, len(crystals)))
        own: dict[int, tuple[Neighbors, float]] = {row: (lists[row], scales[row]) for row in rows if reach[row]}
        others = [row for row in rows if not reach[row]]
        searched = _search([crystals[row] for row in others], scales[others])
        own |= {row: (edges, 1.0) for row, edges in zip(others, searched, strict=True) if edges}
        if own:
            found[list(own)] = _of_lists([crystals[row] for row in own], *zip(*own.values(), strict=True))
    return found


def _of_lists(crystals: Sequence[Crystal], lists: Sequence[Neighbors], scales: Sequence[float]) -> FloatArray:
    """Return the fingerprints of some crystals together, given their lists, whose distances times scales are scaled."""
    sizes, edges = np.array([each.size for each in lists]), np.array([len(each.distances) for each in lists])
    starts, first = np.cumsum(sizes) - sizes, np.cumsum(edges) - edges
    numbers = np.concatenate(
        [_mean_numbers(crystal)[each.atoms] for crystal, each in zip(crystals, lists, strict=True)]
    )
    weighted = numbers * np.concatenate([each.counts for each in lists])
    counts = np.concatenate([each.edge_counts for each in lists])
    neighbors = np.concatenate([each.indices for each in lists]) + np.repeat(starts, edges)
    charges = np.repeat(weighted, counts) * numbers[neighbors]
    distances = np.concatenate([each.distances for each in lists]) * np.repeat(scales, edges)
    widest = np.maximum(1 - (distances / SCALED_RADIUS) ** 2, 0)
    middle = widest * widest
    sums = [np.add.reduceat(charges * each, first) for each in (widest, middle, middle * middle)]
    atoms = np.array([crystal.n_atoms for crystal in crystals])
    return np.asarray(np.column_stack([np.add.reduceat(weighted, starts), *sums]) / atoms[:, None])


def _mean_numbers(crystal: Crystal) -> FloatArray:
    """Return the mean of the atomic numbers of each site (n,)."""
    if crystal.numbers.shape[1] == 1:
        return np.asarray(crystal.numbers[:, 0] * crystal.occupancies[:, 0])
    return np.asarray((crystal.numbers * crystal.occupancies).sum(axis=1))


def fingerprint_distances(known: FloatArray, new: FloatArray) -> FloatArray:
    """Return the distances (K,) of K fingerprints (K, n) to another (n,): the largest of their relative differences."""
    return np.asarray((np.abs(known - new) / np.maximum(np.abs(known), np.abs(new))).max(axis=1))


def _search(crystals: Sequence[Crystal], scales: FloatArray) -> list[Neighbors | None]:
    """Return the neighbour lists of crystals whose lengths are multiplied by scales; None for one with too many."""
    cells = [(each.lattice * scale, each.positions * scale) for each, scale in zip(crystals, scales, strict=True)]
    try:
        return [*find_neighbors_of_many(cells, SCALED_RADIUS)]
    except ValueError:
        if len(crystals) == 1:
            return [None]
        return [_search([crystal], scales[[row]])[0] for row, crystal in enumerate(crystals)]
