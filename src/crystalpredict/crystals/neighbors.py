"""Neighbour lists of periodic cells: of small ones by dense products, of large ones by vesin's cell list.

Where vesin is not installed, plain NumPy takes its place.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import cache, lru_cache

import numpy as np

from crystalpredict.crystals.cell import (
    MAX_EDGES,
    MAX_FLATNESS,
    MAX_LENGTH,
    MIN_DISTANCE,
    coincident,
    count_edges,
    flatness,
    inside,
    most_edges,
    reduced,
    volumes_and_spacings,
)
from crystalpredict.crystals.crystal import FloatArray, IntArray, Neighbors

# atoms i and j of pairs (P, 2), distances (P,) in Å, vectors (P, 3) from i to j in Å, or None if not wanted; each pair
# of atoms, or of an atom and an image of it, is there once
Pairs = tuple[IntArray, FloatArray, FloatArray | None]

# Å below the radius, where a list ends: neighbours that a symmetric crystal has at the radius itself are in no list of
# its atoms, in no cell of it, whatever rounding makes of their distances
ROUNDING = 1e-5
MANY = 1000  # atoms, above which a search by several threads pays
SHORT = 2**16  # atoms, whose numbers are sorted digit by digit, which is faster
SMALL = 100  # atoms, up to which all distances are computed; measured against vesin
MOST_IMAGES = 4000  # of a small cell: a flat or skewed one has more, of which few are near,
MOST_DISTANCES = 500_000  # nor more distances to the atoms of all of them, which bounds the memory
SKEWED = 0.5  # Å between lattice planes, below which the search is given shorter vectors of the same lattice
FARTHEST = 300.0  # Å from the centre of a small cell: squares of longer lengths lose digits
AT_ONCE = 32  # small cells together: enough to share what each call of NumPy costs, and in the caches still
_CHUNK = 4_000_000  # distances held at once by the NumPy search


def find_neighbors(lattice: FloatArray, positions: FloatArray, radius: float, *, vectors: bool = False) -> Neighbors:
    """Every edge shorter than `radius` (Å) less ROUNDING, images and the self edge included, by centre atom [M5].

    lattice (3, 3), rows a, b, c; positions (n, 3), Cartesian, not necessarily inside the cell. `vectors`: with the
    vector of each edge, which takes longer.
    """
    return find_neighbors_of_many([(lattice, positions)], radius, vectors=vectors)[0]


def find_neighbors_of_many(
    cells: Sequence[tuple[FloatArray, FloatArray]], radius: float, *, vectors: bool = False
) -> list[Neighbors]:
    """The same of many cells, lattice and positions, at once: small ones together, in half of the time.

    ValueError for a cell that is flat, or so dense that its edges would fill the memory: see `cell`.
    """
    if not cells:
        return []
    radius -= ROUNDING
    lattices = np.array([lattice for lattice, _ in cells], dtype=float)
    places = [np.asarray(positions, dtype=float) for _, positions in cells]
    sizes = np.array([len(own) for own in places])
    with np.errstate(all="ignore"):
        _, spacings = volumes_and_spacings(lattices)
        few = (sizes <= SMALL) & (most_edges(spacings, sizes, radius) <= MAX_EDGES)
        easy = few & (spacings.min(axis=1) >= SKEWED) & (flatness(spacings) <= MAX_FLATNESS)
    for row in np.flatnonzero(~easy):
        lattices[row] = _searchable(lattices[row], places[row], radius)
        _, spacings[row] = volumes_and_spacings(lattices[row, None])
    inverses = np.linalg.inv(lattices)
    # image n of axis a has neighbours only if |n| <= radius / h_a + 1, h_a being the distance of its lattice planes
    reach = np.minimum(radius / spacings, MOST_IMAGES).astype(np.int64) + 1
    images = np.prod(2 * reach + 1, axis=1)
    small = (sizes <= SMALL) & (images <= MOST_IMAGES) & (sizes**2 * images <= MOST_DISTANCES)
    small &= np.abs(lattices).max(axis=(1, 2)) < FARTHEST
    found: dict[int, Neighbors] = {}
    rows = np.flatnonzero(small)
    for own in (rows[start : start + AT_ONCE] for start in range(0, len(rows), AT_ONCE)):
        fractional = [places[row] @ inverses[row] for row in own]
        lists = _of_small(lattices[own], fractional, reach[own].tolist(), radius, vectors=vectors)
        found.update(zip(own.tolist(), lists, strict=True))
    rows = np.flatnonzero(~small)
    lists = _of_large([(lattices[row], places[row]) for row in rows], radius, vectors=vectors)
    found.update(zip(rows.tolist(), lists, strict=True))
    return [found[row] for row in range(len(cells))]


def shortest_edge(edges: Neighbors) -> tuple[int, float]:
    """The shortest edge but for those of an atom to itself, and its length, Å; infinite if there is none."""
    lengths = edges.distances.copy()
    lengths[edges.first[:-1]] = np.inf
    edge = int(lengths.argmin())
    return edge, float(lengths[edge])


def is_crowded(lattice: FloatArray, positions: FloatArray, radius: float) -> bool:
    """Whether two atoms in a cell are closer than MIN_DISTANCE, or all have more edges than memory has room for."""
    basis = reduced(lattice)
    places = inside(basis, positions)
    if coincident(places) or count_edges(basis, places, radius) > MAX_EDGES:
        return True
    return shortest_edge(find_neighbors(lattice, positions, MIN_DISTANCE))[1] < MIN_DISTANCE


def _searchable(lattice: FloatArray, positions: FloatArray, radius: float) -> FloatArray:
    """The same lattice (3, 3) by its shortest vectors; ValueError for what no search can bear."""
    if not (np.abs(lattice).max() <= MAX_LENGTH and np.isfinite(positions).all()):  # false for not-a-number too
        raise ValueError(f"a cell longer than {MAX_LENGTH:g} Å, or a position that is not a number")
    if not volumes_and_spacings(lattice[None])[0] > 0:
        raise ValueError("a flat cell: its three vectors lie in a plane")
    lattice = reduced(lattice)
    if not flatness(volumes_and_spacings(lattice[None])[1])[0] <= MAX_FLATNESS:
        raise ValueError("a flat cell: its lattice planes are far closer in one direction than in the others")
    if (edges := count_edges(lattice, inside(lattice, positions), radius)) > MAX_EDGES:
        raise ValueError(f"a cell with some {edges:.0e} neighbours within {radius:.3g} Å, more than {MAX_EDGES:,}")
    return lattice


@lru_cache(maxsize=200)
def _images(*reach: int) -> FloatArray:
    """All images (I, 3) of as many cells along each axis, that at 0 first."""
    images = np.stack(np.meshgrid(*(np.arange(-r, r + 1.0) for r in reach), indexing="ij"), -1).reshape(-1, 3)
    home = len(images) // 2
    return np.concatenate([images[home:], images[:home]])


def _of_small(
    lattices: FloatArray, fractional: list[FloatArray], reach: list[list[int]], radius: float, *, vectors: bool
) -> list[Neighbors]:
    """The lists of small cells by all distances between their atoms and the images that are near enough to any.

    With atom i at p and an image of an atom at o, |p - o|^2 is (-2 p, p^2, 1) times (o, 1, o^2): one product for a
    cell. All else is done for all B cells together, their N atoms and their M images one after the other.
    """
    sizes = np.array([len(own) for own in fractional])
    ends = np.cumsum(sizes)
    starts = ends - sizes
    atoms = [slice(*pair) for pair in zip(starts.tolist(), ends.tolist(), strict=True)]
    places = np.empty((ends[-1], 3))
    for own, coordinates, lattice in zip(atoms, fractional, lattices, strict=True):
        np.matmul(coordinates - np.floor(coordinates) - 0.5, lattice, out=places[own])
    squares = np.einsum("nx,nx->n", places, places)
    farthest = np.sqrt(np.maximum.reduceat(squares, starts))  # (B,), from the centre of the cell
    images, columns = _images_of(places, atoms, radius + 2 * farthest, lattices, reach)
    begins = np.cumsum(columns) - columns
    image_squares = np.einsum("mx,mx->m", images, images)
    image_squares[begins] = 0
    kept = np.flatnonzero(image_squares < np.repeat(np.square(radius + farthest), columns))
    before, begins = begins, np.searchsorted(kept, begins)
    columns = np.diff(begins, append=len(kept))
    images, neighbor = images[kept], (kept - np.repeat(before + 1, columns)) % np.repeat(sizes, columns)
    left = np.column_stack([-2 * places, squares, np.ones(len(places))])
    right = np.stack([*images.T, np.ones(len(kept)), image_squares[kept]])
    widths = np.repeat(columns, sizes)  # of the row of each atom, one after the other
    rows = np.cumsum(widths) - widths
    table = np.empty(widths.sum())
    for own, row, begin, width in zip(atoms, rows[starts].tolist(), begins.tolist(), columns.tolist(), strict=True):
        size = own.stop - own.start
        out = table[row : row + size * width].reshape(size, width)
        np.matmul(left[own], right[:, begin : begin + width], out=out)
    number = np.arange(ends[-1]) - np.repeat(starts, sizes)  # of each atom in its cell
    table[rows] = 0
    table[rows + 1 + number] = np.inf
    edges = np.flatnonzero(table < radius**2)
    first = np.append(np.searchsorted(edges, rows), len(edges))
    column = edges - np.repeat(rows - np.repeat(begins, sizes), np.diff(first))
    indices = neighbor[column]
    indices[first[:-1]] = number
    along = None
    if vectors:
        along = images[column] - np.repeat(places, np.diff(first), axis=0)
        along[first[:-1]] = 0
    lengths = np.sqrt(np.maximum(table[edges], 0))
    ones = np.ones(ends[-1], dtype=np.int64)
    return Neighbors.of_many(np.append(starts, ends[-1]), first, indices, lengths, number, ones, along)


def _images_of(
    places: FloatArray, atoms: list[slice], within: FloatArray, lattices: FloatArray, reach: list[list[int]]
) -> tuple[FloatArray, IntArray]:
    """Images (M, 3) of the atoms of each cell, moved by less than `within` (B,), and how many each cell has (B,).

    For each cell a row of zeros, the place of the self edges, then its atoms themselves, then those of other images.
    """
    grids = [_images(*own) for own in reach]
    counts = np.array([len(grid) for grid in grids])
    begins = np.cumsum(counts) - counts
    shifts = np.empty((counts.sum(), 3))
    for grid, begin, lattice in zip(grids, begins.tolist(), lattices, strict=True):
        np.matmul(grid, lattice, out=shifts[begin : begin + len(grid)])
    near = np.einsum("ix,ix->i", shifts, shifts) < np.repeat(np.square(within), counts)
    shifts, counts = shifts[near], np.add.reduceat(near, begins, dtype=np.int64)
    columns = 1 + counts * [own.stop - own.start for own in atoms]
    images = np.zeros((columns.sum(), 3))
    shift, end = 0, 0
    for own, count, width in zip(atoms, counts.tolist(), columns.tolist(), strict=True):
        out = images[end + 1 : end + width].reshape(count, -1, 3)
        np.add(shifts[shift : shift + count, None], places[own], out=out)
        shift, end = shift + count, end + width
    return images, columns


def _of_large(cells: Sequence[tuple[FloatArray, FloatArray]], radius: float, *, vectors: bool) -> list[Neighbors]:
    """The lists of any cells by search; they are grouped by centre together, in a third of the time."""
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
    order = np.argsort(centres.astype(np.uint16) if len(own) <= SHORT else centres, kind="stable")
    along = None
    if vectors:
        half = np.concatenate([part[2] for part in found if part[2] is not None])
        along = np.concatenate([np.zeros((len(own), 3)), half, -half])[order]
    return Neighbors.of_many(
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


def vesin_pairs(lattice: FloatArray, positions: FloatArray, radius: float, *, vectors: bool = False) -> Pairs:
    """Pairs by vesin's cell list; linear in the number of atoms."""
    import vesin

    finder = vesin.NeighborList(cutoff=radius, full_list=False, n_threads=1 if len(positions) < MANY else 0)
    pairs, lengths, *rest = finder.compute(positions, lattice, periodic=True, quantities="PdD" if vectors else "Pd")
    pairs = pairs.astype(np.int64)
    if len(lengths) and lengths.max() >= radius:
        near = lengths < radius
        pairs, lengths, rest = pairs[near], lengths[near], [part[near] for part in rest]
    return pairs, lengths, rest[0] if vectors else None


def numpy_pairs(lattice: FloatArray, positions: FloatArray, radius: float, *, vectors: bool = False) -> Pairs:
    """Pairs by trying every pair and image; quadratic in the number of atoms.

    Atoms are first moved into the cell; image n of axis a can then be within the radius only if
    |n| <= radius / h_a + 1, h_a being the spacing of the lattice planes.
    """
    inverse = np.linalg.inv(lattice)
    fractional = positions @ inverse
    wrapped = (fractional - np.floor(fractional)) @ lattice
    reach = np.floor(radius * np.linalg.norm(inverse, axis=0)).astype(int) + 1  # |row of the reciprocal| = 1 / h_a
    images = np.stack(np.meshgrid(*(np.arange(-r, r + 1) for r in reach), indexing="ij"), -1).reshape(-1, 3)
    shifts = images @ lattice  # (I, 3)
    home = len(images) // 2
    rows = max(1, _CHUNK // (len(wrapped) * len(images)))
    found: list[tuple[IntArray, FloatArray, FloatArray]] = []
    for start in range(0, len(wrapped), rows):
        centre = wrapped[start : start + rows]
        apart = (wrapped[None] - centre[:, None])[:, :, None] + shifts  # (rows, n, I, 3)
        squared = np.einsum("ijnx,ijnx->ijn", apart, apart)
        i, j, n = np.nonzero(squared < radius**2)
        once = (i + start < j) | ((i + start == j) & (n > home))  # images after the home cell mirror those before it
        i, j, n = i[once], j[once], n[once]
        found.append((np.stack([i + start, j], axis=1), np.sqrt(squared[i, j, n]), apart[i, j, n]))
    pairs, distances, along = (np.concatenate(part) for part in zip(*found, strict=True))
    return pairs, distances, along if vectors else None
