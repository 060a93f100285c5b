"""What a file says of its symmetry, its labels and its scale, where parsers guess in silence."""

import json
import re

import gemmi
import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from crystalpredict import load_model
from crystalpredict.io.entries import Entry, Inline, read_entries

PLACE = (0.0812, 0.1437, 0.2071)  # a general position
CELLS = {
    "triclinic": (5.1, 6.2, 7.3, 81, 97, 104),
    "orthorhombic": (6.1, 7.2, 8.3, 90, 90, 90),
    "tetragonal": (7.1, 7.1, 9.3, 90, 90, 90),
    "trigonal": (8, 8, 9.5, 90, 90, 120),
    "hexagonal": (8, 8, 9.5, 90, 90, 120),
    "cubic": (20, 20, 20, 90, 90, 90),
}
HM, HALL = "_symmetry_space_group_name_H-M", "_symmetry_space_group_name_Hall"
LABELS = "loop_\n_atom_site_label\n_atom_site_fract_x\n_atom_site_fract_y\n_atom_site_fract_z\n"
SITES = LABELS.replace("_label\n", "_label\n_atom_site_type_symbol\n")


def cif(*cell: float, extra: str = "", sites: str = f"{SITES}C1 C {PLACE[0]} {PLACE[1]} {PLACE[2]}\n") -> str:
    names = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
    lines = "".join(f"_cell_{name} {value}\n" for name, value in zip(names, cell, strict=True))
    return f"data_x\n{lines}{extra}{sites}"


def read(text: str) -> Entry:
    (entry,) = read_entries(Inline("x", text), 3.0)
    return entry


def cell_of(group: gemmi.SpaceGroup) -> tuple[float, ...]:
    system = group.crystal_system_str()
    if system == "monoclinic":
        angles = [90.0, 90.0, 90.0]
        angles["abc".index(group.monoclinic_unique_axis())] = 103.0
        return (6.1, 7.2, 8.3, *angles)
    return (7, 7, 7, 77, 77, 77) if group.ext == "R" else CELLS[system]


def places(fractional: np.ndarray) -> list[tuple[int, ...]]:
    """Sorted, in steps of a five-hundredth, whose limits no image of PLACE comes near."""
    return sorted(map(tuple, np.floor((fractional - np.floor(fractional)) * 500 + 0.37).astype(int) % 500))


SEVERAL = [
    group
    for group in gemmi.spacegroup_table()
    if group.ext in ("1", "2") or group.hall in ('P 31 2"', "P 3 2", 'P 3 2"')
]


# those that gemmi and pymatgen call by different names, and some others
SETTINGS = [
    group
    for number, group in enumerate(gemmi.spacegroup_table())
    if number % 9 == 0 or group.number in (5, 39, 41, 64, 146, 166)
]


@pytest.mark.parametrize("group", SEVERAL, ids=gemmi.SpaceGroup.xhm)
def test_a_setting_named_in_full_is_the_one_that_is_read(group: gemmi.SpaceGroup) -> None:
    expected = places(np.array([operation.apply_to_xyz(list(PLACE)) for operation in group.operations()]))
    by_hall = f"{HM} '{group.hm}'\n{HALL} '{group.hall}'\n_symmetry_Int_Tables_number {group.number}\n"
    for extra in (by_hall, f"{HM} '{group.xhm()}'\n"):
        entry = read(cif(*cell_of(group), extra=extra))
        assert (entry.error, entry.warnings) == ("", ())
        assert places(entry.crystal.positions @ np.linalg.inv(entry.crystal.lattice)) == expected


@pytest.mark.parametrize("group", SETTINGS, ids=gemmi.SpaceGroup.xhm)
def test_a_name_is_read_alike_whatever_else_is_in_the_file(group: gemmi.SpaceGroup) -> None:
    plain = read(text := cif(*cell_of(group), extra=f"{HM} '{group.hm}'\n"))
    slow = read(f"data_global\n_journal_year 2000\n{text}")
    assert (plain.error, plain.n_atoms) == (slow.error, slow.n_atoms)
    if not plain.error:
        one, two = (entry.crystal.positions @ np.linalg.inv(entry.crystal.lattice) for entry in (plain, slow))
        assert places(one) == places(two)


@pytest.mark.parametrize("extra", [f"{HM} 'F d -3 m'\n", "_symmetry_Int_Tables_number 227\n"])
def test_a_name_for_two_origins_is_an_error(extra: str) -> None:
    entry = read(cif(*CELLS["cubic"], extra=extra))
    assert "has two origins: list its operations" in entry.error
    assert read(cif(*CELLS["cubic"], extra=f"{HM} 'F m -3 m'\n")).n_atoms == 192


def test_two_names_for_different_groups_are_an_error() -> None:
    extra = f"{HM} 'F m -3 m'\n{HALL} '-F 4vw 2vw 3'\n"
    assert "are different space groups: list the operations" in read(cif(*CELLS["cubic"], extra=extra)).error


NUMBER = "_symmetry_Int_Tables_number"


@pytest.mark.parametrize("unusual", ["", "_cell_modulation_dimension 0\n"])  # read by gemmi, and by pymatgen
@pytest.mark.parametrize("name", ["P 1", "F m -3 m"])
def test_a_name_and_a_number_of_different_groups_are_an_error(name: str, unusual: str) -> None:
    entry = read(cif(*CELLS["cubic"], extra=f"{HM} '{name}'\n{NUMBER} 221\n{unusual}"))
    assert entry.error == f"{name!r} and '221' are different space groups: list the operations"
    listed = f"loop_\n_symmetry_equiv_pos_as_xyz\nx,y,z\n{HM} '{name}'\n{NUMBER} 221\n{unusual}"
    one = read(cif(*CELLS["cubic"], extra=listed))
    assert (one.n_atoms == 1) == (name == "P 1")  # the old number beside a name and an operation that agree
    assert "the 1 symmetry operations listed are not the" in (one.error or " ".join(one.warnings))
    for number in ("221", "0", "?", "999"):  # two that are none
        assert read(cif(*CELLS["cubic"], extra=f"{HM} 'P m -3 m'\n{NUMBER} {number}\n{unusual}")).n_atoms == 48


@pytest.mark.parametrize("unusual", ["", "_cell_modulation_dimension 0\n"])
@pytest.mark.parametrize(
    "names",
    [
        f"{HM} 'F m -3 m'\n_space_group_name_H-M_alt 'P n m a'\n",
        f"{HALL} '-F 4 2 3'\n{NUMBER} 227\n",
    ],
)
def test_any_two_names_of_different_groups_are_an_error(names: str, unusual: str) -> None:
    assert "are different space groups" in read(cif(*CELLS["cubic"], extra=names + unusual)).error


def test_operations_under_the_name_with_a_dot_are_carried_out() -> None:
    centring = "loop_\n_space_group_symop.operation_xyz\nx,y,z\nx+1/2,y+1/2,z\nx+1/2,y,z+1/2\nx,y+1/2,z+1/2\n"
    for occupancy in ("", "_atom_site_occupancy\n"):  # read by gemmi, and by pymatgen
        value = " 0.9" if occupancy else ""
        sites = f"{SITES}{occupancy}Na1 Na 0 0 0{value}\nCl1 Cl 0.5 0.5 0.5{value}\n"
        assert read(cif(*[5.64] * 3, 90, 90, 90, extra=centring, sites=sites)).n_atoms == 8


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("_space_group_symop_operation_xyz", "loop_\n_space_group_symop.operation_xyz\nx,y,z\nx+1/2,y+1/2,z"),
        ("_symmetry_equiv_pos_as_xyz", "loop_\n_symmetry_equiv.pos_as_xyz\nx,y,z\nx+1/2,y+1/2,z"),
        ("_space_group_name_H-M_alt", "_space_group.name_H-M_alt 'C 1'"),
    ],
)
@pytest.mark.parametrize("occupancy", ["", "0.9"])  # read by gemmi, and by pymatgen
def test_what_has_a_dot_holds_where_the_older_name_says_nothing(older: str, newer: str, occupancy: str) -> None:
    column = "_atom_site_occupancy\n" if occupancy else ""
    sites = f"{SITES}{column}Na1 Na 0 0 0 {occupancy}\n"
    entry = read(cif(*CELLS["cubic"], extra=f"{older} ?\n{newer}\n", sites=sites))
    assert (entry.error, entry.n_atoms) == ("", 2)


@pytest.mark.parametrize("tag", ["_symmetry_equiv.pos_as_xyz", "_symmetry_equiv_pos_as_xyz"])
def test_operations_under_the_older_name_with_a_dot_too(tag: str) -> None:
    assert read(cif(*CELLS["cubic"], extra=f"loop_\n{tag}\nx,y,z\n-x,-y,-z\n")).n_atoms == 2


@pytest.mark.parametrize(
    "extra",
    [
        "_space_group_magn.number_OG 136.5.1155\n", "_space_group_magn.name_OG \"P4_2'/mnm'\"\n",
        "_space_group.magn_name_BNS \"P4_2'/mnm'\"\n",
    ],
)  # fmt: skip
def test_magnetic_symmetry_that_is_not_carried_out_is_an_error(extra: str) -> None:
    text = cif(*CELLS["cubic"], extra=extra)
    assert re.search("magnetic symmetry .* not understood: list its operations", read(text).error)
    none = re.sub(r"136[.0-9]*|P4_2'/mnm'", "P1", text).replace("2 -x,-y,z,+1\n", "")
    assert read(none.replace("OG P1", "OG 1.1.1")).n_atoms == 1
    if "loop_" in extra:
        return
    assert read(cif(*CELLS["cubic"], extra=f"{extra}loop_\n_symmetry_equiv_pos_as_xyz\nx,y,z\n-x,-y,-z\n")).n_atoms == 2


@pytest.mark.parametrize("name", ["P 1", "P1", "P11'", "P1.1'", "P 1 1'", "P_S 1", "P_{S}1", "P_2s1", "1.1", "?", "."])
@pytest.mark.parametrize("quote", "'\"")
def test_a_magnetic_group_without_symmetry_is_none(name: str, quote: str) -> None:
    operation = "loop_\n_space_group_symop_magn_operation.xyz\nx,y,z,+1\n"

    def read_with(name: str, others: str = "") -> Entry:
        return read(cif(*CELLS["cubic"], extra=f"_space_group_magn.name_BNS {quote}{name}{quote}\n{others}"))

    assert read_with(name).n_atoms == 1
    assert read_with(name, operation).n_atoms == 1
    for other in ("P-1", "P21", "P112", "C1", "P1m1", "2.4"):
        assert "not understood" in read_with(other, operation).error


def test_moments_do_not_make_symmetry_vanish() -> None:
    sites = f"{SITES}C1 C {PLACE[0]} {PLACE[1]} {PLACE[2]}\n"
    moments = "loop_\n_atom_site_moment.label\n" + "".join(f"_atom_site_moment.crystalaxis_{axis}\n" for axis in "xyz")
    for name in (f"{HM} 'P -1'\n", "loop_\n_symmetry_equiv_pos_as_xyz\nx,y,z\n-x,-y,-z\n"):
        assert read(cif(*CELLS["cubic"], extra=name, sites=f"{sites}{moments}C1 0 0 1\n")).n_atoms == 2


@pytest.mark.parametrize("hydrogens", ["0", ".", "1"])
def test_hydrogens_without_coordinates_are_an_error(hydrogens: str) -> None:
    for number in ("", "_atom_site_occupancy\n"):  # read by gemmi, and by pymatgen
        value = " 0.9" if number else ""
        columns = f"{SITES}_atom_site_attached_hydrogens\n{number}"
        sites = f"{columns}Mg1 Mg 0 0 0 0{value}\nO1 O 0.5 0.5 0.5 {hydrogens}{value}\n"
        entry = read(cif(*[6.0] * 3, 90, 90, 90, sites=sites))
        assert bool(entry.error) == (hydrogens == "1")
        assert ("1 hydrogens attached to site 2 have no coordinates" in entry.error) == (hydrogens == "1")


def test_rounded_thirds_are_meant_exactly_in_any_cell_and_by_either_reader() -> None:
    group = f"{HM} 'P 63/m m c'\n"
    for x, y in (("0.3333", "0.6667"), ("1.3333", "1.6667"), ("1.3333(2)", "0.66667")):
        for full in (True, False):
            column, value = ("", "") if full else ("_atom_site_occupancy\n", " 0.9")
            sites = f"{SITES}{column}W1 W {x} {y} 0.25{value}\nSe1 Se {x} {y} 0.621{value}\n"
            assert read(cif(3.19, 3.19, 13.38, 90, 90, 120, extra=group, sites=sites)).n_atoms == 6


@pytest.mark.parametrize(
    "cell", [[-4, 4, 4, 90, 90, 90], [4, 4, 4, 90, 90, 200], [4, 4, 4, 150, 150, 150], [0, 4, 4, 90, 90, 90]]
)
def test_lengths_and_angles_in_json_that_no_cell_has_are_an_error(cell: list[float]) -> None:
    plain = {"lattice": cell, "species": ["Na"], "frac_coords": [[0, 0, 0]]}
    site = {"species": [{"element": "Na", "occu": 1}], "abc": [0, 0, 0]}
    parts = dict(zip(("a", "b", "c", "alpha", "beta", "gamma"), cell, strict=True))
    for content in (plain, {"lattice": parts, "sites": [site]}):
        assert "no cell has the lengths and angles" in read(json.dumps(content)).error


@pytest.mark.parametrize(
    "extra",
    [
        "_cell_modulation_dimension 1\n",
        "loop_\n_space_group_symop_ssg_operation_algebraic\nx1,x2,x3,x4\n-x1,-x2,-x3,-x4\n",
        "loop_\n_space_group_symop_magn_ssg_operation.algebraic\nx1,x2,x3,x4,+1\n",
    ],
)
def test_a_modulated_structure_has_no_cell(extra: str) -> None:
    assert "a modulated structure" in read(cif(*CELLS["cubic"], extra=extra)).error
    assert read(cif(*CELLS["cubic"], extra="_cell_modulation_dimension 0\n")).n_atoms == 1


GROUPS = "OH OH1 Oh OW Ow1 WAT Du SO4 Si/Al NH4 N2H4 CO1 H3O Na-K H2O T1 T Va Vac2 Wat O-H HO1 NO3 RE1 ? 1"


@pytest.mark.parametrize("label", GROUPS.split())
def test_a_label_that_names_no_element_is_an_error(label: str) -> None:
    entry = read(cif(*[6.0] * 3, 90, 90, 90, sites=f"{LABELS}Mg1 0 0 0\n{label} 0.5 0.5 0.5\n"))
    assert f"label '{label}' of site 2 names no element: add _atom_site_type_symbol" in entry.error
    typed = f"{SITES}Mg1 Mg 0 0 0\n{label} O 0.5 0.5 0.5\n"
    assert read(cif(*[6.0] * 3, 90, 90, 90, sites=typed)).formula == "MgO"


@pytest.mark.parametrize(
    ("label", "formula"), [("O1W", "MgO"), ("FE1", "MgFe"), ("SiT1", "MgSi"), ("Ho1", "HoMg"), ("H2B", "MgH")]
)
def test_labels_that_name_an_element_need_no_type(label: str, formula: str) -> None:
    assert read(cif(*[6.0] * 3, 90, 90, 90, sites=f"{LABELS}Mg1 0 0 0\n{label} 0.5 0.5 0.5\n")).formula == formula


@pytest.mark.parametrize("mode", ["Cartesian", "Direct"])
def test_a_poscar_scaled_to_a_volume_is_the_same_crystal(mode: str) -> None:
    half, volume = 2.8265, 2 * 2.8265**3
    quarter = [half / 2] * 3 if mode == "Cartesian" else [0.25] * 3

    def poscar(scale: float) -> str:
        vectors = "\n".join(" ".join(str(half * (i != j)) for j in range(3)) for i in range(3))
        return f"GaAs\n{scale}\n{vectors}\nGa As\n1 1\n{mode}\n0 0 0\n{' '.join(map(str, quarter))}\n"

    plain, by_volume, twice = (read(poscar(scale)).crystal for scale in (1.0, -volume, -8 * volume))
    assert np.allclose(by_volume.positions, plain.positions, atol=1e-9)
    assert np.allclose(by_volume.lattice, plain.lattice, atol=1e-9)
    assert np.allclose(twice.positions, 2 * plain.positions, atol=1e-9)
    flat = poscar(-volume).replace(f"{half} {half} 0.0", f"{half} 0.0 {half}")
    assert "lie in a plane" in read(flat).error


@pytest.mark.parametrize("rows", ["0 0 0\n.4 .5 .5\n.1 .1 .1\n", "0 0 0\n.5 .5 .5\nDirect configuration= 2\n0 0 0\n"])
def test_a_poscar_with_more_coordinates_than_atoms_is_an_error(rows: str) -> None:
    for head in ("Na Cl\n1 1\nDirect\n", "Na Cl\n1 1\nSelective dynamics\nDirect\n"):
        text = f"Na Cl\n1.0\n4 0 0\n0 4 0\n0 0 4\n{head}"
        assert "more coordinates than atoms" in read(text + rows).error
        assert read(f"{text}0 0 0\n.5 .5 .5\n\n0 0 0\n0 0 0\n").n_atoms == 2  # velocities


@pytest.mark.parametrize("shares", [1.0, 0.5], ids=["ordered", "shared"])
@pytest.mark.parametrize(
    ("pbc", "said"),
    [
        ([True, True, True], ""),
        ([1, 1, 1], ""),
        ([True, True, False], "pbc=(True, True, False): a cell that is periodic in all three directions is needed"),
        ([0, 1, 1], "a cell that is periodic in all three directions is needed"),
        ([True, True], "pbc=[True, True]: write true or false for each of the three directions"),
        ([], "pbc=[]: write true or false"),
        (["false", "false", "false"], "write true or false"),
        ([True, True, None], "write true or false"),
        ("TTT", "pbc=TTT: write true or false"),
        (True, "pbc=True: write true or false"),
        (None, "pbc=None: write true or false"),
    ],
)
def test_what_pymatgens_json_says_of_the_directions_counts(pbc: object, said: str, shares: float) -> None:
    lattice = Lattice.cubic(4.2)
    item = Structure(lattice, [{"Mg": shares}, "O"], [[0, 0, 0], [0.5, 0.5, 0.5]]).as_dict()
    item["lattice"]["pbc"] = pbc
    entry = read(json.dumps(item))
    assert said in entry.error
    assert bool(entry.error) == bool(said)
    assert "\n" not in entry.error


def test_a_cell_that_is_not_periodic_is_refused_whatever_it_stands_in() -> None:
    slab = Structure(Lattice.cubic(4.2, pbc=(True, True, False)), ["Mg", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    from_python = load_model(device="cpu").predict([slab])[0].error
    for error in (read(json.dumps(slab.as_dict())).error, from_python):
        assert "periodic in all three directions is needed" in error
