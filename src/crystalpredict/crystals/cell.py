"""Checks of unit cells before any neighbour search, and reduction of lattices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from crystalpredict.crystals.crystal import FloatArray, IntArray, cell_volume

# Å^3; the 277,250 crystals of the databases have at least 4.4, hydrogen has 1.2 at 500 GPa and 0.6 at 2 TPa
MIN_VOLUME_PER_ATOM = 0.5
MIN_DISTANCE = 0.5  # Å, between two atoms; the shortest known bond, H-H, has 0.74
MAX_CELL_LENGTH = 1e4  # Å
MAX_CELLS_AWAY = 1e6  # of a coordinate: beyond it, rounding loses the position in the cell
MAX_SITE_OCCUPANCY = 1.005  # rounded thirds may add up to a little more than 1
# of a reduced cell; 340 Å by 340 Å by 3 Å is just below. For thinner plates vesin divides by zero
MAX_FLATNESS = 12_500
MAX_EDGES = 2**24  # of a crystal, about 160,000 atoms of ordinary density; their neighbour lists take 1 GB
MAX_REDUCTION_STEPS = 1000  # a cell of MAX_CELL_LENGTH takes a few dozen
UNIT_SPHERE_VOLUME = 4 / 3 * np.pi


def valid_cells(lattices: FloatArray, n_atoms: Sequence[int], radius: float) -> NDArray[np.bool_]:
    """Return which cells are certainly valid, (B,); `cell_error` decides about the others.

    This is a fast check of many cells together. No lattice vector is shorter than MIN_DISTANCE if the lattice planes
    are that far apart.

    Args:
        lattices: rows a, b, c, Å, (B, 3, 3).
        n_atoms: number of atoms of each cell, (B,).
        radius: of the neighbour lists, Å.
    """
    sizes = np.asarray(n_atoms)
    with np.errstate(all="ignore"):
        volumes, spacings = volumes_and_spacings(lattices)
        valid = (volumes >= MIN_VOLUME_PER_ATOM * sizes) & (spacings.min(axis=1) >= MIN_DISTANCE)
        valid &= flatness(spacings) <= MAX_FLATNESS
        valid &= estimate_max_edges(spacings, sizes, radius) <= MAX_EDGES
        return np.asarray(valid & (np.abs(lattices).max(axis=(1, 2)) <= MAX_CELL_LENGTH))


def cell_error(lattice: FloatArray, n_atoms: int) -> str:
    """Return why no crystal can have a cell, or "" if the cell is possible.

    Args:
        lattice: rows a, b, c, Å, (3, 3).
        n_atoms: number of atoms in the cell.
    """
    if not np.isfinite(lattice).all():
        return "a cell length or an angle is not a number"
    if (longest := float(np.abs(lattice).max())) > MAX_CELL_LENGTH:
        return f"the cell is {longest:.3g} Å long: check its lengths"
    if (volume := cell_volume(lattice)) < MIN_VOLUME_PER_ATOM * n_atoms:
        return f"the cell has {volume:.3g} Å^3 for {n_atoms} atoms: check its lengths and angles"
    _, spacings = volumes_and_spacings(lattice[None])
    if (thin := float(spacings.min())) >= MIN_DISTANCE and volume < MAX_FLATNESS / 27 * thin**3:
        return ""  # as of most; planes of the reduced cell, which takes ten times as long, are at least thin / 3 apart
    basis = reduce_lattice(lattice)
    if (shortest := float(np.linalg.norm(basis[0]))) < MIN_DISTANCE:
        apart = f"{shortest:.2f}" if shortest >= 0.01 else f"{shortest:.1e}"
        return f"each atom and its periodic image are {apart} Å apart: check the cell's lengths and angles"
    _, spacings = volumes_and_spacings(basis[None])
    if flatness(spacings)[0] > MAX_FLATNESS:
        thin, wide, long = np.sort(spacings[0])
        return f"the cell is {long:.3g} Å by {wide:.3g} Å, but {thin:.3g} Å thick: check its lengths"
    return ""


def volumes_and_spacings(lattices: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return volumes of cells and distances between their lattice planes.

    Args:
        lattices: rows a, b, c, Å, (B, 3, 3).

    Returns:
        Volumes, Å^3, (B,), and spacings of the planes that a, b and c cross, Å, (B, 3); for a volume of 0 these are
        0 or not a number.
    """
    one, two = lattices[:, (1, 2, 0)], lattices[:, (2, 0, 1)]  # np.cross takes five times as long for one cell
    areas = one[..., (1, 2, 0)] * two[..., (2, 0, 1)] - one[..., (2, 0, 1)] * two[..., (1, 2, 0)]
    volumes = np.abs(np.einsum("bx,bx->b", lattices[:, 0], areas[:, 0]))
    with np.errstate(all="ignore"):
        return volumes, volumes[:, None] / np.sqrt(np.einsum("bax,bax->ba", areas, areas))


def flatness(spacings: FloatArray) -> FloatArray:
    """Return h_a h_b h_c / min(h)^3, (B,), of the spacings h of the lattice planes, Å, (B, 3); it is 1 for a cube."""
    return np.asarray(spacings.prod(axis=1) / spacings.min(axis=1) ** 3)


def estimate_max_edges(spacings: FloatArray, n_atoms: IntArray, radius: float) -> FloatArray:
    """Return an estimate of the number of edges if all atoms of a cell are close to each other, (B,).

    Args:
        spacings: of the lattice planes, Å, (B, 3).
        n_atoms: number of atoms of each cell, (B,).
        radius: of the neighbour lists, Å.
    """
    images = np.maximum(radius / spacings, 1).prod(axis=1)
    return np.asarray(UNIT_SPHERE_VOLUME * np.square(n_atoms, dtype=float) * images)


def reduce_lattice(lattice: FloatArray) -> FloatArray:
    """Return the shortest three vectors that span a lattice, the shortest first, (3, 3).

    Greedy reduction, which gives a Minkowski-reduced basis: P. Q. Nguyen and D. Stehlé, ACM Transactions on Algorithms
    5 (2009) 46.

    Args:
        lattice: finite, of positive volume, (3, 3).
    """
    basis = np.array(lattice, dtype=float)
    for _ in range(MAX_REDUCTION_STEPS):
        a, b, c = basis = basis[np.argsort(np.square(basis).sum(axis=1), kind="stable")]
        if not a @ a > 1e-12:  # far below MIN_DISTANCE, and too short to divide by its square
            break
        shorter = b - np.rint(b @ a / (a @ a)) * a
        if shorter @ shorter < (1 - 1e-12) * (b @ b):
            basis = np.array([a, shorter, c])
            continue
        shorter = c - _nearest_in_plane(basis[:2], c)
        if not shorter @ shorter < (1 - 1e-12) * (c @ c):
            break
        basis = np.array([a, b, shorter])
    return basis


def _nearest_in_plane(plane: FloatArray, point: FloatArray) -> FloatArray:
    """Return the vector nearest to a point (3,) in the lattice of two reduced vectors (2, 3)."""
    first = np.floor(np.linalg.solve(plane @ plane.T, plane @ point))
    corners = (first + np.array([(0, 0), (0, 1), (1, 0), (1, 1)])) @ plane
    return np.asarray(corners[np.square(corners - point).sum(axis=1).argmin()])


def wrap_positions(lattice: FloatArray, positions: FloatArray) -> FloatArray:
    """Return Cartesian positions (n, 3), Å, moved into the cell of a lattice (3, 3)."""
    fractional = positions @ np.linalg.inv(lattice)
    return np.asarray((fractional - np.floor(fractional)) @ lattice)


def estimate_edges(lattice: FloatArray, positions: FloatArray, radius: float) -> float:
    """Return an estimate of the number of edges of a cell, from the numbers of atoms in boxes as wide as the radius.

    Args:
        lattice: reduced, Å, (3, 3).
        positions: Cartesian, inside the cell, Å, (n, 3).
        radius: of the neighbour list, Å.
    """
    _, spacings = volumes_and_spacings(lattice[None])
    uniform = len(positions) ** 2 * UNIT_SPHERE_VOLUME * radius**3 / cell_volume(lattice)
    return max(uniform, float(estimate_max_edges(spacings, _sort_into_boxes(positions, radius)[1], radius).sum()))


def find_coincident_atoms(positions: FloatArray) -> tuple[int, int] | None:
    """Return two atoms in one small box, which are closer than MIN_DISTANCE, or None if no box has two.

    Sorting into boxes is fast even if all atoms coincide. Without such a pair there are at most 42 atoms in 1 Å^3, few
    enough for a neighbour search, which finds every close pair.

    Args:
        positions: Cartesian, inside the cell, Å, (n, 3).
    """
    owner, counts = _sort_into_boxes(positions, 0.99 * MIN_DISTANCE / 3**0.5)
    if counts.max() == 1:
        return None
    i, j = np.flatnonzero(owner == counts.argmax())[:2].tolist()
    return i, j


def _sort_into_boxes(positions: FloatArray, side: float) -> tuple[IntArray, IntArray]:
    """Return the cubic box of each position (n, 3), numbered from 0, (n,), and the number of positions in each box."""
    boxes = np.floor(positions / side).astype(np.int64)
    boxes -= boxes.min(axis=0)
    _, y, z = (boxes.max(axis=0) + 1).tolist()
    _, owner, counts = np.unique(boxes @ [y * z, z, 1], return_inverse=True, return_counts=True)
    return owner.reshape(-1), counts
