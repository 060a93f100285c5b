"""Applicability domain: whether a crystal resembles the training data of a model.

Compared are its elements, pairs of elements, bond lengths, density, empty layers and network features. Each statistic
of the training data has a physical meaning, so that a warning can state the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from math import ceil

import numpy as np

from crystalpredict.crystals.composition import N_ELEMENTS, element_amounts
from crystalpredict.crystals.crystal import ELEMENTS, Crystal, FloatArray, IntArray, Neighbors
from crystalpredict.crystals.layers import empty_layers
from crystalpredict.errors import suppress_warnings

MIN_ELEMENT_CRYSTALS = 20  # training crystals with an element; with fewer, the network hardly learnt it
MIN_PAIR_CRYSTALS = 3  # training crystals with two elements; with fewer, the pair counts as unseen
MIN_PAIR_BONDS = 30  # bonds between two elements; with fewer, their range means nothing
OUTLIER_FRACTION = 1e-3  # of the training data beyond each limit of bond length, empty layer and least volume
COMPRESSION_FACTOR = 0.75  # tolerated below the least relative volume: diamond has half the usual volume
EXPANDED_FRACTION = 0.02  # largest volumes, left out: the Materials Project has atoms 7 Å apart, which are no crystals
MAX_ELEMENT_VOLUME = 1.3  # of a crystal of one element, over the median of such crystals
LOOSE_FRACTION = 0.05  # of the training crystals that count as loosely packed
MAX_LOOSE_LAYER = 6.0  # Å, thickest empty layer that is normal in a loosely packed crystal
FAR_FRACTION = 5e-3  # of the training crystals farther from all centroids than `reach`
LENGTH_TOLERANCE = 1e-5  # Å, differences of bond lengths that are rounding
BOND_TOLERANCE = 1.08  # factor by which a bond may leave the range of its pair
N_CENTROIDS, KMEANS_ROUNDS = 512, 10
VOLUME_DAMPING = 1e-3  # of the fitted atomic volumes, towards DEFAULT_VOLUME
DEFAULT_VOLUME = 15.0  # Å^3 per atom, for elements with too little data
MIN_VOLUME, MAX_VOLUME = 3.0, 150.0  # Å^3 per atom, limits of a fitted volume


@dataclass(frozen=True)
class Domain:
    """Statistics of the training crystals.

    Attributes:
        elements: number of crystals with each element, (98,).
        pairs: number of crystals with both elements, at most 255, (98, 98).
        bonds: smallest and largest distance from an atom to its nearest neighbour, by both elements, Å, (98, 98, 2).
        volumes: usual volume of an atom of each element, Å^3, (98,).
        packing: limits of the relative volume, which is the cell's over the sum of `volumes`: lower limit, limit above
            which a crystal is loosely packed, upper limit, (3,).
        vacuum: thickness of the widest layer without atoms, Å, (1,).
        shift: mean of each network feature, (D,).
        scale: standard deviation of each network feature, (D,).
        centroids: k-means centroids of the scaled features, (C, D).
        reach: distance from the nearest centroid that only FAR_FRACTION of the crystals exceed, (1,); infinite if
            network features are not compared, in which case D is 1.
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
        """Check shapes and values.

        Raises:
            ValueError: a shape is not as above, or a value is impossible.
        """
        if not (self.shift.ndim and self.centroids.ndim):
            raise ValueError("shift or centroids is a single number")
        width = len(self.shift)
        shapes = (
            (N_ELEMENTS,), (N_ELEMENTS, N_ELEMENTS), (N_ELEMENTS, N_ELEMENTS, 2), (N_ELEMENTS,), (3,), (1,),
            (width,), (width,), (len(self.centroids), width), (1,),
        )  # fmt: skip
        for field, shape in zip(fields(self), shapes, strict=True):
            values = getattr(self, field.name)
            if values.shape != shape or np.isnan(values).any():
                raise ValueError(f"{field.name} is not an array of numbers of shape {shape}")
        if any(not np.isfinite(values).all() for values in (self.shift, self.scale, self.centroids, self.volumes)):
            raise ValueError("shift, scale, centroids or volumes are not finite")
        if (self.elements < 0).any():
            raise ValueError("elements are negative")
        for name, ends in (("bonds", self.bonds), ("packing", self.packing)):
            if (ends < 0).any() or (np.diff(ends) < 0).any():
                raise ValueError(f"{name} are negative, or do not ascend")
        if self.vacuum[0] < 0 or self.reach[0] < 0:
            raise ValueError("vacuum or reach is negative")
        if not ((self.scale > 0).all() and (self.volumes > 0).all() and len(self.centroids)):
            raise ValueError("a scale or a volume is not positive, or there are no centroids")

    def warnings(
        self, crystals: Sequence[Crystal], neighbors: Sequence[Neighbors], features: FloatArray,
        volumes_known: Sequence[bool] | None = None,
    ) -> list[str]:  # fmt: skip
        """Return a warning for each crystal that differs from the training data, and "" for the others.

        Args:
            crystals: B crystals.
            neighbors: their neighbour lists, (B,).
            features: network features of each crystal, (B, D).
            volumes_known: crystals whose volume a network judges, (B,), so that a large one has no warning here: metals
                of large atoms and zeolites exceed the sum of usual volumes. None: no crystals.

        Returns:
            B texts.
        """
        if not crystals:
            return []
        shares = element_amounts(crystals)
        rare = (shares > 0) & (self.elements < MIN_ELEMENT_CRYSTALS)
        unpaired = ((shares > 0).astype(float) @ (self.pairs < MIN_PAIR_CRYSTALS)) * (shares > 0) > 0
        unpaired &= ~rare  # a rare element has a warning of its own
        nearest = nearest_neighbors(crystals, neighbors)
        bonds = self._unusual_bonds(*nearest)
        lattices = np.array([crystal.lattice for crystal in crystals], dtype=float)
        packing = np.abs(np.linalg.det(lattices)) / (shares @ self.volumes)
        layers = empty_layers(crystals, lattices)
        far = np.zeros(len(crystals), dtype=bool)
        if np.isfinite(self.reach[0]):
            far = _distances_to_nearest((features - self.shift) / self.scale, self.centroids) > self.reach[0]
        low, loose, high = self.packing
        judged = np.zeros(len(crystals), dtype=bool) if volumes_known is None else np.asarray(volumes_known)
        stretched = ~judged & (packing > loose) & self._all_bonds_long(len(crystals), *nearest)
        empty = layers > np.where(packing > loose, np.minimum(MAX_LOOSE_LAYER, self.vacuum), self.vacuum)
        packed = (packing >= low) & ((packing <= high) | judged)
        unusual = rare.any(axis=1) | unpaired.any(axis=1) | far | empty | stretched | ~packed
        unusual[list(bonds)] = True
        found = [""] * len(crystals)
        for row in np.flatnonzero(unusual).tolist():
            parts = [*self._describe_elements(rare[row], unpaired[row]), *([bonds[row]] if row in bonds else [])]
            if stretched[row]:
                parts.append("all its bonds are long")
            if stretched[row] or not packed[row]:
                digits = 0 if packing[row] >= 10 else 1 if packing[row] >= 1 else 2
                parts.append(f"{packing[row]:.{digits}f} times the usual volume")
            if empty[row]:
                parts.append(f"a layer of {layers[row]:.0f} Å without atoms")
            if far[row]:
                parts.append("its network features are far from those of any training crystal")
            found[row] = "unlike the training data: " + ", ".join(parts)
        return found

    def _describe_elements(self, rare: IntArray, unpaired: IntArray) -> list[str]:
        """Return a phrase for each rare element, and one for the unseen pairs; masks of the elements (98,)."""
        parts = []
        for element in np.flatnonzero(rare).tolist():
            count = int(self.elements[element])
            parts.append(
                f"{ELEMENTS[element]} in {count} of its crystals" if count else f"no {ELEMENTS[element]} in it"
            )
        others = np.flatnonzero(unpaired)
        counts = self.pairs[np.ix_(others, others)]
        pairs = np.argwhere(np.triu(counts < MIN_PAIR_CRYSTALS, 1)).tolist()
        for one, two in pairs[:1]:
            names = f"{ELEMENTS[others[one]]} with {ELEMENTS[others[two]]}"
            more = f" and {len(pairs) - 1} more such pairs" if len(pairs) > 1 else ""
            parts.append(f"{names} in {counts[one, two] or 'none'} of its crystals{more}")
        return parts

    def _unusual_bonds(self, owners: IntArray, one: IntArray, two: IntArray, lengths: FloatArray) -> dict[int, str]:
        """Return a phrase for each crystal with a bond out of its range, about the worst; arguments as found above."""
        low, high = self.bonds[one, two].T
        with np.errstate(invalid="ignore"):  # isolated atoms of a pair without a range: infinity over infinity
            excess = np.maximum(lengths / high, low / lengths)
        excess[~np.isfinite(lengths)] = 0  # isolated atoms have a warning of their own
        found: dict[int, str] = {}
        order = np.flatnonzero(excess > BOND_TOLERANCE)
        for bond in order[np.argsort(-excess[order].round(6), kind="stable")].tolist():
            pair = "-".join(ELEMENTS[element] for element in sorted((one[bond], two[bond])))
            limits = f"{low[bond]:.2f} to {high[bond]:.2f}"
            found.setdefault(int(owners[bond]), f"{pair} {lengths[bond]:.2f} Å apart, not {limits}")
        return found

    def _all_bonds_long(
        self, crystals: int, owners: IntArray, one: IntArray, two: IntArray, lengths: FloatArray
    ) -> IntArray:
        """Return whether every bond with a known range is in its upper half (B,): a single long bond is not unusual."""
        low, high = self.bonds[one, two].T
        known = np.isfinite(lengths) & np.isfinite(high)
        bonds, short = (
            np.bincount(owners[chosen], minlength=crystals) for chosen in (known, known & (2 * lengths < low + high))
        )
        return np.asarray((bonds > 0) & (short == 0))


def fit_domain(
    crystals: Sequence[Crystal], neighbors: Sequence[Neighbors], features: FloatArray | None = None,
    base: Domain | None = None,
) -> Domain:  # fmt: skip
    """Return the statistics of training crystals.

    Args:
        crystals: C crystals.
        neighbors: their neighbour lists, (C,).
        features: network features of each crystal, (C, D); None: they are not compared.
        base: statistics of crystals that the model was trained on before, which these are added to.
    """
    shares = element_amounts(crystals)
    has = (shares > 0).astype(np.float32)
    pairs = has.T @ has
    lattices = np.array([crystal.lattice for crystal in crystals], dtype=float)
    cells = np.abs(np.linalg.det(lattices))
    volumes = _atomic_volumes(shares, cells, has.sum(axis=0))
    if base:
        volumes = np.where(base.elements < MIN_ELEMENT_CRYSTALS, volumes, base.volumes)
    packing = cells / (shares @ volumes)
    limits = np.quantile(packing, [OUTLIER_FRACTION, 1 - LOOSE_FRACTION, 1 - EXPANDED_FRACTION])
    limits *= [COMPRESSION_FACTOR, 1, 1]
    kept = (packing <= limits[2]) | _usual_elements(shares, cells)
    owners, one, two, lengths = nearest_neighbors(crystals, neighbors)
    known = np.isfinite(lengths) & kept[owners]
    shift, scale, centroids, reach = np.zeros(1), np.ones(1), np.zeros((1, 1), dtype=np.float32), np.inf
    if features is not None:
        features = features[kept]
        shift, scale = features.mean(axis=0), features.std(axis=0) + 1e-9
        scaled = ((features - shift) / scale).astype(np.float32)
        centroids = _kmeans_centroids(scaled)
        reach = float(np.quantile(_distances_to_nearest(scaled, centroids), 1 - FAR_FRACTION))
    own = Domain(
        elements=has.sum(axis=0).astype(np.int32),
        pairs=np.minimum(pairs, 255).astype(np.uint8),
        bonds=_bond_ranges(one[known], two[known], lengths[known]),
        volumes=volumes.astype(np.float32),
        packing=limits.astype(np.float32),
        vacuum=np.quantile(empty_layers(crystals, lattices)[kept], [1 - OUTLIER_FRACTION]).astype(np.float32),
        shift=shift.astype(np.float32),
        scale=scale.astype(np.float32),
        centroids=centroids,
        reach=np.array([reach], dtype=np.float32),
    )
    return _joined(base, own) if base else own


def _joined(base: Domain, own: Domain) -> Domain:
    """Return the statistics of the crystals of two domains, with the volumes and features of the second."""
    low, high = base.bonds.transpose(2, 0, 1)
    known, new = np.isfinite(own.bonds[..., 1]), np.isinf(high)
    low = np.where(known, np.where(new, own.bonds[..., 0], np.minimum(low, own.bonds[..., 0])), low)
    high = np.where(known, np.where(new, own.bonds[..., 1], np.maximum(high, own.bonds[..., 1])), high)
    return replace(
        own,
        elements=base.elements + own.elements,
        pairs=np.minimum(base.pairs.astype(np.int32) + own.pairs, 255).astype(np.uint8),
        bonds=np.stack([low, high], axis=-1),
        packing=np.append(np.minimum(base.packing, own.packing)[:1], np.maximum(base.packing, own.packing)[1:]),
        vacuum=np.maximum(base.vacuum, own.vacuum),
    )


def nearest_neighbors(
    crystals: Sequence[Crystal], neighbors: Sequence[Neighbors]
) -> tuple[IntArray, IntArray, IntArray, FloatArray]:
    """Return the nearest neighbour of every listed atom.

    Returns:
        For each of N atoms: index of its crystal; its atomic number - 1; that of its nearest neighbour; their distance,
        Å, infinite for an isolated atom. A shared site counts as the element with the largest occupancy. Of several
        neighbours at one distance, the one with the smallest atomic number counts.
    """
    kinds = np.concatenate(
        [crystal.main_numbers[edges.atoms] - 1 for crystal, edges in zip(crystals, neighbors, strict=True)]
    )
    sizes = np.array([edges.size for edges in neighbors])
    starts = np.cumsum(sizes) - sizes
    widths = np.concatenate([edges.edge_counts for edges in neighbors])
    first = np.cumsum(widths) - widths
    indices = np.concatenate([edges.indices for edges in neighbors]).astype(np.int64)
    lengths = np.concatenate([edges.distances for edges in neighbors]).astype(float)
    lengths[first] = np.inf  # the atom itself
    shortest = np.minimum.reduceat(lengths, first)
    atoms = np.repeat(np.arange(len(kinds)), widths)
    owners = np.repeat(np.arange(len(crystals)), sizes)
    nearest = np.flatnonzero(lengths <= shortest[atoms] + LENGTH_TOLERANCE)
    atoms = atoms[nearest]
    elements = kinds[indices[nearest] + starts[owners[atoms]]]
    starts_of_atoms = np.searchsorted(atoms, np.arange(len(kinds)))
    return owners, kinds, np.minimum.reduceat(elements, starts_of_atoms), shortest


def _atomic_volumes(shares: FloatArray, volumes: FloatArray, crystals: FloatArray) -> FloatArray:
    """Return the usual volume of an atom of each element, Å^3, (98,).

    A least-squares fit that minimises the relative error of the cells' volumes.

    Args:
        shares: atoms of each element in each cell, (C, 98).
        volumes: of the cells, Å^3, (C,).
        crystals: number of crystals with each element, (98,).
    """
    matrix = shares / volumes[:, None]
    damped = matrix.T @ matrix + VOLUME_DAMPING * np.eye(N_ELEMENTS)
    found = np.linalg.solve(damped, matrix.sum(axis=0) + VOLUME_DAMPING * DEFAULT_VOLUME)
    return np.where(crystals < MIN_ELEMENT_CRYSTALS, DEFAULT_VOLUME, np.clip(found, MIN_VOLUME, MAX_VOLUME))


def _usual_elements(shares: FloatArray, volumes: FloatArray) -> IntArray:
    """Return whether each crystal is an element at a usual volume of that element's crystals, (C,).

    An alkali metal takes twice the volume that its atoms have in compounds.

    Args:
        shares: atoms of each element in each cell, (C, 98).
        volumes: of the cells, Å^3, (C,).
    """
    usual = np.zeros(len(volumes), dtype=bool)
    single = np.flatnonzero((shares > 0).sum(axis=1) == 1)
    elements = shares[single].argmax(axis=1)
    for element in np.unique(elements).tolist():
        own = single[elements == element]
        per_atom = volumes[own] / shares[own, element]
        usual[own] = per_atom <= MAX_ELEMENT_VOLUME * np.median(per_atom)
    return usual


def _bond_ranges(one: IntArray, two: IntArray, lengths: FloatArray) -> FloatArray:
    """Return the smallest and largest usual bond of each pair of elements, Å, (98, 98, 2).

    OUTLIER_FRACTION is left out at both ends. A pair with fewer than MIN_PAIR_BONDS bonds has the range 0 to infinity.

    Args:
        one: atomic number - 1 at one end of each bond, (n,).
        two: atomic number - 1 at the other end, (n,).
        lengths: of the bonds, Å, (n,).
    """
    ranges = np.empty((N_ELEMENTS, N_ELEMENTS, 2), dtype=np.float32)
    ranges[..., 0], ranges[..., 1] = 0, np.inf
    keys = np.minimum(one, two) * N_ELEMENTS + np.maximum(one, two)
    order = np.lexsort((lengths, keys))
    keys, lengths = keys[order], lengths[order]
    found, starts, counts = np.unique(keys, return_index=True, return_counts=True)
    for key, start, count in zip(found.tolist(), starts.tolist(), counts.tolist(), strict=True):
        if count < MIN_PAIR_BONDS:
            continue
        skipped = ceil(OUTLIER_FRACTION * count) - 1
        low, high = lengths[start + skipped], lengths[start + count - 1 - skipped]
        ranges[key // N_ELEMENTS, key % N_ELEMENTS] = ranges[key % N_ELEMENTS, key // N_ELEMENTS] = low, high
    return ranges


def _distances_to_nearest(points: FloatArray, centroids: FloatArray) -> FloatArray:
    """Return the distance of each point (n, D) from the nearest centroid (C, D), (n,).

    One matrix product: SciPy's cKDTree takes three times as long in 128 dimensions.
    """
    squares = (centroids**2).sum(axis=1) - 2 * points @ centroids.T
    return np.asarray(np.sqrt(np.maximum((points**2).sum(axis=1) + squares.min(axis=1), 0)))


def _kmeans_centroids(points: FloatArray) -> FloatArray:
    """Return centroids (C, D) of points (n, D), at most one for two points, from a seeded random start."""
    from scipy.cluster.vq import kmeans2  # here: a prediction does not need it

    random = np.random.default_rng(0)
    start = points[random.choice(len(points), min(N_CENTROIDS, len(points) // 2), replace=False)]
    with suppress_warnings():  # equal points leave clusters empty, whose centroids stay where they are
        centroids, _ = kmeans2(points, start, iter=KMEANS_ROUNDS, minit="matrix")
    return np.asarray(centroids)
