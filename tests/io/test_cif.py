"""The quick reader of plain CIFs gives what pymatgen gives, and leaves to it what is not plain."""

from __future__ import annotations

import re
from pathlib import Path

import gemmi
import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifParser, CifWriter

from crystalpredict.crystals.crystal import Crystal
from crystalpredict.crystals.neighbors import find_neighbors
from crystalpredict.errors import suppress_warnings
from crystalpredict.io.cif import read_plain_cif
from crystalpredict.io.entries import read_entries
from crystalpredict.io.from_pymatgen import crystal_of_structure
from crystalpredict.io.structure_text import parse_text

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
CELL = "".join(f"_cell_length_{axis} {length}\n" for axis, length in zip("abc", (5.1, 6.2, 7.3), strict=True))
CELL += "".join(f"_cell_angle_{angle} 90\n" for angle in ("alpha", "beta", "gamma"))
IDENTITY = "loop_\n_symmetry_equiv_pos_as_xyz\n'x, y, z'\n"
COLUMNS = "loop_\n_atom_site_label\n_atom_site_type_symbol\n" + "".join(f"_atom_site_fract_{x}\n" for x in "xyz")
SITES = "Na1 Na 0.1 0.2 0.3\nCl1 Cl 0.6 0.7 0.8\n"
PLAIN = f"data_x\n{CELL}{IDENTITY}{COLUMNS}{SITES}"


def by_pymatgen(text: str) -> Crystal:
    with suppress_warnings():
        (structure,) = CifParser.from_str(text).parse_structures(primitive=False)
    return crystal_of_structure(structure)[0]


def by_gemmi(text: str) -> Crystal:
    (plain,) = read_plain_cif(text)
    return Crystal.ordered(plain.lattice, plain.fractional @ plain.lattice, plain.numbers)


def pairs(crystal: Crystal) -> np.ndarray:
    """Rows (E, 3) of the two elements and the distance of every edge: the same for two crystals only if they are."""
    edges = find_neighbors(crystal.lattice, crystal.positions, 5.0)
    centres = np.repeat(np.arange(crystal.n_atoms), edges.edge_counts)
    rows = np.stack([crystal.numbers[centres, 0], crystal.numbers[edges.indices, 0], edges.distances.round(5)], axis=1)
    return rows[np.lexsort(rows.T)]


def assert_same(one: Crystal, two: Crystal) -> None:
    assert sorted(one.numbers[:, 0]) == sorted(two.numbers[:, 0])
    assert one.volume == pytest.approx(two.volume)
    assert pairs(one) == pytest.approx(pairs(two), abs=2e-5)


@pytest.mark.parametrize("name", ["CaF2", "CsPbBr3", "GaAs", "MgO", "MoS2", "NaCl", "SrTiO3", "TiO2_rutile", "ZnO"])
def test_example(name: str) -> None:
    text = (EXAMPLES / f"{name}.cif").read_text()
    assert_same(by_gemmi(text), by_pymatgen(text))


@pytest.mark.filterwarnings("ignore")  # of spglib and pymatgen, about each other
@pytest.mark.parametrize("group", ["P-1", "C2/c", "Pnma", "Fddd", "I4_1/amd", "P4_32_12", "R-3c", "P6_3/mmc", "Fd-3m"])
def test_symmetry_operations_as_pymatgen_writes_them(group: str) -> None:
    lattice = Lattice.cubic(9.1) if "3m" in group else Lattice.from_parameters(9.1, 9.1, 8.4, 90, 90, 120)
    if group[0] in "CFIP" and "6" not in group and "3m" not in group:
        lattice = Lattice.tetragonal(9.1, 8.4) if "4" in group else Lattice.orthorhombic(9.1, 9.6, 8.4)
    species, sites = ["Ba", "Ti", "O"], [[0, 0, 0], [0.25, 0.25, 0.31], [0.11, 0.23, 0.37]]
    structure = Structure.from_spacegroup(group, lattice, species, sites)
    text = str(CifWriter(structure, symprec=0.001))
    assert len(re.findall(r"'[-+xyz/0-9, ]*'", text)) > 1
    assert_same(by_gemmi(text), by_pymatgen(text))


def of_system(name: str, text: str) -> str:
    """A text with the cell, if it must be another, that a hexagonal or cubic group has."""
    if "3" in name:
        text = text.replace("_length_b 6.2", "_length_b 5.1")
    if name in ("F m -3 m",):
        return text.replace("_length_c 7.3", "_length_c 5.1")
    return text.replace("_angle_gamma 90", "_angle_gamma 120") if "3" in name else text


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["P 1", "P -1", "P 1 21/c 1", "C 1 2/c 1", "P n m a", "P 63/m m c", "F m -3 m"])
def test_a_group_named_without_its_operations(name: str) -> None:
    text = of_system(name, PLAIN.replace(IDENTITY, f"_symmetry_space_group_name_H-M '{name}'\n"))
    parser = CifParser.from_str(text)
    (block,) = parser._cif.data.values()
    theirs = parser.get_symops(block)
    ours = gemmi.find_spacegroup_by_name(name).operations()
    assert len(theirs) == len(list(ours))
    assert_same(by_gemmi(text), by_pymatgen(text))


def test_a_short_name_that_pymatgen_takes_for_p1() -> None:
    text = PLAIN.replace(IDENTITY, "_symmetry_space_group_name_H-M 'P 21/c'\n")
    assert by_gemmi(text).n_atoms == 8


def test_a_group_that_nobody_understands_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.cif"
    path.write_text(PLAIN.replace(IDENTITY, "_symmetry_space_group_name_H-M 'Q 7'\n"))
    (entry,) = read_entries(str(path), 6.0)
    assert "space group 'Q 7' not understood" in entry.error
    path.write_text(PLAIN.replace(IDENTITY, ""))
    (entry,) = read_entries(str(path), 6.0)
    assert entry.n_atoms == 2


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Na1 Na 0.1 0.2 0.3", "Na1 Na1+ 0.1(1) .2 0.3E0"),
        ("Na1 Na 0.1 0.2 0.3", "Na1 Na 0.3333 0.6667 0.0"),
        ("Na1 Na 0.1 0.2 0.3", "Na1 Na -1.1 3.2 0.3"),
        ("_symmetry_equiv_pos_as_xyz", "_space_group_symop_operation_xyz"),
        ("_atom_site_type_symbol\n", "_atom_site_something\n"),
        (SITES, "Na1 Na 0 0 0\nCl2 Cl1- 0.5 0.5 0.5\n"),
        ("'x, y, z'", "x,y,z\n-x,1/2+y,1/2-z"),
        ("'x, y, z'", "x,y,z\n'-y, x-y, z+1/3'\n'-x+y,-x,2/3+z'"),
        ("data_x\n", "data_x\n_chemical_formula_sum 'Na Cl'\n_atom_site_attached_hydrogens 0\n"),
    ],
)
def test_spellings(old: str, new: str) -> None:
    assert old in PLAIN
    text = of_system("3" if "x-y" in new else "", PLAIN.replace(old, new))
    assert_same(by_gemmi(text), by_pymatgen(text))


def named(name: str, lengths: str, angles: str, tag: str = "_symmetry_space_group_name_H-M") -> str:
    """A CIF with one atom at the origin."""
    rows = zip(("length_a", "length_b", "length_c"), lengths.split(), strict=True)
    rows = [*rows, *zip(("angle_alpha", "angle_beta", "angle_gamma"), angles.split(), strict=True)]
    cell = "".join(f"_cell_{key} {value}\n" for key, value in rows)
    return f"data_x\n{cell}{tag} '{name}'\n{COLUMNS}Na1 Na 0 0 0\n"


@pytest.mark.parametrize(
    ("lengths", "angles", "atoms"), [("3.4 3.4 3.4", "98 98 98", 1), ("5.1 5.1 4.9", "90 90 120", 3)]
)
def test_operations_of_a_group_with_two_choices_of_axes_are_those_of_the_cell(lengths, angles, atoms) -> None:
    assert by_gemmi(named("R -3 m", lengths, angles)).n_atoms == atoms


@pytest.mark.parametrize(
    ("tag", "name"),
    [
        ("_space_group_name_H-M_ref", "F m -3 m"), ("_space_group.name_H-M_alt", "F m -3 m"),
        ("_symmetry.space_group_name_H-M", "F m -3 m"), ("_symmetry.Int_Tables_number", "225"),
        ("_space_group.IT_number", "225"), ("_space_group.name_Hall", "-F 4 2 3"),
    ],
)  # fmt: skip
def test_a_group_under_the_names_of_newer_dictionaries(tmp_path: Path, tag: str, name: str) -> None:
    path = tmp_path / "x.cif"
    text = named(name, "5.6 5.6 5.6", "90 90 90", tag)
    for content in (text, text.replace("_cell_", "_cell.").replace("_atom_site_", "_atom_site.")):
        path.write_text(content)
        (entry,) = read_entries(str(path), 6.0)
        assert entry.n_atoms == 4, entry.error


def test_a_group_named_by_its_hall_symbol_alone() -> None:
    text = named("-F 4 2 3", "5.6 5.6 5.6", "90 90 90", "_space_group_name_Hall")
    assert by_gemmi(text).n_atoms == 4


@pytest.mark.parametrize("unknown", ["?", ".", "''"])
def test_operations_that_are_not_known_are_those_of_the_group_named(unknown: str) -> None:
    listed = f"_symmetry_equiv_pos_as_xyz {unknown}\n"
    text = named("F m -3 m", "5.6 5.6 5.6", "90 90 90").replace("loop_", f"{listed}loop_")
    assert by_gemmi(text).n_atoms == 4


NO_FIT = "do not fit the cell"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (named("F m -3 m", "5.6 5.6 7.0", "90 90 90"), NO_FIT),
        (named("P 1 21/c 1", "5.6 6.6 7.0", "90 90 100"), NO_FIT),
        (PLAIN.replace("'x, y, z'", "'x, y, z'\n'-y, x-y, z'"), NO_FIT),
        (PLAIN.replace("'x, y, z'", "'x, y, z'\n'x, y, 1/2'"), NO_FIT),
        (PLAIN.replace("'x, y, z'", "'x, y, z'\n'-x, -y'"), "symmetry operation '-x, -y' not understood"),
        (PLAIN.replace("'x, y, z'", "'x, y, z'\n'-x+?, -y, z'"), "symmetry operation '-x+?, -y, z' not understood"),
        (PLAIN.replace(CELL, f"{CELL}_cell_length_a 6.0\n"), "_cell_length_a comes twice"),
        (f"{PLAIN}{COLUMNS}O1 O 0 0 0\n", "comes twice in a data block"),
        (PLAIN.replace("Cl 0.6 0.7 0.8", "Cl . . ."), "no x coordinate at site 2"),
    ],
)  # fmt: skip
def test_what_contradicts_itself_is_an_error(tmp_path: Path, text: str, error: str) -> None:
    path = tmp_path / "x.cif"
    path.write_text(text)
    (entry,) = read_entries(str(path), 6.0)
    assert error in entry.error


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Na1 Na 0.1", "Wat Wat 0.1"),
        ("Na1 Na 0.1", "Na1 Na ?"),
        ("Na1 Na 0.1", "Na1 Na 1e9"),
        ("Na1 Na 0.1", "X1 X 0.1"),
        ("'x, y, z'", "'x+0.35, y, z'"),
        ("'x, y, z'", "'x, y, w'"),
        (IDENTITY, "_symmetry_space_group_name_H-M 'F d -3 m'\n"),
        ("_cell_length_a 5.1", "_cell_length_a ?"),
        ("_cell_length_a 5.1", "_cell_length_a -5.1"),
        ("_cell_angle_alpha 90", "_cell_angle_alpha 179"),
        ("_cell_angle_alpha 90", ""),
        ("data_x\n", ""),
        (PLAIN, "{}"),
        (SITES, "Na1 Na 0.1 0.2\n"),
        (SITES, ""),
    ],
)
def test_what_is_not_plain_is_left_alone(old: str, new: str) -> None:
    assert old in PLAIN
    assert read_plain_cif(PLAIN.replace(old, new)) == []


@pytest.mark.parametrize("occupancy", ["0.5", "0", "2", "-1"])
def test_sites_that_are_not_full_are_left_alone(occupancy: str) -> None:
    text = PLAIN.replace(COLUMNS, f"{COLUMNS}_atom_site_occupancy\n")
    full = text.replace("0.3\n", "0.3 1.\n").replace("0.8\n", "0.8 .\n")
    assert_same(by_gemmi(full), by_pymatgen(PLAIN))
    assert read_plain_cif(full.replace("0.3 1.", f"0.3 {occupancy}")) == []


def test_atoms_on_a_symmetry_element_are_counted_once() -> None:
    operations = "x,y,z\n-x,-y,-z\nx,-y,z\n-x,y,-z\n"
    text = PLAIN.replace("'x, y, z'\n", operations).replace(SITES, "Na1 Na 0 0 0\nCl1 Cl 0.5 0 0.25\nO1 O .1 .2 .3\n")
    crystal = by_gemmi(text)
    assert [(crystal.numbers[:, 0] == number).sum() for number in (11, 17, 8)] == [1, 2, 4]
    assert_same(crystal, by_pymatgen(text))


@pytest.mark.parametrize(
    ("formula", "warns"), [("'Na1 Cl1'", False), ("NaCl", False), ("'Na2 Cl1'", True), ("?", False)]
)
def test_the_formula_stated_is_compared(tmp_path: Path, formula: str, warns: bool) -> None:
    path = tmp_path / "x.cif"
    path.write_text(PLAIN.replace("data_x\n", f"data_x\n_chemical_formula_sum {formula}\n"))
    (entry,) = read_entries(str(path), 6.0)
    assert (entry.formula, entry.n_atoms, entry.error) == ("NaCl", 2, "")
    assert bool(entry.warnings) == warns


def test_operations_without_the_identity_are_refused() -> None:
    text = (Path(__file__).parents[2] / "examples" / "NaCl.cif").read_text().replace("a     5.6400", "a     0.5")
    hall = "_space_group_name_Hall 'C 1 2/m 1 (a+b,c,0)'\nloop_\n_symmetry_equiv_pos_as_xyz\nx/3,y/3,z/3\n"
    (found,) = parse_text(text.replace("loop_\n", hall + "loop_\n"))
    assert "no group" in str(found)
