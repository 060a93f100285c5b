"""Formation energies in other conventions: shifts, the reference and predictions agree."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Composition, Lattice, Structure
from pymatgen.entries.compatibility import MaterialsProjectCompatibility
from pymatgen.entries.computed_entries import ComputedEntry
from pymatgen.io.vasp.sets import MPRelaxSet
from safetensors.numpy import load, save

import crystalpredict
from crystalpredict import Prediction, load_model
from crystalpredict.crystals.crystal import ATOMIC_NUMBERS, ELEMENTS, Crystal
from crystalpredict.crystals.oxides import OxideType
from crystalpredict.errors import DataError, UsageError, suppress_warnings
from crystalpredict.io.from_pymatgen import composition_of_formula
from crystalpredict.prediction.conventions import bundled_elements, shift_to, shifts_of
from crystalpredict.prediction.known_phases import hull_of, read_phases
from crystalpredict.prediction.stability import bundled_reference
from crystalpredict.stability.conventions import Convention
from crystalpredict.stability.hull import hull_points
from crystalpredict.stability.reference import Phase, ReferenceEnergies

OTHERS = (Convention.mp2020, Convention.uncorrected)
TARGETS = ["formation_energy", "e_above_hull", "hull_distance", "total_energy", "decomposes_to", "known_phase"]
FORMATION, ABOVE, DISTANCE, TOTAL = (f"{name}_eV_per_atom" for name in TARGETS[:4])
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
FILES = [str(EXAMPLES / name) for name in ("NaCl.cif", "CsPbBr3.cif", "Si.vasp", "SrTiO3.cif")]


@pytest.mark.parametrize("convention", Convention)
def test_elements_have_the_same_formation_energy_in_each_convention(convention: Convention) -> None:
    assert [shift_to(convention, {number: 2.0}) for number in range(1, len(ELEMENTS) + 1)] == [0.0] * len(ELEMENTS)
    chlorine = Crystal.ordered(np.eye(3) * 6, np.array([[0.0, 0, 0], [2, 0, 0]]), np.array([17, 17]))
    assert shifts_of([chlorine], convention).tolist() == [0.0]
    plain, other = bundled_reference(), bundled_reference(convention)
    pure = list(plain.pure.values())
    assert len(pure) > 80
    assert other.energies[pure].tolist() == plain.energies[pure].tolist()


COMPOUNDS: list[tuple[str, OxideType]] = [
    ("Fe2O3", "oxide"), ("LiFePO4", "oxide"), ("NaCl", "oxide"), ("MgO", "oxide"), ("Na2O2", "peroxide"),
    ("KO2", "superoxide"), ("KO3", "ozonide"), ("ZnS", "oxide"), ("FeF3", "oxide"), ("FeCl3", "oxide"),
    ("AlN", "oxide"), ("TiC", "oxide"), ("CaH2", "oxide"), ("WO3", "oxide"), ("NiS", "oxide"), ("BaSO4", "oxide"),
    ("CsBr", "oxide"),
]  # fmt: skip


@pytest.mark.parametrize(("formula", "kind"), COMPOUNDS)
def test_what_2018_corrects_is_what_pymatgen_corrected_then(formula: str, kind: OxideType) -> None:
    """By the corrections of pymatgen's older scheme, and its fitted energies of gases."""
    composition = Composition(formula)
    symbols = [element.symbol for element in composition.elements]
    anion = max(composition.elements, key=lambda element: element.X).symbol
    settings = MPRelaxSet.CONFIG["INCAR"]["LDAUU"].get(anion, {})
    hubbards = {symbol: settings[symbol] for symbol in symbols if symbol in settings}
    potcars = [f"PBE {MPRelaxSet.CONFIG['POTCAR'][symbol]}" for symbol in symbols]
    entry = ComputedEntry(
        composition, 0.0, data={"oxide_type": kind},
        parameters={"run_type": "GGA+U" if hubbards else "GGA", "hubbards": hubbards, "potcar_symbols": potcars},
    )  # fmt: skip
    with suppress_warnings():
        corrected = MaterialsProjectCompatibility().process_entry(entry, on_error="raise").energy_per_atom
    gases = {"N": -7.95247218762, "F": -1.42055013381, "Cl": -1.25385097674, "H": -3.23973666138}
    ground = bundled_elements().uncorrected
    of_gases = sum(
        composition.get_atomic_fraction(symbol) * (energy - ground[symbol]) for symbol, energy in gases.items()
    )
    shift = shift_to(Convention.uncorrected, composition_of_formula(formula), kind)
    assert shift == pytest.approx(of_gases - corrected, abs=0.012)  # the fit of metals' U differs by 10 meV


def test_the_reference_has_the_shifts_of_its_phases() -> None:
    plain, random = bundled_reference(), np.random.default_rng(7)
    rows = random.choice(len(plain), 400, replace=False).tolist()
    for convention in OTHERS:
        differences = (bundled_reference(convention).energies - plain.energies)[rows]
        same = [
            difference == pytest.approx(shift_to(convention, plain.phase(row).composition), abs=1e-6)
            for row, difference in zip(rows, differences.tolist(), strict=True)
        ]
        assert sum(same) > 375  # but for peroxides and sulfates, which structures decide
    number = plain.find({3: 2, 8: 2})
    assert number is not None
    for convention in OTHERS:
        difference = bundled_reference(convention).energies[number] - plain.energies[number]
        assert difference == pytest.approx(shift_to(convention, {3: 1, 8: 1}, "peroxide"), abs=1e-6)
    number = plain.find(barite := composition_of_formula("BaSO4"))
    assert number is not None
    for convention in OTHERS:
        difference = bundled_reference(convention).energies[number] - plain.energies[number]
        assert difference == pytest.approx(shift_to(convention, barite, sulfate=True), abs=1e-6)


def test_a_file_keeps_shifts_and_may_have_none(tmp_path: Path) -> None:
    path = tmp_path / "energies.safetensors"
    phases = [Phase({11: 1, 17: 1}, -2.0, "mp-1"), Phase({12: 1, 8: 1}, -3.0, "mp-2"), Phase({12: 1}, 0.0, "mp-3")]
    plain = ReferenceEnergies.of_phases(phases)
    plain.save(path)
    loaded = ReferenceEnergies.load(path)
    assert loaded.in_convention(Convention.mp2018) is loaded
    with pytest.raises(DataError, match="no shifts to the convention mp2020"):
        loaded.in_convention(Convention.mp2020)
    shifts = {Convention.mp2020: np.array([0.0, 0.25, 0.5]), Convention.uncorrected: np.array([0.0, 1.0, -1.0])}
    ReferenceEnergies(*[getattr(plain, name) for name in FIELDS], shifts=shifts).save(path)
    loaded = ReferenceEnergies.load(path)
    for convention in OTHERS:
        assert loaded.in_convention(convention).energies.tolist() == (plain.energies + shifts[convention]).tolist()
    assert loaded.energies.tolist() == plain.energies.tolist()
    arrays = load(path.read_bytes())
    broken = [
        ("shift_mp2020", arrays["shift_mp2020"][:2]), ("shift_mp2020", np.float32([0, np.nan, 0])),
        ("shift_mp2021", arrays["shift_mp2020"]),
    ]  # fmt: skip
    for name, array in broken:
        path.write_bytes(save({**arrays, name: array}))
        with pytest.raises(DataError, match="reference energies"):
            ReferenceEnergies.load(path)


FIELDS = ("systems", "starts", "amounts", "energies", "identifiers")


@pytest.fixture(scope="module")
def rows() -> dict[Convention, list[Prediction]]:
    return {each: crystalpredict.predict(FILES, targets=TARGETS, convention=each.value) for each in Convention}


def test_predictions_and_phases_are_of_one_convention(rows: dict[Convention, list[Prediction]]) -> None:
    for convention in OTHERS:
        reference = bundled_reference(convention)
        for row, plain in zip(rows[convention], rows[Convention.mp2018], strict=True):
            composition = composition_of_formula(row.formula)
            shift = shift_to(convention, composition)
            assert row[FORMATION] == pytest.approx(plain[FORMATION] + shift, abs=1e-5)
            assert row[TOTAL] == pytest.approx(plain[TOTAL], abs=1e-5)
            assert row.interval(FORMATION) == pytest.approx(
                tuple(end + shift for end in plain.interval(FORMATION)), abs=1e-5
            )
            (point,) = hull_points(reference, [composition])
            assert row[DISTANCE] == pytest.approx(row[FORMATION] - point.energy, abs=1e-5)
            assert row[ABOVE] == pytest.approx(max(row[DISTANCE], 0), abs=1e-5)
            low, high = row.interval(DISTANCE)
            assert high - low == pytest.approx(np.subtract(*row.interval(FORMATION)[::-1]), abs=1e-5)
            number = reference.find(composition)
            above = row[FORMATION] - reference.energies[number]
            assert float(row.texts["known_phase"].split("(")[1].split()[0]) == pytest.approx(above, abs=1e-4)
    names = {each: [row.formula for row in rows[each]] for each in Convention}
    assert len({tuple(each) for each in names.values()}) == 1
    assert abs(rows[Convention.mp2020][0][FORMATION] - rows[Convention.uncorrected][0][FORMATION]) > 0.3  # NaCl
    assert rows[Convention.mp2020][2][FORMATION] == rows[Convention.mp2018][2][FORMATION]  # silicon


def test_a_formation_energy_alone_is_converted_too(rows: dict[Convention, list[Prediction]]) -> None:
    alone = crystalpredict.predict(FILES, targets=["formation_energy", "bandgap"], convention="uncorrected")
    wanted = rows[Convention.uncorrected]
    assert [row[FORMATION] for row in alone] == pytest.approx([row[FORMATION] for row in wanted], abs=1e-4)


def test_a_peroxide_has_other_shifts_than_an_oxide_of_its_composition() -> None:
    cells = [
        Structure(Lattice.cubic(5), ["Na", "Na", "O", "O"], [[0, 0, 0.5], [0.5, 0.5, 0], [0, 0, 0], [x, 0, 0]])
        for x in (0.3, 0.5)  # 1.5 and 2.5 Å
    ]
    plain, uncorrected = (
        load_model(device="cpu", targets=["formation_energy", "total_energy"], hull=hull_of(convention=name)).predict(
            cells
        )
        for name in ("mp2018", "uncorrected")
    )
    elements = bundled_elements()
    kinds: list[tuple[OxideType, float]] = [("peroxide", 0.46622), ("oxide", 0.7023)]
    for before, after, (kind, per_oxygen) in zip(plain, uncorrected, kinds, strict=True):
        assert after[FORMATION] - before[FORMATION] == pytest.approx(
            per_oxygen / 2, abs=0.02
        )  # the elements themselves differ little
        assert before[TOTAL] == pytest.approx(before[FORMATION] + elements.energy({11: 1, 8: 1}, kind), abs=1e-6)
        assert after[TOTAL] == pytest.approx(before[TOTAL], abs=1e-5)


def test_entries_are_of_the_convention_chosen(tmp_path: Path) -> None:
    iron = {26: 2.0, 8: 3.0}
    total = -1.7 + bundled_elements().energy(iron)
    table = tmp_path / "known.csv"
    table.write_text(f"id,formula,total_energy,formation_energy\ntotal,Fe2O3,{total},\nformation,NaCl,,-2.5\n")
    entry = ComputedEntry("Na2O2", 4 * -4.0, entry_id="mp-1", data={"oxide_type": "peroxide"})
    entries = tmp_path / "entries.json"
    entries.write_text(json.dumps([entry.as_dict()]))
    for convention in Convention:
        energies = {phase.identifier: phase.energy for phase in read_phases(table, convention)}
        assert energies["total"] == pytest.approx(-1.7 + shift_to(convention, iron), abs=1e-9)
        assert energies["formation"] == -2.5
        (phase,) = read_phases(entries, convention)
        oxygen = bundled_elements().energy({11: 1, 8: 1}, "peroxide")
        assert phase.energy == pytest.approx(-4.0 - oxygen + shift_to(convention, {11: 1, 8: 1}, "peroxide"), abs=1e-9)
        known = hull_of(table, convention=convention).phases
        number = known.find(composition_of_formula("NaCl"))
        assert number is not None
        assert known.energies[number] == -2.5
        magnesia = known.find({12: 1, 8: 1})
        assert magnesia is not None
        own = bundled_reference(convention)
        assert known.energies[magnesia] == own.energies[own.find({12: 1, 8: 1})]


def test_an_element_without_energies_has_no_shift_and_an_unknown_convention_is_refused() -> None:
    assert np.isnan(shift_to(Convention.uncorrected, {ATOMIC_NUMBERS["Cf"]: 1, 8: 1}))
    assert shift_to(Convention.mp2018, {ATOMIC_NUMBERS["Cf"]: 1, 8: 1}) == 0
    with pytest.raises(UsageError, match="no convention 'mp2021': choose from mp2018, mp2020, uncorrected"):
        crystalpredict.predict(FILES, convention="mp2021")
