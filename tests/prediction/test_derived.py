from dataclasses import replace

import numpy as np
import pytest

from crystalpredict.crystals.crystal import Crystal
from crystalpredict.prediction.derived import derivable, derive, derived_bounds
from crystalpredict.prediction.thermal import DALTON, FORMULA_ERRORS, matter_of
from crystalpredict.properties import DERIVED, ELASTIC, PROPERTIES, STABILITY

NAMES = [prop.name for prop in ELASTIC]
EXACT = [prop.name for prop in DERIVED if prop.name not in FORMULA_ERRORS]
DIAMOND = 3.567 / 4 * np.array([[0, 0, 0], [1, 1, 1]])
CUBE = 3.567 / 2 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]])
CARBON = matter_of([Crystal.ordered(CUBE, DIAMOND, np.array([6, 6]))])


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
@pytest.mark.parametrize("name", EXACT)
def test_intervals_hold_nine_tenths_of_correlated_lognormal_moduli(name, correlation) -> None:
    sigmas = np.array([0.08, 0.12])
    covariance = np.outer(sigmas, sigmas) * [[1, correlation], [correlation, 1]]
    draws = np.random.default_rng(0).multivariate_normal(np.log([150.0, 90.0]), covariance, 40000)
    values = derive(name, *np.exp(draws.T), CARBON)
    widths = tuple(np.array([[1.6449 * sigma]]) for sigma in sigmas)  # 90 % of a normal distribution
    ((low, high),) = derived_bounds(name, np.array([150.0]), np.array([90.0]), widths, correlation, CARBON)[0]
    assert np.mean((low <= values) & (values <= high)) == pytest.approx(0.9, abs=0.01)
    assert low < derive(name, np.array([150.0]), np.array([90.0]), CARBON)[0] < high


def diamond(name: str) -> float:
    return float(derive(name, np.array([443.0]), np.array([536.0]), CARBON)[0])


def test_diamond_is_as_fast_hot_and_hard_as_it_is_measured() -> None:
    """K 443 and G 536 GPa: McSkimin and Andreatch (1972). 3.52 g/cm^3; a Debye temperature of 2240 K."""
    assert CARBON.density == pytest.approx([3515], rel=0.002)
    assert diamond("sound_velocity_longitudinal") == pytest.approx(18_100, rel=0.02)  # means of all directions
    assert diamond("sound_velocity_transverse") == pytest.approx(12_300, rel=0.02)
    assert diamond("debye_temperature") == pytest.approx(2240, rel=0.02)
    assert diamond("vickers_hardness") == pytest.approx(96, rel=0.1)


def test_velocities_and_the_debye_temperature_follow_from_each_other() -> None:
    along, across, mean = (diamond(f"sound_velocity{kind}") for kind in ("_longitudinal", "_transverse", ""))
    assert 3 / mean**3 == pytest.approx(1 / along**3 + 2 / across**3)
    # all modes up to the Debye frequency: as many as there are atoms
    frequency = 2 * np.pi * diamond("debye_temperature") * 1.380649e-23 / 6.62607015e-34
    assert (frequency / mean) ** 3 / (6 * np.pi**2) == pytest.approx(8 / 3.567e-10**3, rel=1e-3)


def test_conductivity_is_that_of_a_primitive_cell_and_scales_as_slack_has_it() -> None:
    numbers = np.full(16, 6)
    cell = np.vstack([CUBE[0] * 2, CUBE[1] * 2, CUBE[2] * 2])
    shifts = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)]) @ CUBE
    larger = matter_of([Crystal.ordered(cell, (shifts[:, None] + DIAMOND).reshape(-1, 3), numbers)])
    bulk, shear = np.array([443.0]), np.array([536.0])
    one, same = (derive("thermal_conductivity", bulk, shear, matter) for matter in (CARBON, larger))
    assert same == pytest.approx(one)
    assert derive("thermal_conductivity", 4 * bulk, 4 * shear, CARBON) == pytest.approx(
        8 * one
    )  # as the temperature cubed


def test_atoms_are_counted_by_their_occupancies() -> None:
    """Two half atoms at nearly one place are one atom; an empty half of a site has no mass and is no atom."""
    one = Crystal.ordered(np.eye(3) * 4.2, np.array([[0.0, 0, 0], [2.1, 2.1, 2.1]]), np.array([12, 8]))
    positions = np.array([[-0.1, 0, 0], [0.1, 0, 0], [2.1, 2.1, 2.1]])
    numbers, shares = np.array([[12], [12], [8]]), np.array([[0.5], [0.5], [1.0]])
    split = Crystal(one.lattice, positions, numbers, shares)
    given, found = matter_of([one]), matter_of([split])
    for name in ("density", "mass", "atoms"):
        assert getattr(found, name) == pytest.approx(getattr(given, name), rel=1e-6), name
    half = replace(one, occupancies=np.array([[0.5], [1.0]]))
    assert matter_of([half]).mass * 1.5 == pytest.approx(given.mass * 2 - 24.305 / 2 * DALTON, rel=1e-6)
    assert matter_of([half]).atoms == pytest.approx(1.5)


def test_the_error_of_the_formula_widens_an_interval() -> None:
    none = (np.zeros((1, 5)), np.zeros((1, 5)))
    ends = derived_bounds("thermal_conductivity", np.array([443.0]), np.array([536.0]), none, 0.0, CARBON)[0]
    assert np.log(ends[3, 1] / ends[3, 0]) / 2 == pytest.approx(1.645 * 0.60, rel=1e-3)


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
