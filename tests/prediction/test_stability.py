"""Stability of predicted crystals: the hull against linear programming, and what follows from it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Composition, Lattice, Structure
from pymatgen.entries.computed_entries import ComputedEntry
from scipy.optimize import linprog

from crystalpredict import Predictor, load_model
from crystalpredict.crystals.crystal import ATOMIC_NUMBERS
from crystalpredict.errors import DataError
from crystalpredict.io.from_pymatgen import composition_of_formula
from crystalpredict.prediction.conventions import bundled_elements
from crystalpredict.prediction.known_phases import hull_of, read_phases
from crystalpredict.prediction.phase_diagram import Candidate, diagram_of_phases, phase_diagram
from crystalpredict.prediction.predictions import Predictions
from crystalpredict.prediction.stability import bundled_reference
from crystalpredict.stability.reference import Phase, ReferenceEnergies

TARGETS = ["formation_energy", "e_above_hull", "hull_distance", "total_energy", "decomposes_to", "known_phase"]
FORMATION, ABOVE, DISTANCE, TOTAL = (f"{name}_eV_per_atom" for name in TARGETS[:4])
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
FILES = [str(EXAMPLES / name) for name in ("NaCl.cif", "CsPbBr3.cif", "MoS2.cif", "Si.vasp", "SrTiO3.cif")]


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return load_model(device="cpu", targets=TARGETS)


def hull_energy(formula: str) -> float:
    """The hull of the bundled reference by linear programming, pure elements at 0 among the phases."""
    reference = bundled_reference()
    wanted = composition_of_formula(formula)
    elements = sorted(wanted)
    phases = [reference.phase(number) for number in reference.of_system(elements)]
    phases += [Phase({z: 1}, 0.0, "") for z in elements]
    fractions = [[each.composition.get(z, 0) / sum(each.composition.values()) for z in elements] for each in phases]
    target = np.array([wanted[z] for z in elements]) / sum(wanted.values())
    found = linprog([each.energy for each in phases], A_eq=np.array(fractions).T, b_eq=target)
    return float(found.fun)


def test_the_energy_above_hull_is_the_formation_energy_less_the_hull(predictor: Predictor) -> None:
    for row in predictor.predict(FILES):
        distance = row[FORMATION] - hull_energy(row.formula)
        assert row[DISTANCE] == pytest.approx(distance, abs=1e-5)
        assert row[ABOVE] == pytest.approx(max(distance, 0), abs=1e-5)
        low, high = row.interval(FORMATION)
        assert row.interval(DISTANCE) == pytest.approx(
            (low - hull_energy(row.formula), high - hull_energy(row.formula)), abs=1e-5
        )
        assert 0 <= row.interval(ABOVE)[0] <= row[ABOVE] <= row.interval(ABOVE)[1]


def test_the_phases_named_have_the_composition_and_the_energy_of_the_hull() -> None:
    row = load_model(device="cpu", targets=["decomposes_to"]).predict(structure_of("LiFe3O5"))[0]
    found: dict[str, float] = {}
    energy = 0.0
    for part in row.texts["decomposes_to"].split(" + "):
        share, formula, identifier = part.split()
        composition = Composition(formula)
        for element in composition.elements:
            found[element.symbol] = found.get(element.symbol, 0) + float(share) * composition.get_atomic_fraction(
                element
            )
        reference = bundled_reference()
        phase = reference.phase(reference.find(composition_of_formula(formula)))
        assert identifier == f"({phase.identifier})"
        energy += float(share) * phase.energy
    assert found == pytest.approx({"Li": 1 / 9, "Fe": 3 / 9, "O": 5 / 9}, abs=2e-3)
    assert energy == pytest.approx(hull_energy("LiFe3O5"), abs=5e-3)


def structure_of(formula: str) -> Structure:
    """Some cell of a formula, atoms on a line of cubes."""
    symbols = [element.symbol for element, amount in Composition(formula).items() for _ in range(round(amount))]
    count = len(symbols)
    return Structure(Lattice.orthorhombic(2.6 * count, 2.6, 2.6), symbols, [[i / count, 0, 0] for i in range(count)])


def test_copies_of_a_cell_and_sites_that_elements_share_have_the_same_hull() -> None:
    predictor = load_model(device="cpu", targets=["formation_energy", "hull_distance"])
    cell = Structure(Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    mixed = Structure(Lattice.cubic(4.0), [{"Cs": 0.5, "Rb": 0.5}, "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    one, copies, shared = predictor.predict([cell, cell * (2, 1, 1), mixed])
    assert copies[DISTANCE] == pytest.approx(one[DISTANCE], abs=1e-4)
    assert shared[FORMATION] - shared[DISTANCE] == pytest.approx(hull_energy("Cs0.5Rb0.5Cl"), abs=1e-4)


def test_an_element_is_not_below_its_ground_state(predictor: Predictor) -> None:
    iron = [Structure(Lattice.cubic(a), ["Fe", "Fe"], [[0, 0, 0], [0.5, 0.5, 0.5]]) for a in np.arange(2.5, 3.2, 0.1)]
    for row in predictor.predict(iron):
        assert row[FORMATION] >= 0
        assert row[ABOVE] == row[DISTANCE] == row[FORMATION]


def test_total_energies_have_no_corrections() -> None:
    elements = bundled_elements()
    # Materials Project: mp-149 -5.42, mp-13 -8.47, mp-12957 (oxygen) -4.94 eV/atom, uncorrected PBE
    for symbol, energy in (("Si", -5.42), ("Fe", -8.47), ("O", -4.94)):
        assert elements.energy({ATOMIC_NUMBERS[symbol]: 1}) == pytest.approx(energy, abs=0.03)
    iron, oxygen, sulfur = (ATOMIC_NUMBERS[symbol] for symbol in ("Fe", "O", "S"))
    oxide, sulfide = elements.energy({iron: 1, oxygen: 1}), elements.energy({iron: 1, sulfur: 1})
    of_oxygen = elements.reference["O"] + elements.oxide_corrections["oxide"]
    assert oxide == pytest.approx((elements.reference["Fe"] + elements.u_shift["Fe"] + of_oxygen) / 2)
    # hematite: formation energy -1.7 to -1.9 eV/atom, total energy -6.77 eV/atom in MPF.2021.2.8 (mp-19770)
    hematite = elements.energy({iron: 2, oxygen: 3}) - 1.886
    assert hematite == pytest.approx(-6.75, abs=0.08)
    assert sulfide == pytest.approx((elements.reference["Fe"] + elements.reference["S"]) / 2)
    assert np.isnan(elements.energy({98: 1}))


def test_an_element_without_a_reference_energy_has_no_total_energy_and_a_row() -> None:
    rows = load_model(device="cpu", targets=["formation_energy", "total_energy"]).predict([structure_of("CfO")])
    (row,) = rows
    assert not row.error
    assert np.isnan(row[TOTAL])
    frame = Predictions(rows, [], intervals=False).to_frame()
    assert len(frame) == 1


def test_entries_take_part_in_the_hull_or_replace_it(tmp_path: Path) -> None:
    table = tmp_path / "known.csv"
    table.write_text("id,formula,formation_energy\nmine,NaCl,-3.0\n")
    cell = str(EXAMPLES / "NaCl.cif")
    for reference in (True, False):
        hull = hull_of(table, reference=reference)
        (row,) = load_model(device="cpu", targets=TARGETS, hull=hull).predict(cell)
        assert row[DISTANCE] == pytest.approx(row[FORMATION] + 3.0, abs=1e-6)
        assert row.texts["decomposes_to"] == "NaCl (mine)"
        assert row.texts["known_phase"].startswith("mine (+0.")
    (row,) = load_model(device="cpu", targets=TARGETS, hull=hull_of(reference=False)).predict(cell)
    assert row[DISTANCE] == row[FORMATION]
    assert row.texts["decomposes_to"] == "0.500 Na + 0.500 Cl"
    assert row.texts["known_phase"] == ""


def test_entries_of_pymatgen_and_total_energies_are_formation_energies(tmp_path: Path) -> None:
    composition = Composition("Fe4O6")
    total = -1.7 + bundled_elements().energy(composition_of_formula("Fe2O3"))
    entry = ComputedEntry(composition, 10 * total, correction=-3.0, entry_id="mp-1", parameters={"run_type": "GGA+U"})
    (tmp_path / "entries.json").write_text(json.dumps([entry.as_dict()]))
    (tmp_path / "table.csv").write_text(f"formula,total_energy,id\nFe2O3,{total},x\n")
    (tmp_path / "lines.jsonl").write_text(json.dumps({"formula": "Fe2O3", "formation_energy_per_atom": -1.7}) + "\n")
    for name, identifier in (("entries.json", "mp-1"), ("table.csv", "x"), ("lines.jsonl", "lines.jsonl#0")):
        (phase,) = read_phases(tmp_path / name)
        assert phase.energy == pytest.approx(-1.7, abs=1e-9)
        assert phase.identifier == identifier
        assert phase.composition[8] / phase.composition[26] == 1.5


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("formula,formation_energy\nNaCl,\n", "no energy"),
        ("formula,formation_energy\nNaCl,low\n", "no number"),
        ("formula,formation_energy\nNaCl,nan\n", "no number"),
        ("formula,formation_energy\nsalt,-1\n", "is not a formula"),
        ("formula,formation_energy\nOg,-1\n", "no model covers the element Og"),
        ("name,formation_energy\nNaCl,-1\n", "no formula: it needs a formula"),
        ("formula,total_energy\nCfO,-1\n", "without a reference energy"),
        ('[{"composition": {"Na": 1, "Cl": 1}, "energy": -7, "parameters": {"run_type": "r2SCAN"}}]', "of r2SCAN"),
        ("formula,formation_energy\n", "no phases|empty|no rows"),
    ],
)  # fmt: skip
def test_rows_that_are_no_phases_are_refused_by_number(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / ("bad.json" if text.startswith("[") else "bad.csv")
    path.write_text(text)
    with pytest.raises(DataError, match=reason) as refused:
        list(read_phases(path))
    assert str(path) in str(refused.value)


def test_phases_joined_to_a_reference_are_as_if_all_were_given_at_once() -> None:
    random = np.random.default_rng(3)
    phases = []
    for number in range(300):
        elements = random.choice([3, 8, 11, 26, 50], size=random.integers(1, 5), replace=False).tolist()
        composition = {int(z): float(random.integers(1, 3)) for z in elements}
        phases.append(Phase(composition, float(random.normal()), f"mp-{number}"))
    one, joined = (
        ReferenceEnergies.of_phases(phases),
        ReferenceEnergies.of_phases(phases[:120]).with_phases(phases[120:]),
    )
    assert len(one) == len(joined) < 300
    for number in range(len(one)):
        assert one.phase(number) == joined.phase(number)
    lowest = {number: min(p.energy for p in phases if p.composition.keys() == {number}) for number in (3, 8)}
    for z, energy in lowest.items():
        assert one.energies[one.find({z: 7.0})] == energy
    assert one.find({92: 1.0}) is None


def test_a_new_stable_phase_lowers_the_hull_for_others() -> None:
    reference = ReferenceEnergies.of_phases([Phase({11: 1, 17: 1}, -2.0, "mp-1"), Phase({11: 1, 17: 3}, -1.2, "mp-2")])
    new = Candidate(Phase({11: 1, 17: 2}, -2.5, "new.cif"), (-2.6, -2.4))
    diagram = diagram_of_phases([11, 17], reference, [new])
    rows = {row.id: row for row in diagram.phases if row.id}
    assert rows["new.cif"].stable
    assert rows["new.cif"].lo90 == -2.6
    # on the line from NaCl to NaCl3, or from NaCl to Cl, two thirds of the way: the lower one
    assert rows["new.cif"].hull_distance == pytest.approx(-2.5 - min((-2.0 + 2 * -1.2) / 3, -2.0 * 2 / 3))
    assert rows["mp-2"].e_above_hull == pytest.approx(-1.2 - -2.5 * 3 / 4, abs=1e-9)
    assert rows["mp-2"].decomposes_to == "0.750 NaCl2 (new.cif) + 0.250 Cl2"
    assert {row.formula for row in diagram.phases if row.stable} == {"Na", "Cl2", "NaCl", "NaCl2"}
    assert diagram.to_frame()["e_above_hull_eV_per_atom"].is_monotonic_increasing


def test_structures_join_the_diagram_of_a_system() -> None:
    diagram = phase_diagram("Na-Cl", [*FILES[:2], "missing.cif"], device="cpu")
    assert [row.source for row in diagram.phases].count("predicted") == 1  # CsPbBr3 has other elements
    assert [row.path for row in diagram.failed] == ["missing.cif"]
    assert "Na-Cl: " in repr(diagram)
    assert phase_diagram(structures=FILES[0], device="cpu").elements == ("Na", "Cl")


def test_one_phase_is_counted_in_the_singular() -> None:
    assert phase_diagram("Xe", reference=False).summary == "Xe: 1 phase, 1 stable"
