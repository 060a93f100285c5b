"""Prediction intervals: normalised split-conformal intervals (Lei et al., JASA 113, 1094, 2018).

On the trained scale, a prediction p for a crystal x has the interval p ± q s(x). The logarithm of the error scale s is
linear in p (with knots), in the logarithm of the crystal's size, and in its network features. Calibration crystals of
chemical systems to which s was not fitted are divided into bins by p, into thirds by size, and, for the formation
energy, into thirds by how far above the hull the network says that they are. For each level, q is a factor of the bin
times a factor of each third. The factors are chosen such that the share of crystals with |label - p| <= q s is the
level in each bin and in each third (Mondrian conformal prediction, Vovk et al., 2003, along these margins). So the
intervals also hold for crystals that are selected by their predictions, and for unstable ones, as new crystals are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from math import ceil

import numpy as np

from crystalpredict.crystals.crystal import FloatArray, IntArray
from crystalpredict.properties import Property
from crystalpredict.uncertainty import DEFAULT_LEVEL, LEVELS

MIN_CALIBRATION_LABELS = 50  # of a property; with fewer there are no intervals
MIN_LABELS_SCALE_FIT = 150  # of a property; with fewer the scale is constant and all sizes are one group
N_SIZE_GROUPS = N_STABILITY_GROUPS = 3  # of crystals
N_BINS = 8  # of predictions, at most
MIN_BIN_LABELS = 60  # in a bin
NEAR_MINIMUM = 0.01  # standard deviations of the labels: predictions so near to the smallest value are one bin
N_ROUNDS, N_ROUNDS_CHOICE = 20, 3  # adjustments of all factors: of the result, and while the scale is chosen
UNUSED = 1e9  # the end of a group that is not used
TINY = 1e-6  # of an error over its scale: rounding
KNOT_QUANTILES = (0.25, 0.5, 0.75)  # of the predictions, where the slope of the logarithm of the scale may change
RIDGE_PENALTY = 100.0  # on standardised coefficients
# in median errors, added to an error before its logarithm is fitted, so that small errors differ little
ERROR_OFFSETS = (1.0, 3.0, 6.0)
SCALE_POWERS = (0.2, 0.4, 0.6, 0.8, 1.0, 1.3)  # the offset and the power with the narrowest intervals are chosen
N_FOLDS = 10
MAX_LOG_ERROR = 40.0  # of an error over the standard deviation of the labels


Groups = tuple[IntArray, IntArray, IntArray]  # numbers of bins, size groups and stability groups, (n,) each


@dataclass(frozen=True)
class ErrorModel:
    """Scales and quantiles of the errors of P properties, in standard deviations of their training labels.

    Attributes:
        knots: of the prediction, (P, 3).
        weights: of the logarithm of the scale, for a constant, the prediction, its excess over each knot, the logarithm
            of the size, and D features, (P, 6 + D).
        limits: lowest and highest logarithm of the scale, (P, 2).
        sizes: largest size in the groups of small and of medium crystals, (P, 2).
        bins: highest prediction in each bin but the last, (P, 7).
        stability: largest standardised energy above hull in the two groups of the most stable crystals, (P, 2).
        quantiles: of errors over their scales, by bin, size group, stability group and level, (P, 8, 3, 3, 5).
        correlation: of errors over their scales, not a number where unknown, (P, P).
    """

    knots: FloatArray
    weights: FloatArray
    limits: FloatArray
    sizes: FloatArray
    bins: FloatArray
    stability: FloatArray
    quantiles: FloatArray
    correlation: FloatArray

    def __post_init__(self) -> None:
        """Check shapes and values.

        Raises:
            ValueError: a shape is not as above, or a value is impossible.
        """
        if self.weights.ndim != 2:
            raise ValueError("weights is not a table of numbers")
        count = len(self.weights)
        shapes = (
            (count, len(KNOT_QUANTILES)), (count, self.weights.shape[-1]), (count, 2), (count, N_SIZE_GROUPS - 1),
            (count, N_BINS - 1), (count, N_STABILITY_GROUPS - 1),
            (count, N_BINS, N_SIZE_GROUPS, N_STABILITY_GROUPS, len(LEVELS)), (count, count),
        )  # fmt: skip
        for field, shape in zip(fields(self), shapes, strict=True):
            values = getattr(self, field.name)
            if values.shape != shape or not (np.isfinite(values).all() or field.name == "correlation"):
                raise ValueError(f"{field.name} is not an array of finite numbers of shape {shape}")
        if (self.quantiles < 0).any() or (np.diff(self.quantiles) < 0).any():
            raise ValueError("quantiles are negative, or do not ascend with the level")
        for name in ("knots", "limits", "sizes", "bins", "stability"):
            if (np.diff(getattr(self, name)) < 0).any():
                raise ValueError(f"{name} do not ascend")
        if (np.abs(self.limits) > MAX_LOG_ERROR).any() or (self.quantiles > np.exp(MAX_LOG_ERROR)).any():
            raise ValueError(f"limits or quantiles exceed e^{MAX_LOG_ERROR:g} standard deviations")
        if (np.abs(self.correlation) > 1 + 1e-5).any() or np.isinf(self.correlation).any():
            raise ValueError("correlation is not between -1 and 1")

    @property
    def features(self) -> int:
        """Number D of network features of a crystal."""
        return int(self.weights.shape[1]) - len(KNOT_QUANTILES) - 3

    def halfwidths(
        self,
        outputs: FloatArray,
        sizes: IntArray,
        features: FloatArray,
        stability: FloatArray | None = None,
        columns: Iterable[int] | None = None,
    ) -> FloatArray:
        """Return half the widths of the intervals, standardised, (B, P, levels).

        Args:
            outputs: standardised predictions, (B, P).
            sizes: atoms of the primitive cell of each crystal, (B,).
            features: of the network, (B, D).
            stability: standardised energy above hull by the network, (B,); None: it has no such output.
            columns: of the properties that are needed, the others are not a number; None: all.
        """
        halves = np.full((*outputs.shape, len(LEVELS)), np.nan)
        for column in range(outputs.shape[1]) if columns is None else columns:
            design = _design(outputs[:, column], sizes, features, self.knots[column])
            scale = np.exp(np.clip(design @ self.weights[column], *self.limits[column]))
            ends = self.bins[column], self.sizes[column], self.stability[column]
            groups = _groups_of(ends, outputs[:, column], sizes, stability)
            halves[:, column] = scale[:, None] * self.quantiles[column][groups]
        return halves


@dataclass(frozen=True)
class Grouping:
    """How V calibration crystals are divided; what is None divides none.

    Attributes:
        binned: whether the intervals of each property depend on the bin of the prediction, (P,); None: all do.
        graded: whether they depend on the third by stability, (P,).
        stability: standardised energy above hull by the network, (V,).
        systems: number of the chemical system of each crystal, (V,).
    """

    binned: Sequence[bool] | None = None
    graded: Sequence[bool] | None = None
    stability: FloatArray | None = None
    systems: IntArray | None = None


def fit_errors(
    outputs: FloatArray, labels: FloatArray, sizes: IntArray, features: FloatArray, minima: FloatArray,
    grouping: Grouping | None = None,
) -> ErrorModel:  # fmt: skip
    """Return the error model of V calibration crystals that the network was not trained on.

    The scale is fitted to nine tenths of the crystals in turn, and the quantiles are taken over the tenths left out
    (cross-conformal prediction, Vovk, Ann. Math. Artif. Intell. 74, 9, 2015). The scale of the error model is fitted to
    all crystals. Crystals of one chemical system err alike, so they are left out together: a scale that knows others of
    the system would be too sure of it, and crystals to predict are of new ones.

    Args:
        outputs: standardised predictions, (V, P).
        labels: standardised, not a number where missing, (V, P).
        sizes: atoms of the primitive cell of each crystal, (V,).
        features: of the network, (V, D).
        minima: smallest possible standardised value of each property, or minus infinity, (P,).
        grouping: of the crystals.

    Raises:
        ValueError: a property has fewer than MIN_CALIBRATION_LABELS labels.
    """
    how = grouping or Grouping()
    systems = np.arange(len(outputs)) if how.systems is None else how.systems
    columns = []
    for column in range(outputs.shape[1]):
        binned = how.binned is None or how.binned[column]
        stability = how.stability if how.graded is not None and how.graded[column] else None
        own = outputs[:, column], labels[:, column], sizes, features, systems, stability
        columns.append(_fit_property(*own, minimum=minima[column], binned=binned))
    scaled = np.stack([column[-1] for column in columns], axis=1)
    knots, weights, limits, ends, bins, thirds, quantiles = (np.array([own[i] for own in columns]) for i in range(7))
    return ErrorModel(knots, weights, limits, ends, bins, thirds, quantiles, _correlation(scaled))


def _fit_property(
    outputs: FloatArray, labels: FloatArray, sizes: IntArray, features: FloatArray, systems: IntArray,
    stability: FloatArray | None, *, minimum: float, binned: bool,
) -> tuple[FloatArray, ...]:  # fmt: skip
    """Return the fields of an ErrorModel up to the quantiles for a property, and its errors over their scales (V,)."""
    known = np.flatnonzero(np.isfinite(labels))
    if len(known) < MIN_CALIBRATION_LABELS:
        raise ValueError(f"{len(known)} labels are too few to calibrate: at least {MIN_CALIBRATION_LABELS} are needed")
    errors = labels[known] - outputs[known]
    knots = np.quantile(outputs[known], KNOT_QUANTILES)
    design = _design(outputs[known], sizes[known], features[known], knots)
    own = None if stability is None else stability[known]
    # all crystals are in the first groups
    bins, ends, thirds = (np.full(n - 1, UNUSED) for n in (N_BINS, N_SIZE_GROUPS, N_STABILITY_GROUPS))
    scaling: tuple[FloatArray, FloatArray, FloatArray] = (np.zeros(design.shape[1]), np.zeros(2), np.ones(len(known)))
    reach = outputs[known] - minimum
    if len(known) >= MIN_LABELS_SCALE_FIT:
        ends = np.quantile(sizes[known], np.arange(1, N_SIZE_GROUPS) / N_SIZE_GROUPS)
        thirds = thirds if own is None else np.quantile(own, np.arange(1, N_STABILITY_GROUPS) / N_STABILITY_GROUPS)
        bins = _bins_of(outputs[known], minimum) if binned else bins
    groups = _groups_of((bins, ends, thirds), outputs[known], sizes[known], own)
    if len(known) >= MIN_LABELS_SCALE_FIT:
        scaling = _fit_scale(design, np.abs(errors), groups, reach, systems[known])
    weights, limits, scale = scaling
    ratios = np.abs(errors) / scale
    quantiles = np.stack([_quantiles(ratios, groups, level / 100, N_ROUNDS) for level in LEVELS], axis=-1)
    scaled = np.full(len(labels), np.nan)
    scaled[known] = errors / scale
    return knots, weights, limits, ends, bins, thirds, np.maximum.accumulate(quantiles, axis=-1), scaled


def _bins_of(outputs: FloatArray, minimum: float) -> FloatArray:
    """Return the upper ends of the bins of predictions but the last, (7,).

    The first bin ends above its predictions, many of which may be equal: files round its end.

    Args:
        outputs: predictions, (n,).
        minimum: smallest possible value, or minus infinity.
    """
    near = outputs <= minimum + NEAR_MINIMUM
    first = [minimum + NEAR_MINIMUM] if near.sum() >= MIN_BIN_LABELS else []
    others = outputs[~near] if first else outputs
    count = min(N_BINS - len(first), max(1, len(others) // MIN_BIN_LABELS))
    bins = np.full(N_BINS - 1, UNUSED)
    ends = [*first, *np.quantile(others, np.arange(1, count) / count)] if len(others) else []
    bins[: len(ends)] = ends
    return bins


def _quantiles(ratios: FloatArray, groups: Groups, level: float, rounds: int) -> FloatArray:
    """Return a quantile of ratios for each bin and group, (8, 3, 3): the product of a factor of each.

    The factor of a bin or group with few crystals is not adjusted. A bin most of whose errors are 0, as of metals that
    are predicted to have no gap, does not count for the factors of the groups: they would grow without end for what is
    missed there, whose factor is 0.

    Args:
        ratios: absolute errors over their scales, (n,).
        groups: bin and groups of each crystal, (n,) each.
        level: share of the ratios in each bin, and in each group, that are at most the quantile.
        rounds: number of times that all factors are adjusted.
    """
    first, *others = (np.ones(count) for count in (N_BINS, N_SIZE_GROUPS, N_STABILITY_GROUPS))
    factors = [first * conformal_quantile(ratios, level), *others]
    members = [
        [found for number in range(len(factors[way])) if len(found := np.flatnonzero(groups[way] == number))]
        for way in range(len(factors))
    ]
    ways = [way for way in range(len(factors)) if len(members[way]) > 1]  # one group has the common factor
    counted = np.ones(len(ratios), dtype=bool)
    for own in members[0]:
        counted[own] = np.median(ratios[own]) > TINY
    for _ in range(rounds):
        for way in ways:
            for found in members[way]:
                own = found[counted[found]] if way else found
                if len(own) >= MIN_CALIBRATION_LABELS:
                    product = np.prod([each[kind[own]] for each, kind in zip(factors, groups, strict=True)], axis=0)
                    quantile = conformal_quantile(ratios[own] / np.maximum(product, TINY), level)
                    factors[way][groups[way][own[0]]] *= quantile
    return factors[0][:, None, None] * factors[1][:, None] * factors[2]


def _fit_scale(
    design: FloatArray,
    abs_errors: FloatArray,
    groups: Groups,
    reach: FloatArray,
    systems: IntArray,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return weights, limits and, for each crystal, the scale of its error as fitted to other crystals, (n,).

    Args:
        design: variables of the scale, (n, F).
        abs_errors: absolute errors, (n,).
        groups: bin and groups of each crystal, (n,) each.
        reach: distance of each prediction from the smallest possible value, where its interval ends, (n,).
        systems: number of the chemical system of each crystal, (n,).
    """
    folds = folds_by_system(systems, N_FOLDS, seed=0)
    targets = np.log(abs_errors[:, None] + np.array(ERROR_OFFSETS) * np.median(abs_errors) + 1e-6)
    logarithms = np.empty_like(targets)
    for fold in range(N_FOLDS):
        out = folds == fold
        weights, limits = _ridge(design[~out], targets[~out])
        logarithms[out] = np.clip(design[out] @ weights, *limits)
    choices = [(column, power) for column in range(len(ERROR_OFFSETS)) for power in SCALE_POWERS]
    scales = [np.exp(power * logarithms[:, column]) for column, power in choices]
    widths = [_mean_width(abs_errors, scale, groups, reach) for scale in scales]
    column, power = choices[int(np.argmin(widths))]
    weights, limits = _ridge(design, targets[:, [column]])
    return power * weights[:, 0], power * limits[:, 0], np.exp(power * logarithms[:, column])


def folds_by_system(systems: IntArray, count: int, seed: int) -> IntArray:
    """Return one of `count` folds for each crystal, (n,); crystals of one chemical system (n,) are in one fold.

    Unless a fold had more than a third of them, so that too few are left to fit to: then systems are divided.
    """
    names, number = np.unique(systems, return_inverse=True)
    folds: IntArray = (np.random.default_rng(seed).permutation(len(names)) % count)[number]
    if np.bincount(folds).max() > len(systems) / 3:
        folds = np.random.default_rng(seed).permutation(len(systems)) % count
    return folds


def _design(outputs: FloatArray, sizes: IntArray, features: FloatArray, knots: FloatArray) -> FloatArray:
    """Return the variables of the logarithm of a scale, (B, 6 + D); see `ErrorModel.weights`."""
    hinges = np.maximum(outputs[:, None] - knots, 0)
    return np.column_stack([np.ones(len(outputs)), outputs, hinges, np.log(sizes), features])


def _ridge(design: FloatArray, targets: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return weights (F, T) and range (2, T) of a ridge regression of targets (n, T).

    The first column of the design (n, F) is constant.
    """
    shift, scale = design[:, 1:].mean(axis=0), design[:, 1:].std(axis=0) + 1e-9
    matrix = (design[:, 1:] - shift) / scale
    middle = targets.mean(axis=0)
    damped = matrix.T @ matrix + RIDGE_PENALTY * np.eye(matrix.shape[1])
    slopes = np.linalg.solve(damped, matrix.T @ (targets - middle)) / scale[:, None]
    weights = np.concatenate([[middle - shift @ slopes], slopes])
    fitted = design @ weights
    return weights, np.stack([fitted.min(axis=0), fitted.max(axis=0)])


def _mean_width(abs_errors: FloatArray, scale: FloatArray, groups: Groups, reach: FloatArray) -> float:
    """Return the mean width of the intervals of DEFAULT_LEVEL; arguments as of `_fit_scale`, scale (n,)."""
    halves = scale * _quantiles(abs_errors / scale, groups, DEFAULT_LEVEL / 100, N_ROUNDS_CHOICE)[groups]
    return float((halves + np.minimum(halves, reach)).mean())


def _groups_of(
    ends: tuple[FloatArray, FloatArray, FloatArray], outputs: FloatArray, sizes: IntArray, stability: FloatArray | None
) -> Groups:
    """Return bin, size group and stability group of each crystal, (B,) each: 0 up to the first of the ends, and so on.

    Args:
        ends: of the bins (7,), the size groups (2,) and the stability groups (2,).
        outputs: predictions, (B,).
        sizes: of the crystals, (B,).
        stability: standardised energies above hull by the network, (B,); None: all are in the first group.
    """
    last = np.zeros(len(outputs), dtype=np.intp) if stability is None else np.searchsorted(ends[2], stability)
    return np.searchsorted(ends[0], outputs), np.searchsorted(ends[1], sizes), last


def conformal_quantile(scores: FloatArray, level: float) -> float:
    """Return the ceil((n + 1) level)-th smallest of n scores (n,), or the largest if there are too few.

    A new score that is exchangeable with the n is at most as large with a probability of at least `level`.
    """
    rank = ceil((len(scores) + 1) * level - 1e-9)
    place = min(rank, len(scores)) - 1
    return float(np.partition(scores, place)[place])


def _correlation(scaled: FloatArray) -> FloatArray:
    """Return Spearman's correlation (P, P) of columns (V, P): ranks are robust against outliers."""
    count = scaled.shape[1]
    found = np.full((count, count), np.nan)
    for one in range(count):
        for two in range(count):
            both = np.isfinite(scaled[:, [one, two]]).all(axis=1)
            if both.sum() >= MIN_CALIBRATION_LABELS:
                found[one, two] = np.corrcoef(_ranks(scaled[both, one]), _ranks(scaled[both, two]))[0, 1]
    return found


def _ranks(values: FloatArray) -> FloatArray:
    return np.argsort(np.argsort(values)).astype(float)


def interval_bounds(properties: Sequence[Property], centres: FloatArray, halfwidths: FloatArray) -> FloatArray:
    """Return lower and upper ends in the units of the properties, not below their minima, (B, P, levels, 2).

    Args:
        properties: P of them.
        centres: on the trained scale, (B, P).
        halfwidths: on the trained scale, (B, P, levels).
    """
    ends = np.stack([centres[..., None] - halfwidths, centres[..., None] + halfwidths], axis=-1)
    return np.stack([prop.decode(ends[:, column]) for column, prop in enumerate(properties)], axis=1)
