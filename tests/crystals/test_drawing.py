"""Drawings of unit cells: what is in them, where it is, and that they are well-formed."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest

from crystalpredict.crystals.crystal import ELEMENTS, Crystal
from crystalpredict.crystals.drawing import HEIGHT, MAX_ATOMS, WIDTH, cell_svg
from crystalpredict.crystals.periodic_table import (
    COVALENT_RADII,
    colour_of,
    elements_in,
    is_dark,
    place_in_periodic_table,
)
from tests.sample_crystals import random_crystal, rock_salt, supercell

SVG = "{http://www.w3.org/2000/svg}"


def drawn(crystal: Crystal) -> ElementTree.Element:
    return ElementTree.fromstring(cell_svg(crystal))


def circles(svg: ElementTree.Element, colour: str) -> list[tuple[float, float]]:
    """Middles of the atoms of a colour, without the legend."""
    found = (each for each in svg.iter(f"{SVG}circle") if each.get("fill") == colour)
    middles = [(float(each.get("cx", "")), float(each.get("cy", ""))) for each in found]
    return [middle for middle in middles if middle[1] < HEIGHT]


def cubic(a: float, *sites: tuple[int, tuple[float, float, float]]) -> Crystal:
    numbers = np.array([number for number, _ in sites])
    return Crystal.ordered(a * np.eye(3), a * np.array([place for _, place in sites]), numbers)


def test_atoms_on_faces_edges_and_corners_are_drawn_on_all_of_them() -> None:
    caesium_chloride = cubic(4.12, (55, (0, 0, 0)), (17, (0.5, 0.5, 0.5)))
    svg = drawn(caesium_chloride)
    assert len(circles(svg, colour_of("Cs"))) == 8
    assert len(circles(svg, colour_of("Cl"))) == 1
    moved = replace(caesium_chloride, positions=caesium_chloride.positions + 4.12 * np.array([3, -2, 0.9999]))
    assert len(circles(drawn(moved), colour_of("Cs"))) == 8
    middle = drawn(cubic(4.0, (55, (0.5, 0, 0.5))))
    assert len(circles(middle, colour_of("Cs"))) == 2


def test_the_cell_stands_upright_in_whatever_way_its_axes_are_given() -> None:
    long = Crystal.ordered(np.diag([3.0, 3.0, 9.0]), np.array([[0, 0, 0], [0, 0, 4.5]]), np.array([55, 17]))
    (_, y), *_ = circles(drawn(long), colour_of("Cl"))
    ends = [end for _, end in circles(drawn(long), colour_of("Cs"))]
    assert min(ends) < y < max(ends)
    angle = 0.7
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    turn = turn @ np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]])
    turned = replace(long, lattice=long.lattice @ turn, positions=long.positions @ turn)
    assert cell_svg(turned) == cell_svg(long)


def test_bonds_join_near_atoms_of_opposite_kinds() -> None:
    def bonds(crystal: Crystal) -> int:
        return sum("stroke-width" in each.attrib for each in drawn(crystal).iter(f"{SVG}line"))

    assert bonds(cubic(4.12, (55, (0, 0, 0)), (17, (0.5, 0.5, 0.5)))) == 16  # eight, of two halves
    assert bonds(cubic(9.0, (55, (0, 0, 0)), (17, (0.5, 0.5, 0.5)))) == 0


def test_a_shared_site_is_a_pie_and_a_partly_empty_one_too() -> None:
    crystal = cubic(4.0, (26, (0.5, 0.5, 0.5)))
    shared = replace(crystal, numbers=np.array([[26, 27]]), occupancies=np.array([[0.5, 0.3]]))
    svg = drawn(shared)
    assert [each.get("fill") for each in svg.iter(f"{SVG}path")] == [colour_of("Fe"), colour_of("Co")]
    assert len(circles(svg, "#ffffff")) == 1
    assert {each.text for each in svg.iter(f"{SVG}text")} == {"a", "b", "c", "Co", "Fe"}  # the legend


@pytest.mark.parametrize("seed", range(12))
def test_everything_is_inside_and_finite(seed: int) -> None:
    crystal = random_crystal(seed, n_atoms=1 + 3 * seed)
    svg = drawn(crystal)
    for shape in svg.iter():
        for name, value in shape.attrib.items():
            if name in ("cx", "x", "x1", "x2"):
                assert 0 <= float(value) <= WIDTH
            elif name in ("cy", "y", "y1", "y2"):
                assert 0 <= float(value) <= HEIGHT + 24
    symbols = {ELEMENTS[number - 1] for number in crystal.numbers[:, 0].tolist()}
    written = {each.text for each in svg.iter(f"{SVG}text")} - set("abc")
    assert len(symbols) > 8 or symbols <= written


def test_a_left_handed_cell_is_drawn_as_its_mirror_image_is_not() -> None:
    crystal = random_crystal(3, n_atoms=5)
    swapped = crystal.lattice[[1, 0, 2]]  # the same crystal, whose axes are left-handed
    assert np.linalg.det(swapped) * np.linalg.det(crystal.lattice) < 0
    atoms = ElementTree.fromstring(cell_svg(replace(crystal, lattice=swapped)))
    assert len(list(atoms.iter(f"{SVG}circle"))) > 5


def test_a_heap_of_atoms_is_not_drawn() -> None:
    assert cell_svg(supercell(rock_salt(), np.diag([5, 5, 4]))) != ""  # 200 atoms
    assert cell_svg(supercell(rock_salt(), np.diag([5, 5, 5]))) == ""
    assert MAX_ATOMS == 200
    assert rock_salt()._repr_svg_() == cell_svg(rock_salt())
    assert supercell(rock_salt(), np.diag([5, 5, 5]))._repr_svg_() is None


def test_the_label_is_escaped() -> None:
    svg = cell_svg(rock_salt(), '"><script>alert(1)</script>')
    assert "<script" not in svg
    assert ElementTree.fromstring(svg).get("aria-label") == '"><script>alert(1)</script>'


def test_radii_are_those_of_ase() -> None:
    data = pytest.importorskip("ase.data")
    assert list(COVALENT_RADII[:96]) == pytest.approx(data.covalent_radii[1:97].tolist())
    assert len(COVALENT_RADII) == len(ELEMENTS) == 98


def test_places_colours_and_symbols() -> None:
    places = {ELEMENTS[number - 1]: place_in_periodic_table(number) for number in range(1, 99)}
    assert len(set(places.values())) == 98
    expected = {"H": (1, 1), "He": (1, 18), "B": (2, 13), "Fe": (4, 8), "La": (8, 3), "Lu": (8, 17), "Hf": (6, 4)}
    assert expected.items() <= places.items()
    assert len({colour_of(symbol) for symbol in ELEMENTS}) == 98
    assert is_dark(colour_of("C"))
    assert not is_dark(colour_of("H"))
    assert elements_in("Ca3(PO4)2") == {"Ca", "P", "O"}
    assert elements_in("Li0.5Xx2") == {"Li"}
    assert elements_in("") == set()
