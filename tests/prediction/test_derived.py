import numpy as np
import pytest

from crystalpredict.prediction.derived import derivable, derive, derived_bounds
from crystalpredict.properties import DERIVED, PROPERTIES, STABILITY

NAMES = [prop.name for prop in DERIVED]


def test_elastic_quantities_fit_together() -> None:
    bulk, shear = np.random.default_rng(0).uniform(1, 400, (2, 50))
    young, poisson, pugh = (derive(name, bulk, shear) for name in NAMES)
    assert young == pytest.approx(2 * shear * (1 + poisson))  # two identities of isotropic elasticity
    assert young == pytest.approx(3 * bulk * (1 - 2 * poisson))
    assert pugh == pytest.approx(2 * (1 + poisson) / (3 * (1 - 2 * poisson)))


def test_limits_of_poissons_ratio() -> None:
    rubber, cork = derive("poisson_ratio", np.array([1e9, 1e-9]), np.array([1.0, 1.0]))
    assert (rubber, cork) == pytest.approx((0.5, -1))
    assert derive("poisson_ratio", np.array([2.0]), np.array([3.0])) == pytest.approx([0])


@pytest.mark.parametrize("correlation", [-0.5, 0.0, 0.3, 0.9])
@pytest.mark.parametrize("name", NAMES)
def test_intervals_hold_nine_tenths_of_correlated_lognormal_moduli(name, correlation) -> None:
    sigmas = np.array([0.08, 0.12])
    covariance = np.outer(sigmas, sigmas) * [[1, correlation], [correlation, 1]]
    draws = np.random.default_rng(0).multivariate_normal(np.log([150.0, 90.0]), covariance, 40000)
    values = derive(name, *np.exp(draws.T))
    widths = tuple(np.array([[1.6449 * sigma]]) for sigma in sigmas)  # 90 % of a normal distribution
    ((low, high),) = derived_bounds(name, np.array([150.0]), np.array([90.0]), widths, correlation)[0]
    assert np.mean((low <= values) & (values <= high)) == pytest.approx(0.9, abs=0.01)
    assert low < derive(name, np.array([150.0]), np.array([90.0]))[0] < high


def test_errors_that_go_together_leave_the_ratio_sharp() -> None:
    one = np.array([[0.2]])
    for name in ("poisson_ratio", "pugh_ratio"):
        ends = derived_bounds(name, np.array([100.0]), np.array([50.0]), (one, one), 1.0)
        assert np.ptp(ends) == pytest.approx(0, abs=1e-7)


def test_wide_intervals_of_poissons_ratio_stay_between_its_limits() -> None:
    wide = np.array([[9.0]])
    ends = derived_bounds("poisson_ratio", np.array([100.0]), np.array([50.0]), (wide, wide), 0.0)
    assert ends.min() > -1
    assert ends.max() < 0.5


def test_only_a_model_of_both_moduli_has_derived_quantities() -> None:
    assert derivable(PROPERTIES) == (*DERIVED, *STABILITY)
    assert derivable(PROPERTIES[:4]) == STABILITY
    assert derivable((*PROPERTIES, DERIVED[0])) == (*DERIVED[1:], *STABILITY)
    assert derivable(PROPERTIES[3:]) == DERIVED
