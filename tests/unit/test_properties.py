from dataclasses import replace

import numpy as np
import pytest

from crystalpredict.errors import UsageError
from crystalpredict.properties import PROPERTIES, find_property


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("gap", "bandgap"), ("eform", "formation_energy"), ("ehull", "e_above_hull"), ("K", "bulk_modulus"),
        ("G", "shear_modulus"), ("Band-Gap", "bandgap"), ("bulk_modulus_GPa", "bulk_modulus"),
    ],
)  # fmt: skip
def test_aliases_in_any_case(alias: str, name: str) -> None:
    assert find_property(alias).name == name


def test_no_alias_stands_for_two_properties() -> None:
    names = [alias for prop in PROPERTIES for alias in (prop.name, prop.column, *prop.aliases)]
    assert len(names) == len({name.lower() for name in names})


def test_an_unknown_target_names_the_nearest_or_all() -> None:
    with pytest.raises(UsageError, match="did you mean 'bandgap'"):
        find_property("bandgpa")
    with pytest.raises(UsageError, match="choose from bandgap, formation_energy"):
        find_property("viscosity")


def test_columns_carry_their_units() -> None:
    assert [prop.column for prop in PROPERTIES] == [
        "bandgap_eV", "formation_energy_eV_per_atom", "e_above_hull_eV_per_atom", "bulk_modulus_GPa",
        "shear_modulus_GPa",
    ]  # fmt: skip


def test_moduli_are_trained_as_logarithms_and_non_positive_ones_are_no_labels() -> None:
    bulk = find_property("K")
    encoded = bulk.encode(np.array([100.0, 0.0, -3.0, np.nan]))
    assert encoded[0] == 2.0
    assert np.isnan(encoded[1:]).all()
    assert bulk.decode(np.array([2.0, -1.0])) == pytest.approx([100.0, 0.1])


def test_gap_and_hull_energy_are_never_negative_but_formation_energy_may_be() -> None:
    assert find_property("gap").decode(np.array([-0.1, 0.2])).tolist() == [0.0, 0.2]
    assert find_property("ehull").decode(np.array([-0.1])).tolist() == [0.0]
    assert find_property("eform").decode(np.array([-0.1])).tolist() == [-0.1]


def test_digits_tell_the_labels_of_a_property_apart() -> None:
    spread = np.array([-1.0, np.nan, 1.0])
    gap, bulk = find_property("gap"), find_property("K")
    assert [gap.shown_as(spread * 10.0**power).decimals for power in (3, 0, -1, -2, -6)] == [4, 4, 4, 5, 9]
    assert [bulk.shown_as(10.0**power * np.ones(3)).decimals for power in (3, 0, -4)] == [2, 3, 7]
    assert gap.shown_as(np.array([np.nan])) == gap.shown_as(np.zeros(3)) == gap


def test_the_trained_scale_has_a_unit_of_its_own() -> None:
    bulk, gap = find_property("bulk_modulus"), find_property("bandgap")
    assert (bulk.trained_unit, gap.trained_unit) == ("log10(GPa)", "eV")
    assert replace(bulk, unit="", unit_in_name="").trained_unit == "log10"
