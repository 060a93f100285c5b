"""Errors of predictions against labels, and how sure one can be of them. NumPy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]

RESAMPLES = 2000
SEED = 0
AT_ONCE = 2**20  # values drawn at a time: it bounds the memory
NAN = float("nan")


@dataclass(frozen=True)
class Metrics:
    """Errors of `count` predictions in the unit of their labels; not a number where undefined.

    interval: 95 %, by bootstrap, of the mean absolute error; deviation: mean absolute deviation of the labels, which is
    the error of always predicting their mean.
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
        """The mean absolute error over the mean absolute deviation of the labels: 0 is perfect, 1 knows nothing."""
        return self.mae / self.deviation if self.deviation > 0 else NAN


def metrics_of(labels: FloatArray, predictions: FloatArray) -> Metrics:
    """The errors of predictions (n,) against labels (n,), all of them numbers, n at least 1.

    R² is 1 - sum (y - p)² / sum (y - mean y)²; it and the deviation are undefined where all labels are the same.
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
    """95 % interval of the mean of values (n,): percentiles of the means of resamples (Efron's bootstrap), seeded.

    Of differences between the errors of two models on the same crystals, it is the paired bootstrap. Not a number for
    one value. Too narrow for few values: below 20 take it as a hint.
    """
    count = len(values)
    if count < 2:
        return NAN, NAN
    random = np.random.default_rng(SEED)
    step = max(1, AT_ONCE // count)
    parts = []
    for start in range(0, RESAMPLES, step):
        rows = random.integers(0, count, (min(step, RESAMPLES - start), count), dtype=np.uint32)
        parts.append(values[rows].mean(axis=1))
    low, high = np.percentile(np.concatenate(parts), [2.5, 97.5])
    return float(low), float(high)


@dataclass(frozen=True)
class Confusion:
    """How often a yes or no is right: a positive is a crystal said to be so, a true one is said what it is."""

    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int

    @property
    def accuracy(self) -> float:
        """Fraction that is said what it is."""
        right = self.true_positives + self.true_negatives
        return _ratio(right, right + self.false_positives + self.false_negatives)

    @property
    def precision(self) -> float:
        """Fraction of those said to be so that are."""
        return _ratio(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall(self) -> float:
        """Fraction of those that are so that were said to be."""
        return _ratio(self.true_positives, self.true_positives + self.false_negatives)


def confusion_of(so: NDArray[np.bool_], said: NDArray[np.bool_]) -> Confusion:
    """Counts of what is (n,) and what was said of it (n,)."""
    return Confusion(*(int(part.sum()) for part in (so & said, ~so & said, so & ~said, ~so & ~said)))


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else NAN
