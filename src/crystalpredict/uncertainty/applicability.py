"""Whether a crystal is like those a model was trained on: elements, pairs, bonds, density, vacuum and embedding.

Each statistic of the training data is small and has a meaning, so that a warning can say what is odd. NumPy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import permutations
from math import ceil

import numpy as np

from crystalpredict.crystals.crystal import ELEMENTS, Crystal, FloatArray, IntArray, Neighbors

KINDS = len(ELEMENTS)
FEW_CRYSTALS = 20  # with an element, below which the network hardly learned it
FEW_BONDS = 30  # between two elements, below which their range says nothing
FEW_PAIRS = 3  # crystals with two elements, below which they are as good as never seen together
OUTER = 1e-3  # share of the training crystals beyond a limit of bonds, vacuum, least volume
DENSE = 0.75  # of the least volume, to which a crystal may be pressed: diamond has half the usual volume
BLOWN_UP = 0.02  # share of the largest volumes: the Materials Project has atoms 7 Å apart, which are no crystals
LOOSE = 0.05  # share of cells that are loosely packed, in which
EMPTY = 6.0  # Å without atoms are no longer a crystal's own
FAR = 5e-3  # share of the training crystals beyond the reach of the centroids
SAME_LENGTH = 1e-5  # Å: bonds of equal length, but for rounding
SLACK = 1.08  # by which a bond may leave the range of its pair
CENTROIDS, ROUNDS = 512, 10  # of k-means
REDUCTIONS = 50  # rounds at most, of which few are needed
DAMPING = 1e-3  # of volumes, towards what is
USUAL = 15.0  # Å^3, volume of an atom of an element that is too rare to tell
TIGHTEST, LOOSEST = 3.0, 150.0  # Å^3, least and largest volume of an atom that is believed


@dataclass(frozen=True)
class Domain:
    """What the training crystals were like.

    elements (98,), crystals with each; pairs (98, 98), crystals with both, at most 255; bonds (98, 98, 2), range, Å,
    of the distance from an atom to its nearest neighbour, by both elements; volumes (98,), Å^3, an atom's usual share
    of the cell; packing (3,), the cell's volume over the sum of these: least, loose, most; vacuum (1,), Å, widest
    layer without atoms; shift, scale (D,) of features; centroids (C, D) of scaled features, and reach (1,), the
    distance from the nearest of them, which few exceed.
    """

    elements: IntArray
    pairs: IntArray
    bonds: FloatArray
    volumes: FloatArray
    packing: FloatArray
    vacuum: FloatArray
    shift: FloatArray
    scale: FloatArray
    centroids: FloatArray
    reach: FloatArray

    def __post_init__(self) -> None:
        """ValueError unless the shapes are as above and the numbers make sense."""
        width = len(self.shift)
        shapes = (
            (KINDS,), (KINDS, KINDS), (KINDS, KINDS, 2), (KINDS,), (3,), (1,),
            (width,), (width,), (len(self.centroids), width), (1,),
        )  # fmt: skip
        for field, shape in zip(fields(self), shapes, strict=True):
            values = getattr(self, field.name)
            if values.shape != shape or np.isnan(values).any():
                raise ValueError(f"{field.name} is no array of numbers of shape {shape}")
        if not ((self.scale > 0).all() and (self.volumes > 0).all() and len(self.centroids)):
            raise ValueError("a scale or a volume is not positive, or there is no centroid")

    def reasons(self, crystals: Sequence[Crystal], neighbors: Sequence[Neighbors], features: FloatArray) -> list[str]:
        """What is odd about each crystal (B,), "" if nothing is; features (B, D), one row for each."""
        if not crystals:
            return []
        shares = _composition(crystals)
        rare = (shares > 0) & (self.elements < FEW_CRYSTALS)
        strange = ((shares > 0).astype(float) @ (self.pairs < FEW_PAIRS)) * (shares > 0) > 0
        strange &= ~rare  # of a rare element enough is said
        nearest = nearest_neighbors(crystals, neighbors)
        bonds = self._odd_bonds(*nearest)
        lattices = np.array([crystal.lattice for crystal in crystals], dtype=float)
        packing = np.abs(np.linalg.det(lattices)) / (shares @ self.volumes)
        layers = _empty_layers(crystals, lattices)
        far = _to_nearest((features - self.shift) / self.scale, self.centroids) > self.reach[0]
        low, loose, high = self.packing
        stretched = (packing > loose) & self._long_throughout(len(crystals), *nearest)
        empty = layers > np.where(packing > loose, np.minimum(EMPTY, self.vacuum), self.vacuum)
        odd = rare.any(axis=1) | strange.any(axis=1) | far | empty | stretched | (packing < low) | (packing > high)
        odd[list(bonds)] = True
        found = [""] * len(crystals)
        for row in np.flatnonzero(odd).tolist():
            parts = [*self._elements_in_words(rare[row], strange[row]), *([bonds[row]] if row in bonds else [])]
            if stretched[row]:
                parts.append("all its bonds are long")
            if stretched[row] or not low <= packing[row] <= high:
                digits = 0 if packing[row] >= 10 else 1 if packing[row] >= 1 else 2
                parts.append(f"{packing[row]:.{digits}f} times the usual volume")
            if empty[row]:
                parts.append(f"a layer of {layers[row]:.0f} Å without atoms")
            if far[row]:
                parts.append("far from all of it as the network sees it")
            found[row] = "unlike the training data: " + ", ".join(parts)
        return found

    def _elements_in_words(self, rare: IntArray, strange: IntArray) -> list[str]:
        parts = []
        for element in np.flatnonzero(rare).tolist():
            count = int(self.elements[element])
            parts.append(
                f"{ELEMENTS[element]} in {count} of its crystals" if count else f"no {ELEMENTS[element]} in it"
            )
        others = np.flatnonzero(strange)
        counts = self.pairs[np.ix_(others, others)]
        pairs = np.argwhere(np.triu(counts < FEW_PAIRS, 1)).tolist()
        for one, two in pairs[:1]:
            names = f"{ELEMENTS[others[one]]} with {ELEMENTS[others[two]]}"
            more = f" and {len(pairs) - 1} more such pairs" if len(pairs) > 1 else ""
            parts.append(f"{names} in {counts[one, two] or 'none'} of its crystals{more}")
        return parts

    def _odd_bonds(self, owners: IntArray, one: IntArray, two: IntArray, lengths: FloatArray) -> dict[int, str]:
        """By crystal, the bond that is farthest out of its range, in words."""
        low, high = self.bonds[one, two].T
        with np.errstate(invalid="ignore"):  # a pair without a range, far apart: infinite both
            excess = np.maximum(lengths / high, low / lengths)
        excess[~np.isfinite(lengths)] = 0  # of isolated atoms a warning of its own
        found: dict[int, str] = {}
        order = np.flatnonzero(excess > SLACK)
        for bond in order[np.argsort(-excess[order].round(6), kind="stable")].tolist():
            pair = "-".join(ELEMENTS[element] for element in sorted((one[bond], two[bond])))
            limits = f"{low[bond]:.2f} to {high[bond]:.2f}"
            found.setdefault(int(owners[bond]), f"{pair} {lengths[bond]:.2f} Å apart, not {limits}")
        return found

    def _long_throughout(
        self, crystals: int, owners: IntArray, one: IntArray, two: IntArray, lengths: FloatArray
    ) -> IntArray:
        """Whether every bond of a known range is in the upper half of it (B,): a range has room for odd single ones."""
        low, high = self.bonds[one, two].T
        known = np.isfinite(lengths) & np.isfinite(high)
        bonds, short = (
            np.bincount(owners[chosen], minlength=crystals) for chosen in (known, known & (2 * lengths < low + high))
        )
        return np.asarray((bonds > 0) & (short == 0))


def fit_domain(crystals: Sequence[Crystal], neighbors: Sequence[Neighbors], features: FloatArray) -> Domain:
    """The statistics of training crystals; features (C, D), one row for each."""
    shares = _composition(crystals)
    has = (shares > 0).astype(np.float32)
    pairs = has.T @ has
    lattices = np.array([crystal.lattice for crystal in crystals], dtype=float)
    cells = np.abs(np.linalg.det(lattices))
    volumes = _atomic_volumes(shares, cells, has.sum(axis=0))
    packing = cells / (shares @ volumes)
    limits = np.quantile(packing, [OUTER, 1 - LOOSE, 1 - BLOWN_UP]) * [DENSE, 1, 1]
    kept = packing <= limits[2]
    owners, one, two, lengths = nearest_neighbors(crystals, neighbors)
    known = np.isfinite(lengths) & kept[owners]
    features = features[kept]
    shift, scale = features.mean(axis=0), features.std(axis=0) + 1e-9
    scaled = ((features - shift) / scale).astype(np.float32)
    centroids = _centroids(scaled)
    return Domain(
        elements=has.sum(axis=0).astype(np.int32),
        pairs=np.minimum(pairs, 255).astype(np.uint8),
        bonds=_ranges(one[known], two[known], lengths[known]),
        volumes=volumes.astype(np.float32),
        packing=limits.astype(np.float32),
        vacuum=np.quantile(_empty_layers(crystals, lattices)[kept], [1 - OUTER]).astype(np.float32),
        shift=shift.astype(np.float32),
        scale=scale.astype(np.float32),
        centroids=centroids,
        reach=np.quantile(_to_nearest(scaled, centroids), [1 - FAR]).astype(np.float32),
    )


def nearest_neighbors(
    crystals: Sequence[Crystal], neighbors: Sequence[Neighbors]
) -> tuple[IntArray, IntArray, IntArray, FloatArray]:
    """Of every listed atom (N,): its crystal, its element, that of its nearest neighbour (both - 1), their distance, Å.

    The distance is infinite for an isolated atom. Of a shared site the element that has most of it counts.
    """
    kinds = np.concatenate([_main(crystal)[edges.atoms] for crystal, edges in zip(crystals, neighbors, strict=True)])
    sizes = np.array([edges.size for edges in neighbors])
    starts = np.cumsum(sizes) - sizes
    widths = np.concatenate([edges.widths for edges in neighbors])
    first = np.cumsum(widths) - widths
    indices = np.concatenate([edges.indices for edges in neighbors]).astype(np.int64)
    lengths = np.concatenate([edges.distances for edges in neighbors]).astype(float)
    lengths[first] = np.inf  # the atom itself
    shortest = np.minimum.reduceat(lengths, first)
    atoms = np.repeat(np.arange(len(kinds)), widths)
    owners = np.repeat(np.arange(len(crystals)), sizes)
    nearest = np.flatnonzero(lengths <= shortest[atoms] + SAME_LENGTH)
    atoms = atoms[nearest]
    elements = kinds[indices[nearest] + starts[owners[atoms]]]
    places = np.searchsorted(atoms, np.arange(len(kinds)))
    return owners, kinds, np.minimum.reduceat(elements, places), shortest


def _main(crystal: Crystal) -> IntArray:
    """Element - 1 of each atom (n,), that with the largest occupancy."""
    if crystal.numbers.shape[1] == 1:
        return np.asarray(crystal.numbers[:, 0], dtype=np.int64) - 1
    main = crystal.occupancies.argmax(axis=1)
    return np.asarray(crystal.numbers[np.arange(crystal.n_atoms), main], dtype=np.int64) - 1


def _composition(crystals: Sequence[Crystal]) -> FloatArray:
    """Atoms of each element in each cell (B, 98)."""
    rows = np.repeat(np.arange(len(crystals)), [crystal.numbers.size for crystal in crystals])
    numbers = np.concatenate([crystal.numbers.reshape(-1) for crystal in crystals]).astype(np.int64)
    weights = np.concatenate([crystal.occupancies.reshape(-1) for crystal in crystals])
    flat = np.bincount(rows * KINDS + numbers - 1, weights.astype(float), len(crystals) * KINDS)
    return np.asarray(flat, dtype=float).reshape(len(crystals), KINDS)


def _atomic_volumes(shares: FloatArray, volumes: FloatArray, crystals: FloatArray) -> FloatArray:
    """Å^3 of an atom of each element (98,): least squares of the relative error of the cells' volumes (C,)."""
    matrix = shares / volumes[:, None]
    damped = matrix.T @ matrix + DAMPING * np.eye(KINDS)
    found = np.linalg.solve(damped, matrix.sum(axis=0) + DAMPING * USUAL)
    return np.where(crystals < FEW_CRYSTALS, USUAL, np.clip(found, TIGHTEST, LOOSEST))


def _ranges(one: IntArray, two: IntArray, lengths: FloatArray) -> FloatArray:
    """Range of the bonds of each pair of elements (98, 98, 2), but for the outermost; all there is for a rare pair."""
    ranges = np.empty((KINDS, KINDS, 2), dtype=np.float32)
    ranges[..., 0], ranges[..., 1] = 0, np.inf
    keys = np.minimum(one, two) * KINDS + np.maximum(one, two)
    order = np.lexsort((lengths, keys))
    keys, lengths = keys[order], lengths[order]
    found, starts, counts = np.unique(keys, return_index=True, return_counts=True)
    for key, start, count in zip(found.tolist(), starts.tolist(), counts.tolist(), strict=True):
        if count < FEW_BONDS:
            continue
        skipped = ceil(OUTER * count) - 1
        low, high = lengths[start + skipped], lengths[start + count - 1 - skipped]
        ranges[key // KINDS, key % KINDS] = ranges[key % KINDS, key // KINDS] = low, high
    return ranges


def _empty_layers(crystals: Sequence[Crystal], lattices: FloatArray) -> FloatArray:
    """Thickness, Å, of the widest layer without an atom's centre, parallel to a face of each reduced cell (B,)."""
    lattices = _reduced(lattices)
    sizes = np.array([crystal.n_atoms for crystal in crystals])
    ends = np.cumsum(sizes)
    owners = np.repeat(np.arange(len(crystals)), sizes)
    inverses = np.linalg.inv(lattices)
    positions = np.concatenate([crystal.positions for crystal in crystals])
    fractional = np.einsum("nx,nxa->na", positions, inverses[owners]) % 1
    widest = np.zeros(len(crystals))
    for axis in range(3):
        places = fractional[np.lexsort((fractional[:, axis], owners)), axis]
        gaps = np.append(np.diff(places), 0.0)
        gaps[ends - 1] = places[ends - sizes] + 1 - places[ends - 1]
        spacings = 1 / np.linalg.norm(inverses[:, :, axis], axis=1)
        widest = np.maximum(widest, np.maximum.reduceat(gaps, ends - sizes) * spacings)
    return widest


def _reduced(lattices: FloatArray) -> FloatArray:
    """Lattices (B, 3, 3) with vectors that no multiple of another one makes shorter: a skewed cell hides its layers."""
    lattices = lattices.copy()
    for _ in range(REDUCTIONS):
        whole = True
        for one, two in permutations(range(3), 2):
            other = lattices[:, two]
            along = (lattices[:, one] * other).sum(axis=1) / (other**2).sum(axis=1)
            steps = np.round(along * (1 - 1e-6))  # half a vector more or less is the same, but for rounding
            lattices[:, one] -= steps[:, None] * other
            whole &= not steps.any()
        if whole:
            break
    return lattices


def _to_nearest(points: FloatArray, centroids: FloatArray) -> FloatArray:
    """Distance of points (n, D) from the nearest centroid (n,)."""
    squares = (centroids**2).sum(axis=1) - 2 * points @ centroids.T
    return np.asarray(np.sqrt(np.maximum((points**2).sum(axis=1) + squares.min(axis=1), 0)))


def _centroids(points: FloatArray) -> FloatArray:
    """Centroids (C, D) of points (n, D), two points for each or more: Lloyd's algorithm from seeded random points."""
    random = np.random.default_rng(0)
    centroids = points[random.choice(len(points), min(CENTROIDS, len(points) // 2), replace=False)]
    for _ in range(ROUNDS):
        squares = (centroids**2).sum(axis=1)
        nearest = np.concatenate(
            [(squares - 2 * points[i : i + 4096] @ centroids.T).argmin(axis=1) for i in range(0, len(points), 4096)]
        )
        order = np.argsort(nearest, kind="stable")
        kinds, starts, counts = np.unique(nearest[order], return_index=True, return_counts=True)
        centroids = centroids.copy()
        centroids[kinds] = np.add.reduceat(points[order], starts, axis=0) / counts[:, None]
    return centroids
