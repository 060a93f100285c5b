import gzip
import json
import os
import subprocess
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Lattice, Molecule, Structure
from pymatgen.entries.computed_entries import ComputedEntry

from crystalpredict import load_model
from crystalpredict.crystals.crystal import ELEMENTS, Crystal
from crystalpredict.io.entries import MAX_ATOMS_READ_TOGETHER, Entry, Inline, begin, entries_of_structures, read_entries

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
RADIUS = 6.0
ROCK_SALT = ("Na Na 0 0 0 1", "Cl Cl 0.5 0.5 0.5 1")
LOOP = """loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
"""


def cell(a="3", b="3", c="3", alpha="90", beta="90", gamma="90") -> str:
    lengths = f"_cell_length_a {a}\n_cell_length_b {b}\n_cell_length_c {c}\n"
    return lengths + f"_cell_angle_alpha {alpha}\n_cell_angle_beta {beta}\n_cell_angle_gamma {gamma}\n"


def cif(*sites: str, name: str = "x", box: str = cell(), extra: str = "") -> str:
    """A CIF without symmetry: sites are `label symbol x y z occupancy`."""
    return f"data_{name}\n{extra}{box}{LOOP}" + "".join(f"{site}\n" for site in sites or ROCK_SALT)


OF_LABELS = cif("Na1 - 0 0 0 1", "Rr1 - 0.5 0.5 0.5 1", extra="_chemical_formula_sum 'Na Br'\n")
OF_LABELS = OF_LABELS.replace("_type_symbol", "_other")


def poscar(symbols: str = "Cs Cl\n", counts: str = "1 1", rows: str = "0 0 0\n0.5 0.5 0.5\n", a: str = "4.1") -> str:
    return f"comment\n{a}\n1 0 0\n0 1 0\n0 0 1\n{symbols}{counts}\nDirect\n{rows}"


def read(folder: Path, content: str | bytes, name: str = "structure") -> list[Entry]:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read_entries(str(path), RADIUS))


def read_one(folder: Path, content: str | bytes, name: str = "structure") -> Entry:
    (entry,) = read(folder, content, name)
    return entry


def error_of(entry: Entry) -> str:
    assert entry.crystal is None
    assert "\n" not in entry.error
    return entry.error


def crystal_of(entry: Entry) -> Crystal:
    assert entry.error == ""
    assert entry.crystal is not None
    return entry.crystal


def composition(crystal: Crystal) -> dict[str, float]:
    """Atoms of each element in the cell."""
    count: Counter[str] = Counter()
    for number, occupancy in zip(crystal.numbers.flat, crystal.occupancies.flat, strict=True):
        count[ELEMENTS[number - 1]] += occupancy
    return {symbol: float(number) for symbol, number in count.items() if number > 0}


def structure(a: float = 4.1, *, oxidation: bool = False) -> Structure:
    species = ["Cs+", "Cl-"] if oxidation else ["Cs", "Cl"]
    return Structure(Lattice.cubic(a), species, [[0, 0, 0], [0.5, 0.5, 0.5]])


# Formats


@pytest.mark.parametrize("name", ["a.cif", "a.vasp", "POSCAR", "a.json", "a.txt", "a", "a.cif.gz"])
@pytest.mark.parametrize("content", [cif(), poscar(), structure().to_json()], ids=["cif", "poscar", "json"])
def test_content_decides_the_format_not_the_name(tmp_path, content, name) -> None:
    assert crystal_of(read_one(tmp_path, content, name)).n_atoms == 2


@pytest.mark.parametrize("name", ["a.gz", "a.cif"])
@pytest.mark.parametrize("content", [cif(), poscar(), structure().to_json()], ids=["cif", "poscar", "json"])
def test_gzip_is_unpacked_under_any_name(tmp_path, content, name) -> None:
    assert crystal_of(read_one(tmp_path, gzip.compress(content.encode()), name)).n_atoms == 2


@pytest.mark.parametrize(
    "content", [cif(), poscar(), json.dumps(structure().as_dict(), indent=1)], ids=["cif", "poscar", "json"]
)
@pytest.mark.parametrize(
    "encode",
    [
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: text.replace("\n", "\r").encode(),
        lambda text: text.encode("utf-8-sig"),
        lambda text: text.encode("utf-16"),
        lambda text: b"\xfe\xff" + text.encode("utf-16-be"),
        lambda text: b"\n\n" + text.encode() + b"\n\n\n" if text[0] in "d{" else text.encode() + b"\n\n\n",
    ],
    ids=["crlf", "cr", "bom", "utf-16", "utf-16-be", "blank lines"],
)
def test_line_ends_and_encodings_do_not_matter(tmp_path, content, encode) -> None:
    assert crystal_of(read_one(tmp_path, encode(content))).n_atoms == 2


def test_authors_may_be_named_in_latin_1(tmp_path) -> None:
    text = cif(extra="_publ_author_name 'Müller, Jürgen'\n")
    assert crystal_of(read_one(tmp_path, text.encode("latin-1"))).n_atoms == 2


def test_paths_may_hold_any_letters(tmp_path) -> None:
    entry = read_one(tmp_path, cif(), "Kochsalz № 1 — 食塩 [x].cif")
    assert crystal_of(entry).n_atoms == 2
    assert entry.path.endswith("食塩 [x].cif")


def test_every_example_is_read_with_the_formula_in_its_name() -> None:
    files = sorted(EXAMPLES.iterdir())
    assert len(files) == 14
    names = {
        "CsPbBr3": "CsPbBr3",
        "TiO2_rutile": "TiO2",
        "POSCAR_Ni3Al": "AlNi3",
        "POSCAR_diamond": "C",
        "NiAl": "AlNi",
    }
    for file in files:
        (entry,) = read_entries(str(file), RADIUS)
        crystal_of(entry)
        assert entry.formula == names.get(file.stem, file.stem)
        assert entry.path == str(file)
        assert entry.warnings == ()


def test_cif_symmetry_and_poscar_scale_give_the_cell(tmp_path) -> None:
    (entry,) = read_entries(str(EXAMPLES / "NaCl.cif"), RADIUS)
    assert composition(crystal_of(entry)) == {"Na": 4, "Cl": 4}
    assert crystal_of(entry).volume == pytest.approx(5.64**3)
    by_volume = crystal_of(read_one(tmp_path, poscar(a="-50")))  # VASP: a negative scale is the volume
    assert by_volume.volume == pytest.approx(50)
    cartesian = poscar(rows="0 0 0\n0.5 0.5 0.5\n").replace("Direct", "Cartesian")
    edges = read_one(tmp_path, cartesian).neighbors
    assert edges is not None
    assert edges.distances[edges.distances > 0].min() == pytest.approx(4.1 * 0.75**0.5)


@pytest.mark.parametrize("mode", ["Direct", "Cartesian"])
def test_three_scales_of_a_poscar_are_those_of_x_y_and_z(tmp_path, mode) -> None:
    text = poscar(a="2.0 3.0 4.0").replace("1 0 0\n", "1 0 1\n", 1).replace("Direct", mode)
    crystal = crystal_of(read_one(tmp_path, text, "POSCAR"))
    assert crystal.lattice.tolist() == [[2.0, 0.0, 4.0], [0.0, 3.0, 0.0], [0.0, 0.0, 4.0]]
    apart = crystal.positions[1] - crystal.positions[0]
    assert apart == pytest.approx([1.0, 1.5, 4.0] if mode == "Direct" else [1.0, 1.5, 2.0])


@pytest.mark.parametrize("title", ["[001] slab", "{100} of it", "data_old", "<?xml", "4"])
def test_a_poscar_may_have_any_title(tmp_path, title) -> None:
    text = poscar().split("\n", 1)[1]
    assert crystal_of(read_one(tmp_path, f"{title}\n{text}", "POSCAR")).n_atoms == 2


def test_a_site_that_is_a_dummy_is_no_atom(tmp_path) -> None:
    flagged = cif("A Na 0 0 0 1 d", "B Cl 0.5 0.5 0.5 1 d", "C Na 0.5 0.5 0.4 1 Dum")
    crystal = crystal_of(read_one(tmp_path, flagged.replace("occupancy\n", "occupancy\n_atom_site_calc_flag\n")))
    assert composition(crystal) == {"Na": 1, "Cl": 1}


def test_contcar_with_selective_dynamics_velocities_and_repeated_symbols(tmp_path) -> None:
    text = "c\n3.0\n2 0 0\n0 1 0\n0 0 1\nO Mg O\n1 1 1\nSelective dynamics\nDirect\n"
    text += "0 0 0 T T F\n0.25 0.5 0.5 T T T\n0.5 0 0 F F F\n\n 0.0 0.0 0.0\n 0.0 0.0 0.0\n 0.0 0.0 0.0\n"
    assert composition(crystal_of(read_one(tmp_path, text, "CONTCAR"))) == {"O": 2, "Mg": 1}


def test_uncertainties_in_brackets_are_not_part_of_the_number(tmp_path) -> None:
    box = cell(a="3.000(2)", b="3.000(2)", c="3.000(2)")
    assert crystal_of(read_one(tmp_path, cif(box=box))).volume == pytest.approx(27)


def test_the_formula_of_an_entry_is_that_of_the_file_and_its_atoms_those_of_its_cell(tmp_path) -> None:
    (entry,) = read_entries(str(EXAMPLES / "NaCl.cif"), RADIUS)
    assert (entry.formula, entry.n_atoms, crystal_of(entry).n_atoms) == ("NaCl", 8, 8)


@pytest.mark.parametrize("formula", ["Na1 Cl2", "Na Cl H2 O", "Na F"])
def test_a_stated_formula_that_differs_from_the_atoms_is_a_warning(tmp_path, formula) -> None:
    entry = read_one(tmp_path, cif(extra=f"_chemical_formula_sum '{formula}'\n"))
    assert crystal_of(entry).n_atoms == 2
    assert "composition differs" in " ".join(entry.warnings)


@pytest.mark.parametrize("formula", ["Na1 Cl1", "Na Cl", "Cl4 Na4", "?", "."])
def test_a_stated_formula_that_agrees_or_says_nothing_is_no_warning(tmp_path, formula) -> None:
    assert read_one(tmp_path, cif(extra=f"_chemical_formula_sum '{formula}'\n")).warnings == ()


@pytest.mark.parametrize("occupancy", ["1", "1.00(2)", "?", "."])
def test_an_occupancy_left_open_is_1(tmp_path, occupancy) -> None:
    entry = read_one(tmp_path, cif(f"Na Na 0 0 0 {occupancy}", "Cl Cl 0.5 0.5 0.5 1"))
    assert composition(crystal_of(entry)) == {"Na": 1, "Cl": 1}
    assert entry.warnings == ()


# Several structures in a file


def test_every_data_block_with_atoms_is_an_entry_and_bibliography_is_none(tmp_path) -> None:
    text = "data_global\n_publ_author_name 'Nobody'\n\n" + cif(name="a") + cif("Si Si 0 0 0 1", name="b")
    entries = read(tmp_path, text)
    assert [entry.index for entry in entries] == [0, 1]
    assert [composition(crystal_of(entry)) for entry in entries] == [{"Na": 1, "Cl": 1}, {"Si": 1}]


def test_a_broken_block_leaves_the_others_their_places(tmp_path) -> None:
    entries = read(tmp_path, cif(name="a") + cif(name="b", box=cell(a="what")) + cif("Si Si 0 0 0 1", name="c"))
    assert [entry.index for entry in entries] == [0, 1, 2]
    assert [bool(entry.error) for entry in entries] == [False, True, False]
    assert composition(crystal_of(entries[2])) == {"Si": 1}


def test_data_inside_a_text_field_begins_no_block(tmp_path) -> None:
    note = (
        "_publ_section_comment\n;\nThe next line is text\ndata_of_ours\n_cell_length_a 99\nloop_\n_atom_site_label\n;\n"
    )
    entry = read_one(tmp_path, cif(extra=note))
    assert crystal_of(entry).volume == pytest.approx(27)


def test_a_comment_before_the_first_block_is_no_block(tmp_path) -> None:
    assert crystal_of(read_one(tmp_path, "# made by hand\n\n# _atom_site_fract_x\n" + cif())).n_atoms == 2


def test_a_json_list_holds_a_structure_or_an_error_in_every_place(tmp_path) -> None:
    content = [
        structure().as_dict(),
        7,
        None,
        structure(a=4.2).as_dict(),
        {"structure": structure().as_dict(), "id": 1},
    ]
    entries = read(tmp_path, json.dumps(content))
    assert [bool(entry.error) for entry in entries] == [False, True, True, False, False]
    assert crystal_of(entries[3]).volume == pytest.approx(4.2**3)


# What becomes of species


def test_oxidation_states_and_spins_are_dropped(tmp_path) -> None:
    plain, charged = (crystal_of(read_one(tmp_path, structure(oxidation=o).to_json())) for o in (False, True))
    assert composition(plain) == composition(charged) == {"Cs": 1, "Cl": 1}
    spins = structure()
    spins.add_spin_by_element({"Cs": 2})
    assert composition(crystal_of(read_one(tmp_path, spins.to_json()))) == {"Cs": 1, "Cl": 1}
    ions = cif("Na1 Na+ 0 0 0 1", "Cl1 Cl- 0.5 0.5 0.5 1")
    assert composition(crystal_of(read_one(tmp_path, ions))) == {"Na": 1, "Cl": 1}


def test_a_crystal_may_hold_one_element_in_two_oxidation_states(tmp_path) -> None:
    mixed = Structure(Lattice.cubic(3), [{"Fe2+": 0.25, "Fe3+": 0.75}, "O2-"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    entry = read_one(tmp_path, mixed.to_json())
    assert composition(crystal_of(entry)) == {"Fe": 1, "O": 1}
    assert (entry.formula, entry.warnings) == ("FeO", ())


def test_deuterium_is_hydrogen(tmp_path) -> None:
    for content in (cif("D1 D 0 0 0 1", "Li1 Li 0.5 0.5 0.5 1"), poscar(symbols="D Li\n")):
        assert composition(crystal_of(read_one(tmp_path, content))) == {"H": 1, "Li": 1}


def test_partly_occupied_sites_keep_their_occupancies_and_are_warned_of(tmp_path) -> None:
    entry = read_one(tmp_path, cif("Na1 Na 0 0 0 0.25", "K1 K 0 0 0 0.5", "Cl1 Cl 0.5 0.5 0.5 1"))
    crystal = crystal_of(entry)
    assert crystal.n_atoms == 2
    assert composition(crystal) == pytest.approx({"Na": 0.25, "K": 0.5, "Cl": 1})
    assert len(entry.warnings) == 1
    assert "1 of 2 sites partly occupied" in entry.warnings[0]


def test_occupancies_that_thirds_round_to_make_a_full_site(tmp_path) -> None:
    for third in ("0.333", "0.334"):
        entry = read_one(tmp_path, cif(*(f"{x} {x} 0 0 0 {third}" for x in ("Na", "K", "Rb"))))
        assert crystal_of(entry).occupancies.sum() == pytest.approx(1, abs=1e-12)


# Files that cannot be read


def test_a_missing_file_is_an_entry_with_an_error(tmp_path) -> None:
    (entry,) = read_entries(str(tmp_path / "nowhere.cif"), RADIUS)
    assert "no such file" in error_of(entry)
    assert (entry.path, entry.index) == (str(tmp_path / "nowhere.cif"), 0)


@pytest.mark.parametrize("path", ["", "a\0b", "x" * 5000])
def test_a_path_that_cannot_be_is_an_entry_with_an_error(path, monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    (entry,) = read_entries(path, RADIUS)
    assert error_of(entry) != ""


def test_a_directory_is_no_structure(tmp_path) -> None:
    (entry,) = read_entries(str(tmp_path), RADIUS)
    assert "directory" in error_of(entry)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_says_so(tmp_path) -> None:
    path = tmp_path / "a.cif"
    path.write_text(cif())
    path.chmod(0)
    (entry,) = read_entries(str(path), RADIUS)
    assert "permission" in error_of(entry).lower()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty file"),
        (b" \n\t\r\n ", "empty file"),
        (b"\xef\xbb\xbf", "empty file"),
        (b"\xff\xfe", "empty file"),
        (gzip.compress(b"", mtime=0), "empty file"),
        (bytes(range(256)) * 10, "binary"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + b"\0" * 50, "binary"),
        (b"PK\x03\x04\x14\0\0\0\x08\0" + b"\x9c" * 90, "a zip archive"),
        (b"<!DOCTYPE html>\n<html><body>Please log in</body></html>", "web page"),
        (b"\n\n<HTML><head></head></HTML>", "web page"),
        (b"\xef\xbb\xbf<?xml version='1.0'?><error>404</error>", "web page"),
        (gzip.compress(cif().encode(), mtime=0)[:-20], "cannot be read"),
        (gzip.compress(cif().encode(), mtime=0)[:30] + b"garbage" * 9, "cannot be read"),
        (b"\x1f\x8b", "cannot be read"),
        (b"\x1f\x8b\x08\0" + b"\xff" * 40, "cannot be read"),
        (b"Dear colleague,\nplease find attached\nthe structure\nof rock salt\n", "not a CIF, a POSCAR"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "not a CIF, a POSCAR"),
        (b"\xff\xfe" + "abc".encode("utf-16-le") + b"\x00", "not a CIF, a POSCAR"),
        (b"12\ncomment\nNa 0 0 0\n", "broken XYZ"),
        (b'\x1c1\nLattice="4 0 0 0 4 0 0 0 4"\nCu 0 0 0\n', "not a CIF, a POSCAR"),
    ],
)
def test_what_is_no_structure_says_what_it_is(tmp_path, content, message) -> None:
    assert message in error_of(read_one(tmp_path, content, "a.cif"))


NO_LOOP = f"data_x\n{cell()}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (cif() + "O1 O 0.5\n", "broken CIF"),
        (cif("Na Na 0 0", "Cl Cl 0.5 0.5 0.5 1"), "broken CIF"),
        (cif("Na Na 0 0 ? 1", *ROCK_SALT), "no z coordinate at site 1"),
        (cif("Na Na 0 0 0 1", "Cl Cl 0 0 0 1"), "site 1 (Na) and site 2 (Cl) add up to 2: two atoms in one place"),
        (cif(box=""), "no unit cell"),
        (NO_LOOP, "no atoms"),
        (NO_LOOP + LOOP, "atom"),
        ("data_global\n_publ_author_name 'Nobody'\n", "no unit cell"),
        ("data_", "no unit cell"),
        (cif(box=cell(c="?")), "cell"),
        (cif(box="\n".join(cell().split("\n")[:3]) + "\n"), "cell"),
        (cif(box=cell(a="0")), "cell"),
        (cif(box=cell(a="-3")), "cell"),
        (cif(box=cell(a="-3", b="-3")), "cell"),
        (cif(box=cell(a="nan")), "cell"),
        (cif(box=cell(a="inf")), "cell"),
        (cif(box=cell(alpha="nan")), "cell"),
        (cif(box=cell(alpha="0")), "angles"),
        (cif(box=cell(alpha="180")), "angles"),
        (cif(box=cell(alpha="120", beta="120", gamma="120")), "angles"),
        (cif(box=cell(alpha="60", beta="60", gamma="150")), "angles"),
        (cif(box=cell(alpha="400")), "angles"),
        (cif(box=cell(alpha="-90")), "angles"),
        (cif("Na Na 0 0 0 1", "Cl Cl 0.5 nan 0.5 1"), "atom loop"),
        (cif("Na Na 0 0 0 1", "Cl Cl 0.5 inf 0.5 1"), "atom loop"),
        (cif("Na Na 0 0 0 1.2"), "site 1 (Na) add up to 1.2"),
        (cif("Na Na 0 0 0 0.7", "K K 0 0 0 0.5"), "site 1 (Na) and site 2 (K) add up to 1.2"),
        (cif("Na Na 0 0 0 200"), "add up to 200"),
        (cif(extra="loop_\n_symmetry_equiv_pos_as_xyz\n" + 1001 * "x,y,z\n"), "1001 symmetry operations"),
        (cif("Na Na 0 0 0 -0.5"), "occupancy -0.5 at site"),
        (cif("Na Na 0 0 0 1", "K K 0 0 0 -0.5"), "occupancy -0.5 at site"),
        (cif("Na Na 0 0 0 1", "K K 0.5 0.5 0.5 0"), "site 2"),
        (cif("Na Na 0 0 0 nan"), "occupancy"),
        (cif("X1 X 0 0 0 1"), "unknown element 'X'"),
        (cif("Na Na 0 0 0 1", "Zz1 Zz 0.5 0.5 0.5 1"), "Zz"),
        (OF_LABELS, "label 'Rr1' of site 2 names no element"),
        (cif("Na Na 0 0 0 1", "Vac1 Vac 0.5 0.5 0.5 1"), "Vac"),
        (cif("Na Na 0 0 0 1", "Q1 ? 0.5 0.5 0.5 1"), "site 2"),
        (cif("Es1 Es 0 0 0 1"), "H to Cf only"),
        (cif("Fm1 Fm 0 0 0 1"), "H to Cf only"),
        (cif("Na Na 0 0 0 1", "Cl Cl 0.5 0.5 0.5 1", "O O 0.5 0.5 0.53333 1"), "0.10 Å apart"),
        (cif(box=cell(a="0.3")), "0.30 Å apart"),
        (cif(box=cell("0.05", "0.05", "0.05")), "check its lengths"),
    ],
)  # fmt: skip
def test_a_bad_cif_says_what_is_wrong(tmp_path, text, message) -> None:
    assert message.lower() in error_of(read_one(tmp_path, text)).lower()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (poscar(symbols=""), "does not name its elements"),
        (poscar(rows="0 0 0\n"), "coordinates"),
        (poscar(rows=""), "coordinates"),
        (poscar(rows="0 0 0\n0.5 0.5\n"), "coordinates"),
        (poscar(rows="0 0 0\n0.5 0.5 x\n"), "coordinates"),
        (poscar(rows="0 0 0\n0.5 0.5 nan\n"), "not a number"),
        (poscar(counts="1"), "counts"),
        (poscar(counts="1 1 1"), "counts"),
        (poscar(counts="1 -1"), "counts"),
        (poscar(counts="0 0"), "counts"),
        (poscar(counts="one two"), "counts"),
        (poscar(counts="1 99999999"), "1e+08 atoms in 11 lines"),
        (poscar(symbols="", counts=400 * "9"), "counts of inf atoms"),
        (poscar(symbols="Cs Xx\n"), "Xx"),
        (poscar(symbols="Cs Es\n"), "H to Cf only"),
        (poscar(a="0"), "cell"),
        (poscar(a="2 3"), "one number or three above 0"),
        (poscar(a="2 3 -4"), "one number or three above 0"),
        (poscar(a="nan"), "not a number"),
        (poscar(rows="0 0 0\n0.02439 0 0\n"), "0.10 Å apart"),
        ("comment\n4.1\n1 0 0\n0 1 0\n", "not a CIF, a POSCAR"),
        ("comment\n4.1\n1 0 0\n0 1 0\n0 0 1\n", "broken POSCAR"),
        (poscar().replace("0 0 1\n", "0 1 0\n", 1), "check its lengths"),
    ],
)
def test_a_bad_poscar_says_what_is_wrong(tmp_path, text, message) -> None:
    assert message.lower() in error_of(read_one(tmp_path, text, "POSCAR")).lower()


def changed(**changes) -> str:
    return json.dumps(structure().as_dict() | changes)


def of_sites(*sites) -> str:
    return changed(sites=[{"label": "s", **site} for site in sites])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "broken JSON"),
        (changed()[:-40], "broken JSON"),
        ("[1, 2", "broken JSON"),
        ("[" * 100_000, "broken JSON"),
        ("{}", "without a pymatgen Structure"),
        ("[7]", "without a pymatgen Structure"),
        ('{"a": 1}', "without a pymatgen Structure"),
        ("[]", "empty JSON list"),
        (Molecule(["O", "H"], [[0, 0, 0], [0, 0, 1]]).to_json(), "molecule"),
        (changed(sites=[]), "at least 1 site"),
        (changed(sites=7), "broken pymatgen JSON"),
        (changed(lattice=None), "broken pymatgen JSON"),
        (changed(lattice={"matrix": [[1, 2], [3, 4]]}), "broken pymatgen JSON"),
        (changed(lattice={"matrix": [[float("nan")] * 3] * 3}), "not a number"),
        (changed(lattice={"matrix": [[0, 0, 0]] * 3}), "cell"),
        (of_sites({"species": [{"element": "Qq", "occu": 1}], "abc": [0, 0, 0]}), "broken pymatgen JSON"),
        (of_sites({"species": [{"element": "X", "occu": 1}], "abc": [0, 0, 0]}), "'X'"),
        (of_sites({"species": [{"element": "Fm", "occu": 1}], "abc": [0, 0, 0]}), "H to Cf only"),
        (of_sites({"species": [{"element": "Na", "occu": 1.5}], "abc": [0, 0, 0]}), "more than 1"),
        (of_sites({"species": [{"element": "Na", "occu": -0.5}], "abc": [0, 0, 0]}), "negative"),
        (of_sites({"species": [{"element": "Na", "occu": float("nan")}], "abc": [0, 0, 0]}), "occupanc"),
        (of_sites({"species": [], "abc": [0, 0, 0]}), "site 1"),
        (of_sites({"species": [{"element": "Na", "occu": 1}], "abc": [0, 0]}), "broken pymatgen JSON"),
    ],
)  # fmt: skip
def test_bad_json_says_what_is_wrong(tmp_path, text, message) -> None:
    assert message.lower() in error_of(read_one(tmp_path, text)).lower()


@pytest.mark.parametrize(
    "box",
    [cell(a="1e6"), cell(a="1e300", b="1e300", c="1e300"), cell(a="1e-8", b="1e5", c="1e5")],
    ids=["needle", "overflow", "sheet"],
)
def test_a_cell_beyond_all_sense_does_not_kill_the_process(tmp_path, box) -> None:
    (tmp_path / "a.cif").write_text(cif(box=box))
    code = "import sys; from crystalpredict.io.entries import read_entries as r; "
    code += "print(*(e.error for e in r(sys.argv[1], 6.0)))"
    command = [sys.executable, "-c", code, str(tmp_path / "a.cif")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() != ""


def test_a_molecule_from_python_is_an_entry_with_an_error() -> None:
    (entry,) = entries_of_structures([Molecule(["O", "H"], [[0, 0, 0], [0, 0, 1]])], RADIUS)
    assert "molecule without a lattice" in error_of(entry)


def test_sound_and_broken_structures_together_give_the_entries_of_each_alone() -> None:
    def box(*vectors, places=(0.0, 0.5)) -> Structure:
        return Structure(Lattice(vectors), ["Cs", "Cl"][: len(places)], [[place] * 3 for place in places])

    cube = box([4.1, 0, 0], [0, 4.1, 0], [0, 0, 4.1])
    skewed = box([4.1, 0, 0], [20.5, 4.1, 0], [0, 0, 4.1])
    tiny = box([0.6, 0, 0], [0, 0.6, 0], [0, 0, 0.6])  # Å: too little volume
    thin = box([60.0, 0, 0], [0, 60.0, 0], [0, 0, 0.3], places=(0.0,))
    close = box([4.1, 0, 0], [0, 4.1, 0], [0, 0, 4.1], places=(0.0, 0.05))
    supercell = cube * (4, 4, 4)
    given = [cube, tiny, Molecule(["O"], [[0, 0, 0]]), 7, skewed, thin, close, supercell, cube]
    together = entries_of_structures(given, RADIUS)
    for number, (entry, each) in enumerate(zip(together, given, strict=True)):
        (alone,) = entries_of_structures([each], RADIUS, first=number)
        assert (entry.index, entry.error, entry.formula) == (alone.index, alone.error, alone.formula)
        if alone.neighbors:
            np.testing.assert_array_equal(entry.neighbors.first, alone.neighbors.first)
            np.testing.assert_allclose(entry.neighbors.distances, alone.neighbors.distances, atol=1e-10)
    reasons = ["", "Å^3 for 2", "molecule", "no structure", "", "periodic image", "apart", "", ""]
    assert all(reason in entry.error for entry, reason in zip(together, reasons, strict=True))
    assert [bool(entry.error) for entry in together] == [bool(reason) for reason in reasons]


def test_a_molecule_alone_is_one_row() -> None:
    (row,) = load_model(device="cpu", targets="bandgap").predict(Molecule(["O", "H"], [[0, 0, 0], [0, 0, 1]]))
    assert "molecule without a lattice" in row.error


def test_atoms_of_ase_are_structures_too() -> None:
    ase = pytest.importorskip("ase")
    here = structure()
    atoms = ase.Atoms([site.specie.symbol for site in here], here.cart_coords, cell=here.lattice.matrix, pbc=True)
    model = load_model(device="cpu", targets="bandgap")
    slab, molecule = atoms.copy(), ase.Atoms("OH", [[0, 0, 0], [0, 0, 1]])
    slab.pbc = [True, True, False]
    ours, theirs, no_crystal, no_cell = model.predict([here, atoms, slab, molecule])
    near = partial(pytest.approx, abs=1e-5)  # of sums in single precision, in another batch on any processor
    assert theirs.values == near(ours.values)
    assert (theirs.formula, theirs.n_atoms, theirs.index) == (ours.formula, ours.n_atoms, 1)
    assert "periodic in all three directions" in no_crystal.error
    assert "molecule without a lattice" in no_cell.error
    assert [row.values for row in model.predict(atoms)] == [near(theirs.values)]
    assert "X" in model.predict(ase.Atoms("X", cell=np.eye(3) * 4, pbc=True))[0].error
    atoms.info["occupancy"] = {"0": {"Na": 0.5, "K": 0.5}, "1": {"Cl": 1.0}}
    assert "partly occupied sites" in model.predict(atoms)[0].error
    atoms.info["occupancy"] = {"0": {"Na": 1.0}, "1": {"Cl": 1.0}}
    assert model.predict(atoms)[0].values == near(theirs.values)
    filtered = pytest.importorskip("ase.filters").FrechetCellFilter(ase.Atoms("Cu4", cell=np.eye(3) * 4, pbc=True))
    bad, good = model.predict([filtered, here])
    assert bad.error.startswith("broken Atoms")
    assert good.values == near(ours.values)


def test_bytes_and_dictionaries_are_one_thing_that_is_no_structure() -> None:
    model = load_model(device="cpu", targets="bandgap")
    for item in (b"NaCl.cif", structure().as_dict()):
        (row,) = model.predict(item)
        assert "is no structure" in row.error


@pytest.mark.parametrize("item", [7, None, {"lattice": 3}, object(), ComputedEntry("MgO", -1.0)])
def test_what_is_no_structure_at_all_is_an_entry_with_an_error(item) -> None:
    good, bad = load_model(device="cpu", targets="bandgap").predict([structure(), item])
    assert good.values.keys() == {"bandgap_eV"}
    assert (bad.index, bad.values) == (1, {})
    assert (
        bad.error == f"a {type(item).__name__} is no structure: give a pymatgen Structure, ASE's Atoms or a file's name"
    )


def test_a_formula_has_bounds_too(tmp_path) -> None:
    site = {"species": [{"element": "X" + "q" * 100_000, "occu": 1}], "abc": [0, 0, 0]}
    entry = read_one(tmp_path, json.dumps({"lattice": {"matrix": np.eye(3).tolist()}, "sites": [site]}))
    assert entry.error
    assert len(entry.formula) <= 1000


def test_an_entry_that_failed_late_still_names_its_formula(tmp_path) -> None:
    entry = read_one(tmp_path, cif("Es1 Es 0 0 0 1", "O1 O 0.5 0.5 0.5 1"))
    assert (entry.formula, entry.n_atoms, entry.crystal) == ("EsO", 2, None)


# Fuzz: nothing raises, and nothing is both a crystal and an error


def check(entries: list[Entry]) -> None:
    assert len(entries) >= 1
    for index, entry in enumerate(entries):
        assert entry.index == index
        assert (entry.crystal is None) == bool(entry.error)
        if entry.crystal is not None:
            assert np.isfinite(entry.crystal.positions).all()
            assert 0 < entry.crystal.occupancies.sum(axis=1).max() <= 1 + 1e-9


@pytest.mark.parametrize("name", ["MoS2.cif", "Si.vasp", "POSCAR_Ni3Al"])
def test_truncated_files_never_raise(tmp_path, name) -> None:
    content = (EXAMPLES / name).read_bytes()
    for end in range(0, len(content), 47):
        check(read(tmp_path, content[:end]))


@pytest.mark.parametrize("name", ["MoS2.cif", "Si.vasp", "POSCAR_Ni3Al"])
@pytest.mark.parametrize("seed", range(4))
def test_files_with_lines_lost_or_swapped_or_letters_changed_never_raise(tmp_path, name, seed) -> None:
    rng = np.random.default_rng(seed)
    text = (EXAMPLES / name).read_text()
    for _ in range(6):
        lines = text.split("\n")
        lost = int(rng.integers(len(lines)))
        check(read(tmp_path, "\n".join(lines[:lost] + lines[lost + 1 :])))
        rng.shuffle(lines)
        check(read(tmp_path, "\n".join(lines)))
        letters = list(text)
        for place in rng.integers(len(letters), size=3):
            letters[place] = chr(rng.integers(32, 127))
        check(read(tmp_path, "".join(letters)))


def test_random_bytes_never_raise(tmp_path) -> None:
    rng = np.random.default_rng(0)
    for start in (b"", b"data_x\n", b"{", b"[", b"\x1f\x8b\x08", b"\xff\xfe", b"c\n1\n1 0 0\n0 1 0\n0 0 1\n"):
        for letters in (256, 128):
            noise = rng.integers(1, letters, 300).astype(np.uint8).tobytes()
            check(read(tmp_path, start + noise))


def test_comments_behind_the_symbols_and_counts_of_a_poscar(tmp_path) -> None:
    entry = read_one(tmp_path, poscar("Cs Cl ! of 2019\n", "1 1 ! 2 atoms"))
    assert (entry.formula, entry.n_atoms, entry.error) == ("CsCl", 2, "")


def test_what_could_not_be_read_is_not_known_another_day(tmp_path) -> None:
    (tmp_path / "x.cif").write_text(cif())
    (tmp_path / "x.cif.gz").write_bytes(b"\x1f\x8b")
    assert begin(str(tmp_path / "x.cif"), b"key").key == b"key"
    found = begin(str(tmp_path / "x.cif.gz"), b"key")
    assert (found.key, found.error != "") == (b"", True)


def test_comments_on_the_scale_and_the_symbols_of_a_poscar(tmp_path) -> None:
    entry = read_one(tmp_path, poscar("Cs Cl # of 2019\n", "1 1 # 2 atoms", a="4.1 ! of 2 of them"))
    assert (entry.formula, entry.n_atoms, entry.error) == ("CsCl", 2, "")
    assert crystal_of(entry).volume == pytest.approx(4.1**3)
    assert crystal_of(read_one(tmp_path, poscar().replace("1 0 0\n", "1 0 0 ! a\n"))).n_atoms == 2


def test_a_frame_of_xyz_whose_comment_begins_with_a_number_is_no_poscar(tmp_path) -> None:
    frame = '3\n-12.5 Lattice="4.2 0 0 0 4.2 0 0 0 4.2" Properties=Z:I:1:pos:R:3\n55 0 0 0\n17 2.1 2.1 2.1\n8 0 2.1 0\n'
    assert read_one(tmp_path, frame).formula == "CsClO"


def test_a_large_plain_cif_has_the_neighbours_of_any_other_file(tmp_path) -> None:
    grid = [(i / 11, j / 11, k / 9) for i in range(11) for j in range(11) for k in range(9)]
    sites = [f"Po{n} Po {x} {y} {z} 1" for n, (x, y, z) in enumerate(grid)]
    box = cell("36.85", "36.85", "30.15")
    entry = read_one(tmp_path, cif(*sites, box=box))
    assert entry.n_atoms == len(grid) > MAX_ATOMS_READ_TOGETHER
    assert entry.neighbors.edge_counts.tolist() == [1 + 6 + 12 + 8] * len(grid)  # alpha-polonium to 5.8 Å
    assert "are 0.03 Å apart" in error_of(read_one(tmp_path, cif(*sites, "Po Po 0 0 0.001 1", box=box)))


def test_a_poscar_cut_off_between_atoms_is_no_smaller_crystal(tmp_path) -> None:
    text = (EXAMPLES / "Si.vasp").read_text().rstrip("\n")
    lines = text.split("\n")
    for end in range(len(lines)):
        assert read_one(tmp_path, "\n".join(lines[:end])).error != ""
    assert crystal_of(read_one(tmp_path, text)).n_atoms == 8


@pytest.mark.parametrize(
    "rows",
    [
        "_atom_site_label\n{columns}\nC 0.125 0.125 0.125",
        "_atom_site_label\n_atom_site_type_symbol\n{columns}\nC1 C0 0.125 0.125 0.125",
    ],
)
def test_occupancy_and_type_symbol_may_be_absent(tmp_path, rows: str) -> None:
    """As in the American Mineralogist database, from which many files of the Crystallography Open Database come."""
    columns = "\n".join(f"_atom_site_fract_{axis}" for axis in "xyz")
    cell = [f"_cell_length_{axis} 3.5668(1)" for axis in "abc"]
    cell += [f"_cell_angle_{angle} 90" for angle in ("alpha", "beta", "gamma")]
    symmetry = "_symmetry_space_group_name_H-M 'F d -3 m:2'"
    path = tmp_path / "diamond.cif"
    path.write_text("\n".join(["data_diamond", *cell, symmetry, "loop_", rows.format(columns=columns), ""]))
    (entry,) = read_entries(str(path), RADIUS)
    assert entry.error == ""
    assert entry.formula == "C"
    assert entry.crystal is not None
    assert entry.n_atoms == 8
    assert set(entry.crystal.numbers.flat) == {6}


def test_text_and_the_arrays_of_data_sets_give_the_crystal_of_the_file() -> None:
    (file,) = read_entries(str(EXAMPLES / "NaCl.cif"), RADIUS)
    structure = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    symbols = [site.specie.symbol for site in structure]
    lattice = structure.lattice
    jarvis = {
        "lattice_mat": lattice.matrix.tolist(), "coords": structure.cart_coords.tolist(), "elements": symbols,
        "cartesian": True,
    }  # fmt: skip
    texts = {
        "cif": (EXAMPLES / "NaCl.cif").read_text(),
        "jarvis": json.dumps({"jid": "JVASP-1", "atoms": jarvis}),
        "arrays": json.dumps(
            {"lattice": list(lattice.parameters), "species": symbols, "frac_coords": structure.frac_coords.tolist()}
        ),
    }
    for name, text in texts.items():
        (entry,) = read_entries(Inline(name, text), RADIUS)
        assert (entry.path, entry.error, entry.formula, entry.n_atoms) == (name, "", "NaCl", file.n_atoms)
        assert np.sort(entry.neighbors.distances) == pytest.approx(np.sort(file.neighbors.distances), abs=1e-6)
    (empty,) = read_entries(Inline("row 3", " "), RADIUS)
    assert empty.error


def test_no_element_makes_pymatgen_speak_on_stderr() -> None:
    code = (
        "from pymatgen.core.periodic_table import Element\n"
        "from crystalpredict.io.entries import Inline, read_entries\n"
        "for element in Element:\n"
        "    text = f'x\\n4\\n1 0 0\\n0 1 0\\n0 0 1\\n{element.symbol} Na\\n1 1\\nDirect\\n0 0 0\\n0.5 0.5 0.5\\n'\n"
        "    (entry,) = read_entries(Inline('a', text), 6.0)\n"
        "    assert bool(entry.error) == (element.Z > 98), (element, entry.error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
