"""Equivalent atoms are computed once: the network cannot tell them apart, so one of each kind stands for all.

Two atoms of a cell are equivalent if their neighbours are of the same kinds at the same distances, and those
neighbours are equivalent in turn: the colour refinement of Weisfeiler and Leman on the neighbour list. Symmetry makes
atoms equivalent, and so does a cell larger than the primitive one. Their states are the same in every block of the
network, whose mean over atoms becomes a mean weighted by counts [M6].
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from crystalpredict._warnings import silence
from crystalpredict.crystals.crystal import ELEMENTS, Crystal, FloatArray, IntArray, Neighbors

Merging = Literal["distances", "rotations", "nothing"]  # that of equivalent atoms: by which of the functions below

FINGERPRINT_TOLERANCE = 3e-4  # of fingerprints: distances of equivalent atoms differ by some 1e-4 Å at most
SAME_ORBIT = 1e-3  # Å, within which an operation maps an atom to another
MAX_ATOMS_ROTATIONS = 400  # of a cell whose rotations are looked for: spglib takes long for larger ones
FREQUENCIES = (5.0, 10.0, 16.0)  # per radius, of the fingerprints


def merge_equivalent(crystals: Sequence[Crystal], neighbors: Sequence[Neighbors], radius: float) -> list[Neighbors]:
    """The neighbour lists (radius in Å, all atoms listed) with one atom of each kind of equivalent atoms.

    Many crystals at once, since the work on one is small; the result for one does not depend on the others. Atoms of a
    kind differ by what FINGERPRINT_TOLERANCE lets pass: the one in the middle stands for them, whatever their order.
    Lists with vectors belong to networks that see more than distances, for which such atoms differ: they are returned
    as they are.
    """
    if not crystals or any(edges.vectors is not None for edges in neighbors):
        return list(neighbors)
    every = _Lists.of(crystals, neighbors)
    return every.merged(
        *refine(occupant_labels(crystals), every.starts, every.first, every.indices, every.distances / radius)
    )


def merge_rotated(crystals: Sequence[Crystal], neighbors: Sequence[Neighbors]) -> list[Neighbors]:
    """The neighbour lists (all atoms listed) with one of all atoms that rotations of the crystal map onto each other.

    For networks that see directions in frames that turn with the crystal, but that may tell a mirror image: proper
    rotations and translations, by spglib, in cells of up to MAX_ATOMS_ROTATIONS atoms. It takes milliseconds a crystal.
    """
    if not crystals:
        return []
    orbits = [_orbits(crystal) for crystal in crystals]
    every = _Lists.of(crystals, neighbors)
    kinds = np.concatenate([own + start for own, start in zip(orbits, every.starts, strict=False)])
    return every.merged(kinds, np.zeros(len(kinds)))


@dataclass(frozen=True)
class _Lists:
    """Neighbour lists of many crystals, all atoms listed, one after the other; indices count over all atoms.

    starts (B + 1,), first atom of each crystal; else as Neighbors.
    """

    starts: IntArray
    first: IntArray
    indices: IntArray
    distances: FloatArray
    vectors: FloatArray | None

    @classmethod
    def of(cls, crystals: Sequence[Crystal], neighbors: Sequence[Neighbors]) -> _Lists:
        """Those of some crystals."""
        starts = np.concatenate([[0], np.cumsum([crystal.n_atoms for crystal in crystals])])
        vectors = [edges.vectors for edges in neighbors if edges.vectors is not None]
        return cls(
            starts,
            np.concatenate([[0], np.cumsum(np.concatenate([edges.widths for edges in neighbors]))]),
            np.concatenate([edges.indices + start for edges, start in zip(neighbors, starts, strict=False)]),
            np.concatenate([edges.distances for edges in neighbors]),
            np.concatenate(vectors) if vectors else None,
        )

    def merged(self, kinds: IntArray, values: FloatArray) -> list[Neighbors]:
        """The lists with that atom of each kind which has the middle one of their values (N,), of equal ones the first.

        kinds (N,), any numbers, never those of another crystal.
        """
        _, kinds, multiplicity = np.unique(kinds, return_inverse=True, return_counts=True)
        listed = np.lexsort((values, kinds))[np.cumsum(multiplicity) - multiplicity // 2 - 1]
        order = np.argsort(listed)
        listed, multiplicity = listed[order], multiplicity[order]  # atoms in their order, crystal after crystal
        position = np.empty(len(listed), dtype=np.int64)  # of each kind among the listed atoms
        position[kinds[listed]] = np.arange(len(listed))
        bounds = np.searchsorted(listed, self.starts)
        counts = np.diff(self.first)
        widths = counts[listed]
        rows = np.repeat(np.isin(np.arange(len(kinds)), listed, assume_unique=True), counts)
        owners = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
        return Neighbors.of_many(
            bounds,
            np.concatenate([[0], np.cumsum(widths)]),
            position[kinds[self.indices[rows]]] - np.repeat(bounds[owners], widths),  # its kind's place in the own list
            self.distances[rows],
            listed - self.starts[owners],
            multiplicity,
            None if self.vectors is None else self.vectors[rows],
        )


def _orbits(crystal: Crystal) -> IntArray:
    """For each atom (n,) the first of those that proper rotations and translations of the crystal map it to."""
    own = np.arange(crystal.n_atoms)
    os.environ.setdefault("SPGLIB_WARNING", "OFF")  # on stderr, of cells that it understands at its second try
    try:
        import spglib
    except ImportError:  # a machine that trains needs torch and NumPy only
        return own
    if crystal.n_atoms > MAX_ATOMS_ROTATIONS:
        return own
    fractional = crystal.positions @ np.linalg.inv(crystal.lattice)
    kinds = np.unique(occupant_labels([crystal]), return_inverse=True)[1].reshape(-1)
    with silence():  # of how it will tell of errors one day
        found = spglib.get_symmetry((crystal.lattice, fractional, kinds), symprec=SAME_ORBIT)  # type: ignore[arg-type]
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
    # operations that spglib found are a group, so that all of an orbit name its first atom; if not, nothing is sure
    return orbits if (orbits[orbits] == orbits).all() else own


def refine(
    kinds: IntArray, starts: IntArray, first: IntArray, indices: IntArray, distances: FloatArray
) -> tuple[IntArray, FloatArray]:
    """Kinds (N,), 0 to their number - 1, split until atoms of one kind have neighbours of the same kinds and distances.

    Also the last sums (N,) by which they were split: those of atoms of one kind are nearly the same.

    kinds (N,), to begin with, in ascending order of crystals; starts (B + 1,), first atom of each crystal; first
    (N + 1,), indices (E,) and distances (E,), in units of the radius, over all atoms.

    A round sums over the neighbours, for each frequency, a smooth function of the distance times a random number that
    belongs to the neighbour's kind; atoms whose sums differ have different neighbours. The function falls to 0 at the
    radius, so an edge more or less there does not matter.
    """
    kinds = np.unique(kinds, return_inverse=True)[1].reshape(-1)
    distances = distances.astype(np.float32)
    taper = np.square(1 - np.minimum(np.square(distances), 1))
    waves = [np.cos(distances * np.float32(frequency)) * taper for frequency in FREQUENCIES]
    crystals = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    weights = [
        np.random.default_rng(seed).uniform(0.5, 1.5, len(kinds)).astype(np.float32) for seed in range(len(waves))
    ]
    count = 0
    while count < (count := int(kinds.max()) + 1):
        for wave, weight in zip(waves, weights, strict=True):
            lowest = np.full(len(starts) - 1, len(kinds))
            np.minimum.at(lowest, crystals, kinds)
            own = weight[kinds - lowest[crystals]]  # numbered from 0 in each crystal, whatever comes before it
            sums = np.add.reduceat(wave * own[indices], first[:-1], dtype=np.float64)
            kinds = _split(kinds, sums)
    return kinds, sums


def _split(kinds: IntArray, values: FloatArray) -> IntArray:
    """Kinds split where the values (N,) of a kind have a gap above FINGERPRINT_TOLERANCE.

    A run of values without a gap that is wider than three tolerances is cut into pieces of that width: in a large
    disordered cell values lie so densely that there are no gaps.
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
    """A number (N,) for each atom of all crystals, the same for atoms of one crystal with the same occupants."""
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
