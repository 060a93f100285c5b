"""Merge equivalent atoms, which a network cannot distinguish, so that only one of each kind is computed.

Two atoms of a cell are equivalent if they have equivalent neighbours at the same distances. This is the colour
refinement of Weisfeiler and Leman on the neighbour list. Atoms are equivalent by symmetry, or because the cell is
larger than the primitive one. Their states are the same in every block of the network, so its mean over atoms becomes a
mean weighted by counts [M6].
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np

from crystalpredict.crystals.crystal import ELEMENTS, Crystal, FloatArray, IntArray, Neighbors
from crystalpredict.errors import suppress_warnings

Merging = Literal["distances", "rotations", "nothing"]
"""How equivalent atoms are merged: by `merge_equivalent`, by `merge_rotated`, or not."""

FINGERPRINT_TOLERANCE = 3e-4  # difference of fingerprints; distances of equivalent atoms differ by up to 1e-4 Å
ORBIT_TOLERANCE = 1e-3  # Å, largest distance between an atom and the image of an equivalent one
MAX_ATOMS_ROTATIONS = 400  # of a cell whose rotations are searched; spglib is slow for larger cells
FINGERPRINT_FREQUENCIES = (5.0, 10.0, 16.0)  # radians per radius


def merge_equivalent(crystals: Sequence[Crystal], neighbors: Sequence[Neighbors], radius: float) -> list[Neighbors]:
    """Return neighbour lists with one atom for each kind of equivalent atoms.

    The result for a crystal does not depend on the others; processing many together is faster. Of a kind, the atom with
    the middle fingerprint is listed, which does not depend on the order of the atoms. Lists with vectors are returned
    unchanged: networks that use more than distances can distinguish such atoms.

    Args:
        crystals: B crystals.
        neighbors: their neighbour lists with all atoms, (B,).
        radius: of the neighbour lists, Å.
    """
    if not crystals or any(edges.vectors is not None for edges in neighbors):
        return list(neighbors)
    return merge_with_members(crystals, neighbors, radius)[0]


def merge_with_members(
    crystals: Sequence[Crystal], neighbors: Sequence[Neighbors], radius: float
) -> tuple[list[Neighbors], list[IntArray]]:
    """Return lists as `merge_equivalent`, and for each atom of a crystal the listed atom that represents it, (n,).

    Args:
        crystals: B crystals, at least one.
        neighbors: their neighbour lists with all atoms, (B,); vectors do not count, and are left out.
        radius: of the neighbour lists, Å.
    """
    lists = _Lists.of(crystals, [replace(edges, vectors=None) for edges in neighbors])
    return lists.merged(
        *refine(occupant_labels(crystals), lists.starts, lists.first, lists.indices, lists.distances / radius)
    )


def merge_rotated(crystals: Sequence[Crystal], neighbors: Sequence[Neighbors]) -> list[Neighbors]:
    """Return neighbour lists with one of all atoms that rotations of the crystal map onto each other.

    This suits networks with directions in frames that rotate with the crystal but may distinguish mirror images. The
    proper rotations and translations come from spglib, for cells of up to MAX_ATOMS_ROTATIONS atoms, in milliseconds.

    Args:
        crystals: B crystals.
        neighbors: their neighbour lists with all atoms, (B,).
    """
    if not crystals:
        return []
    orbits = [_orbits(crystal) for crystal in crystals]
    lists = _Lists.of(crystals, neighbors)
    kinds = np.concatenate([own + start for own, start in zip(orbits, lists.starts, strict=False)])
    return lists.merged(kinds, np.zeros(len(kinds)))[0]


@dataclass(frozen=True)
class _Lists:
    """Concatenated neighbour lists of B crystals with all atoms; indices count over all crystals.

    Attributes:
        starts: first atom of each crystal, and the number of atoms, (B + 1,).
        first: first edge of each atom, and the number of edges, (N + 1,).
        indices: atom at the other end of each edge, (E,).
        distances: Å, (E,).
        vectors: Å, (E, 3), or None.
    """

    starts: IntArray
    first: IntArray
    indices: IntArray
    distances: FloatArray
    vectors: FloatArray | None

    @classmethod
    def of(cls, crystals: Sequence[Crystal], neighbors: Sequence[Neighbors]) -> _Lists:
        """Return the concatenated lists of some crystals."""
        starts = np.concatenate([[0], np.cumsum([crystal.n_atoms for crystal in crystals])])
        vectors = [edges.vectors for edges in neighbors if edges.vectors is not None]
        return cls(
            starts,
            np.concatenate([[0], np.cumsum(np.concatenate([edges.edge_counts for edges in neighbors]))]),
            np.concatenate([edges.indices + start for edges, start in zip(neighbors, starts, strict=False)]),
            np.concatenate([edges.distances for edges in neighbors]),
            np.concatenate(vectors) if vectors else None,
        )

    def merged(self, kinds: IntArray, values: FloatArray) -> tuple[list[Neighbors], list[IntArray]]:
        """Return the lists with one atom of each kind, the one with the middle value, and which represents each atom.

        Args:
            kinds: of each atom, any numbers, different between crystals, (N,).
            values: that order the atoms of a kind; of equal values the first atom counts, (N,).
        """
        _, kinds, multiplicity = np.unique(kinds, return_inverse=True, return_counts=True)
        listed = np.lexsort((values, kinds))[np.cumsum(multiplicity) - multiplicity // 2 - 1]
        order = np.argsort(listed)
        listed, multiplicity = listed[order], multiplicity[order]  # in the order of the atoms
        position = np.empty(len(listed), dtype=np.int64)  # of each kind among the listed atoms
        position[kinds[listed]] = np.arange(len(listed))
        bounds = np.searchsorted(listed, self.starts)
        counts = np.diff(self.first)
        widths = counts[listed]
        rows = np.repeat(np.isin(np.arange(len(kinds)), listed, assume_unique=True), counts)
        owners = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
        members = position[kinds] - np.repeat(bounds[:-1], np.diff(self.starts))
        lists = Neighbors.from_concatenated(
            bounds,
            np.concatenate([[0], np.cumsum(widths)]),
            position[kinds[self.indices[rows]]] - np.repeat(bounds[owners], widths),  # in the list of the crystal
            self.distances[rows],
            listed - self.starts[owners],
            multiplicity,
            None if self.vectors is None else self.vectors[rows],
        )
        return lists, np.split(members, self.starts[1:-1])


def _orbits(crystal: Crystal) -> IntArray:
    """Return for each atom (n,) the first atom that proper rotations and translations map it to."""
    own = np.arange(crystal.n_atoms)
    os.environ.setdefault("SPGLIB_WARNING", "OFF")  # hides messages on stderr about a first attempt that fails
    try:
        import spglib
    except ImportError:  # training needs torch, NumPy and msgspec only
        return own
    if crystal.n_atoms > MAX_ATOMS_ROTATIONS:
        return own
    fractional = crystal.positions @ np.linalg.inv(crystal.lattice)
    kinds = np.unique(occupant_labels([crystal]), return_inverse=True)[1].reshape(-1)
    with suppress_warnings():  # spglib announces a change of its error handling
        found = spglib.get_symmetry((crystal.lattice, fractional, kinds), symprec=ORBIT_TOLERANCE)  # type: ignore[arg-type]
    if not found:
        return own
    proper = np.linalg.det(found["rotations"]) > 0
    orbits = own
    for rotation, translation in zip(found["rotations"][proper], found["translations"][proper], strict=True):
        images = fractional @ rotation.T + translation
        apart = images[:, None] - fractional
        apart -= np.round(apart)
        squares = np.square(apart @ crystal.lattice).sum(axis=2)
        squares[kinds[:, None] != kinds] = np.inf
        orbits = np.minimum(orbits, squares.argmin(axis=1))
    # the operations form a group, so all atoms of an orbit have the same first atom; if not, they are unreliable
    return orbits if (orbits[orbits] == orbits).all() else own


def refine(
    kinds: IntArray, starts: IntArray, first: IntArray, indices: IntArray, distances: FloatArray
) -> tuple[IntArray, FloatArray]:
    """Split kinds until all atoms of a kind have neighbours of the same kinds at the same distances.

    For each frequency in turn, it sums over the neighbours a smooth function of the distance times a random number of
    the neighbour's kind, until no frequency splits a kind. Atoms with different sums have different neighbours. The
    function is 0 at the radius, so that an additional edge there does not matter.

    Args:
        kinds: initial kinds, in ascending order of crystals, (N,).
        starts: first atom of each crystal, and the number of atoms, (B + 1,).
        first: first edge of each atom, and the number of edges, (N + 1,).
        indices: atom at the other end of each edge, (E,).
        distances: in units of the radius, (E,).

    Returns:
        Kinds (N,), from 0 on, and the sums of the last frequency (N,), nearly the same for the atoms of a kind.
    """
    kinds = np.unique(kinds, return_inverse=True)[1].reshape(-1)
    distances = distances.astype(np.float32)
    taper = np.square(1 - np.minimum(np.square(distances), 1))
    waves = [np.cos(distances * np.float32(frequency)) * taper for frequency in FINGERPRINT_FREQUENCIES]
    crystals = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    weights = [_weights(seed, len(kinds).bit_length()) for seed in range(len(waves))]
    count, frequency, unchanged = int(kinds.max()) + 1, -1, 0
    while unchanged < len(waves):
        frequency = (frequency + 1) % len(waves)
        lowest = np.minimum.reduceat(kinds, starts[:-1])
        own = weights[frequency][kinds - lowest[crystals]]  # numbered from 0 in each crystal, independent of the others
        values = np.add.reduceat(waves[frequency] * own[indices], first[:-1], dtype=np.float64)
        kinds = _split(kinds, values)
        unchanged = 0 if count < (count := int(kinds.max()) + 1) else unchanged + 1
        if frequency == len(waves) - 1:
            sums = values
    return kinds, sums


@lru_cache(64)
def _weights(seed: int, bits: int) -> FloatArray:
    """Return 2^bits random numbers; the first of them do not depend on their number."""
    return np.random.default_rng(seed).uniform(0.5, 1.5, 1 << bits).astype(np.float32)


def _split(kinds: IntArray, values: FloatArray) -> IntArray:
    """Return kinds (N,), split where the values (N,) of a kind have a gap above FINGERPRINT_TOLERANCE.

    Values without gaps over more than three tolerances are cut into pieces of that width: in a large disordered cell
    the values are too dense for gaps.
    """
    order = np.lexsort((values, kinds))
    values, sorted_kinds = values[order], kinds[order]
    begins = np.empty(len(kinds), dtype=bool)
    begins[0] = True
    begins[1:] = (sorted_kinds[1:] != sorted_kinds[:-1]) | (np.diff(values) > FINGERPRINT_TOLERANCE)
    run = np.cumsum(begins) - 1
    piece = ((values - values[begins][run]) / (3 * FINGERPRINT_TOLERANCE)).astype(np.int64)
    begins[1:] |= piece[1:] != piece[:-1]
    split = np.empty(len(kinds), dtype=np.int64)
    split[order] = np.cumsum(begins) - 1
    return split


def occupant_labels(crystals: Sequence[Crystal]) -> IntArray:
    """Return a label (N,) for each atom of all crystals, equal for atoms of a crystal with the same occupants."""
    columns = max(crystal.numbers.shape[1] for crystal in crystals)
    owners = np.repeat(np.arange(len(crystals)), [crystal.n_atoms for crystal in crystals])
    numbers, occupancies = (
        np.concatenate([np.pad(part, ((0, 0), (0, columns - part.shape[1]))) for part in parts])
        if columns > 1
        else np.concatenate(parts)
        for parts in ([crystal.numbers for crystal in crystals], [crystal.occupancies for crystal in crystals])
    )
    if columns == 1 and (occupancies == 1).all():
        return np.asarray(owners * (len(ELEMENTS) + 1) + numbers[:, 0], dtype=np.int64)
    table = np.concatenate([owners[:, None], numbers, occupancies], axis=1)
    return np.unique(table, axis=0, return_inverse=True)[1].reshape(-1)
