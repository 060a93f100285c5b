"""The target `nearest_known`: real crystals find themselves among the known ones, and polymorphs are told apart."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from pymatgen.core import Lattice, Structure
from safetensors.numpy import load, save

import crystalpredict
from crystalpredict import Predictor, hull_of, load_model
from crystalpredict.checkpoints.registry import REFERENCE_ENERGIES, reference_energies_folder
from crystalpredict.prediction.stability import Hull, bundled_reference
from crystalpredict.stability.known_crystals import CRYSTAL_ARRAYS
from crystalpredict.stability.reference import ReferenceEnergies
from tests.cli.conftest import Program
from tests.cli.conftest import program as program

SALT = "examples/NaCl.cif"
CUBIC, HEXAGONAL = Lattice.cubic, Lattice.hexagonal
ZINCBLENDE = Structure.from_spacegroup("F-43m", CUBIC(5.41), ["Zn", "S"], [[0, 0, 0], [0.25] * 3])
WURTZITE = Structure.from_spacegroup(
    "P6_3mc", HEXAGONAL(3.82, 6.26), ["Zn", "S"], [[1 / 3, 2 / 3, 0], [1 / 3, 2 / 3, 0.375]]
)
RUTILE = Structure.from_spacegroup(
    "P4_2/mnm", Lattice.tetragonal(4.594, 2.959), ["Ti", "O"], [[0, 0, 0], [0.3053, 0.3053, 0]]
)
DIAMOND = Structure.from_spacegroup("Fd-3m", CUBIC(3.567), ["C"], [[0, 0, 0]])
SILICON = Structure.from_spacegroup("Fd-3m", CUBIC(5.43), ["Si"], [[0, 0, 0]])
KNOWN = {  # by measured cells; the reference has other cells, relaxed by DFT, and rutile as one of 12 atoms
    "mp-10695": ZINCBLENDE, "mp-560588": WURTZITE, "mp-2657": RUTILE, "mp-66": DIAMOND, "mp-149": SILICON,
}  # fmt: skip


@pytest.fixture(scope="module")
def nearest() -> Callable[[Structure], str]:
    """The text of a structure."""
    predictor = load_model(device="cpu", targets=["nearest_known"])
    return lambda structure: text_of(predictor, structure)


def text_of(predictor: Predictor, structure: Structure | str) -> str:
    (row,) = predictor.predict([structure])
    assert not row.error
    return row.texts["nearest_known"]


def distance_of(text: str, identifier: str) -> float:
    name, distance = text.removesuffix(")").split(" (distance ")
    assert name == identifier
    return float(distance)


@pytest.mark.parametrize("identifier", KNOWN)
def test_a_known_crystal_finds_itself_in_any_cell(nearest: Callable[[Structure], str], identifier: str) -> None:
    structure = KNOWN[identifier]
    moved = structure.copy() * (2, 1, 1)
    moved.perturb(0.01)
    larger = structure.copy()
    larger.scale_lattice(structure.volume * 1.1)
    for each in (structure, structure.get_primitive_structure(), moved, larger):
        assert distance_of(nearest(each), identifier) < 0.005


def test_polymorphs_are_apart() -> None:
    """Also those with the same neighbours at almost the same distances."""
    reference = bundled_reference()
    crystals = reference.crystals
    assert crystals is not None
    assert len(crystals.phases) == 99_728
    from crystalpredict.crystals.fingerprint import scaled_fingerprints
    from crystalpredict.io.from_pymatgen import crystal_of_structure

    number = reference.find({30: 1, 16: 1})
    assert number is not None
    assert {"mp-10695", "mp-560588"} <= set(crystals.of_phase(number))
    one, two = scaled_fingerprints([crystal_of_structure(each)[0] for each in (ZINCBLENDE, WURTZITE)])
    assert crystals.nearest(number, one)[0] == "mp-10695"
    assert crystals.nearest(number, two)[0] == "mp-560588"
    assert reference.identifiers[number] == "mp-10695"  # the lower one, which known_phase names for both


def test_what_is_not_known_says_so(nearest: Callable[[Structure], str]) -> None:
    sites = [[x, y, z] for x in (0, 0.5) for y in (0, 0.5) for z in (0, 0.5)]
    oxide = Structure(CUBIC(4.2), ["Ti", *["O"] * 7], sites)
    assert nearest(oxide).startswith("no known phase of this composition; nearest: Ti2O7 (mp-")
    assert nearest(Structure(CUBIC(4.2), ["Xe", "Au"], [[0, 0, 0], [0.5] * 3])) == "no known phase of these elements"


def test_a_disordered_crystal_is_compared_by_its_mean_sites(nearest: Callable[[Structure], str]) -> None:
    cell = Structure(CUBIC(3.9), [{"Cu": 0.75, "Au": 0.25}], [[0, 0, 0]])
    text = nearest(Structure.from_spacegroup("Fm-3m", cell.lattice, cell.species_and_occu, [[0, 0, 0]]))
    assert text.startswith("mp-")  # Cu3Au, ordered


def test_phases_of_one_s_own_are_named_without_a_distance(tmp_path: Path) -> None:
    table = tmp_path / "known.csv"
    table.write_text("id,formula,formation_energy\nmine,NaCl,-3.0\nother,KCl,-0.1\n")
    both = load_model(device="cpu", targets=["nearest_known"], hull=hull_of(table))
    assert text_of(both, SALT).endswith("), mine (no structure)")
    assert text_of(both, SALT).startswith("mp-22862 (distance 0.00")
    for convention in ("mp2020", "uncorrected"):
        other = load_model(device="cpu", targets=["nearest_known"], hull=hull_of(convention=convention))
        assert text_of(other, SALT).startswith("mp-22862 (distance 0.00")
    alone = load_model(device="cpu", targets=["nearest_known"], hull=hull_of(table, reference=False))
    assert text_of(alone, SALT) == "mine (no structure)"
    none = load_model(device="cpu", targets=["nearest_known"], hull=hull_of(reference=False))
    assert text_of(none, SALT) == "no known phase of these elements"


def test_a_file_without_fingerprints_names_the_lowest_phase(tmp_path: Path) -> None:
    arrays = load((reference_energies_folder() / REFERENCE_ENERGIES).read_bytes())
    path = tmp_path / "old.safetensors"
    path.write_bytes(save({name: each for name, each in arrays.items() if name not in CRYSTAL_ARRAYS}))
    hull = Hull(ReferenceEnergies.load(path))
    old = load_model(device="cpu", targets=["nearest_known", "hull_distance"], hull=hull)
    assert text_of(old, SALT) == "mp-22862 (no structure)"


def test_csv_json_and_python_have_the_same_text(program: Program, tmp_path: Path) -> None:
    arguments = ("predict", SALT, "examples/Si.vasp", "nowhere.cif", "-t", "nearest_known,bandgap")
    texts = [row["nearest_known"] for row in program(*arguments, "-f", "csv").rows]
    assert [text.split()[0] for text in texts[:2]] == ["mp-22862", "mp-149"]
    assert texts[2] == ""
    lines = program(*arguments, "-f", "jsonl").stdout.splitlines()
    assert [json.loads(line)["nearest_known"] for line in lines] == [*texts[:2], None]
    rows = crystalpredict.predict([SALT, "examples/Si.vasp"], targets=["nearest_known"])
    assert [row.texts["nearest_known"] for row in rows] == texts[:2]
    assert rows.to_frame()["nearest_known"].tolist() == texts[:2]
    assert texts[1] in program("predict", "examples/Si.vasp", "-t", "nearest_known", "-f", "table").stdout
    found = program(*arguments, "--where", "contains(nearest_known, 'mp-149 ')", "-f", "csv").rows
    assert [row["formula"] for row in found] == ["Si"]


def test_a_cache_has_it_only_if_it_was_asked_for(tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    (plain,) = crystalpredict.predict(SALT, targets=["decomposes_to"], cache=cache)
    assert "known_phase" in plain.texts  # the cache keeps all that costs little
    assert "nearest_known" not in plain.texts
    asked = [crystalpredict.predict(SALT, targets=["nearest_known"], cache=cache)[0].texts for _ in range(2)]
    assert asked[0] == asked[1]
    assert asked[0]["nearest_known"].startswith("mp-22862")
