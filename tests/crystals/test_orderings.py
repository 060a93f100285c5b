"""Ordered supercells of disordered crystals."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure

from crystalpredict.crystals.crystal import ELEMENTS, Crystal
from crystalpredict.crystals.neighbors import find_neighbors
from crystalpredict.crystals.orderings import MAX_SITES, orderings_of
from crystalpredict.crystals.radii import COVALENT_RADII
from crystalpredict.errors import StructureError
from crystalpredict.io.from_pymatgen import crystal_of_structure
from crystalpredict.io.structure_text import parse_text
from crystalpredict.io.to_pymatgen import structure_of_crystal
from tests import disordered


def structure_of(text: str) -> Structure:
    (structure,) = parse_text(text)
    assert isinstance(structure, Structure)
    return structure


CU3AU, GAINAS, SPINEL, PEROVSKITE, SILVER_IODIDE = map(
    structure_of,
    (disordered.CU3AU, disordered.GAINAS, disordered.SPINEL, disordered.PEROVSKITE, disordered.SILVER_IODIDE),
)


def crystal_of(structure: Structure) -> Crystal:
    return crystal_of_structure(structure)[0]


def counts_of(crystal: Crystal) -> dict[str, int]:
    return dict(Counter(ELEMENTS[number - 1] for number in crystal.numbers[:, 0].tolist()))


def shortest(crystal: Crystal, element: str) -> float:
    """Shortest distance between atoms of an element, Å."""
    own = crystal.positions[crystal.numbers[:, 0] == ELEMENTS.index(element) + 1]
    edges = find_neighbors(crystal.lattice, own, 5.0)
    return float(np.delete(edges.distances, edges.first[:-1]).min())


@pytest.mark.parametrize(
    ("structure", "counts"),
    [
        (CU3AU, {"Cu": 24, "Au": 8}),
        (CU3AU.get_primitive_structure(), {"Cu": 27, "Au": 9}),
        (GAINAS, {"Ga": 16, "In": 16, "As": 32}),
        (SPINEL, {"Mg": 8, "Al": 16, "O": 32}),
        (SILVER_IODIDE, {"Ag": 16, "I": 16}),
    ],
    ids=["Cu3Au", "Cu3Au, one site", "(Ga,In)As", "spinel", "AgI"],
)
def test_composition_and_volume_are_those_of_the_crystal(structure: Structure, counts: dict[str, int]) -> None:
    given = crystal_of(structure)
    found = orderings_of(given, 8)
    assert len(found) == 8
    assert sum(each.share for each in found) == pytest.approx(1)
    for each in found:
        crystal = each.crystal
        assert counts_of(crystal) == counts
        assert (crystal.occupancies == 1).all()
        sites = given.occupancies.sum() * crystal.volume / given.volume
        assert crystal.n_atoms == pytest.approx(sites, rel=1e-4)
        widths = 1 / np.linalg.norm(np.linalg.inv(crystal.lattice), axis=0)
        assert widths.max() / widths.min() < 1.7
    again = orderings_of(given, 8)
    assert all(np.array_equal(one.crystal.numbers, two.crystal.numbers) for one, two in zip(found, again, strict=True))
    other = orderings_of(given, 8, seed=1)
    assert not all(
        np.array_equal(one.crystal.numbers, two.crystal.numbers) for one, two in zip(found, other, strict=True)
    )


def test_each_site_keeps_its_occupancies() -> None:
    sites = [(element, 0.5, (place,) * 3) for place in (0.125, 0.5) for element in ("Mg", "Al")]
    alike = structure_of(disordered.cif("alike", 8.08, [*sites, ("O", 1, (0.2624,) * 3)], "F d -3 m :2"))
    for structure, expected in ((SPINEL, {"Mg": 6, "Al": 2}), (alike, {"Mg": 4, "Al": 4})):
        for each in orderings_of(crystal_of(structure), 5):
            tetrahedral = [
                ELEMENTS[each.crystal.numbers[row, 0] - 1]
                for row, edges in enumerate(np.split(*_lists(each.crystal)))
                if (edges < 2.2).sum() == 5 and each.crystal.numbers[row, 0] != 8
            ]
            assert Counter(tetrahedral) == expected


def _lists(crystal: Crystal) -> tuple[np.ndarray, np.ndarray]:
    edges = find_neighbors(crystal.lattice, crystal.positions, 2.2)
    return edges.distances, edges.first[1:-1]


def test_few_arrangements_are_enumerated_with_their_shares() -> None:
    found = orderings_of(crystal_of(PEROVSKITE), 10)  # 4 of the 8 sites of 2 x 2 x 2 cells: 70 arrangements
    shares = sorted(round(70 * each.share) for each in found)
    assert shares == [2, 6, 6, 8, 24, 24]
    structures = [structure_of_crystal(each.crystal) for each in found]
    matcher = StructureMatcher(primitive_cell=False, scale=False)
    assert len(matcher.group_structures(structures)) == 6
    assert len(orderings_of(crystal_of(PEROVSKITE), 5)) == 5  # random ones
    vacancy = GAINAS.copy()
    vacancy.replace_species({"Ga": {"Ga": 1}, "In": {"Ga": 1}})
    vacancy.replace_species({"As": {"As": 0.96875}})
    (only,) = orderings_of(crystal_of(vacancy), 10)
    assert (counts_of(only.crystal), only.share) == ({"Ga": 32, "As": 31}, 1)


def test_atoms_that_exclude_each_other_are_not_put_together() -> None:
    for each in orderings_of(crystal_of(SILVER_IODIDE), 6):
        assert shortest(each.crystal, "Ag") > 1.4 * COVALENT_RADII[47] > 1.79 + 0.1
    split = Structure(
        Lattice.cubic(4.0), [{"O": 0.5}, {"O": 0.5}, "Ba"], [[0.5, 0.5, 0.45], [0.5, 0.5, 0.55], [0, 0, 0]]
    )
    for each in orderings_of(crystal_of(split), 6):
        assert counts_of(each.crystal)["O"] == counts_of(each.crystal)["Ba"]
        assert shortest(each.crystal, "O") > 3
    split[0] = split[1] = {"O": 0.75}
    with pytest.raises(StructureError, match="too close to each other"):
        orderings_of(crystal_of(split), 6)


def test_no_composition_is_changed() -> None:
    odd = structure_of(disordered.rock_salt(0.877))
    with pytest.raises(StructureError, match=r"none of up to 128 sites has the occupancy 0\.877 of Mg"):
        orderings_of(crystal_of(odd), 5)
    (first, *_) = orderings_of(crystal_of(odd), 2, max_sites=2000)
    assert counts_of(first.crystal)["Mg"] / counts_of(first.crystal)["O"] == pytest.approx(0.877, abs=5.1e-4)
    for written, fraction in ((0.33, 1 / 3), (0.333, 1 / 3), (0.33333, 1 / 3), (0.17, 1 / 6), (0.125, 1 / 8)):
        found = counts_of(orderings_of(crystal_of(structure_of(disordered.rock_salt(written))), 1)[0].crystal)
        assert found["Mg"] / found["O"] == pytest.approx(fraction)
    for written in (0.3331, 0.334, 0.34, 0.1251):
        with pytest.raises(StructureError, match=f"the occupancy {written} of Mg"):
            orderings_of(crystal_of(structure_of(disordered.rock_salt(written))), 1)
    apart = Structure(Lattice.cubic(4.0), [{"Mg": 0.8, "Fe": 0.2}, {"O": 6 / 7}], [[0, 0, 0], [0.5, 0.5, 0.5]])
    assert orderings_of(crystal_of(apart), 1)[0].crystal.n_atoms == 65
    with pytest.raises(StructureError, match="all occupancies together"):
        orderings_of(crystal_of(apart), 1, max_sites=40)
    large = GAINAS * (3, 3, 2)
    with pytest.raises(StructureError, match=f"144 sites, more than {MAX_SITES}"):
        orderings_of(crystal_of(large), 1)
    assert orderings_of(crystal_of(Structure(Lattice.cubic(4.1), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])), 3) == []


def test_sites_with_the_same_occupants_share_them_if_each_alone_cannot() -> None:
    rng = np.random.default_rng(0)
    places = np.array([[x, y, z] for x in range(4) for y in range(4) for z in range(5)]) / (4, 4, 5)
    places += rng.uniform(-0.01, 0.01, places.shape)  # without symmetry
    glass = Structure(Lattice.orthorhombic(12, 12, 15), [{"Ga": 0.5, "In": 0.5}] * 80, places)
    (found,) = orderings_of(crystal_of(glass), 1)
    assert counts_of(found.crystal) == {"Ga": 40, "In": 40}
