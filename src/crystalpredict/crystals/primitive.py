"""The number of atoms of the primitive cell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import gcd

import numpy as np
from numpy.typing import NDArray

from crystalpredict.crystals.crystal import Crystal, FloatArray, IntArray
from crystalpredict.crystals.equivalence import occupant_labels

POSITION_TOLERANCE = 0.01  # Å; coordinates in files have about four digits
DISTANCES_PER_CHUNK = 2**20  # bounds the memory
MAX_ATOMS_EXACT = 400  # of a cell whose translations are tested on all atoms, not on a sample
SAMPLE_SIZE = 16  # atoms of each kind, random: regular steps may hit only some of the sites
MAX_SAMPLING_ROUNDS = 10
MAX_ATOMS_TRANSLATIONS = 20_000  # of a cell whose translations are searched
MAX_ATOMS_TOGETHER = 64  # of cells whose translations are tested with those of others


def primitive_sizes(crystals: Sequence[Crystal]) -> IntArray:
    """Return the number of atoms of the primitive cell of each of B crystals, as `primitive_size` does, (B,).

    Most cells are primitive, which the positions of two atoms of each kind show. For small cells this is tested for
    many crystals together, which takes a fifth of the time.
    """
    sizes = np.array([crystal.n_atoms for crystal in crystals], dtype=int)
    together: list[tuple[int, IntArray]] = []
    for row, crystal in enumerate(crystals):
        kinds = _kinds_of(crystal)
        if _divisor_of(kinds) > 1:
            if crystal.n_atoms <= MAX_ATOMS_TOGETHER:
                together.append((row, kinds))
            else:
                sizes[row] = primitive_size(crystal)
    for row in _maybe_not_primitive(crystals, together):
        sizes[row] = primitive_size(crystals[row])
    return sizes


def _kinds_of(crystal: Crystal) -> IntArray:
    """Return a number for the occupants of each site (n,)."""
    ordered = crystal.numbers.shape[1] == 1 and (crystal.occupancies == 1).all()
    return crystal.numbers[:, 0] if ordered else occupant_labels([crystal])


def _divisor_of(kinds: IntArray) -> int:
    """Return the largest number of equal parts that a cell with these kinds of sites (n,) can have."""
    return gcd(*Counter(kinds.tolist()).values())  # np.unique takes ten times as long for a small cell


def _maybe_not_primitive(crystals: Sequence[Crystal], cells: Sequence[tuple[int, IntArray]]) -> list[int]:
    """Return the rows of the crystals for which one atom of each kind does not exclude all translations.

    Args:
        crystals: B crystals.
        cells: row and kinds of sites (n,) of each cell to test, which has at least two sites of each kind.
    """
    if not cells:
        return []
    lattices = np.array([crystals[row].lattice for row, _ in cells], dtype=float)
    owners = np.repeat(np.arange(len(cells)), [len(kinds) for _, kinds in cells])
    positions = np.concatenate([crystals[row].positions for row, _ in cells])
    fractional = np.einsum("nx,nxa->na", positions, np.linalg.inv(lattices)[owners])
    # sites are sorted by cell and kind, and so are the sets of sites of one kind; the rarest of a cell is first
    kinds = np.unique(np.concatenate([own for _, own in cells]), return_inverse=True)[1].reshape(-1)
    keys = owners * (kinds.max() + 1) + kinds
    counts = np.bincount(keys)[keys]
    order = np.lexsort((keys, counts, owners))
    fractional = fractional[order]
    first = np.flatnonzero(np.diff(keys[order], prepend=-1))  # site of each set
    size, cell_of_set = counts[order][first], owners[first]
    tested = np.searchsorted(cell_of_set, np.arange(len(cells)))  # set of each cell that is tested now
    ends = np.append(tested[1:], len(first))
    # the rarest kind gives the fewest candidates: those that move its first site to another one
    candidates, cell = _runs(first[tested] + 1, size[tested] - 1)
    shifts = fractional[candidates] - fractional[first[tested]][cell]
    left: list[int] = []
    while len(shifts):
        own = tested[cell]
        sites, shift = _runs(first[own], size[own])
        offsets = (fractional[first[own] + 1] + shifts)[shift] - fractional[sites]
        offsets -= np.round(offsets)
        squares = np.square(np.einsum("na,nax->nx", offsets, lattices[cell[shift]])).sum(axis=1)
        nearest = np.minimum.reduceat(squares, np.cumsum(size[own]) - size[own])
        fit = nearest < POSITION_TOLERANCE**2
        shifts, cell = shifts[fit], cell[fit]
        tested = tested + 1
        done = tested[cell] == ends[cell]
        left += np.unique(cell[done]).tolist()
        shifts, cell = shifts[~done], cell[~done]
    return [cells[index][0] for index in left]


def _runs(starts: IntArray, lengths: IntArray) -> tuple[IntArray, IntArray]:
    """Return the numbers of R runs of consecutive numbers, one run after the other, and the run of each."""
    runs = np.arange(len(starts)).repeat(lengths)
    return np.arange(len(runs)) + (starts - np.cumsum(lengths) + lengths).repeat(lengths), runs


def primitive_size(crystal: Crystal) -> int:
    """Return the number of atoms of the primitive cell.

    It is the number of atoms of the cell over the number of translations that leave the crystal unchanged. In cells of
    more than MAX_ATOMS_TRANSLATIONS atoms, the largest number that the composition allows is assumed.
    """
    kinds = _kinds_of(crystal)
    divisor = _divisor_of(kinds)
    if divisor == 1 or crystal.n_atoms > MAX_ATOMS_TRANSLATIONS:
        return crystal.n_atoms // divisor
    fractional = crystal.positions @ np.linalg.inv(crystal.lattice)
    counts = Counter(kinds.tolist())
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
