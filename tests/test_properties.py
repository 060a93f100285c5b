import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from crystalpredict._schema import read_record, record
from crystalpredict.errors import UsageError
from crystalpredict.prediction.derived import asked_for, derivable
from crystalpredict.properties import PROPERTIES, Property, find_property


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("gap", "bandgap"), ("eform", "formation_energy"), ("ehull", "e_above_hull"), ("K", "bulk_modulus"),
        ("G", "shear_modulus"), ("Band-Gap", "bandgap"), ("bulk_modulus_GPa", "bulk_modulus"),
    ],
)  # fmt: skip
def test_aliases_in_any_case(alias: str, name: str) -> None:
    assert find_property(alias).name == name


@pytest.mark.parametrize("key", ["name", "unit_in_name"])
def test_a_name_that_leads_out_of_a_folder_is_refused(key: str) -> None:
    entry = {"name": "x", "label": "x", "unit": "", "unit_in_name": ""}
    for name in ("../../x", "a b", "x/y", "x\n"):
        with pytest.raises(ValueError, match=f"{key} is "):
            record(entry | {key: name}, Property)
    with pytest.raises(ValueError, match="name is "):
        record(entry | {"name": ""}, Property)
    assert all(read_record(json.dumps(asdict(prop)), Property) == prop for prop in PROPERTIES)


def test_no_alias_stands_for_two_properties() -> None:
    names = [alias for prop in PROPERTIES for alias in (prop.name, prop.column, *prop.aliases)]
    assert len(names) == len({name.lower() for name in names})


def test_an_exact_name_goes_before_an_alias_and_a_models_own_property_before_a_derived_one() -> None:
    own = [Property(name, name, "GPa", "GPa") for name in ("young", "Youngs_modulus", "n", "N", "gap_PBE")]
    own.append(Property("x", "x", "eV", "eV"))
    own.append(Property("x_eV", "x_eV", "eV", "eV"))
    among = (*PROPERTIES, *own)
    for prop in (*among, *reversed(among)):
        assert find_property(prop.name, among) is prop
        assert find_property(prop.column, among) is prop or prop.column == "x_eV"
    assert find_property("GAP_pbe", among).name == "gap_PBE"
    assert find_property("gap", among).name == "bandgap"
    assert [prop.name for prop in asked_for((*PROPERTIES, own[0]), ["young", "youngs_modulus"])] == [
        "young",
        "youngs_modulus",
    ]
    assert "youngs_modulus" not in [prop.name for prop in derivable((*PROPERTIES, own[1]))]


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
    assert find_property("ehull").in_unit(np.array([-0.1])).tolist() == [-0.1]  # a label is what it is
    assert find_property("eform").decode(np.array([-0.1])).tolist() == [-0.1]


def test_digits_tell_the_labels_of_a_property_apart() -> None:
    spread = np.array([-1.0, np.nan, 1.0])
    gap, bulk = find_property("gap"), find_property("K")
    assert [gap.with_decimals_for(spread * 10.0**power).decimals for power in (3, 0, -1, -2, -6)] == [4, 4, 4, 5, 9]
    assert [bulk.with_decimals_for(10.0**power * np.ones(3)).decimals for power in (3, 0, -4, -25)] == [2, 3, 7, 28]
    assert gap.with_decimals_for(np.array([np.nan])) == gap.with_decimals_for(np.zeros(3)) == gap


def test_the_trained_scale_has_a_unit_of_its_own() -> None:
    bulk, gap = find_property("bulk_modulus"), find_property("bandgap")
    assert (bulk.trained_unit, gap.trained_unit) == ("log10(GPa)", "eV")
    assert replace(bulk, unit="", unit_in_name="").trained_unit == "log10"
