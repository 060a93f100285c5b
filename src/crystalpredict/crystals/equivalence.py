"""Equivalent atoms are computed once: the network cannot tell them apart, so one of each kind stands for all.

Two atoms of a cell are equivalent if their neighbours are of the same kinds at the same distances, and those
neighbours are equivalent in turn: the colour refinement of Weisfeiler and Leman on the neighbour list. Symmetry makes
atoms equivalent, and so does a cell larger than the primitive one. Their states are the same in every block of the
network, whose mean over atoms becomes a mean weighted by counts [M6].
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from crystalpredict._warnings import silence
from crystalpredict.crystals.crystal import ELEMENTS, Crystal, FloatArray, IntArray, Neighbors

Merging = Literal["distances", "rotations", "nothing"]  # that of equivalent atoms: by which of the functions below

TOLERANCE = 3e-4  # of fingerprints: distances of equivalent atoms differ by some 1e-4 Å at most
SAME_ORBIT = 1e-3  # Å, within which an operation maps an atom to another
SAME_PLACE = 0.01  # Å: coordinates in files have four digits or so
AT_ONCE = 2**20  # distances computed at a time: it bounds the memory
MANY = 400  # atoms, above which rotations are not looked for, and translations are tried on some atoms only
SOME = 16  # of each kind, at random: at regular steps they may all be of some sites alone
ROUNDS = 10  # of trying translations
VAST = 20_000  # atoms, above which translations are not looked for
FREQUENCIES = (5.0, 10.0, 16.0)  # per radius, of the fingerprints


def merge_equivalent(crystals: Sequence[Crystal], neighbors: Sequence[Neighbors], radius: float) -> list[Neighbors]:
    """The neighbour lists (radius in Å, all atoms listed) with one atom of each kind of equivalent atoms.

    Many crystals at once, since the work on one is small; the result for one does not depend on the others. Atoms of a
    kind differ by what TOLERANCE lets pass: the one in the middle stands for them, whatever their order. Lists with
    vectors belong to networks that see more than distances, for which such atoms differ: they are returned as they are.
    """
    if not crystals or any(edges.vectors is not None for edges in neighbors):
        return list(neighbors)
    every = _Lists.of(crystals, neighbors)
    return every.merged(
        *refine(_occupants(crystals), every.starts, every.first, every.indices, every.distances / radius)
    )


def merge_rotated(crystals: Sequence[Crystal], neighbors: Sequence[Neighbors]) -> list[Neighbors]:
    """The neighbour lists (all atoms listed) with one of all atoms that rotations of the crystal map onto each other.

    For networks that see directions in frames that turn with the crystal, but that may tell a mirror image: proper
    rotations and translations, by spglib, in cells of up to MANY atoms. It takes milliseconds for a crystal.
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
    if crystal.n_atoms > MANY:
        return own
    fractional = crystal.positions @ np.linalg.inv(crystal.lattice)
    kinds = np.unique(_occupants([crystal]), return_inverse=True)[1].reshape(-1)
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
    """Kinds split where the values (N,) of a kind have a gap above TOLERANCE.

    A run of values without a gap that is wider than three tolerances is cut into pieces of that width: in a large
    disordered cell values lie so densely that there are no gaps.
    """
    order = np.lexsort((values, kinds))
    values, sorted_kinds = values[order], kinds[order]
    begins = np.empty(len(kinds), dtype=bool)
    begins[0] = True
    begins[1:] = (sorted_kinds[1:] != sorted_kinds[:-1]) | (np.diff(values) > TOLERANCE)
    run = np.cumsum(begins) - 1
    piece = ((values - values[begins][run]) / (3 * TOLERANCE)).astype(np.int64)
    begins[1:] |= piece[1:] != piece[:-1]
    split = np.empty(len(kinds), dtype=np.int64)
    split[order] = np.cumsum(begins) - 1
    return split


def primitive_size(crystal: Crystal) -> int:
    """Atoms of the primitive cell of a crystal: those of its cell over the translations that leave it as it is.

    In cells of more than VAST atoms every divisor that the composition has counts as one.
    """
    ordered = crystal.numbers.shape[1] == 1 and (crystal.occupancies == 1).all()
    kinds = crystal.numbers[:, 0] if ordered else _occupants([crystal])
    counts = Counter(kinds.tolist())  # np.unique takes ten times as long for a small cell
    divisor = gcd(*counts.values())
    if divisor == 1 or crystal.n_atoms > VAST:
        return crystal.n_atoms // divisor
    fractional = crystal.positions @ np.linalg.inv(crystal.lattice)
    places = [fractional[kinds == kind] for kind in sorted(counts, key=counts.__getitem__)]
    shifts = (places[0] - places[0][0])[1:]  # the rarest kind has fewest to try
    for own in places:  # shifts that move some one atom to no place of its kind are soon out
        shifts = shifts[_fits(own[1:2], shifts, own, crystal.lattice).all(axis=1)]
        if not len(shifts):
            return crystal.n_atoms
    few = crystal.n_atoms <= MANY
    at_random = np.random.default_rng(0)
    tested = places if few else [at_random.permutation(own)[:SOME] for own in places]
    share = 1.0  # of the translations left, of those that fit all atoms
    for _ in range(ROUNDS):
        for atoms, own in zip(tested, places, strict=True):
            shifts = shifts[_fits(atoms, shifts, own, crystal.lattice).all(axis=1)]
        if few or not len(shifts):
            break
        tried = at_random.permutation(shifts)[:SOME]  # on all atoms: those that one moves wrongly test the others, too
        fit = [_fits(own, tried, own, crystal.lattice) for own in places]
        share = float(np.all([each.all(axis=1) for each in fit], axis=0).mean())
        if share == 1:
            break
        wrong = [own[~each.all(axis=0)] for own, each in zip(places, fit, strict=True)]
        tested = [at_random.permutation(atoms)[:SOME] for atoms in wrong]
    # with that by nothing they are a group, but for what the noise of some atom takes away
    orders = (order for order in range(divisor, 0, -1) if divisor % order == 0)
    return crystal.n_atoms // min(orders, key=lambda order: abs(order - share * len(shifts) - 1))


def _fits(atoms: FloatArray, shifts: FloatArray, places: FloatArray, lattice: FloatArray) -> NDArray[np.bool_]:
    """Which shifts (s, 3) move which atoms (m, 3) to one of the places (n, 3), but for lattice vectors; (s, m)."""
    if len(places) > MANY:
        return _fits_of_many(atoms, shifts, places, lattice)
    fit = np.ones((len(shifts), len(atoms)), dtype=bool)
    step = max(1, AT_ONCE // (len(atoms) * len(places) + 1))
    for start in range(0, len(shifts), step):
        offsets = (atoms + shifts[start : start + step, None])[:, :, None] - places
        offsets -= np.round(offsets)
        squares = np.square(offsets @ lattice).sum(axis=-1).min(axis=-1)  # (shifts, m)
        fit[start : start + step] = squares < SAME_PLACE**2
    return fit


def _fits_of_many(atoms: FloatArray, shifts: FloatArray, places: FloatArray, lattice: FloatArray) -> NDArray[np.bool_]:
    """The same by a tree of the places, in a box with the lengths of the cell: what is next to a place is there too."""
    from scipy.spatial import cKDTree

    lengths = np.linalg.norm(lattice, axis=1)
    tree = cKDTree(places % 1 % 1 * lengths, boxsize=lengths * (1 + 1e-12))  # -1e-20 % 1 is 1
    images = atoms + shifts[:, None]  # (s, m, 3)
    _, nearest = tree.query(images % 1 % 1 * lengths)
    offsets = images - places[nearest]
    offsets -= np.round(offsets)
    return np.asarray(np.square(offsets @ lattice).sum(axis=-1) < SAME_PLACE**2)


def _occupants(crystals: Sequence[Crystal]) -> IntArray:
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
