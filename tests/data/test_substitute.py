from typing import Any

import numpy as np

from crystalpredict.data.substitute import substituted


def rock_salt(cation: str, anion: str, length: float) -> dict[str, Any]:
    half = length / np.sqrt(2)
    return {
        "id": cation + anion, "lattice": [half, half, half, 60, 60, 60], "species": [cation, anion],
        "frac_coords": [[0, 0, 0], [0.5, 0.5, 0.5]],
    }  # fmt: skip


def test_one_element_is_exchanged_in_a_crystal_of_the_same_structure_and_the_cell_stays() -> None:
    wanted = rock_salt("K", "Cl", 6.29)
    caesium_chloride = {
        "id": "no", "lattice": [3.3, 3.3, 3.3, 90, 90, 90], "species": ["Rb", "Cl"],
        "frac_coords": [[0, 0, 0], [0.5, 0.5, 0.5]],
    }  # fmt: skip
    known = [rock_salt("Na", "Cl", 5.64), caesium_chloride, rock_salt("Na", "Br", 5.97), wanted]
    ((row, cell),) = substituted([wanted], known, np.random.default_rng(0))
    assert row is wanted
    assert cell["lattice"] == known[0]["lattice"]
    assert sorted(cell["species"]) == ["Cl", "K"]
    assert cell["species"][known[0]["species"].index("Na")] == "K"


def test_crystals_without_a_like_one_are_left_out() -> None:
    known = [rock_salt("Na", "Cl", 5.64), rock_salt("Mg", "O", 4.21)]
    assert list(substituted(known, known, np.random.default_rng(0))) == []
