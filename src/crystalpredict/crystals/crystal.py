"""Crystals and their neighbour lists as frozen records of NumPy arrays: what the modules pass to each other."""

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

# those the network has an embedding for, atomic number 1 first
ELEMENTS = tuple(
    """
    H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr Nb Mo
    Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl
    Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf
    """.split()  # noqa: SIM905  as a table it can be read
)
FLAT = 1e-12  # square of c over the ab plane, in units of c, that is nothing but rounding
ATOMIC_NUMBERS = {symbol: number for number, symbol in enumerate(ELEMENTS, start=1)}


@dataclass(frozen=True)
class Crystal:
    """One periodic cell.

    lattice (3, 3), rows a, b, c in Å; positions (n, 3), Cartesian, Å, anywhere relative to the cell;
    numbers (n, S), atomic numbers 1..98; occupancies (n, S). An ordered crystal has S = 1 and occupancies of 1;
    a site shared by several elements has one column for each, and columns of occupancy 0 are padding.
    """

    lattice: FloatArray
    positions: FloatArray
    numbers: IntArray
    occupancies: FloatArray

    @classmethod
    def ordered(cls, lattice: FloatArray, positions: FloatArray, numbers: IntArray) -> Crystal:
        """A crystal of fully occupied sites; numbers (n,)."""
        numbers = np.asarray(numbers, dtype=np.int64).reshape(-1, 1)
        return cls(np.asarray(lattice), np.asarray(positions), numbers, np.ones(numbers.shape))

    @property
    def n_atoms(self) -> int:
        """Sites in the cell."""
        return len(self.positions)

    @property
    def volume(self) -> float:
        """Cell volume, Å^3; never negative, whatever the handedness of the lattice."""
        return volume_of_cell(self.lattice)


@dataclass(frozen=True)
class Neighbors:
    """Edges from the listed atoms of a cell to every atom of the infinite crystal within a radius, itself included.

    Every atom of the cell is listed, or one of each kind of equivalent atoms (`crystalpredict.crystals.equivalence`).
    Edges of listed atom i are first[i]:first[i + 1]. first (m + 1,); indices (E,), the listed atom that is, or stands
    for, the neighbour; distances (E,), Å; the self edge comes first and has distance 0. atoms (m,), the atom of the
    cell; counts (m,), how many atoms of the cell it stands for. vectors (E, 3), Å, from the atom to its neighbour, for
    networks that see more than distances.
    """

    first: IntArray
    indices: IntArray
    distances: FloatArray
    atoms: IntArray
    counts: IntArray
    vectors: FloatArray | None = None

    @classmethod
    def of_many(
        cls,
        bounds: IntArray,
        first: IntArray,
        indices: IntArray,
        distances: FloatArray,
        atoms: IntArray,
        counts: IntArray,
        vectors: FloatArray | None = None,
    ) -> list[Neighbors]:
        """The lists of many crystals, one after the other in the same arrays, of which they are views.

        Crystal b has the listed atoms bounds[b]:bounds[b + 1]; first (M + 1,) counts the edges of all of them.
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
        """Atoms listed."""
        return len(self.atoms)

    @cached_property
    def widths(self) -> IntArray:
        """Edges of each listed atom (m,)."""
        return np.diff(self.first)

    @property
    def widest(self) -> int:
        """Edges of the atom that has most."""
        return int(self.widths.max())


def lattice_of_parameters(parameters: Sequence[float]) -> FloatArray:
    """Lattice (3, 3) of lengths a, b, c (Å) and angles alpha, beta, gamma (degrees): a along x, b in the xy plane.

    ValueError if no cell has them.
    """
    a, b, c, *angles = map(float, parameters)
    alpha, beta, gamma = map(cos, map(radians, angles))
    sine = sqrt(1 - gamma**2)
    y = (alpha - beta * gamma) / sine if sine else inf
    square = 1 - beta**2 - y**2
    positive = min(a, b, c) > 0 and min(angles) > 0
    if not (positive and max(angles) < 180 and square > FLAT):  # false for not-a-number too
        raise ValueError(f"no cell has the lengths and angles {list(parameters)}")
    flat = (a, 0.0, 0.0, b * gamma, b * sine, 0.0, c * beta, c * y, c * sqrt(square))
    return np.array(flat).reshape(3, 3)


def volume_of_cell(lattice: FloatArray) -> float:
    """Volume, Å^3, of the cell with the rows a, b, c of lattice (3, 3), whatever their handedness."""
    a, (bx, by, bz), (cx, cy, cz) = lattice.tolist()  # by hand: NumPy takes ten times as long for one cell
    return abs(float(a[0] * (by * cz - bz * cy) + a[1] * (bz * cx - bx * cz) + a[2] * (bx * cy - by * cx)))
