import numpy as np
import pytest

from crystalpredict.properties import find_property
from crystalpredict.uncertainty import DEFAULT_LEVEL, LEVELS
from crystalpredict.uncertainty.intervals import ErrorModel, Grouping, conformal_quantile, fit_errors, interval_bounds

AT = LEVELS.index(DEFAULT_LEVEL)
NO_FLOOR = np.array([-np.inf])


def noisy(count: int, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Predictions, labels, sizes and features of crystals whose error grows with a feature, and with the size."""
    rng = np.random.default_rng(seed)
    features, sizes = rng.normal(size=(count, 4)), rng.integers(1, 60, count)
    outputs = rng.normal(size=(count, 1))
    scale = 0.1 * np.exp(features[:, [0]]) * np.where(sizes > 40, 3, 1)[:, None]
    return outputs, outputs + scale * rng.standard_t(4, (count, 1)), sizes, features


def test_the_conformal_quantile_is_the_ranked_score_of_the_literature() -> None:
    scores = np.arange(1.0, 20)[::-1]  # 19 of them
    assert conformal_quantile(scores, 0.5) == 10
    assert conformal_quantile(scores, 0.9) == 18
    assert conformal_quantile(scores, 0.95) == 19
    assert conformal_quantile(scores[:5], 0.95) == scores[:5].max()  # too few: the largest


def test_a_new_score_is_at_most_the_quantile_as_often_as_promised() -> None:
    rng = np.random.default_rng(1)
    trials = rng.exponential(size=(4000, 40))
    below = [row[39] <= conformal_quantile(row[:39], 0.9) for row in trials]
    assert np.mean(below) == pytest.approx(0.9, abs=0.015)  # 36 of 40 exactly


def test_new_crystals_lie_in_their_intervals_in_every_third_by_size_and_these_are_narrower_than_equal_ones() -> None:
    outputs, labels, sizes, features = noisy(3000)
    model = fit_errors(outputs, labels, sizes, features, NO_FLOOR)
    new_outputs, new_labels, new_sizes, new_features = noisy(6000, seed=1)
    halves = model.halfwidths(new_outputs, new_sizes, new_features)[:, 0]
    misses = np.abs(new_labels - new_outputs)
    assert np.mean(misses <= halves, axis=0) == pytest.approx(np.array(LEVELS) / 100, abs=0.025)
    groups = np.searchsorted(model.sizes[0], new_sizes)
    for group in range(3):
        assert np.mean(misses[groups == group, 0] <= halves[groups == group, AT]) == pytest.approx(0.9, abs=0.025)
    equal = conformal_quantile(np.abs(labels - outputs)[:, 0], 0.9)
    assert halves[:, AT].mean() < 0.8 * equal


def test_intervals_hold_whatever_is_predicted_and_end_where_physics_does() -> None:
    def gaps(count: int, seed: int) -> tuple[np.ndarray, ...]:
        """Half of the crystals are predicted as metals, nearly always rightly; some small gaps are metals."""
        rng = np.random.default_rng(seed)
        outputs = np.where(rng.random((count, 1)) < 0.5, 0.0, rng.exponential(1, (count, 1)))
        labels = outputs + rng.normal(size=(count, 1)) * np.where(outputs > 0, 0.1 + 0.2 * np.sqrt(outputs), 0.02)
        labels = np.where((outputs > 0) & (rng.random((count, 1)) < 0.3 * np.exp(-outputs)), 0, labels)
        return outputs, np.maximum(labels, 0), rng.integers(1, 60, count), rng.normal(size=(count, 4))

    model = fit_errors(*gaps(4000, 0), np.array([0.0]))
    outputs, labels, sizes, features = gaps(20_000, 1)
    inside = np.abs(labels - outputs) <= model.halfwidths(outputs, sizes, features)[:, 0]
    bins = np.searchsorted([0, 0.2, 0.5, 1, 2], outputs[:, 0])
    for each in range(1, 6):
        assert inside[bins == each].mean(axis=0) == pytest.approx(np.array(LEVELS) / 100, abs=0.07)
    assert inside[bins == 0, AT].mean() >= 0.88


def test_crystals_of_chemical_systems_that_nothing_was_fitted_to_lie_in_their_intervals() -> None:
    def by_system(count: int, seed: int) -> tuple[np.ndarray, ...]:
        """Systems of 20 crystals with equal features, which say nothing of how large the errors of a system are."""
        rng = np.random.default_rng(seed)
        systems = np.repeat(np.arange(count), 20)
        features, scale = rng.normal(size=(count, 60))[systems], np.exp(rng.normal(size=(count, 1)))[systems]
        outputs = rng.normal(size=(len(systems), 1))
        labels = outputs + scale * rng.normal(size=outputs.shape)
        return outputs, labels, rng.integers(1, 60, len(systems)), features, systems

    *known, systems = by_system(120, 0)
    outputs, labels, sizes, features, _ = by_system(1000, 1)

    def inside(grouping: Grouping | None = None) -> float:
        model = fit_errors(*known, NO_FLOOR, grouping)
        return float(np.mean(np.abs(labels - outputs) <= model.halfwidths(outputs, sizes, features)[:, 0, [AT]]))

    held = inside(Grouping(systems=systems))
    assert held == pytest.approx(0.9, abs=0.03)
    assert inside() < held - 0.03  # a scale that knows others of a system is too sure of it


def test_intervals_hold_for_unstable_crystals_and_for_stable_ones() -> None:
    def graded(count: int, seed: int) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
        """Errors grow with something that neither features nor predictions show."""
        *crystals, sizes, features = noisy(count, seed)
        stability = np.random.default_rng(seed + 9).normal(size=count)
        labels = crystals[0] + (crystals[1] - crystals[0]) * np.exp(stability)[:, None]
        return (crystals[0], labels, sizes, features), stability

    known, stability = graded(4000, 0)
    (outputs, labels, sizes, features), new = graded(8000, 1)
    thirds = np.searchsorted(np.quantile(new, [1 / 3, 2 / 3]), new)

    def inside(used: bool) -> list[float]:
        model = fit_errors(*known, NO_FLOOR, Grouping(graded=[used], stability=stability))
        held = np.abs(labels - outputs)[:, 0] <= model.halfwidths(outputs, sizes, features, new)[:, 0, AT]
        return [float(held[thirds == third].mean()) for third in range(3)]

    assert inside(used=True) == pytest.approx([0.9] * 3, abs=0.025)
    assert max(inside(used=False)) > 0.96
    assert min(inside(used=False)) < 0.82


def test_crystals_of_one_chemical_system_are_divided_to_fit_a_scale() -> None:
    one = fit_errors(*noisy(400), NO_FLOOR, Grouping(systems=np.zeros(400, dtype=int)))
    each = fit_errors(*noisy(400), NO_FLOOR)
    assert np.array_equal(one.quantiles, each.quantiles)


def test_labels_that_are_mostly_zero_and_predicted_so_give_finite_intervals() -> None:
    rng = np.random.default_rng(3)
    outputs = np.where(rng.random((700, 1)) < 0.55, 0.0, rng.exponential(1, (700, 1)))
    labels = outputs + np.where(outputs > 0, 0.1, 0.0) * rng.normal(size=(700, 1))
    model = fit_errors(outputs, labels, rng.integers(1, 60, 700), rng.normal(size=(700, 4)), np.array([0.0]))
    assert model.quantiles.max() < 100


def test_zeros_that_are_missed_in_small_crystals_do_not_widen_other_intervals() -> None:
    """Nine of ten zeros are right, so that their interval is 0; no other factor can be wide enough for the tenth."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 61, 2000)
    zero = rng.random(2000) < np.where(sizes <= 20, 0.8, 0.5)
    outputs = np.where(zero, 0.0, rng.exponential(1, 2000))[:, None]
    errors = np.where(zero, rng.random(2000) < np.where(sizes <= 20, 0.16, 0.005), 0.1 * rng.normal(size=2000))
    model = fit_errors(outputs, outputs + errors[:, None], sizes, rng.normal(size=(2000, 4)), np.array([0.0]))
    assert model.quantiles.max() < 100


def test_few_labels_give_one_width_and_too_few_none() -> None:
    outputs, labels, sizes, features = noisy(400)
    labels[60:] = np.nan
    model = fit_errors(outputs, labels, sizes, features, NO_FLOOR)
    halves = model.halfwidths(outputs, sizes, features)[:, 0]
    assert np.ptp(halves, axis=0) == pytest.approx(0)
    assert halves[0, AT] == conformal_quantile(np.abs(labels - outputs)[:60, 0], 0.9)
    labels[49:] = np.nan
    with pytest.raises(ValueError, match="49 labels"):
        fit_errors(outputs, labels, sizes, features, NO_FLOOR)


def test_far_from_the_calibration_crystals_the_scale_stays_in_its_range() -> None:
    model = fit_errors(*noisy(1000), NO_FLOOR)
    halves = model.halfwidths(np.zeros((2, 1)), np.array([5, 5]), np.array([[90.0, 0, 0, 0], [-90.0, 0, 0, 0]]))
    assert np.isfinite(halves).all()
    assert np.log(halves[0, 0, AT] / halves[1, 0, AT]) == pytest.approx(np.ptp(model.limits[0]))


def test_correlation_of_errors_is_that_of_the_labels_noise() -> None:
    rng = np.random.default_rng(0)
    noise = rng.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], 2000)
    outputs = np.zeros((2000, 2))
    model = fit_errors(outputs, noise, np.full(2000, 4), np.zeros((2000, 1)), np.full(2, -np.inf))
    assert model.correlation[0, 1] == pytest.approx(6 / np.pi * np.arcsin(0.3), abs=0.05)  # Spearman's for normal ones


def test_intervals_are_mapped_to_the_unit_and_end_where_physics_does() -> None:
    gap, bulk = find_property("bandgap"), find_property("bulk_modulus")
    ends = interval_bounds([gap, bulk], np.array([[0.2, 2.0]]), np.full((1, 2, 1), 0.5))
    assert ends[0, 0, 0] == pytest.approx([0, 0.7])
    assert ends[0, 1, 0] == pytest.approx([10**1.5, 10**2.5])


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("quantiles", lambda values: -values),
        ("quantiles", lambda values: values[..., ::-1]),
        ("quantiles", lambda values: values[:, 0]),
        ("bins", lambda values: values - np.arange(values.shape[1])),
        ("weights", lambda values: values * np.nan),
        ("limits", lambda values: values[:, :1]),
    ],
)
def test_an_impossible_error_model_is_refused(field, change) -> None:
    model = fit_errors(*noisy(100), NO_FLOOR)
    with pytest.raises(ValueError, match=field):
        ErrorModel(**{**vars(model), field: change(getattr(model, field))})
