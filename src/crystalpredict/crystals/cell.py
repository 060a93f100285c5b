"""What no crystal's cell is like, found before any search sees it; and the shortest vectors of a lattice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from crystalpredict.crystals.crystal import FloatArray, IntArray, volume_of_cell

# Å^3 per site. 277,250 crystals of databases have 4.4 or more; hydrogen has 1.2 at 500 GPa and 0.6 at 2 TPa
MIN_VOLUME = 0.5
MIN_DISTANCE = 0.5  # Å, below which two atoms are a mistake: the shortest bond there is, H-H, has 0.74
MAX_LENGTH = 1e4  # Å, above which the length of the cell is mistyped
# of a reduced cell, such as one of 340 Å by 340 Å that is 3 Å thick: for thinner plates vesin's number of boxes in the
# third direction is 0, and it divides by that
MAX_FLATNESS = 12_500
MAX_EDGES = 2**24  # of a crystal, such as 160,000 atoms of ordinary density have: their lists take a gigabyte
MAX_REDUCTIONS = 1000  # steps, of which a cell of MAX_LENGTH takes some dozens
SPHERE = 4 / 3 * np.pi


def cells_fit(lattices: FloatArray, atoms: Sequence[int], radius: float) -> NDArray[np.bool_]:
    """Which of some cells are certainly sound (B,), found for all at once; of others, `cell_error` says what is wrong.

    lattices (B, 3, 3), rows a, b, c, Å; atoms (B,). Where lattice planes are MIN_DISTANCE apart, no vector is shorter.
    """
    sizes = np.asarray(atoms)
    with np.errstate(all="ignore"):
        volumes, spacings = volumes_and_spacings(lattices)
        sound = (volumes >= MIN_VOLUME * sizes) & (spacings.min(axis=1) >= MIN_DISTANCE)
        sound &= flatness(spacings) <= MAX_FLATNESS
        few = most_edges(spacings, sizes, radius) <= MAX_EDGES
        return np.asarray(sound & few & (np.abs(lattices).max(axis=(1, 2)) <= MAX_LENGTH))


def cell_error(lattice: FloatArray, atoms: int) -> str:
    """What is wrong with a cell (3, 3), Å, of so many atoms; empty if a crystal may have it."""
    if not np.isfinite(lattice).all():
        return "a cell length or an angle is not a number"
    if (longest := float(np.abs(lattice).max())) > MAX_LENGTH:
        return f"the cell is {longest:.3g} Å long: check its lengths"
    if (volume := volume_of_cell(lattice)) < MIN_VOLUME * atoms:
        return f"the cell has {volume:.3g} Å^3 for {atoms} atoms: check its lengths and angles"
    basis = reduced(lattice)
    if (shortest := float(np.linalg.norm(basis[0]))) < MIN_DISTANCE:
        apart = f"{shortest:.2f}" if shortest >= 0.01 else f"{shortest:.1e}"
        return f"every atom and its image in another cell are {apart} Å apart: check the cell's lengths and angles"
    _, spacings = volumes_and_spacings(basis[None])
    if flatness(spacings)[0] > MAX_FLATNESS:
        thin, wide, long = np.sort(spacings[0])
        return f"the cell is {long:.3g} Å by {wide:.3g} Å, but {thin:.3g} Å thick: check its lengths"
    return ""


def volumes_and_spacings(lattices: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Volumes (B,), Å^3, and distances of lattice planes (B, 3), Å, across a, b and c; of no volume, not a number."""
    areas = np.cross(lattices[:, (1, 2, 0)], lattices[:, (2, 0, 1)])
    volumes = np.abs(np.einsum("bx,bx->b", lattices[:, 0], areas[:, 0]))
    with np.errstate(all="ignore"):
        return volumes, volumes[:, None] / np.sqrt(np.einsum("bax,bax->ba", areas, areas))


def flatness(spacings: FloatArray) -> FloatArray:
    """How flat cells are (B,), 1 for a cube; spacings (B, 3), Å, of lattice planes."""
    return np.asarray(spacings.prod(axis=1) / spacings.min(axis=1) ** 3)


def most_edges(spacings: FloatArray, atoms: IntArray, radius: float) -> FloatArray:
    """About as many edges as there are if all atoms of a cell are near each other (B,); spacings (B, 3), Å."""
    return np.asarray(SPHERE * np.square(atoms, dtype=float) * np.maximum(radius / spacings, 1).prod(axis=1))


def reduced(lattice: FloatArray) -> FloatArray:
    """Three vectors (3, 3) that span the same lattice, as short as there are, the shortest first.

    Greedy reduction, whose result is reduced as Minkowski has it: P. Q. Nguyen and D. Stehlé, ACM Transactions on
    Algorithms 5 (2009) 46. lattice (3, 3), of finite numbers and a volume above 0.
    """
    basis = np.array(lattice, dtype=float)
    for _ in range(MAX_REDUCTIONS):
        one, two, three = basis = basis[np.argsort(np.square(basis).sum(axis=1), kind="stable")]
        if not one @ one > 1e-12:  # such a short one is all there is to say of a cell, and its square has no digits
            break
        closer = two - np.rint(two @ one / (one @ one)) * one
        if closer @ closer < (1 - 1e-12) * (two @ two):
            basis = np.array([one, closer, three])
            continue
        closer = three - _nearest_in_plane(basis[:2], three)
        if not closer @ closer < (1 - 1e-12) * (three @ three):
            break
        basis = np.array([one, two, closer])
    return basis


def _nearest_in_plane(plane: FloatArray, point: FloatArray) -> FloatArray:
    """The vector that is nearest to a point, of those that two reduced vectors (2, 3) span."""
    first = np.floor(np.linalg.solve(plane @ plane.T, plane @ point))
    corners = (first + np.array([(0, 0), (0, 1), (1, 0), (1, 1)])) @ plane
    return np.asarray(corners[np.square(corners - point).sum(axis=1).argmin()])


def inside(lattice: FloatArray, positions: FloatArray) -> FloatArray:
    """Positions (n, 3), Cartesian, Å, moved into the cell of some lattice (3, 3)."""
    fractional = positions @ np.linalg.inv(lattice)
    return np.asarray((fractional - np.floor(fractional)) @ lattice)


def count_edges(lattice: FloatArray, positions: FloatArray, radius: float) -> float:
    """About how many edges within the radius, Å, the atoms of a cell have, by counting them in boxes of that width.

    lattice (3, 3), reduced; positions (n, 3), Cartesian, Å, inside its cell.
    """
    _, spacings = volumes_and_spacings(lattice[None])
    evenly = len(positions) ** 2 * SPHERE * radius**3 / volume_of_cell(lattice)
    return max(evenly, float(most_edges(spacings, _in_boxes(positions, radius)[1], radius).sum()))


def coincident(positions: FloatArray) -> tuple[int, int] | None:
    """Two atoms less than MIN_DISTANCE apart, found by sorting, which takes as long if all are in one place.

    None if at most 42 atoms share a cubic Ångström: of these, a search finds any two. positions (n, 3), Å, in the cell.
    """
    owner, counts = _in_boxes(positions, 0.99 * MIN_DISTANCE / 3**0.5)
    if counts.max() == 1:
        return None
    one, two = np.flatnonzero(owner == counts.argmax())[:2].tolist()
    return one, two


def _in_boxes(positions: FloatArray, side: float) -> tuple[IntArray, IntArray]:
    """The box (n,) of each position (n, 3) in a grid of cubes of some side, and how many each box has."""
    boxes = np.floor(positions / side).astype(np.int64)
    boxes -= boxes.min(axis=0)
    _, y, z = (boxes.max(axis=0) + 1).tolist()
    _, owner, counts = np.unique(boxes @ [y * z, z, 1], return_inverse=True, return_counts=True)
    return owner.reshape(-1), counts
