"""POSCARs and JSON that are read without pymatgen structures give the crystals that pymatgen gives."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.io.vasp.inputs import Poscar

from crystalpredict.errors import StructureError
from crystalpredict.io.entries import Entry, Inline, entries_of_structures, read_entries
from crystalpredict.io.plain import PlainCrystal, plain_of_text
from crystalpredict.io.structure_text import parse_text
from crystalpredict.io.text import CIF_SITE, text_of
from tests.mutants import mutant

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
RADIUS = 5.0
NAMES = ("NaCl.cif", "MoS2.cif", "SrTiO3.cif", "GaAs.cif")
CRYSTALS = {name: parse_text((EXAMPLES / name).read_text())[0].remove_site_property(CIF_SITE) for name in NAMES}


def as_jarvis(structure: Structure) -> dict[str, Any]:
    cell = structure.lattice.matrix.tolist()
    elements = [f" {site.specie.symbol}" for site in structure]
    return {"lattice_mat": cell, "coords": structure.cart_coords.tolist(), "elements": elements, "cartesian": True}


def as_arrays(structure: Structure) -> dict[str, Any]:
    elements = [site.specie.symbol for site in structure]
    return {
        "lattice": list(structure.lattice.parameters), "species": elements,
        "frac_coords": structure.frac_coords.tolist(),
    }  # fmt: skip


def with_charges(structure: Structure) -> Structure:
    return structure.copy().add_oxidation_state_by_guess()


WRITTEN = {
    "POSCAR": lambda crystal: Poscar(crystal).get_str(),
    "selective": lambda crystal: Poscar(crystal, selective_dynamics=[[True, False, True]] * len(crystal)).get_str(),
    "Cartesian": lambda crystal: Poscar(crystal).get_str(direct=False),
    "volume": lambda crystal: Poscar(crystal).get_str().replace("\n1.0\n", f"\n-{crystal.volume * 1.1:.6f}\n"),
    "three scales": lambda crystal: Poscar(crystal).get_str(direct=False).replace("\n1.0\n", "\n1.1 1 0.9\n"),
    "Fortran": lambda crystal: Poscar(crystal).get_str().replace("0.5000000000000000", "0.5000000000000000D+00"),
    "two": lambda crystal: 2 * Poscar(crystal).get_str(),
    "JSON": lambda crystal: json.dumps(crystal.as_dict()),
    "charges": lambda crystal: json.dumps(with_charges(crystal).as_dict()),
    "entry": lambda crystal: json.dumps({"structure": crystal.as_dict(), "energy": 1.0}),
    "list": lambda crystal: json.dumps([crystal.as_dict(), as_arrays(crystal)]),
    "jarvis": lambda crystal: json.dumps({"atoms": as_jarvis(crystal)}),
    "arrays": lambda crystal: json.dumps(as_arrays(crystal)),
}


def by_pymatgen(text: str) -> list[Entry]:
    return entries_of_structures(parse_text(text), RADIUS, "x")


def assert_same(text: str, plain: Sequence[PlainCrystal]) -> None:
    """The crystals that were read directly are those of pymatgen's structures, to the last bits."""
    slow = by_pymatgen(text)
    quick = list(read_entries(Inline("x", text), RADIUS))
    assert len(slow) == len(quick) == len(plain)
    for one, two in zip(quick, slow, strict=True):
        assert (one.formula, one.n_atoms, one.error, one.warnings) == (
            two.formula,
            two.n_atoms,
            two.error,
            two.warnings,
        )
        if one.crystal and two.crystal and one.neighbors and two.neighbors:
            assert np.array_equal(one.crystal.numbers, two.crystal.numbers)
            assert np.array_equal(one.crystal.occupancies, two.crystal.occupancies)
            assert np.array_equal(one.crystal.lattice, two.crystal.lattice)
            moved = (one.crystal.positions - two.crystal.positions) @ np.linalg.inv(one.crystal.lattice)
            assert np.abs(moved - np.rint(moved)).max() < 1e-9  # an atom at 0 may be one at 1, by rounding
            assert np.array_equal(one.neighbors.first, two.neighbors.first)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", WRITTEN)
def test_a_text_that_is_read_directly_gives_the_same_crystal(form: str, name: str) -> None:
    text = WRITTEN[form](CRYSTALS[name])
    plain = plain_of_text(text)
    assert len(plain) == (2 if form in ("two", "list") else 1)
    assert_same(text, plain)


def test_damaged_texts_give_what_pymatgen_gives_or_are_left_to_it() -> None:
    contents = [[WRITTEN[form](crystal).encode() for crystal in CRYSTALS.values()] for form in WRITTEN]
    direct = 0
    for number in range(1500):
        try:
            text = text_of(mutant(contents, 3, number))
        except StructureError:
            continue
        if plain := plain_of_text(text):
            direct += 1
            assert_same(text, plain)
    assert direct > 200


SALT = Structure(Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
SHARED = Structure(Lattice.cubic(5.6), [{"Na": 0.5, "K": 0.5}, "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def changed(**lattice: object) -> str:
    found = SALT.as_dict()
    found["lattice"].update(lattice)
    return json.dumps(found)


def with_species(**species: object) -> str:
    found = SALT.as_dict()
    found["sites"][0]["species"][0].update(species)
    return json.dumps(found)


POSCAR = Poscar(SALT).get_str()
UNUSUAL = {
    "shared": json.dumps(SHARED.as_dict()), "in two directions": changed(pbc=[True, True, False]),
    "deuterium": POSCAR.replace("Na Cl", "D Cl"), "no number": POSCAR.replace("0.5", "nan"),
    "far away": POSCAR.replace("0.5000000000000000", "500.5"), "no cell": changed(matrix=[[1, 0, 0], [2, 0, 0]]),
    "texts": changed(matrix=[["5.6", "0", "0"], ["0", "5.6", "0"], ["0", "0", "5.6"]]),
    "empty": with_species(occu=0.0), "as text": with_species(occu="1"), "charge": with_species(oxidation_state="x"),
    "spin": with_species(oxidation_state=1, spin=5), "dummy": with_species(element="X"),
    "plane": "x\n1.0\n4 0 0\n0 4 0\n4 4 0\nNa\n1\nCartesian\n0 0 0\n",
    "database": json.dumps({"ids": [1], "nextid": 2, **SALT.as_dict()}), "list": "[]", "broken": "{", "word": "Na",
    "cut off": POSCAR[: len(POSCAR) // 2], "comment": POSCAR + "end\n1 2 3\n",
}  # fmt: skip


@pytest.mark.parametrize("what", UNUSUAL)
def test_what_is_unusual_is_left_to_pymatgen(what: str) -> None:
    assert not plain_of_text(UNUSUAL[what])


def test_impossible_cells_have_the_error_that_they_had() -> None:
    flat = POSCAR.replace("5.5999999999999996", "0.0001")
    for text in (
        flat,
        POSCAR.replace("0.5000000000000000", "0.0001"),
        changed(matrix=[[0.1, 0, 0], [0, 9, 0], [0, 0, 9]]),
    ):
        (quick,), (slow,) = read_entries(Inline("x", text), RADIUS), by_pymatgen(text)
        assert quick.error == slow.error != ""


def test_a_poscar_and_json_need_no_parser_of_other_formats() -> None:
    code = "import json, sys; from crystalpredict.io.entries import Inline, read_entries as r; "
    code += "print([each.formula for text in json.load(sys.stdin) for each in r(Inline('a', text), 6.0)], "
    code += "'crystalpredict.io.structure_text' in sys.modules, 'pymatgen.io.vasp' in sys.modules)"
    texts = json.dumps([POSCAR, json.dumps(SALT.as_dict())])
    done = subprocess.run([sys.executable, "-c", code], input=texts, capture_output=True, text=True, timeout=300)
    assert (done.stdout, done.stderr) == ("['NaCl', 'NaCl'] False False\n", "")
