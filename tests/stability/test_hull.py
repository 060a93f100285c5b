"""The hull against pymatgen's phase diagrams, and by brute force."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.core import Composition
from scipy.optimize import linprog

from crystalpredict.crystals.crystal import ELEMENTS
from crystalpredict.prediction.stability import formula_of
from crystalpredict.stability.hull import hull_points
from crystalpredict.stability.reference import Phase, ReferenceEnergies


def random_phases(elements: list[int], count: int, random: np.random.Generator) -> list[Phase]:
    """Phases of some of the elements each, most of them stable against the elements."""
    phases = []
    for number in range(count):
        own = random.choice(elements, size=random.integers(1, len(elements) + 1), replace=False).tolist()
        amounts = random.integers(1, 5, len(own)).tolist()
        energy = 0.0 if len(own) == 1 else float(random.normal(-0.5, 0.6))
        phases.append(Phase(dict(zip(own, amounts, strict=True)), energy, f"mp-{number}"))
    return phases


def composition(phase: dict[int, float]) -> Composition:
    return Composition({ELEMENTS[z - 1]: amount for z, amount in phase.items()})


@pytest.mark.parametrize("size", [2, 3, 4, 5, 6])
def test_the_hull_is_that_of_pymatgen(size: int) -> None:
    random = np.random.default_rng(size)
    elements = sorted(random.choice(np.setdiff1d(np.arange(1, 90), [2, 10, 18]), size=size, replace=False).tolist())
    phases = random_phases(elements, 12 * size, random)
    pure = [PDEntry(composition({z: 1}), 0.0) for z in elements]
    known = [PDEntry(c := composition(dict(each.composition)), each.energy * c.num_atoms) for each in phases]
    diagram = PhaseDiagram([*pure, *known])
    wanted = [dict(zip(elements, random.dirichlet(np.ones(size)).tolist(), strict=True)) for _ in range(20)]
    wanted += [dict(each.composition) for each in random_phases(elements, 20, random)]
    reference = ReferenceEnergies.of_phases(phases)
    points = hull_points(reference, wanted)
    for each, point in zip(wanted, points, strict=True):
        assert point.energy == pytest.approx(diagram.get_hull_energy_per_atom(composition(each)), abs=1e-7)
        mixed: dict[int, float] = dict.fromkeys(elements, 0.0)  # the decomposition has the composition and the energy
        energy = 0.0
        for number, share in point.mixture:
            phase = reference.phase(number) if number >= 0 else Phase({-number: 1}, 0.0, "")
            for z, amount in phase.composition.items():
                mixed[z] += share * amount / sum(phase.composition.values())
            energy += share * (0.0 if len(phase.composition) == 1 else phase.energy)
        assert energy == pytest.approx(point.energy, abs=1e-9)
        total = sum(each.values())
        assert [mixed[z] for z in elements] == pytest.approx([each.get(z, 0) / total for z in elements], abs=1e-9)


def test_the_hull_of_a_binary_system_is_the_lowest_of_all_lines() -> None:
    random = np.random.default_rng(11)
    phases = [each for each in random_phases([11, 17], 60, random) if len(each.composition) == 2]
    places = [(0.0, 0.0), (1.0, 0.0)]
    places += [(each.composition[17] / sum(each.composition.values()), each.energy) for each in phases]
    reference = ReferenceEnergies.of_phases(phases)
    for x in np.linspace(0.03, 0.97, 40).tolist():
        lines = [
            e1 + (e2 - e1) * (x - x1) / (x2 - x1)
            for (x1, e1), (x2, e2) in combinations(places, 2)
            if x1 != x2 and min(x1, x2) <= x <= max(x1, x2)
        ]
        (point,) = hull_points(reference, [{11: 1 - x, 17: x}])
        assert point.energy == pytest.approx(min(lines), abs=1e-10)


def test_many_systems_at_once_are_those_one_by_one() -> None:
    random = np.random.default_rng(5)
    phases = random_phases([3, 8, 9, 14, 22, 26, 38], 150, random)
    reference = ReferenceEnergies.of_phases(phases)
    wanted = [dict(each.composition) for each in random_phases([3, 8, 9, 14, 22, 26, 38], 60, random)]
    together = hull_points(reference, wanted)
    for each, point in zip(wanted, together, strict=True):
        assert hull_points(reference, [each])[0].energy == pytest.approx(point.energy, abs=1e-10)


def test_a_crystal_of_dozens_of_elements_has_the_hull_of_linear_programming() -> None:
    random = np.random.default_rng(7)
    elements = np.arange(1, 91)
    phases = []
    for number in range(6000):
        own = random.choice(elements, size=random.integers(2, 5), replace=False).tolist()
        amounts = random.integers(1, 5, len(own)).tolist()
        phases.append(Phase(dict(zip(own, amounts, strict=True)), float(random.normal(-0.5, 0.6)), f"mp-{number}"))
    wanted = random.dirichlet(np.ones(len(elements)))
    (point,) = hull_points(ReferenceEnergies.of_phases(phases), [dict(zip(elements.tolist(), wanted, strict=True))])
    fractions = np.zeros((len(phases) + 90, 90))
    fractions[len(phases) :] = np.eye(90)
    for row, phase in enumerate(phases):
        fractions[row, np.array(list(phase.composition)) - 1] = list(phase.composition.values())
    fractions /= fractions.sum(axis=1, keepdims=True)
    energies = [*(phase.energy for phase in phases), *[0.0] * 90]
    assert point.energy == pytest.approx(linprog(energies, A_eq=fractions.T, b_eq=wanted).fun, abs=1e-8)


def test_elements_and_unknown_systems_have_a_hull_at_0() -> None:
    high = Phase({56: 1}, 0.18, "mp-1")  # the ground state is missing: the element's hull is at 0 all the same
    reference = ReferenceEnergies.of_phases(
        [high, Phase({11: 1, 17: 1}, -2.1, "mp-22862"), Phase({11: 1}, 0.0, "mp-2")]
    )
    points = hull_points(reference, [{56: 3}, {2: 1, 10: 1}, {11: 2}, {11: 4, 17: 4}])
    assert [point.energy for point in points] == pytest.approx([0, 0, 0, -2.1])
    assert [number for number, _ in points[1].mixture] == [-2, -10]
    assert reference.phase(points[2].mixture[0][0]).identifier == "mp-2"
    assert formula_of(reference.phase(points[3].mixture[0][0]).composition) == "NaCl"
