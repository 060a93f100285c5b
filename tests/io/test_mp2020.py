"""Corrections of 2020 against pymatgen's own way, and against sums by hand."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from pymatgen.analysis.structure_analyzer import sulfide_type
from pymatgen.core import Composition, Lattice, Structure
from pymatgen.entries.compatibility import MaterialsProject2020Compatibility
from pymatgen.entries.computed_entries import ComputedEntry, ComputedStructureEntry
from pymatgen.io.vasp.sets import MPRelaxSet

from crystalpredict.crystals.crystal import Crystal
from crystalpredict.crystals.oxides import OxideType
from crystalpredict.errors import suppress_warnings
from crystalpredict.io import mp2020
from crystalpredict.io.from_pymatgen import composition_of_formula
from crystalpredict.io.mp2020 import anions_of_entry, are_sulfates, combinations_of, mp2020_correction


def correction(formula: str, oxide_type: OxideType = "oxide") -> float:
    return mp2020_correction(composition_of_formula(formula), oxide_type)


def naive(formula: str, oxide_type: str = "oxide") -> float:
    """What pymatgen gives for an entry of the Materials Project, with oxidation states always guessed."""
    composition = Composition(formula)
    anion = max(composition.elements, key=lambda element: element.X).symbol
    settings = MPRelaxSet.CONFIG["INCAR"]["LDAUU"].get(anion, {})
    hubbards = {element.symbol: settings.get(element.symbol, 0) for element in composition.elements}
    entry = ComputedEntry(
        composition, -7.0 * composition.num_atoms, data={"oxide_type": oxide_type},
        parameters={"run_type": "GGA+U" if any(hubbards.values()) else "GGA", "hubbards": hubbards},
    )  # fmt: skip
    with suppress_warnings():
        done = MaterialsProject2020Compatibility(check_potcar=False).process_entry(entry)
    return float(done.energy_per_atom + 7.0)


# from the table of pymatgen's MP2020Compatibility.yaml (Wang et al. 2021): a sum over the formula
BY_HAND: list[tuple[str, OxideType, float]] = [
    ("Si", "oxide", 0.0), ("O2", "oxide", 0.0), ("Cl2", "oxide", 0.0), ("TiC", "oxide", 0.0), ("FeNi3", "oxide", 0.0),
    ("MgO", "oxide", -0.687 / 2), ("Na2O2", "peroxide", -2 * 0.465 / 4), ("KO2", "superoxide", -2 * 0.161 / 3),
    ("KO3", "ozonide", 0.0), ("Fe2O3", "oxide", (-2 * 2.256 - 3 * 0.687) / 5),
    ("FeF3", "oxide", (-2.256 - 3 * 0.462) / 4), ("BiOCl", "oxide", (-0.687 - 0.614) / 3),
    ("LiFePO4", "oxide", (-2.256 - 4 * 0.687) / 7), ("NaCl", "oxide", -0.614 / 2), ("AlN", "oxide", -0.361 / 2),
    ("FeS2", "oxide", -2 * 0.503 / 3), ("BaSO4", "oxide", (-0.503 - 4 * 0.687) / 6), ("LiH", "oxide", -0.179 / 2),
    ("Mg2Si", "oxide", 0.071 / 3), ("SiO2", "oxide", -2 * 0.687 / 3), ("ZnSb", "oxide", -0.192 / 2),
    ("CrCl3", "oxide", -3 * 0.614 / 4), ("WO2F2", "oxide", (-4.438 - 2 * 0.687 - 2 * 0.462) / 5),
]  # fmt: skip


@pytest.mark.parametrize(("formula", "kind", "expected"), BY_HAND)
def test_corrections_are_sums_over_the_formula(formula: str, kind: OxideType, expected: float) -> None:
    assert correction(formula, kind) == pytest.approx(expected, abs=1e-9)


FORMULAS = [
    "Fe2O3", "Na3AlF6", "NH4Cl", "K2SeO4", "LiSiO3", "Sb2Te3", "BiOI", "CaH2", "SiNH", "TeO2", "Li2NH", "SbSI",
    "MnH6(CN2)4", "CuBr2", "ZnSiP2", "KBrO3", "Na2TeSe3", "UH3", "CoCO3", "Li7PS5Cl", "V2SbO5", "NiF2", "XeF2",
    "Cs2IBr3",
]  # fmt: skip


@pytest.mark.parametrize("formula", FORMULAS)
def test_corrections_are_those_of_pymatgen(formula: str) -> None:
    assert correction(formula) == pytest.approx(naive(formula), abs=1e-9)


def test_amounts_count_by_their_ratio_and_need_not_be_whole() -> None:
    assert mp2020_correction({12: 4.0, 8: 4.0}) == correction("MgO")
    assert mp2020_correction({19: 0.5, 37: 0.5, 17: 1.0}) == pytest.approx(-0.614 / 2)


def test_a_formula_with_countless_oxidation_states_takes_no_time() -> None:
    elements = [42, 23, 25, 26, 24, 75, 44, 76, 16, 34, 52, 53, 17, 35, 7, 92, 94, 78]
    composition = dict.fromkeys(elements, 1.0)
    with suppress_warnings():
        assert combinations_of(Composition({"Fe": 2, "O": 3})) < 100 < mp2020.MAX_COMBINATIONS
        assert combinations_of(Composition({"Fe": 0.5, "O": 3})) == 0
    start = time.perf_counter()
    # chlorine is the most electronegative; sulfur is always corrected
    assert mp2020_correction(composition) == pytest.approx((-0.614 - 0.503) / 18, abs=1e-9)
    assert time.perf_counter() - start < 5


def test_a_second_time_nothing_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    first = correction("Li2NH")
    monkeypatch.setattr(mp2020, "_compatibility", lambda: pytest.fail("computed again"))
    assert correction("Li2NH") == first


def structure_entry(distance: float) -> dict[str, Any]:
    sites = np.array([[0, 0, 0], [distance, 0, 0], [5, 5, 5]])
    structure = Structure(Lattice.cubic(10), ["O", "O", "Ca"], sites, coords_are_cartesian=True)
    return dict(ComputedStructureEntry(structure, -10.0).as_dict())


@pytest.mark.parametrize(
    ("row", "formula", "kind"),
    [
        ({"data": {"oxide_type": "superoxide"}}, "CaO2", ("superoxide", False)),
        ({"data": {"oxide_type": "hydroxide"}}, "CaO2H2", ("oxide", False)),
        ({"data": None, "structure": {"sites": 3}}, "CaO2", ("peroxide", False)),
        (structure_entry(2.5), "CaO2", ("oxide", False)),
        (structure_entry(1.5), "CaO2", ("peroxide", False)),
        ({"formula": "Na4O4"}, "Na4O4", ("peroxide", False)),
        ({"formula": "CsO2"}, "CsO2", ("superoxide", False)),
        ({"formula": "BaSO4"}, "BaSO4", ("oxide", True)),
        ({"formula": "La2SO2"}, "La2SO2", ("oxide", False)),
    ],
)
def test_the_anions_of_an_entry(row: dict[str, Any], formula: str, kind: tuple[str, bool]) -> None:
    assert anions_of_entry(row, composition_of_formula(formula)) == kind


def crystal(structure: Structure) -> Crystal:
    return Crystal.ordered(structure.lattice.matrix, structure.cart_coords, np.array(structure.atomic_numbers))


def test_sulfates_are_those_of_pymatgen_and_their_sulfur_is_not_corrected() -> None:
    random = np.random.default_rng(4)
    structures = []
    for _ in range(60):
        lattice = Lattice(np.eye(3) * random.uniform(4, 6) + random.uniform(-1, 1, (3, 3)))
        symbols = random.choice(["S", "O", "Na", "Cl", "Zn"], size=random.integers(2, 7)).tolist()
        structures.append(Structure(lattice, ["S", "O", "Na", *symbols], random.uniform(0, 1, (len(symbols) + 3, 3))))
    found = are_sulfates([crystal(structure) for structure in structures])
    with suppress_warnings():
        assert found == [sulfide_type(structure) is None for structure in structures]
    assert 10 < sum(found) < 50
    barite = composition_of_formula("BaSO4")
    assert mp2020_correction(barite, sulfate=True) == pytest.approx(-4 * 0.687 / 6)
    zincblende = Structure.from_spacegroup("F-43m", Lattice.cubic(5.4), ["Zn", "S"], [[0, 0, 0], [0.25] * 3])
    lone = Structure(Lattice.cubic(12), ["S", "O"], [[0, 0, 0], [0.5] * 3])
    split = crystal(structures[found.index(True)])
    shared = Crystal(split.lattice, split.positions, split.numbers, 0.5 * split.occupancies)
    assert are_sulfates([crystal(zincblende), crystal(lone), shared]) == [False, False, False]
