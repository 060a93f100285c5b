"""The number of atoms of the primitive cell."""

from __future__ import annotations

from collections import Counter
from math import gcd

import numpy as np
from numpy.typing import NDArray

from crystalpredict.crystals.crystal import Crystal, FloatArray
from crystalpredict.crystals.equivalence import occupant_labels

POSITION_TOLERANCE = 0.01  # Å; coordinates in files have about four digits
DISTANCES_PER_CHUNK = 2**20  # bounds the memory
MAX_ATOMS_EXACT = 400  # of a cell whose translations are tested on all atoms, not on a sample
SAMPLE_SIZE = 16  # atoms of each kind, random: regular steps may hit only some of the sites
MAX_SAMPLING_ROUNDS = 10
MAX_ATOMS_TRANSLATIONS = 20_000  # of a cell whose translations are searched


def primitive_size(crystal: Crystal) -> int:
    """Return the number of atoms of the primitive cell.

    It is the number of atoms of the cell over the number of translations that leave the crystal unchanged. In cells of
    more than MAX_ATOMS_TRANSLATIONS atoms, the largest number that the composition allows is assumed.
    """
    ordered = crystal.numbers.shape[1] == 1 and (crystal.occupancies == 1).all()
    kinds = crystal.numbers[:, 0] if ordered else occupant_labels([crystal])
    counts = Counter(kinds.tolist())  # np.unique takes ten times as long for a small cell
    divisor = gcd(*counts.values())
    if divisor == 1 or crystal.n_atoms > MAX_ATOMS_TRANSLATIONS:
        return crystal.n_atoms // divisor
    fractional = crystal.positions @ np.linalg.inv(crystal.lattice)
    sites = [fractional[kinds == kind] for kind in sorted(counts, key=counts.__getitem__)]
    shifts = (sites[0] - sites[0][0])[1:]  # the rarest kind gives the fewest candidates
    for own in sites:  # one atom of each kind excludes most of the shifts
        shifts = shifts[_fits(own[1:2], shifts, own, crystal.lattice).all(axis=1)]
        if not len(shifts):
            return crystal.n_atoms
    exact = crystal.n_atoms <= MAX_ATOMS_EXACT
    rng = np.random.default_rng(0)
    tested = sites if exact else [rng.permutation(own)[:SAMPLE_SIZE] for own in sites]
    valid = 1.0  # fraction of the remaining shifts that fit all atoms
    for _ in range(MAX_SAMPLING_ROUNDS):
        for atoms, own in zip(tested, sites, strict=True):
            shifts = shifts[_fits(atoms, shifts, own, crystal.lattice).all(axis=1)]
        if exact or not len(shifts):
            break
        # tested on all atoms; the atoms for which some shift fails then test the others
        tried = rng.permutation(shifts)[:SAMPLE_SIZE]
        fit = [_fits(own, tried, own, crystal.lattice) for own in sites]
        valid = float(np.all([each.all(axis=1) for each in fit], axis=0).mean())
        if valid == 1:
            break
        wrong = [own[~each.all(axis=0)] for own, each in zip(sites, fit, strict=True)]
        tested = [rng.permutation(atoms)[:SAMPLE_SIZE] for atoms in wrong]
    # with the zero shift they form a group, except for shifts lost to noise in some position
    orders = (order for order in range(divisor, 0, -1) if divisor % order == 0)
    return crystal.n_atoms // min(orders, key=lambda order: abs(order - valid * len(shifts) - 1))


def _fits(atoms: FloatArray, shifts: FloatArray, sites: FloatArray, lattice: FloatArray) -> NDArray[np.bool_]:
    """Return which shifts (s, 3) move which atoms (m, 3) to one of the sites (n, 3), up to lattice vectors; (s, m).

    All coordinates are fractional; the rows of `lattice` are in Å.
    """
    if len(sites) > MAX_ATOMS_EXACT:
        return _fits_by_tree(atoms, shifts, sites, lattice)
    fit = np.ones((len(shifts), len(atoms)), dtype=bool)
    step = max(1, DISTANCES_PER_CHUNK // (len(atoms) * len(sites) + 1))
    for start in range(0, len(shifts), step):
        offsets = (atoms + shifts[start : start + step, None])[:, :, None] - sites
        offsets -= np.round(offsets)
        squares = np.square(offsets @ lattice).sum(axis=-1).min(axis=-1)  # (shifts, m)
        fit[start : start + step] = squares < POSITION_TOLERANCE**2
    return fit


def _fits_by_tree(atoms: FloatArray, shifts: FloatArray, sites: FloatArray, lattice: FloatArray) -> NDArray[np.bool_]:
    """Return the result of `_fits`, found by a k-d tree of the sites in an orthogonal box."""
    from scipy.spatial import cKDTree

    lengths = np.linalg.norm(lattice, axis=1)
    tree = cKDTree(sites % 1 % 1 * lengths, boxsize=lengths * (1 + 1e-12))  # -1e-20 % 1 is 1
    images = atoms + shifts[:, None]  # (s, m, 3)
    _, nearest = tree.query(images % 1 % 1 * lengths)
    offsets = images - sites[nearest]
    offsets -= np.round(offsets)
    return np.asarray(np.square(offsets @ lattice).sum(axis=-1) < POSITION_TOLERANCE**2)
