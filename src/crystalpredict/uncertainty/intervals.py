"""How far predictions may be off: normalised split-conformal intervals (Lei et al., JASA 113, 1094, 2018).

On the trained scale a prediction p has the interval p ± q s(x). The scale s of its error is a small function of what is
known of a crystal x when it is predicted; q, for each level and each third of crystals by size, is a quantile of
|label - p| / s over calibration crystals that s was not fitted to. NumPy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import ceil

import numpy as np

from crystalpredict.crystals.crystal import FloatArray, IntArray
from crystalpredict.properties import Property
from crystalpredict.uncertainty import DEFAULT_LEVEL, LEVELS

LEAST = 50  # labels of a property, below which there are no intervals
MANY = 500  # labels, above which the scale of the error is fitted and thirds of sizes are kept apart
GROUPS = 3  # of crystals, by size
KNOTS = (0.25, 0.5, 0.75)  # quantiles of the predictions at which the scale's slope may change
RIDGE = 100.0  # penalty on standardised coefficients
SOFT = (1.0, 3.0, 6.0)  # median errors that are added to an error before its logarithm is fitted: small ones are alike
POWERS = (0.2, 0.4, 0.6, 0.8, 1.0, 1.3)  # of the fitted scale; of all pairs that with the narrowest intervals is taken
FOLDS = 10
WIDEST = 40.0  # logarithm of an error over the deviation of the labels, beyond which no error is
NAN = float("nan")


@dataclass(frozen=True)
class ErrorModel:
    """Scale and quantiles of the errors of P properties, in units of the deviation of their training labels.

    knots (P, 3); weights (P, 6 + D) of the logarithm of the scale: constant, prediction, prediction above each knot,
    logarithm of the size, D features; limits (P, 2) of that logarithm; sizes (P, 2), upper ends of the groups of
    small and middle crystals; quantiles (P, 3, 5) by group and level; correlation (P, P) of errors over their scales,
    not a number where unknown.
    """

    knots: FloatArray
    weights: FloatArray
    limits: FloatArray
    sizes: FloatArray
    quantiles: FloatArray
    correlation: FloatArray

    def __post_init__(self) -> None:
        """ValueError unless the shapes are as above and the numbers make sense."""
        if self.weights.ndim != 2:
            raise ValueError("weights is no table of numbers")
        count = len(self.weights)
        shapes = (
            (count, len(KNOTS)), (count, self.weights.shape[-1]), (count, 2), (count, GROUPS - 1),
            (count, GROUPS, len(LEVELS)), (count, count),
        )  # fmt: skip
        for field, shape in zip(fields(self), shapes, strict=True):
            values = getattr(self, field.name)
            if values.shape != shape or not (np.isfinite(values).all() or field.name == "correlation"):
                raise ValueError(f"{field.name} is no array of finite numbers of shape {shape}")
        if (self.quantiles < 0).any() or (np.diff(self.quantiles) < 0).any():
            raise ValueError("quantiles are negative, or fall with their level")
        for name in ("knots", "limits", "sizes"):
            if (np.diff(getattr(self, name)) < 0).any():
                raise ValueError(f"{name} do not ascend")
        if (np.abs(self.limits) > WIDEST).any() or (self.quantiles > np.exp(WIDEST)).any():
            raise ValueError(f"limits or quantiles are beyond what an error can be, e^{WIDEST:g} deviations")
        if (np.abs(self.correlation) > 1 + 1e-5).any() or np.isinf(self.correlation).any():
            raise ValueError("correlation is beyond -1 to 1")

    @property
    def features(self) -> int:
        """Features of a crystal that it needs."""
        return int(self.weights.shape[1]) - len(KNOTS) - 3

    def halfwidths(self, outputs: FloatArray, sizes: IntArray, features: FloatArray) -> FloatArray:
        """Half the width of the intervals (B, P, levels), standardised.

        outputs (B, P), standardised predictions; sizes (B,), atoms of the primitive cell; features (B, D).
        """
        found = np.empty((*outputs.shape, len(LEVELS)))
        for column in range(outputs.shape[1]):
            known = _design(outputs[:, column], sizes, features, self.knots[column])
            scale = np.exp(np.clip(known @ self.weights[column], *self.limits[column]))
            found[:, column] = scale[:, None] * self.quantiles[column][_group(sizes, self.sizes[column])]
        return found


def fit_errors(
    outputs: FloatArray, labels: FloatArray, sizes: IntArray, features: FloatArray, floors: FloatArray
) -> ErrorModel:
    """The error model of V calibration crystals that were not trained on.

    outputs, labels (V, P), standardised, labels not a number where missing, at least LEAST of each property; sizes
    (V,), features (V, D); floors (P,), least value of each, minus infinity for none. The scale is fitted in turns to
    nine tenths of the crystals, and the quantiles are those over the tenths left out (cross-conformal prediction,
    Vovk, Ann. Math. Artif. Intell. 74, 9, 2015); the scale kept is fitted to all.
    """
    columns = [_fit_one(outputs[:, i], labels[:, i], sizes, features, floors[i]) for i in range(outputs.shape[1])]
    scaled = np.stack([column[-1] for column in columns], axis=1)
    knots, weights, limits, ends, quantiles = (np.array([column[i] for column in columns]) for i in range(5))
    return ErrorModel(knots, weights, limits, ends, quantiles, _correlation(scaled))


def _fit_one(
    outputs: FloatArray, labels: FloatArray, sizes: IntArray, features: FloatArray, floor: float
) -> tuple[FloatArray, ...]:
    """Knots, weights, limits, sizes, quantiles of one property, and its errors over their scales (V,)."""
    known = np.flatnonzero(np.isfinite(labels))
    if len(known) < LEAST:
        raise ValueError(f"{len(known)} labels to calibrate with: at least {LEAST}")
    errors = labels[known] - outputs[known]
    many = len(known) >= MANY
    knots = np.quantile(outputs[known], KNOTS)
    design = _design(outputs[known], sizes[known], features[known], knots)
    ends = np.quantile(sizes[known], np.arange(1, GROUPS) / GROUPS) if many else np.full(GROUPS - 1, 1e9)
    groups = _group(sizes[known], ends)
    scaling: tuple[FloatArray, ...] = (np.zeros(design.shape[1]), np.zeros(2), np.ones(len(known)))
    if many:
        scaling = _fit_scale(design, np.abs(errors), groups, outputs[known] - floor)
    weights, limits, scale = scaling
    ratios = np.abs(errors) / scale
    parts = [ratios[groups == group] for group in range(GROUPS)]
    parts = [part if len(part) >= LEAST else ratios for part in parts]  # sizes may all be the same
    quantiles = np.array([[conformal_quantile(part, level / 100) for level in LEVELS] for part in parts])
    scaled = np.full(len(labels), NAN)
    scaled[known] = errors / scale
    return knots, weights, limits, ends, quantiles, scaled


def _fit_scale(
    design: FloatArray, misses: FloatArray, groups: IntArray, room: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Weights, limits and, for each crystal (n,), the scale of its error as fitted to other crystals.

    misses (n,), absolute errors; room (n,), how far below a prediction its interval can reach.
    """
    folds = np.random.default_rng(0).permutation(len(misses)) % FOLDS
    targets = np.log(misses[:, None] + np.array(SOFT) * np.median(misses) + 1e-6)
    logarithms = np.empty_like(targets)
    for fold in range(FOLDS):
        out = folds == fold
        own, ends = _ridge(design[~out], targets[~out])
        logarithms[out] = np.clip(design[out] @ own, *ends)
    choices = [(column, power) for column in range(len(SOFT)) for power in POWERS]
    widths = [_mean_width(misses, np.exp(power * logarithms[:, column]), groups, room) for column, power in choices]
    column, power = choices[int(np.argmin(widths))]
    weights, limits = _ridge(design, targets[:, [column]])
    return power * weights[:, 0], power * limits[:, 0], np.exp(power * logarithms[:, column])


def _design(outputs: FloatArray, sizes: IntArray, features: FloatArray, knots: FloatArray) -> FloatArray:
    """What the scale of a property depends on (B, 6 + D)."""
    hinges = np.maximum(outputs[:, None] - knots, 0)
    return np.column_stack([np.ones(len(outputs)), outputs, hinges, np.log(sizes), features])


def _ridge(design: FloatArray, targets: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Weights (F, T) of the columns of design (n, F), the first of which is 1, and the range (2, T) they give."""
    shift, scale = design[:, 1:].mean(axis=0), design[:, 1:].std(axis=0) + 1e-9
    matrix = (design[:, 1:] - shift) / scale
    middle = targets.mean(axis=0)
    damped = matrix.T @ matrix + RIDGE * np.eye(matrix.shape[1])
    slopes = np.linalg.solve(damped, matrix.T @ (targets - middle)) / scale[:, None]
    weights = np.concatenate([[middle - shift @ slopes], slopes])
    fitted = design @ weights
    return weights, np.stack([fitted.min(axis=0), fitted.max(axis=0)])


def _mean_width(misses: FloatArray, scale: FloatArray, groups: IntArray, room: FloatArray) -> float:
    """Mean width of the intervals in tables; arguments (n,) as of `_fit_scale`."""
    halves = np.empty(len(misses))
    for group in np.unique(groups):
        own = groups == group
        halves[own] = conformal_quantile(misses[own] / scale[own], DEFAULT_LEVEL / 100) * scale[own]
    return float((halves + np.minimum(halves, room)).mean())


def _group(sizes: IntArray, ends: FloatArray) -> IntArray:
    """Group (B,) of each size: 0 up to the first end, and so on."""
    return np.searchsorted(ends, sizes, side="left")


def conformal_quantile(scores: FloatArray, level: float) -> float:
    """The ceil((n + 1) level)-th smallest of n scores: a new one is at most as large with a probability of `level`.

    That holds if it is exchangeable with the n; where there are too few scores, the largest.
    """
    rank = ceil((len(scores) + 1) * level - 1e-9)
    return float(np.sort(scores)[min(rank, len(scores)) - 1])


def _correlation(scaled: FloatArray) -> FloatArray:
    """Spearman's correlation (P, P) of columns of scaled (V, P): of ranks, so that no outlier makes it."""
    count = scaled.shape[1]
    found = np.full((count, count), NAN)
    for one in range(count):
        for two in range(count):
            both = np.isfinite(scaled[:, [one, two]]).all(axis=1)
            if both.sum() >= LEAST:
                found[one, two] = np.corrcoef(_ranks(scaled[both, one]), _ranks(scaled[both, two]))[0, 1]
    return found


def _ranks(values: FloatArray) -> FloatArray:
    return np.argsort(np.argsort(values)).astype(float)


def bounds(properties: Sequence[Property], centres: FloatArray, halfwidths: FloatArray) -> FloatArray:
    """Lower and upper ends (B, P, levels, 2) in the properties' units, never below what physics allows.

    centres (B, P) and halfwidths (B, P, levels) on the trained scale.
    """
    ends = np.stack([centres[..., None] - halfwidths, centres[..., None] + halfwidths], axis=-1)
    return np.stack([prop.decode(ends[:, column]) for column, prop in enumerate(properties)], axis=1)
