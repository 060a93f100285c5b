"""Neighbour lists of periodic cells, with images of atoms.

Small cells: all distances between atoms and images, as matrix products. Other cells: vesin's cell list, or NumPy if
vesin is not installed.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from functools import cache, lru_cache
from types import ModuleType

import numpy as np

from crystalpredict.crystals.cell import (
    MAX_CELL_LENGTH,
    MAX_EDGES,
    MAX_FLATNESS,
    MIN_DISTANCE,
    estimate_edges,
    estimate_max_edges,
    find_coincident_atoms,
    flatness,
    reduce_lattice,
    volumes_and_spacings,
    wrap_positions,
)
from crystalpredict.crystals.crystal import FloatArray, IntArray, Neighbors

Pairs = tuple[IntArray, FloatArray, FloatArray | None]
"""Atoms i and j, (P, 2), distances, Å, (P,), and vectors from i to j, Å, (P, 3), or None. Each pair is listed once."""

# Å, subtracted from the radius: neighbours of a symmetric crystal at the radius itself are in none of its lists, in
# whichever cell it is given, although their distances are rounded
RADIUS_MARGIN = 1e-5
MIN_ATOMS_THREADED_SEARCH = 1000  # in smaller cells several threads do not pay
MAX_ATOMS_RADIX_SORT = 2**16  # numbered in 16 bits, which NumPy sorts faster
MAX_ATOMS_DENSE_SEARCH = 100  # measured against vesin
MAX_IMAGES_DENSE_SEARCH = 4000  # a flat or skewed cell has more, most of them far away
MAX_DISTANCES_DENSE_SEARCH = 500_000  # of one cell, which bounds the memory
MAX_COORDINATE_DENSE_SEARCH = 300.0  # Å from the centre of the cell; squares of longer vectors lose digits
CELLS_PER_DENSE_SEARCH = 32  # share the overhead of NumPy's calls, and fit the caches
MIN_SPACING_UNREDUCED = 0.5  # Å between lattice planes; the lattice of a flatter cell is reduced first
DISTANCES_PER_CHUNK = 4_000_000  # of the NumPy search, which bounds the memory


def find_neighbors(lattice: FloatArray, positions: FloatArray, radius: float, *, vectors: bool = False) -> Neighbors:
    """Return all edges shorter than the radius less RADIUS_MARGIN, to images and to the atom itself too [M5].

    Args:
        lattice: rows a, b, c, Å, (3, 3).
        positions: Cartesian, inside or outside the cell, Å, (n, 3).
        radius: Å.
        vectors: also return the vector of each edge, which takes longer.

    Raises:
        ValueError: the cell is flat, or has more than MAX_EDGES edges.
    """
    return find_neighbors_of_many([(lattice, positions)], radius, vectors=vectors)[0]


def find_neighbors_of_many(
    cells: Sequence[tuple[FloatArray, FloatArray]], radius: float, *, vectors: bool = False
) -> list[Neighbors]:
    """Return the neighbour lists of many cells, as `find_neighbors`; small cells together take half the time.

    Args:
        cells: lattice (3, 3) and positions (n, 3) of each cell, Å.
        radius: Å.
        vectors: also return the vector of each edge.

    Raises:
        ValueError: a cell is flat, or has more than MAX_EDGES edges.
    """
    if not cells:
        return []
    radius -= RADIUS_MARGIN
    lattices = np.array([lattice for lattice, _ in cells], dtype=float)
    positions = [np.asarray(own, dtype=float) for _, own in cells]
    sizes = np.array([len(own) for own in positions])
    with np.errstate(all="ignore"):
        _, spacings = volumes_and_spacings(lattices)
        usual = (sizes <= MAX_ATOMS_DENSE_SEARCH) & (estimate_max_edges(spacings, sizes, radius) <= MAX_EDGES)
        usual &= (spacings.min(axis=1) >= MIN_SPACING_UNREDUCED) & (flatness(spacings) <= MAX_FLATNESS)
    for row in np.flatnonzero(~usual):
        lattices[row] = _reduce_for_search(lattices[row], positions[row], radius)
        _, spacings[row] = volumes_and_spacings(lattices[row, None])
    inverses = np.linalg.inv(lattices)
    # image n along an axis has neighbours only if |n| <= radius / h + 1, where h is the spacing of the lattice planes
    reach = np.minimum(radius / spacings, MAX_IMAGES_DENSE_SEARCH).astype(np.int64) + 1
    images = np.prod(2 * reach + 1, axis=1)
    dense = (sizes <= MAX_ATOMS_DENSE_SEARCH) & (images <= MAX_IMAGES_DENSE_SEARCH)
    dense &= sizes**2 * images <= MAX_DISTANCES_DENSE_SEARCH
    dense &= np.abs(lattices).max(axis=(1, 2)) < MAX_COORDINATE_DENSE_SEARCH
    found: dict[int, Neighbors] = {}
    rows = np.flatnonzero(dense)
    for own in (rows[i : i + CELLS_PER_DENSE_SEARCH] for i in range(0, len(rows), CELLS_PER_DENSE_SEARCH)):
        fractional = [positions[row] @ inverses[row] for row in own]
        lists = _dense_search(lattices[own], fractional, reach[own].tolist(), radius, vectors=vectors)
        found.update(zip(own.tolist(), lists, strict=True))
    rows = np.flatnonzero(~dense)
    lists = _pair_search([(lattices[row], positions[row]) for row in rows], radius, vectors=vectors)
    found.update(zip(rows.tolist(), lists, strict=True))
    return [found[row] for row in range(len(cells))]


def shortest_edge(edges: Neighbors) -> tuple[int, float]:
    """Return the shortest edge apart from self edges, and its length, Å, infinite if there is none."""
    lengths = edges.distances.copy()
    lengths[edges.first[:-1]] = np.inf
    edge = int(lengths.argmin())
    return edge, float(lengths[edge])


def is_too_dense(lattice: FloatArray, positions: FloatArray, radius: float) -> bool:
    """Return whether two atoms are closer than MIN_DISTANCE, or the cell has more than MAX_EDGES edges.

    Args:
        lattice: rows a, b, c, Å, (3, 3).
        positions: Cartesian, Å, (n, 3).
        radius: of the neighbour list, Å.
    """
    basis = reduce_lattice(lattice)
    wrapped = wrap_positions(basis, positions)
    if find_coincident_atoms(wrapped) or estimate_edges(basis, wrapped, radius) > MAX_EDGES:
        return True
    return shortest_edge(find_neighbors(lattice, positions, MIN_DISTANCE))[1] < MIN_DISTANCE


def _reduce_for_search(lattice: FloatArray, positions: FloatArray, radius: float) -> FloatArray:
    """Return the reduced lattice (3, 3).

    Raises:
        ValueError: a search would fail, or take too long or too much memory.
    """
    if not (np.abs(lattice).max() <= MAX_CELL_LENGTH and np.isfinite(positions).all()):  # not-a-number fails too
        raise ValueError(f"the cell is longer than {MAX_CELL_LENGTH:g} Å, or a coordinate is not a number")
    if not volumes_and_spacings(lattice[None])[0] > 0:
        raise ValueError("the cell is flat: its three vectors lie in a plane")
    lattice = reduce_lattice(lattice)
    if not flatness(volumes_and_spacings(lattice[None])[1])[0] <= MAX_FLATNESS:
        raise ValueError("the cell is flat: it is far thinner in one direction than in the others")
    if (edges := estimate_edges(lattice, wrap_positions(lattice, positions), radius)) > MAX_EDGES:
        raise ValueError(f"the cell has some {edges:.0e} neighbours within {radius:.3g} Å, more than {MAX_EDGES:,}")
    return lattice


@lru_cache(maxsize=200)
def _image_grid(*reach: int) -> FloatArray:
    """Return all images (3, I) from -reach to reach along each axis, the home cell first."""
    images = np.stack(np.meshgrid(*(np.arange(-r, r + 1.0) for r in reach), indexing="ij")).reshape(3, -1)
    return np.roll(images, -(images.shape[1] // 2), axis=1)


def _dense_search(
    lattices: FloatArray, fractional: list[FloatArray], reach: list[list[int]], radius: float, *, vectors: bool
) -> list[Neighbors]:
    """Return the lists of small cells, by all distances between their atoms and the images close to the cell.

    For an atom at p and an image of an atom at o, |p - o|^2 = (-2 p, p^2, 1) . (o, 1, o^2), one matrix product for each
    cell. All other steps treat all B cells together, their N atoms and M images concatenated.

    Args:
        lattices: rows a, b, c, Å, (B, 3, 3).
        fractional: coordinates of each cell, (n, 3).
        reach: images along each axis of each cell, (B, 3).
        radius: Å.
        vectors: also return the vector of each edge.
    """
    sizes = np.array([len(own) for own in fractional])
    ends = np.cumsum(sizes)
    starts = ends - sizes
    atoms = [slice(*pair) for pair in zip(starts.tolist(), ends.tolist(), strict=True)]
    positions = np.empty((ends[-1], 3))
    places = np.concatenate(fractional)
    places -= np.floor(places) + 0.5
    for own, lattice in zip(atoms, lattices, strict=True):
        np.matmul(places[own], lattice, out=positions[own])
    squares = np.einsum("nx,nx->n", positions, positions)
    farthest = np.sqrt(np.maximum.reduceat(squares, starts))  # (B,), from the centre of the cell
    images, neighbor, home, columns = _image_positions(positions, atoms, radius + 2 * farthest, lattices, reach)
    begins = np.cumsum(columns) - columns
    image_squares = np.einsum("xm,xm->m", images, images)
    image_squares[begins] = 0
    near = np.flatnonzero(image_squares < np.repeat(np.square(radius + farthest), columns))
    begins, home = np.searchsorted(near, begins), np.searchsorted(near, home)
    columns = np.diff(begins, append=len(near))
    neighbor = neighbor[near]
    left = np.column_stack([-2 * positions, squares, np.ones(len(positions))])
    right = np.ones((5, len(near)))
    for axis in range(3):
        images[axis].take(near, out=right[axis], mode="clip")  # quicker than without a mode
    image_squares.take(near, out=right[4], mode="clip")
    widths = np.repeat(columns, sizes)  # of the row of each atom in the table
    rows = np.cumsum(widths) - widths
    table = np.empty(widths.sum())
    for own, row, begin, width in zip(atoms, rows[starts].tolist(), begins.tolist(), columns.tolist(), strict=True):
        size = own.stop - own.start
        out = table[row : row + size * width].reshape(size, width)
        np.matmul(left[own], right[:, begin : begin + width], out=out)
    number = np.arange(ends[-1]) - np.repeat(starts, sizes)  # of each atom in its cell
    table[rows] = 0  # the self edges; the atoms themselves come again among the images
    table[rows + home - np.repeat(begins, sizes)] = np.inf
    edges = np.flatnonzero(table < radius**2)
    first = np.append(np.searchsorted(edges, rows), len(edges))
    column = edges - np.repeat(rows - np.repeat(begins, sizes), np.diff(first))
    indices = neighbor[column]
    indices[first[:-1]] = number
    along = None
    if vectors:
        along = right[:3, column].T - np.repeat(positions, np.diff(first), axis=0)
        along[first[:-1]] = 0
    lengths = np.sqrt(np.maximum(table[edges], 0))
    ones = np.ones(ends[-1], dtype=np.int64)
    return Neighbors.from_concatenated(np.append(starts, ends[-1]), first, indices, lengths, number, ones, along)


def _image_positions(
    positions: FloatArray, atoms: list[slice], max_shift: FloatArray, lattices: FloatArray, reach: list[list[int]]
) -> tuple[FloatArray, IntArray, IntArray, IntArray]:
    """Return images of the atoms of each cell in columns, those of one atom side by side: the fastest order to compute.

    Each cell has a column of zeros for the self edges, then the images of its atoms, the atom itself first.

    Args:
        positions: of all atoms, Å, (N, 3).
        atoms: those of each cell, (B,).
        max_shift: lattice translations up to this length are used, Å, (B,).
        lattices: Å, (B, 3, 3).
        reach: images along each axis of each cell, (B, 3).

    Returns:
        Positions of the images, Å, (3, M), their atoms (M,), the column of each atom itself (N,), and the number of
        columns of each cell, (B,).
    """
    grids = [_image_grid(*own) for own in reach]
    counts = np.array([grid.shape[1] for grid in grids])
    begins = np.cumsum(counts) - counts
    shifts = np.empty((3, counts.sum()))
    for grid, begin, lattice in zip(grids, begins.tolist(), lattices, strict=True):
        np.matmul(lattice.T, grid, out=shifts[:, begin : begin + grid.shape[1]])
    near = np.einsum("xi,xi->i", shifts, shifts) < np.repeat(np.square(max_shift), counts)
    shifts, counts = shifts[:, near], np.add.reduceat(near, begins, dtype=np.int64)
    sizes = np.array([own.stop - own.start for own in atoms])
    columns = 1 + counts * sizes
    images = np.zeros((3, columns.sum()))
    transposed = np.ascontiguousarray(positions.T)
    shift, end = 0, 0
    for own, count, width in zip(atoms, counts.tolist(), columns.tolist(), strict=True):
        out = images[:, end + 1 : end + width].reshape(3, -1, count)
        np.add(shifts[:, None, shift : shift + count], transposed[:, own, None], out=out)
        shift, end = shift + count, end + width
    number = np.arange(len(positions)) - np.repeat(np.cumsum(sizes) - sizes, sizes)  # of each atom in its cell
    each = np.repeat(counts, sizes)
    home = np.cumsum(each) - each + np.repeat(np.arange(1, len(sizes) + 1), sizes)
    owners = np.zeros(images.shape[1], dtype=np.int64)
    owners[home] = np.diff(number, prepend=0)
    return images, np.cumsum(owners), home, columns


def _pair_search(cells: Sequence[tuple[FloatArray, FloatArray]], radius: float, *, vectors: bool) -> list[Neighbors]:
    """Return the lists of any cells, searched one by one; grouping all edges together takes a third of the time."""
    if not cells:
        return []
    search = vesin_pairs if _have_vesin() else numpy_pairs
    found = [search(lattice, positions, radius, vectors=vectors) for lattice, positions in cells]
    bounds = np.concatenate([[0], np.cumsum([len(positions) for _, positions in cells])])
    own = np.arange(bounds[-1])
    atoms = own - np.repeat(bounds[:-1], np.diff(bounds))
    pairs, lengths = (np.concatenate([part[column] for part in found]) for column in (0, 1))
    starts = np.repeat(bounds[:-1], [len(part[1]) for part in found])
    one, two = pairs.T
    centres = np.concatenate([own, one + starts, two + starts])  # the self edge comes first in each group
    order = np.argsort(centres.astype(np.uint16) if len(own) <= MAX_ATOMS_RADIX_SORT else centres, kind="stable")
    along = None
    if vectors:
        half = np.concatenate([part[2] for part in found if part[2] is not None])
        along = np.concatenate([np.zeros((len(own), 3)), half, -half])[order]
    return Neighbors.from_concatenated(
        bounds,
        np.concatenate([[0], np.cumsum(np.bincount(centres, minlength=len(own)))]),
        np.concatenate([atoms, two, one])[order],
        np.concatenate([np.zeros(len(own)), lengths, lengths])[order],
        atoms,
        np.ones(len(own), dtype=np.int64),
        along,
    )


@cache
def _have_vesin() -> bool:
    return importlib.util.find_spec("vesin") is not None


@cache
def _vesin() -> ModuleType:
    """Import vesin without the libraries whose arrays it takes too: torch alone is seconds and 200 MB.

    The copy is ours. One that the caller imports knows these libraries.
    """
    if "vesin" in sys.modules:
        return sys.modules["vesin"]
    absent: dict[str, ModuleType | None] = {name: None for name in ("torch", "ase", "cupy") if name not in sys.modules}
    sys.modules.update(absent)  # type: ignore[arg-type]  # None: cannot be imported
    try:
        import vesin

        return vesin  # type: ignore[no-any-return]
    finally:
        for name in [name for name in sys.modules if name in absent or name.partition(".")[0] == "vesin"]:
            del sys.modules[name]


def vesin_pairs(lattice: FloatArray, positions: FloatArray, radius: float, *, vectors: bool = False) -> Pairs:
    """Return the pairs within a radius, Å, by vesin's cell list; the time is linear in the number of atoms."""
    threads = 1 if len(positions) < MIN_ATOMS_THREADED_SEARCH else 0  # 0: one for each core
    finder = _vesin().NeighborList(cutoff=radius, full_list=False, n_threads=threads)
    pairs, lengths, *rest = finder.compute(positions, lattice, periodic=True, quantities="PdD" if vectors else "Pd")
    pairs = pairs.astype(np.int64)
    if len(lengths) and lengths.max() >= radius:
        near = lengths < radius
        pairs, lengths, rest = pairs[near], lengths[near], [part[near] for part in rest]
    return pairs, lengths, rest[0] if vectors else None


def numpy_pairs(lattice: FloatArray, positions: FloatArray, radius: float, *, vectors: bool = False) -> Pairs:
    """Return the pairs within a radius, Å, by testing all pairs and images; the time is quadratic in the atoms.

    Atoms are first moved into the cell. Image n along an axis can then be within the radius only if
    |n| <= radius / h + 1, where h is the spacing of the lattice planes.
    """
    wrapped = wrap_positions(lattice, positions)
    _, spacings = volumes_and_spacings(lattice[None])
    reach = np.floor(radius / spacings[0]).astype(int) + 1
    images = np.stack(np.meshgrid(*(np.arange(-r, r + 1) for r in reach), indexing="ij"), -1).reshape(-1, 3)
    shifts = images @ lattice  # (I, 3)
    home = len(images) // 2
    rows = max(1, DISTANCES_PER_CHUNK // (len(wrapped) * len(images)))
    found: list[tuple[IntArray, FloatArray, FloatArray]] = []
    for start in range(0, len(wrapped), rows):
        centre = wrapped[start : start + rows]
        apart = (wrapped[None] - centre[:, None])[:, :, None] + shifts  # (rows, n, I, 3)
        squared = np.einsum("ijnx,ijnx->ijn", apart, apart)
        i, j, n = np.nonzero(squared < radius**2)
        once = (i + start < j) | ((i + start == j) & (n > home))  # images after the home cell mirror the others
        i, j, n = i[once], j[once], n[once]
        found.append((np.stack([i + start, j], axis=1), np.sqrt(squared[i, j, n]), apart[i, j, n]))
    pairs, distances, along = (np.concatenate(part) for part in zip(*found, strict=True))
    return pairs, distances, along if vectors else None
