"""Error metrics with bootstrap intervals, and confusion counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]

RESAMPLES = 2000  # of the bootstrap
SEED = 0
RESAMPLED_VALUES_PER_CHUNK = 2**20  # bounds the memory
NAN = float("nan")


@dataclass(frozen=True)
class Metrics:
    """Error metrics of predictions, in the unit of their labels; not a number where undefined.

    Attributes:
        count: number of predictions.
        mae: mean absolute error.
        interval: 95 % bootstrap interval of `mae`.
        median: median absolute error.
        rmse: root mean square error.
        r2: coefficient of determination.
        largest: largest absolute error.
        deviation: mean absolute deviation of the labels, the error of always predicting their mean.
    """

    count: int
    mae: float
    interval: tuple[float, float]
    median: float
    rmse: float
    r2: float
    largest: float
    deviation: float

    @property
    def relative(self) -> float:
        """MAE over the mean absolute deviation of the labels: 0 is perfect, 1 is no better than their mean."""
        return self.mae / self.deviation if self.deviation > 0 else NAN


def metrics_of(labels: FloatArray, predictions: FloatArray) -> Metrics:
    """Return the error metrics of at least one prediction.

    R² is 1 - sum (y - p)² / sum (y - mean y)². R² and the deviation are undefined if all labels y are the same.

    Args:
        labels: y, finite, (n,).
        predictions: p, finite, (n,).
    """
    errors = np.abs(predictions - labels)
    spread = labels - labels.mean()
    varied = bool(np.ptp(labels) > 0)
    return Metrics(
        count=len(errors),
        mae=float(errors.mean()),
        interval=interval_of_mean(errors),
        median=float(np.median(errors)),
        rmse=float(np.sqrt((errors**2).mean())),
        r2=1 - float((errors**2).sum() / (spread**2).sum()) if varied else NAN,
        largest=float(errors.max()),
        deviation=float(np.abs(spread).mean()) if varied else NAN,
    )


def interval_of_mean(values: FloatArray) -> tuple[float, float]:
    """Return the 95 % interval of a mean by the percentile bootstrap (Efron, Ann. Stat. 7, 1, 1979), seeded.

    For differences between the errors of two models on the same crystals, this is the paired bootstrap. The interval is
    too narrow for fewer than about 20 values. scipy.stats.bootstrap gives the same, but takes a second to import.

    Args:
        values: (n,).

    Returns:
        Lower and upper end; not a number for one value.
    """
    count = len(values)
    if count < 2:
        return NAN, NAN
    random = np.random.default_rng(SEED)
    step = max(1, RESAMPLED_VALUES_PER_CHUNK // count)
    parts = []
    for start in range(0, RESAMPLES, step):
        rows = random.integers(0, count, (min(step, RESAMPLES - start), count), dtype=np.uint32)
        parts.append(values[rows].mean(axis=1))
    low, high = np.percentile(np.concatenate(parts), [2.5, 97.5])
    return float(low), float(high)


@dataclass(frozen=True)
class Confusion:
    """Confusion counts of a yes-or-no prediction."""

    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int

    @property
    def accuracy(self) -> float:
        """Fraction of correct predictions."""
        right = self.true_positives + self.true_negatives
        return _ratio(right, right + self.false_positives + self.false_negatives)

    @property
    def precision(self) -> float:
        """Fraction of the predicted positives that are positive."""
        return _ratio(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall(self) -> float:
        """Fraction of the positives that are predicted."""
        return _ratio(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return _ratio(2 * self.true_positives, 2 * self.true_positives + self.false_positives + self.false_negatives)

    @property
    def acceleration(self) -> float:
        """Discovery acceleration factor: precision over the fraction of all that are positive.

        Riebesell et al., Nat. Mach. Intell. 7, 836 (2025).
        """
        positives = self.true_positives + self.false_negatives
        count = positives + self.false_positives + self.true_negatives
        return self.precision / _ratio(positives, count) if positives else NAN


def confusion_of(labels: NDArray[np.bool_], predictions: NDArray[np.bool_]) -> Confusion:
    """Return the confusion counts of predictions (n,) against labels (n,)."""
    counted = (labels & predictions, ~labels & predictions, labels & ~predictions, ~labels & ~predictions)
    return Confusion(*(int(part.sum()) for part in counted))


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else NAN
