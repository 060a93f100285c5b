"""Types of oxides against pymatgen's."""

from __future__ import annotations

import numpy as np
import pytest
from pymatgen.analysis.structure_analyzer import oxide_type
from pymatgen.core import Lattice, Structure

from crystalpredict.crystals.crystal import Crystal
from crystalpredict.crystals.oxides import oxide_types
from crystalpredict.errors import suppress_warnings


def crystal(structure: Structure) -> Crystal:
    return Crystal.ordered(structure.lattice.matrix, structure.cart_coords, np.array(structure.atomic_numbers))


def chain(lengths: list[float], metal: str = "K") -> Structure:
    """Oxygen atoms on a line, so far from each other (Å), in a large cell."""
    along = np.concatenate([[0.0], np.cumsum(lengths)])
    symbols = [metal, *["O"] * len(along)]
    return Structure(Lattice.cubic(12), symbols, [[6, 6, 6], *[[x, 0, 0] for x in along]], coords_are_cartesian=True)


@pytest.mark.parametrize(
    ("lengths", "kind"),
    [
        ([2.0], "oxide"), ([1.645], "oxide"), ([1.635], "peroxide"), ([1.49], "peroxide"), ([1.48], "superoxide"),
        ([1.2], "superoxide"), ([1.3, 1.3], "ozonide"), ([1.3, 1.6], "superoxide"), ([1.5, 1.5], "peroxide"),
    ],
)  # fmt: skip
def test_bond_lengths_decide(lengths: list[float], kind: str) -> None:
    structure = chain(lengths)
    assert oxide_types([crystal(structure)]) == [kind]
    assert oxide_type(structure) == kind
    moved = structure.copy()
    moved.translate_sites(range(len(moved)), [0.95, 0.5, 0.5])  # the bonds cross the faces of the cell
    assert oxide_types([crystal(moved), crystal(chain([2.5]))]) == [kind, "oxide"]


def test_random_crystals_have_the_types_of_pymatgen() -> None:
    random = np.random.default_rng(5)
    structures = []
    for _ in range(150):
        lattice = Lattice(np.eye(3) * random.uniform(3.5, 5) + random.uniform(-1, 1, (3, 3)))
        symbols = random.choice(["O", "O", "O", "K", "H"], size=random.integers(3, 8)).tolist()
        structures.append(Structure(lattice, ["K", "O", *symbols], random.uniform(0, 1, (len(symbols) + 2, 3))))
    found = oxide_types([crystal(structure) for structure in structures])
    expected = [str(oxide_type(structure)).replace("hydroxide", "oxide") for structure in structures]
    assert found == expected
    assert len(set(found)) == 4


def test_hydrogen_peroxide_counts_as_a_hydroxide() -> None:
    structure = chain([1.45])
    structure.append("H", [-0.95, 0, 0], coords_are_cartesian=True)
    assert oxide_type(structure) == "hydroxide"
    assert oxide_types([crystal(structure)]) == ["oxide"]


def test_elements_and_disordered_crystals_are_no_peroxides() -> None:
    oxygen = Structure(Lattice.cubic(4), ["O", "O"], [[0, 0, 0], [0.3, 0, 0]])
    split = chain([1.2])
    shared = Crystal(
        split.lattice.matrix, split.cart_coords, np.array([[19], [8], [8]]), np.array([[1.0], [0.5], [0.5]])
    )
    with suppress_warnings():
        assert oxide_types([crystal(oxygen), shared]) == ["oxide", "oxide"]
    assert oxide_types([]) == []
