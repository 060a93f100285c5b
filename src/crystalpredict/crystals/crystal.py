"""Crystals and their neighbour lists as frozen dataclasses of NumPy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import cos, inf, radians, sqrt

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.integer]

# with an embedding in the network, by atomic number from 1
ELEMENTS = tuple(
    """
    H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr Nb Mo
    Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl
    Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf
    """.split()  # noqa: SIM905  as a table it can be read
)
ATOMIC_NUMBERS = {symbol: number for number, symbol in enumerate(ELEMENTS, start=1)}
MIN_SQUARED_HEIGHT = 1e-12  # of c above the ab plane, over the square of c; anything smaller is rounding


@dataclass(frozen=True)
class Crystal:
    """A periodic cell with n sites of at most S elements each.

    An ordered crystal has S = 1 and occupancies of 1. A shared site has one column for each of its elements; columns of
    occupancy 0 are padding.

    Attributes:
        lattice: rows a, b, c, Å, (3, 3).
        positions: Cartesian, inside or outside the cell, Å, (n, 3).
        numbers: atomic numbers, 1 to 98, (n, S).
        occupancies: of each element on a site, (n, S).
    """

    lattice: FloatArray
    positions: FloatArray
    numbers: IntArray
    occupancies: FloatArray

    @classmethod
    def ordered(cls, lattice: FloatArray, positions: FloatArray, numbers: IntArray) -> Crystal:
        """Return a crystal of sites with one element each, given their atomic numbers (n,)."""
        numbers = np.asarray(numbers, dtype=np.int64).reshape(-1, 1)
        return cls(np.asarray(lattice), np.asarray(positions), numbers, np.ones(numbers.shape))

    @property
    def n_atoms(self) -> int:
        """Number of sites in the cell."""
        return len(self.positions)

    @property
    def main_numbers(self) -> IntArray:
        """Atomic number of the element with the largest occupancy on each site, (n,)."""
        if self.numbers.shape[1] == 1:
            return self.numbers[:, 0]
        return np.asarray(self.numbers[np.arange(self.n_atoms), self.occupancies.argmax(axis=1)])

    @property
    def volume(self) -> float:
        """Volume of the cell, Å^3; positive for left-handed lattices too."""
        return cell_volume(self.lattice)

    def _repr_svg_(self) -> str | None:
        from crystalpredict.crystals.drawing import cell_svg

        return cell_svg(self) or None


@dataclass(frozen=True)
class Neighbors:
    """A neighbour list: edges from m listed atoms of a cell to all atoms of the infinite crystal within a radius.

    Listed are all atoms of the cell, or one of each kind of equivalent atoms (`crystalpredict.crystals.equivalence`).
    The edges of listed atom i are first[i]:first[i + 1]. The first of them is the edge to itself, of distance 0.

    Attributes:
        first: first edge of each listed atom, and the number of edges, (m + 1,).
        indices: listed atom that is, or represents, the neighbour of each edge, (E,).
        distances: Å, (E,).
        atoms: index in the cell of each listed atom, (m,).
        counts: number of atoms of the cell that each listed atom represents, (m,).
        vectors: from the atom to its neighbour, Å, (E, 3); None for networks that use only distances.
    """

    first: IntArray
    indices: IntArray
    distances: FloatArray
    atoms: IntArray
    counts: IntArray
    vectors: FloatArray | None = None

    @classmethod
    def from_concatenated(
        cls,
        bounds: IntArray,
        first: IntArray,
        indices: IntArray,
        distances: FloatArray,
        atoms: IntArray,
        counts: IntArray,
        vectors: FloatArray | None = None,
    ) -> list[Neighbors]:
        """Return the lists of B crystals whose arrays are concatenated, as views of these arrays.

        Args:
            bounds: first listed atom of each crystal, and their number M, (B + 1,).
            first: first edge of each listed atom, and the number of edges, (M + 1,).
            indices: neighbours, counted from the first listed atom of each crystal, (E,).
            distances: Å, (E,).
            atoms: index of each listed atom in its own cell, (M,).
            counts: number of atoms that each listed atom represents, (M,).
            vectors: Å, (E, 3), or None.
        """
        lists = []
        for (start, end), (low, high) in zip(pairwise(bounds.tolist()), pairwise(first[bounds].tolist()), strict=True):
            own, edges = slice(start, end), slice(low, high)
            along = None if vectors is None else vectors[edges]
            lists.append(
                cls(first[start : end + 1] - low, indices[edges], distances[edges], atoms[own], counts[own], along)
            )
        return lists

    @property
    def size(self) -> int:
        """Number of listed atoms."""
        return len(self.atoms)

    @cached_property
    def edge_counts(self) -> IntArray:
        """Number of edges of each listed atom, (m,)."""
        return np.diff(self.first)

    @property
    def max_edge_count(self) -> int:
        """Largest number of edges of a listed atom."""
        return int(self.edge_counts.max())


def lattice_from_parameters(parameters: Sequence[float]) -> FloatArray:
    """Return the lattice (3, 3), Å, of cell lengths and angles, with a along x and b in the xy plane.

    Args:
        parameters: lengths a, b, c, Å, and angles alpha, beta, gamma, degrees, (6,).

    Raises:
        ValueError: no cell has these lengths and angles.
    """
    a, b, c, *angles = map(float, parameters)
    alpha, beta, gamma = map(cos, map(radians, angles))
    sine = sqrt(1 - gamma**2)
    y = (alpha - beta * gamma) / sine if sine else inf
    squared_height = 1 - beta**2 - y**2
    positive = min(a, b, c) > 0 and min(angles) > 0
    if not (positive and max(angles) < 180 and squared_height > MIN_SQUARED_HEIGHT):  # not-a-number fails too
        raise ValueError(f"no cell has the lengths and angles {list(parameters)}: check them")
    flat = (a, 0.0, 0.0, b * gamma, b * sine, 0.0, c * beta, c * y, c * sqrt(squared_height))
    return np.array(flat).reshape(3, 3)


def cell_volume(lattice: FloatArray) -> float:
    """Return the volume, Å^3, of a cell with the rows a, b, c (3, 3), Å; positive for left-handed lattices too."""
    a, (bx, by, bz), (cx, cy, cz) = lattice.tolist()  # for one cell ten times as fast as NumPy
    return abs(float(a[0] * (by * cz - bz * cy) + a[1] * (bz * cx - bx * cz) + a[2] * (bx * cy - by * cx)))
