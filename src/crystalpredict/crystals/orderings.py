"""Ordered supercells of a disordered crystal: atoms are put on its sites in the numbers that the occupancies give.

If a supercell has few arrangements, they are enumerated, one for each class of those that symmetry makes equivalent.
Otherwise they are random.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from math import comb, prod

import numpy as np

from crystalpredict.crystals.cell import reduce_lattice, volumes_and_spacings
from crystalpredict.crystals.crystal import ELEMENTS, Crystal, FloatArray, IntArray
from crystalpredict.crystals.equivalence import occupant_labels
from crystalpredict.crystals.neighbors import find_neighbors
from crystalpredict.crystals.radii import COVALENT_RADII
from crystalpredict.errors import StructureError, suppress_warnings

MAX_SITES = 128  # of a supercell
MIN_SITES = 32  # of a supercell, if one is possible: in smaller ones atoms are neighbours of their own images
MAX_ASPECT = 1.6  # of the distances between the faces of a supercell, if one is possible
MIN_FULL_OCCUPANCY = 1 - 1e-6
DECIMALS = (3, 4, 5, 6)  # that occupancies are written with, at least and at most
MAX_ENUMERATED = 2000  # arrangements
MAX_TRIES = 50  # to put atoms on sites of which some exclude each other
MAX_COMMON_DENOMINATOR = 6  # of fractions that are often written with two decimals
SYMMETRY_TOLERANCE = 1e-2  # Å
EXCLUDED_SHARE = 0.7  # of the sum of two covalent radii: atoms of disordered sites that are closer exclude each other
EXCLUDED_DISTANCE = 0.9  # Å: so do these, as two hydrogens of one bond in ice


@dataclass(frozen=True)
class Ordering:
    """An ordered supercell.

    Attributes:
        crystal: The supercell; vacant sites are left out.
        share: Its weight in a mean over all orderings of a crystal; they add up to 1.
    """

    crystal: Crystal
    share: float


@dataclass(frozen=True)
class Sublattice:
    """Disordered sites with the same occupants.

    Attributes:
        sites: Numbers of the sites in the cell, (m,).
        numbers: Atomic numbers of the occupants, (k,).
        occupancies: Of each occupant, (k,).
    """

    sites: IntArray
    numbers: tuple[int, ...]
    occupancies: tuple[float, ...]

    def counts(self, cells: int) -> tuple[int, ...]:
        """Return how many of each occupant a supercell of `cells` cells has; () if it cannot have the occupancies."""
        sites = cells * len(self.sites)
        counts = tuple(round(sites * share) for share in self.occupancies)
        close = all(
            abs(count / sites - share) <= _rounding(share)
            for count, share in zip(counts, self.occupancies, strict=True)
        )
        return counts if close and min(counts) > 0 and sum(counts) <= sites else ()


def is_disordered(crystal: Crystal) -> bool:
    """Return whether a site is shared by elements or partly occupied."""
    return bool(crystal.occupancies.max(axis=1).min() < MIN_FULL_OCCUPANCY)


def orderings_of(crystal: Crystal, n: int, seed: int = 0, max_sites: int = MAX_SITES) -> list[Ordering]:
    """Return ordered supercells of a disordered crystal, the same ones on every call; none of an ordered one.

    Each crystallographic site keeps its occupancies. If no supercell of `max_sites` can have them, all sites with the
    same occupants keep theirs together. No composition is changed.

    Args:
        crystal: The crystal.
        n: Number of supercells, at most.
        seed: Of the random numbers.
        max_sites: Largest number of sites of a supercell, vacant ones included.

    Raises:
        StructureError: No supercell within the limit has the composition, or no arrangement keeps its atoms apart.
    """
    disordered = np.flatnonzero(crystal.occupancies.max(axis=1) < MIN_FULL_OCCUPANCY)
    if not len(disordered):
        return []
    if crystal.n_atoms > max_sites:
        raise StructureError(f"no ordered supercells: the cell has {crystal.n_atoms} sites, more than {max_sites}")
    kinds = np.unique(occupant_labels([crystal]), return_inverse=True)[1].reshape(-1)
    orbits = np.arange(crystal.n_atoms)
    orbits[disordered] = disordered[_permutations(crystal, kinds, disordered).min(axis=0)]
    for labels in (orbits, kinds):
        sublattices = _sublattices(crystal, disordered, labels)
        if repeats := _repeats(crystal, sublattices, max_sites):
            return _ordered(crystal, sublattices, repeats, n, np.random.default_rng(seed))
    raise _cannot_express(sublattices, max_sites // crystal.n_atoms, max_sites)


def _sublattices(crystal: Crystal, disordered: IntArray, labels: IntArray) -> list[Sublattice]:
    """Return the disordered sites by their label (n,)."""
    found = []
    for label in dict.fromkeys(labels[disordered].tolist()):
        sites = disordered[labels[disordered] == label]
        present = crystal.occupancies[sites[0]] > 0
        shares = map(_fraction, crystal.occupancies[sites[0], present].tolist())
        found.append(Sublattice(sites, tuple(crystal.numbers[sites[0], present].tolist()), tuple(shares)))
    return found


def _fraction(occupancy: float) -> float:
    """Return the fraction of thirds or sixths that an occupancy of two decimals stands for, or the occupancy."""
    nearest = round(occupancy * MAX_COMMON_DENOMINATOR) / MAX_COMMON_DENOMINATOR
    written = round(occupancy, 2)
    return nearest if abs(written - occupancy) < 1e-9 and written == round(nearest, 2) else occupancy


def _rounding(occupancy: float) -> float:
    """Return half a unit of the last decimal that an occupancy is written with, a little more for rounding errors."""
    written = (places for places in DECIMALS if abs(round(occupancy, places) - occupancy) < 1e-9)
    return 0.505 * 10.0 ** -next(written, DECIMALS[-1])


def _repeats(crystal: Crystal, sublattices: Sequence[Sublattice], max_sites: int) -> tuple[int, int, int] | None:
    """Return how often the reduced cell is repeated along its vectors; None if no supercell has the occupancies.

    The first compact supercell of at least MIN_SITES is chosen, or the largest one below.
    """
    _, (spacings,) = volumes_and_spacings(reduce_lattice(crystal.lattice)[None])
    best, largest = None, max_sites // crystal.n_atoms
    for cells in range(1, largest + 1):
        if not all(sublattice.counts(cells) for sublattice in sublattices):
            continue
        shapes = [
            (i, j, cells // i // j)
            for i in range(1, cells + 1)
            for j in range(1, cells // i + 1)
            if cells % i == 0 and (cells // i) % j == 0
        ]
        shape = min(shapes, key=lambda shape: _aspect(shape, spacings))
        compact = _aspect(shape, spacings) <= MAX_ASPECT
        if cells * crystal.n_atoms >= MIN_SITES:
            if compact:
                return shape
            if best is not None and prod(best) * crystal.n_atoms >= MIN_SITES:
                continue
        best = shape
    return best


def _aspect(shape: tuple[int, int, int], spacings: FloatArray) -> float:
    """Return the largest distance between opposite faces over the smallest."""
    widths = spacings * shape
    return float(widths.max() / widths.min())


def _ordered(
    crystal: Crystal, sublattices: Sequence[Sublattice], repeats: tuple[int, int, int], n: int,
    rng: np.random.Generator,
) -> list[Ordering]:  # fmt: skip
    """Return the orderings of a supercell."""
    cells, basis = prod(repeats), reduce_lattice(crystal.lattice)
    shifts = np.array(list(np.ndindex(*repeats))) @ basis
    positions = (shifts[:, None] + crystal.positions).reshape(-1, 3)
    average = Crystal(
        basis * np.array(repeats)[:, None], positions, np.tile(crystal.numbers, (cells, 1)),
        np.tile(crystal.occupancies, (cells, 1)),
    )  # fmt: skip
    first = np.arange(cells)[:, None] * crystal.n_atoms
    groups = [Group((first + each.sites).reshape(-1), each.numbers, each.counts(cells)) for each in sublattices]
    arrangement = Arrangement(average, groups)
    found = arrangement.classes() if arrangement.number <= MAX_ENUMERATED else []
    if not 0 < len(found) <= n:
        drawn = [arrangement.draw(rng) for _ in range(n)]
        rows, counts = np.unique(np.array(drawn), axis=0, return_counts=True)
        found = list(zip(rows, (counts / n).tolist(), strict=True))
    return [Ordering(arrangement.crystal(occupants), share) for occupants, share in found]


@dataclass(frozen=True)
class Group:
    """Disordered sites of a supercell, with the number of atoms of each occupant."""

    sites: IntArray
    numbers: tuple[int, ...]
    counts: tuple[int, ...]

    @property
    def number(self) -> int:
        """Number of arrangements of the atoms."""
        left, found = len(self.sites), 1
        for count in self.counts:
            found *= comb(left, count)
            left -= count
        return found

    def all(self) -> Iterator[IntArray]:
        """Yield the arrangements: the atomic number on each site, 0 if it is vacant."""
        yield from self._rest(np.zeros(len(self.sites), dtype=np.int64), list(range(len(self.sites))), 0)

    def _rest(self, occupants: IntArray, free: list[int], kind: int) -> Iterator[IntArray]:
        if kind == len(self.counts):
            yield occupants.copy()
            return
        for chosen in combinations(free, self.counts[kind]):
            occupants[list(chosen)] = self.numbers[kind]
            yield from self._rest(occupants, [site for site in free if site not in chosen], kind + 1)
            occupants[list(chosen)] = 0


class Arrangement:
    """Arrangements of atoms on the sites of a supercell."""

    def __init__(self, average: Crystal, groups: Sequence[Group]) -> None:
        self.average, self.groups = average, groups
        self.fixed = np.where(average.occupancies.max(axis=1) < MIN_FULL_OCCUPANCY, 0, average.numbers[:, 0])
        full = np.flatnonzero(self.fixed)
        self.fixed[full] = average.numbers[full, average.occupancies[full].argmax(axis=1)]
        self.number = prod(group.number for group in groups)
        self.edges, self.distances = self._close_pairs()

    def _close_pairs(self) -> tuple[IntArray, FloatArray]:
        """Return pairs of disordered sites (P, 2) that some of their occupants exclude, and their distances, Å."""
        sites = np.concatenate([group.sites for group in self.groups])
        largest = np.concatenate([
            np.repeat(max(group.numbers, key=COVALENT_RADII.item), len(group.sites)) for group in self.groups
        ])  # fmt: skip
        limit = float(_least_distance(largest, largest).max())
        edges = find_neighbors(self.average.lattice, self.average.positions[sites], limit)
        one, two = np.repeat(edges.atoms, edges.edge_counts), edges.indices
        close = (one != two) & (edges.distances < _least_distance(largest[one], largest[two]))
        return np.stack([sites[one], sites[two]], axis=1)[close], edges.distances[close]

    def excluded(self, occupants: IntArray) -> bool:
        """Return whether two atoms (n,) of disordered sites are too close."""
        one, two = occupants[self.edges[:, 0]], occupants[self.edges[:, 1]]
        return bool(((one > 0) & (two > 0) & (self.distances < _least_distance(one, two))).any())

    def classes(self) -> list[tuple[IntArray, float]]:
        """Return one of each class of arrangements that symmetry makes equivalent, with its share of all."""
        rows = []
        for parts in product(*(list(group.all()) for group in self.groups)):
            occupants = self.fixed.copy()
            for group, part in zip(self.groups, parts, strict=True):
                occupants[group.sites] = part
            if not self.excluded(occupants):
                rows.append(occupants)
        if not rows:
            return []
        table = np.array(rows)
        kinds = np.unique(occupant_labels([self.average]), return_inverse=True)[1].reshape(-1)
        disordered = np.flatnonzero(self.fixed == 0)
        weights = np.random.default_rng(0).integers(1, 2**40, len(disordered))
        # equivalent arrangements have the same least code; that others have it too is as good as impossible
        images = _permutations(self.average, kinds, disordered)
        codes = (table[:, disordered] @ np.take(weights, images).T).min(axis=1)
        _, places, counts = np.unique(codes, return_index=True, return_counts=True)
        return [(table[place], count / len(table)) for place, count in zip(places, counts.tolist(), strict=True)]

    def draw(self, rng: np.random.Generator) -> IntArray:
        """Return a random arrangement: the atomic number on each site (n,), 0 if it is vacant.

        Raises:
            StructureError: No arrangement that keeps atoms apart is found.
        """
        for _ in range(MAX_TRIES):
            occupants = self._drawn(rng) if len(self.edges) else self._shuffled(rng)
            if occupants is not None:
                return occupants
        raise StructureError("no ordered supercells: its partly occupied sites are too close to each other")

    def _shuffled(self, rng: np.random.Generator) -> IntArray:
        occupants = self.fixed.copy()
        for group in self.groups:
            vacant = len(group.sites) - sum(group.counts)
            occupants[group.sites] = rng.permutation(np.repeat([*group.numbers, 0], [*group.counts, vacant]))
        return occupants

    def _drawn(self, rng: np.random.Generator) -> IntArray | None:
        """Return a random arrangement, one atom after the other on a site that is allowed; None at a dead end."""
        occupants = self.fixed.copy()
        waiting = [
            (group, number)
            for group in self.groups
            for number, count in zip(group.numbers, group.counts, strict=True)
            for _ in range(count)
        ]
        for place in rng.permutation(len(waiting)).tolist():
            group, number = waiting[place]
            neighbours = occupants[self.edges[:, 1]]
            close = (neighbours > 0) & (self.distances < _least_distance(np.array(number), neighbours))
            taken = np.concatenate([self.edges[close, 0], np.flatnonzero(occupants)])
            free = np.setdiff1d(group.sites, taken)
            if not len(free):
                return None
            occupants[rng.choice(free)] = number
        return occupants

    def crystal(self, occupants: IntArray) -> Crystal:
        """Return the crystal of an arrangement (n,)."""
        present = np.flatnonzero(occupants)
        return Crystal.ordered(self.average.lattice, self.average.positions[present], occupants[present])


def _least_distance(one: IntArray, two: IntArray) -> FloatArray:
    """Return the distance, Å, below which atoms of disordered sites exclude each other, by their atomic numbers."""
    return np.asarray(np.maximum(EXCLUDED_SHARE * (COVALENT_RADII[one] + COVALENT_RADII[two]), EXCLUDED_DISTANCE))


def _permutations(crystal: Crystal, kinds: IntArray, sites: IntArray) -> IntArray:
    """Return how symmetry operations permute some sites, (operations, m); the identity is one of them.

    Args:
        crystal: The crystal.
        kinds: Label of each site, equal for sites with the same occupants, (n,).
        sites: Numbers of m sites, all of their kinds.
    """
    own = np.arange(len(sites))
    os.environ.setdefault("SPGLIB_WARNING", "OFF")  # hides messages on stderr about a first attempt that fails
    import spglib

    fractional = crystal.positions @ np.linalg.inv(crystal.lattice)
    with suppress_warnings():  # spglib announces a change of its error handling
        found = spglib.get_symmetry((crystal.lattice, fractional, kinds), symprec=SYMMETRY_TOLERANCE)  # type: ignore[arg-type]
    rows, places = [own], fractional[sites]
    for rotation, translation in zip(found["rotations"], found["translations"], strict=True) if found else ():
        apart = (places @ rotation.T + translation)[:, None] - places
        apart -= np.round(apart)
        images = np.square(apart @ crystal.lattice).sum(axis=2).argmin(axis=1)
        # an operation that moves an atom between others is not one
        if np.array_equal(np.sort(images), own) and (kinds[sites[images]] == kinds[sites]).all():
            rows.append(images)
    return np.array(rows)


def _cannot_express(sublattices: Sequence[Sublattice], largest: int, max_sites: int) -> StructureError:
    """Return the error that names an occupancy that no supercell has, or one that no supercell has with the others."""
    nothing = f"no ordered supercells: none of up to {max_sites} sites has"
    remedy = "crystalpredict.orderings takes a larger max_sites"
    for each in sublattices:
        if not any(each.counts(cells) for cells in range(1, largest + 1)):
            for number, share in zip(each.numbers, each.occupancies, strict=True):
                alone = Sublattice(each.sites, (number,), (share,))
                if not any(alone.counts(cells) for cells in range(1, largest + 1)):
                    what = f"the occupancy {share:.4g} of {ELEMENTS[number - 1]}"
                    return StructureError(f"{nothing} {what}; {remedy}")
    return StructureError(f"{nothing} all occupancies together; {remedy}")
