"""Metrics and intervals against other formulas, limits and the sampling distribution."""

from fractions import Fraction
from math import isnan, sqrt

import numpy as np
import pytest

from crystalpredict.evaluation import metrics
from crystalpredict.evaluation.metrics import Confusion, confusion_of, interval_of_mean, metrics_of
from crystalpredict.evaluation.scores import stability_scores


def test_a_case_worked_by_hand() -> None:
    found = metrics_of(np.array([1.0, 2.0, 3.0, 6.0]), np.array([1.0, 3.0, 1.0, 5.0]))
    # errors 0, 1, 2, 1; labels 2, 1, 0 and 3 from their mean 3, squares 14
    assert (found.count, found.mae, found.median, found.largest) == (4, 1.0, 1.0, 2.0)
    assert found.rmse == pytest.approx(sqrt(6 / 4))
    assert found.r2 == pytest.approx(float(1 - Fraction(6, 14)))
    assert found.deviation == pytest.approx(1.5)
    assert found.relative == pytest.approx(2 / 3)


def test_r2_of_a_fitted_line_is_the_squared_correlation_and_rmse_contains_bias_and_spread() -> None:
    random = np.random.default_rng(1)
    predictions = random.normal(size=500)
    labels = 2 * predictions + random.normal(size=500)
    slope, offset = np.polyfit(predictions, labels, 1)
    fitted = metrics_of(labels, slope * predictions + offset)
    assert fitted.r2 == pytest.approx(np.corrcoef(labels, predictions)[0, 1] ** 2)
    shifted = metrics_of(labels, predictions + 5)
    errors = predictions + 5 - labels
    assert shifted.rmse**2 == pytest.approx(errors.mean() ** 2 + errors.var())


def test_limits_perfect_and_mean() -> None:
    labels = np.random.default_rng(2).normal(size=100)
    perfect = metrics_of(labels, labels)
    assert (perfect.mae, perfect.rmse, perfect.largest, perfect.r2, perfect.relative) == (0, 0, 0, 1, 0)
    assert perfect.interval == (0, 0)
    ignorant = metrics_of(labels, np.full(100, labels.mean()))
    assert ignorant.r2 == pytest.approx(0, abs=1e-12)
    assert ignorant.relative == pytest.approx(1)


@pytest.mark.parametrize("count", [1, 3])
def test_labels_that_are_all_the_same_have_no_r2_and_no_scale(count: int) -> None:
    found = metrics_of(np.full(count, 0.1), np.full(count, 0.3))  # 0.1: its mean is not it to the last digit
    assert found.mae == pytest.approx(0.2)
    assert all(map(isnan, (found.r2, found.deviation, found.relative)))


def test_one_crystal_has_no_interval() -> None:
    assert all(map(isnan, metrics_of(np.ones(1), np.zeros(1)).interval))


def test_an_interval_is_the_same_each_time_and_whatever_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(3).exponential(size=300)
    once = interval_of_mean(values)
    monkeypatch.setattr(metrics, "RESAMPLED_VALUES_PER_CHUNK", 1)
    assert interval_of_mean(values) == once


def test_the_width_of_an_interval_is_that_of_the_normal_approximation() -> None:
    values = np.random.default_rng(4).exponential(size=4000)
    low, high = interval_of_mean(values)
    half = 1.96 * values.std() / sqrt(len(values))
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)


def test_95_percent_of_the_intervals_contain_the_true_mean() -> None:
    random = np.random.default_rng(5)
    samples = np.abs(random.normal(size=(400, 100)))
    intervals = [interval_of_mean(sample) for sample in samples]
    held = np.mean([low <= sqrt(2 / np.pi) <= high for low, high in intervals])  # mean of a half-normal variable
    assert 0.91 <= held <= 0.98  # 0.95 with a deviation of 0.011, less a little for a bootstrap of 100 values


def test_paired_intervals_are_narrow_if_errors_are_correlated() -> None:
    random = np.random.default_rng(6)
    hardness = random.exponential(size=200)
    one, other = hardness, hardness + 0.01 + 0.02 * random.normal(size=200)
    low, high = interval_of_mean(other - one)
    assert 0 < low < high < 0.02
    assert interval_of_mean(one)[1] > interval_of_mean(other)[0]  # separately they overlap


def test_confusion_counts() -> None:
    so = np.array([True, True, True, False, False, False, False])
    said = np.array([True, True, False, True, False, False, False])
    found = confusion_of(so, said)
    assert found == Confusion(true_positives=2, false_positives=1, false_negatives=1, true_negatives=3)
    assert (found.accuracy, found.precision, found.recall) == (5 / 7, 2 / 3, 2 / 3)
    silent = confusion_of(so, np.zeros(7, bool))
    assert isnan(silent.precision)
    assert silent.recall == 0
    assert isnan(confusion_of(~so[:3], said[:3]).recall)


def test_stable_crystals_are_counted_at_each_limit() -> None:
    labels = np.array([0.0, 0.0, 0.02, 0.04, 0.2, 0.5, 0.0, 0.09])
    ways = {"one": np.array([0.0, 0.01, 0.03, 0.0, 0.2, 0.0, 0.0, 0.06]), "two": labels}
    scores = {(score.way, score.limit): score for score in stability_scores(labels, ways)}
    at_hull = scores["one", 0.0].confusion  # 3 labels, 4 predictions, 2 of them right
    assert (at_hull.precision, at_hull.recall) == (2 / 4, 2 / 3)
    assert at_hull.f1 == pytest.approx(2 * (2 / 4) * (2 / 3) / (2 / 4 + 2 / 3))
    assert at_hull.acceleration == pytest.approx((2 / 4) / (3 / 8))
    assert scores["one", 0.1].confusion.recall == 1
    assert all(scores["two", limit].confusion.f1 == 1 for limit in (0.0, 0.025, 0.05, 0.1))
    assert np.isnan(stability_scores(labels + 1, ways)[0].confusion.acceleration)
    assert scores["one", 0.0].to_dict()["discovery_acceleration_factor"] == pytest.approx(4 / 3, abs=1e-5)
