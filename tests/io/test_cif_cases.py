"""Each CIF is the crystal that its author meant, or is refused with the site, the group or the statement at fault."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import gemmi
import numpy as np
import pytest

from crystalpredict.crystals.crystal import ELEMENTS
from crystalpredict.io.cif_sites import number
from crystalpredict.io.cif_symmetry import symmetry_of
from crystalpredict.io.entries import Entry, Inline, read_entries

CASES = Path(__file__).resolve().parents[1] / "cases"
READ = {
    "F1_BaTiO3H_shared_site": "Ba1 Ti1 O2.4 H0.6", "F1_BaTiO3D_shared_site_control": "Ba1 Ti1 O2.4 H0.6",
    "F1_oxidation_loop_control": "Ba1 Ti1 O2.4 H0.6", "F2_lower_number_only": "Na4 Cl4",
    "F2_std_number_only_control": "Na4 Cl4", "F2_occupancy_capital": "Na2 Cl4",
    "F2_lower_solid_solution": "Ba0.5 Sr0.5 Ti1 O3", "F2_std_solid_solution_control": "Ba0.5 Sr0.5 Ti1 O3",
    "F2_upper_all": "Li4 H4", "F3_full_control": "Na4 Cl4", "F4_thirds_3_digits": "Zn2",
    "F4_thirds_disordered": "Zn1 Mg1", "F5_boundary_atoms": "Na4 Cl4", "F7_op_star": "Na2",
    "G_powder_pattern_block": "Li4 H4", "P_springer_OH": "O2 Zn1", "P_magcif_old_names": "Mn2 O4",
    "P_isolated_atom": "Fe1",
}  # fmt: skip
REFUSED = {
    "F1_O_and_H_coincide_full": "site 3 (O1) and site 4 (H1) add up to 2: two atoms in one place",
    "F3_recipro_centring_twice": "are no group (those of 'F m -3 m' are 192)",
    "F3_half_corundum": "are no group (those of 'R -3 c' are 36)",
    "F3_centring_lost": "the 48 symmetry operations listed are not the 192 of space group 'F m -3 m'",
    "F5_site_number": "site 5 (Sr1) and site 6 (Ca1) add up to 1.8", "F8_label_Oh": "label 'Oh' of site 2",
    "F8_label_OW": "label 'OW' of site 2", "G_cartn_only": "Cartesian coordinates only",
    "P_two_origins": "has two origins", "P_full_symbol": "space group 'F 4/m -3 2/m' not understood",
}  # fmt: skip
NAMES = {"P": "_symmetry_space_group_name_H-M", "N": "_symmetry_Int_Tables_number"}


def read(text: str) -> Entry:
    (entry,) = read_entries(Inline("x", text), 3.0)
    return entry


def atoms(entry: Entry) -> dict[str, float]:
    """Atoms of each element in the cell."""
    assert entry.crystal is not None, entry.error
    counts: Counter[str] = Counter()
    for z, occupancy in zip(entry.crystal.numbers.flat, entry.crystal.occupancies.flat, strict=True):
        counts[ELEMENTS[z - 1]] += occupancy
    return {symbol: round(float(count), 6) for symbol, count in counts.items() if count}


def amounts(formula: str) -> dict[str, float]:
    words = [(word.rstrip("0123456789."), word) for word in formula.split()]
    return {symbol: float(word[len(symbol) :]) for symbol, word in words}


def cif(*sites: str, operations: str = "", extra: str = "", a: float = 5.64, columns: str = "", angle: int = 90) -> str:
    """A CIF of one length a; sites are `label type x y z ...`, operations are parted by blanks."""
    cell = "".join(f"_cell_length_{axis} {a}\n" for axis in "abc")
    cell += f"_cell_angle_alpha 90\n_cell_angle_beta 90\n_cell_angle_gamma {angle}\n"
    listed = "loop_\n_symmetry_equiv_pos_as_xyz\n" + "".join(f"{one}\n" for one in operations.split())
    loop = "loop_\n_atom_site_label\n_atom_site_type_symbol\n" + "".join(f"_atom_site_fract_{axis}\n" for axis in "xyz")
    return f"data_x\n{cell}{extra}{listed if operations else ''}{loop}{columns}" + "".join(
        f"{site}\n" for site in sites
    )


OCCUPANCY = "_atom_site_occupancy\n"
ROCK_SALT = ("Na1 Na 0 0 0", "Cl1 Cl .5 .5 .5")
FACES = "x,y,z x,y+1/2,z+1/2 x+1/2,y,z+1/2 x+1/2,y+1/2,z"


@pytest.mark.parametrize("name", READ)
def test_a_case_is_the_crystal_that_is_meant(name: str) -> None:
    entry = read((CASES / f"{name}.cif").read_text())
    assert atoms(entry) == amounts(READ[name])


@pytest.mark.parametrize("name", REFUSED)
def test_a_case_that_is_no_crystal_says_why(name: str) -> None:
    assert REFUSED[name] in read((CASES / f"{name}.cif").read_text()).error


def test_all_cases_are_tried() -> None:
    assert {path.stem for path in CASES.glob("*.cif")} == {*READ, *REFUSED}


@pytest.mark.parametrize("change", [str.lower, str.upper, str.title])
def test_names_and_keywords_may_be_of_any_case(change) -> None:
    head, sites = cif(*ROCK_SALT, columns="").split("Na1 Na", 1)
    for extra in ("_symmetry_space_group_name_H-M 'F m -3 m'\n", "_space_group_IT_number 225\n"):
        text = head.replace("data_x\n", f"data_x\n{extra}")
        assert atoms(read(f"{change(text)}Na1 Na{sites}")) == {"Na": 4, "Cl": 4}


def test_symbols_in_capitals_are_elements_where_nothing_else_is_meant() -> None:
    assert atoms(read(cif("NA1 NA 0 0 0", "CL1 CL1- .5 .5 .5"))) == {"Na": 1, "Cl": 1}
    assert "unknown element 'CO' at site 2" in read(cif("NA1 NA 0 0 0", "CO1 CO .5 .5 .5")).error
    stated = "_chemical_formula_sum '{}'\n"
    assert atoms(read(cif("N1 N 0 0 0", "CO1 CO .5 .5 .5", extra=stated.format("Co N")))) == {"N": 1, "Co": 1}
    assert "unknown element 'CO'" in read(cif("N1 N 0 0 0", "CO1 CO .5 .5 .5", extra=stated.format("Co C O N"))).error


@pytest.mark.parametrize(
    ("operations", "extra", "message"),
    [
        ("x,y,z x,y+1/2,z+1/2", f"{NAMES['N']} 225\n", "the 2 symmetry operations listed are not the 192 of"),
        ("x,y,z x,y+1/2,z+1/2 x+1/2,y,z+1/2", "", "3 different symmetry operations listed are no group"),
        ("-x,-y,-z", "", "no group"),
        ("x,y,z -y,x,z", "", "no group"),
        ("x,y,z -x,-y,-z", f"{NAMES['P']} 'P m'\n", "the 2 symmetry operations listed are not the 2 of"),
        ("x,y,z", f"{NAMES['P']} 'F m -3 m'\n", "the 1 symmetry operations listed are not the 192 of"),
        ("x,y,z", "_space_group_name_Hall '-F 4 2 3'\n", "the 1 symmetry operations listed are not the 192 of"),
        (FACES, f"{NAMES['P']} 'P 1'\n", "the 4 symmetry operations listed are not the 1 of"),
        ("x,y,z", "_cell_formula_units_Z 4\n_chemical_formula_sum 'Na Cl'\n", "has 1 formula units of 'Na Cl'"),
        ("", "_cell_formula_units_Z 4\n_chemical_formula_sum 'Na Cl'\n", "where _cell_formula_units_Z is 4"),
    ],
)  # fmt: skip
def test_symmetry_that_contradicts_itself_or_the_formula_is_refused(operations: str, extra: str, message: str) -> None:
    assert message in read(cif(*ROCK_SALT, operations=operations, extra=extra)).error


def test_the_formula_and_z_decide_between_two_symmetries() -> None:
    four = "_cell_formula_units_Z 4\n_chemical_formula_sum 'Na Cl'\n"
    entry = read(cif(*ROCK_SALT, operations=FACES, extra=f"{NAMES['P']} 'F m -3 m'\n{four}"))
    assert atoms(entry) == {"Na": 4, "Cl": 4}
    assert "4 symmetry operations listed are not the 192" in " ".join(entry.warnings)


def test_a_formula_of_the_whole_cell_is_none_of_z_cells() -> None:
    extra = "_cell_formula_units_Z 4\n_chemical_formula_sum 'Na4 Cl4'\n"
    assert read(cif(*ROCK_SALT, operations=FACES, extra=extra)).warnings == ()


def test_repeated_operations_and_those_of_other_cells_count_once() -> None:
    assert atoms(read(cif(*ROCK_SALT, operations=f"{FACES} {FACES} x+1,y,z"))) == {"Na": 4, "Cl": 4}


def test_every_tabulated_group_is_a_group_and_half_of_it_mostly_none() -> None:
    for group in list(gemmi.spacegroup_table())[::7]:
        operations = list(group.operations())
        whole = symmetry_of(operations)
        assert whole.is_group
        assert (whole.number, whole.order) == (group.number, len(operations))
        if len(operations) > 2:
            assert not symmetry_of(operations[:-1]).is_group
    shifted = [gemmi.Op(text) for text in ("x,y,z", "-x+1/6,-y,-z+1/12")]  # of no tabulated setting
    assert symmetry_of(shifted).is_group
    assert symmetry_of(shifted).number == 0


HEXAGONAL = "x,y,z -y,x-y,z -x+y,-x,z"


@pytest.mark.parametrize(
    ("place", "images"),
    [
        ("0.333 0.667 0.1", 1), ("0.33 0.67 0.1", 1), ("0.3333 0.6666 0.1", 1), ("0.333 0.666 0.1", 1),
        ("0.0003 0 0", 1), ("0.2 0.4 0.1", 3),
    ],
)  # fmt: skip
@pytest.mark.parametrize("occupancy", ["1", "0.5"])
def test_a_rounded_special_position_is_one_site_on_the_symmetry_element(place, images, occupancy) -> None:
    text = cif(f"Zn1 Zn {place} {occupancy}", operations=HEXAGONAL, columns=OCCUPANCY, angle=120)
    entry = read(text)
    assert entry.n_atoms == images
    if images == 1 and place[2] == "3":
        assert entry.crystal.positions[0] @ np.linalg.inv(entry.crystal.lattice) == pytest.approx(
            [1 / 3, 2 / 3, 0.1], abs=1e-3
        )


def test_images_that_are_apart_by_more_than_rounding_are_no_one_atom() -> None:
    text = cif("Na1 Na 0.02 0 0 0.5", operations="x,y,z -x,-y,-z", columns=OCCUPANCY)
    assert "at site 1 (Na1) are 0.23 Å apart: give an ordered model" in read(text).error


def test_a_cell_listed_whole_besides_its_group_is_that_cell() -> None:
    whole = [f"Na{n} Na {place}" for n, place in enumerate(("0 0 0", "0 .5 .5", ".5 0 .5", ".5 .5 0", "1 1 1"))]
    whole += [f"Cl{n} Cl {place}" for n, place in enumerate((".5 .5 .5", ".5 0 0", "0 .5 0", "0 0 .5", ".5 1 0"))]
    assert atoms(read(cif(*whole))) == {"Na": 4, "Cl": 4}
    assert atoms(read(cif(*whole, extra=f"{NAMES['P']} 'F m -3 m'\n"))) == {"Na": 4, "Cl": 4}
    half = [f"{site} 0.5" for site in whole[:5]] + [f"{site} 1" for site in whole[5:]]
    mixed = cif(*half, *(site.replace("Na", "K") for site in half[:5]), operations=FACES, columns=OCCUPANCY)
    assert atoms(read(mixed)) == {"Na": 2, "K": 2, "Cl": 4}


def test_an_element_in_two_states_that_shares_a_site_is_no_repetition() -> None:
    sites = ("Fe1 Fe2+ 0 0 0 0.5", "Fe2 Fe3+ 0 0 0 0.5", "O1 O .5 .5 .5 1")
    assert atoms(read(cif(*sites, columns=OCCUPANCY))) == {"Fe": 1, "O": 1}


@pytest.mark.parametrize(
    ("operation", "same"),
    [
        ("-1*x,y,z", "-x,y,z"), ("x+1/4+1/4,y,z", "x+1/2,y,z"), ("x+0.5,-Y,z", "x+1/2,-y,z"),
        ("1/2-x,y,-z", "-x+1/2,y,-z"), ("'-x , y , z'", "-x,y,z"), ("X,Y,-Z", "x,y,-z"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("occupancy", ["1", "0.9"])  # of sites read many at once, and one by one
def test_operations_are_read_as_gemmi_reads_them(operation: str, same: str, occupancy: str) -> None:
    one, two = (
        read(
            cif(f"Na1 Na .1 .2 .3 {occupancy}", columns=OCCUPANCY, operations="x,y,z X").replace("\nX\n", f"\n{each}\n")
        )
        for each in (operation, same)
    )
    assert one.n_atoms == two.n_atoms == 2
    assert one.crystal.positions == pytest.approx(two.crystal.positions)


@pytest.mark.parametrize("text", ["2.5(12)e-1", "1/3", "0,25", "0.25(", "1d-1", "nan", "0x1", "--1"])
def test_what_is_no_number_by_the_syntax_of_cif_is_refused_with_its_site(text: str) -> None:
    assert number(text) != number(text)
    assert (
        f"x coordinate at site 2 (Cl1) is {text!r}, not a number"
        in read(cif("Na1 Na 0 0 0", f"Cl1 Cl {text} 0 0")).error
    )
    columns = OCCUPANCY
    assert (
        "at site 2 (Cl1) is not a number"
        in read(cif("Na1 Na 0 0 0 1", f"Cl1 Cl .5 .5 .5 {text}", columns=columns)).error
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (cif(*ROCK_SALT) + "O1 O 0.5\n", "values are missing or too many in the loop that begins"),
        (cif(*ROCK_SALT, extra="_publ_author_name 'Nobody\n"), "a quotation mark or a text field that does not end"),
        (cif(*ROCK_SALT).replace("_cell_length_b 5.64", "_cell_length_b"), "a name without a value"),
        (cif(*ROCK_SALT).replace("data_x\n", "", 1), "no line data_ before the first name"),
    ],
)
def test_broken_syntax_is_told_in_the_words_of_cif(text: str, message: str) -> None:
    error = read(text).error
    assert message in error
    assert "string:" not in error


def test_letters_of_other_alphabets_stand_for_no_number() -> None:
    assert "not a number" in read(cif("Na1 Na \N{ARABIC-INDIC DIGIT THREE} 0 0")).error
    assert read(cif(*ROCK_SALT, extra="_publ_author_name Müller\n")).n_atoms == 2


def test_magnetic_operations_are_carried_out_whatever_their_names() -> None:
    loop = "loop_\n_space_group_symop.magn_id\n_space_group_symop.magn_operation_xyz\n1 x,y,z,+1\n2 -x,-y,z,-1\n"
    assert read(cif("Mn1 Mn .1 .2 .3", extra=loop)).n_atoms == 2


def block(symmetry: str, *sites: str, cell: str = "5.64 5.64 5.64 90 90 90") -> str:
    """A CIF of a cell, some statements of symmetry and some sites: label, type, x, y, z, occupancy."""
    names = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
    lines = [f"_cell_{name} {value}" for name, value in zip(names, cell.split(), strict=True)]
    columns = [f"_atom_site_{name}" for name in ("label", "type_symbol", "fract_x", "fract_y", "fract_z", "occupancy")]
    return "\n".join(["data_x", *lines, *symmetry.split("\n"), "loop_", *columns, *sites, ""])


SALT = ("Na1 Na 0 0 0 1", "Cl1 Cl .5 .5 .5 1")
IDENTITY = "\nloop_\n_symmetry_equiv_pos_as_xyz\nx,y,z"


@pytest.mark.parametrize(
    "symmetry",
    [
        "_symmetry_space_group_name_H-M 'F 4/m -3 2/m'" + IDENTITY,
        "_symmetry_space_group_name_H-M 'Q m -3 m'" + IDENTITY,
        "_symmetry_space_group_name_Hall 'xx'",
        "_space_group_IT_number 231",
        "_space_group_name_Schoenflies 'Oh^5'",
        "_symmetry_cell_setting cubic",
        "_space_group_crystal_system cubic",
        "_symmetry_space_group_name 'F m -3 m'",
        "_space_group_number 225",
        "_symmetry_space_group_name_H-M 'F d -3 m :1'\n_space_group_name_H-M_alt 'F d -3 m:2'",
        "_symmetry_space_group_name_H-M 'P n m a'\n_space_group_name_H-M_alt 'P b n m'",
        "_symmetry_space_group_name_H-M 'P 1'\n_symmetry.space_group_name_H-M 'F m -3 m'",
        "_symmetry_space_group_name_H-M 'F m -3 m'\n_cell.length_a 9.0",
    ],
)
def test_a_statement_of_symmetry_is_used_or_refused(symmetry: str) -> None:
    (entry,) = read_entries(Inline("x.cif", block(symmetry, *SALT)), 6.0)
    assert "not understood" in entry.error or "different" in entry.error, entry.error or entry.n_atoms


@pytest.mark.parametrize(
    "symmetry",
    [
        "_symmetry_cell_setting triclinic",
        "_space_group_IT_number 1",
        "_symmetry_space_group_name_H-M 'P 1'" + IDENTITY,
        "",
    ],
)
def test_statements_of_no_symmetry_are_that(symmetry: str) -> None:
    (entry,) = read_entries(Inline("x.cif", block(symmetry, *SALT)), 6.0)
    assert (entry.error, entry.formula, entry.n_atoms) == ("", "NaCl", 2)


def test_two_states_of_one_element_share_a_place() -> None:
    sites = ("Fe1 Fe2+ .1 .2 .3 .5", "Fe2 Fe3+ 1.1 .2 .3 .5", "O1 O2- .6 .7 .8 1")
    (entry,) = read_entries(Inline("x.cif", block("", *sites)), 6.0)
    assert entry.crystal is not None
    assert entry.crystal.occupancies.sum(axis=1).tolist() == pytest.approx([1, 1])


def test_split_sites_off_a_symmetry_element_are_not_merged() -> None:
    site = "Ti1 Ti .5 .5 .51 .1667"
    symmetry = "_symmetry_space_group_name_H-M 'P m -3 m'"
    (entry,) = read_entries(Inline("x.cif", block(symmetry, site, "O1 O .5 .5 0 1", cell="4 4 4 90 90 90")), 6.0)
    assert "apart" in entry.error


@pytest.mark.parametrize("site", ["ND4 ND 0 0 0 1", "Fe1 Fe0.5 0 0 0 1"])
def test_types_that_may_be_anything_else_are_refused(site: str) -> None:
    (entry,) = read_entries(Inline("x.cif", block("", site)), 6.0)
    assert "unknown element" in entry.error
