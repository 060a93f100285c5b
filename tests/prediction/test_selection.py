"""Rows chosen by a condition, an order and a number."""

from __future__ import annotations

import pytest

from crystalpredict.errors import UsageError
from crystalpredict.prediction.selection import Condition, Selection, find_field

COLUMNS = ["bandgap_eV", "e_above_hull_eV_per_atom"]
ROW = {
    "path": "a.cif",
    "index": 0,
    "formula": "NaCl",
    "n_atoms": 8,
    "bandgap_eV": 5.0,
    "e_above_hull_eV_per_atom": 0.01,
}
FAILED = {**dict.fromkeys(ROW), "path": "b.cif", "index": 0}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bandgap_eV > 1 and e_above_hull_eV_per_atom < 0.05", True),
        ("bandgap_eV > 1 and e_above_hull_eV_per_atom < 0.005", False),
        ("bandgap_eV > 9 or e_above_hull_eV_per_atom < 0.05", True),
        ("1 < bandgap_eV <= 5", True),
        ("1 < bandgap_eV < 5", False),
        ("not bandgap_eV == 5", False),
        ("gap > 1 and ehull < 0.05", True),
        ("bandgap_eV / 2 - -1 >= 3.5", True),
        ("(bandgap_eV + n_atoms) * 2 == 26", True),
        ("bandgap_eV / index > 1", False),
        ("not bandgap_eV / index > 1", False),
        ("bandgap_eV / index > 1 or n_atoms == 8", True),
        ("n_atoms == 8 or bandgap_eV / index > 1", True),
        ("n_atoms == 8 and bandgap_eV / index > 1", False),
        ("not (bandgap_eV / index > 1 and n_atoms == 9)", True),
        ("formula == 'NaCl' and n_atoms <= 20", True),
        ("formula != 'NaCl'", False),
        ("path > 'a'", True),
    ],
)
def test_a_condition_holds_or_not(text: str, expected: bool) -> None:
    assert Condition(text, COLUMNS).matches(ROW) is expected


def test_the_name_of_a_property_is_its_column_though_another_begins_with_it() -> None:
    columns = ["bulk_modulus_GPa", "bulk_modulus_reuss_GPa", "bandgap_eV"]
    assert find_field("bulk_modulus", columns) == "bulk_modulus_GPa"
    assert find_field("bulk_modulus_reuss", columns) == "bulk_modulus_reuss_GPa"
    with pytest.raises(UsageError):
        find_field("bulk", columns)


@pytest.mark.parametrize("text", ["bandgap_eV > -1", "not bandgap_eV > 1", "bandgap_eV != 3", "bandgap_eV < 1"])
def test_a_row_without_values_never_matches(text: str) -> None:
    assert not Condition(text, COLUMNS).matches(FAILED)


def test_a_row_with_an_error_never_matches_and_is_never_among_the_top() -> None:
    failed = {**ROW, "error": "two atoms in one place"}
    assert not Condition("n_atoms < 99", COLUMNS).matches(failed)
    assert chosen([failed, {**ROW, "index": 1}], None, "n_atoms", 2) == [1]
    assert chosen([failed, {**ROW, "index": 1}], None, "n_atoms", None) == [1, 0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("bandgap_ev > 1 and bandgab > 2", "bandgab"),
        ("bandgapeV > 1", "did you mean 'bandgap_eV'"),
        ("zzz > 1", "choose from bandgap_eV"),
        ("bulk_modulus > 1", "no column"),
        ("__import__('os').system('x') > 1", "cannot have"),
        ("bandgap_eV.real > 1", "cannot have"),
        ("(lambda: 1)() > 1", "cannot have"),
        ("[x for x in path] > 1", "cannot have"),
        ("f'{path}' > 'a'", "cannot have"),
        ("9 ** 9 ** 9 > bandgap_eV", "cannot have"),
        ("'a' * 999999999 > path", "cannot have"),
        ("bandgap_eV in (1, 2)", "cannot have"),
        ("(bandgap_eV > 1) > 0", "cannot have"),
        ("True > bandgap_eV", "cannot have"),
        ("bandgap_eV", "is not a condition"),
        ("1", "is not a condition"),
        ("bandgap_eV >", "is not a condition"),
        ("bandgap_eV = 1", "is not a condition"),
        ("", "is not a condition"),
        ("a\0b", "is not a condition"),
        ("(" * 400 + "1" + ")" * 400, "is not a condition"),
        ("-" * 999 + "1 > 0", "characters"),
        ("formula > 1", "text with numbers"),
        ("bandgap_eV > 'x'", "text with numbers"),
    ],
)
def test_anything_else_is_refused_in_one_line(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=r"^[^\n]*$") as caught:
        Condition(text, COLUMNS)
    assert said in str(caught.value)


def rows(*gaps: float | None) -> list[dict[str, object]]:
    return [{**ROW, "bandgap_eV": gap, "index": number} for number, gap in enumerate(gaps)]


def chosen(found: list[dict[str, object]], where: str | None, sort: str | None, top: int | None) -> list[object]:
    selection = Selection.of(where, sort, top, COLUMNS)
    return [row["index"] for row in selection.of_rows(iter(found), lambda row: row)]


def test_rows_are_sorted_equal_ones_in_their_order_and_failed_ones_last() -> None:
    found = rows(2.0, None, 1.0, 2.0, 0.5)
    assert chosen(found, None, "bandgap_eV", None) == [4, 2, 0, 3, 1]
    assert chosen(found, None, "-gap", None) == [0, 3, 2, 4, 1]
    assert chosen(found, "bandgap_eV > 0.7", "bandgap_eV", None) == [2, 0, 3]
    assert chosen(found, "bandgap_eV > 0.7", None, None) == [0, 2, 3]


def test_the_top_is_the_beginning_of_the_order_without_failed_rows() -> None:
    found = rows(2.0, None, 1.0, 2.0, 0.5)
    assert chosen(found, None, "bandgap_eV", 3) == [4, 2, 0]
    assert chosen(found, None, "-bandgap_eV", 1) == [0]
    assert chosen(found, None, "-bandgap_eV", 99) == [0, 3, 2, 4]
    with pytest.raises(UsageError, match="--sort"):
        Selection.of(None, None, 3, COLUMNS)


def test_no_options_select_nothing() -> None:
    assert not Selection.of(None, None, None, COLUMNS)
    assert Selection.of("gap > 1", None, None, COLUMNS)


def test_a_property_of_ones_own_may_be_named_without_its_unit() -> None:
    columns = ("kappa_W_per_m", "kappa_W_per_m_lo90", "kappa_W_per_m_hi90", "gap_a_eV", "gap_b_eV")
    assert find_field("kappa", columns) == "kappa_W_per_m"
    with pytest.raises(UsageError, match="no column"):
        find_field("gap", columns)  # of which?


EXTRA = {"group.number": "integer", "metal": "boolean", "note": "text", "tags": "json", "pretty_formula": "text"}
KEPT = {
    **ROW, "warnings": ["unlike the training data"], "group.number": 225, "metal": False, "note": None,
    "tags": ["Os", "halide"], "pretty_formula": "OsCo2",
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('contains(formula, "Cl")', True),
        ('contains(formula, "C")', False),
        ('contains(formula, "N")', False),
        ('contains(pretty_formula, "O")', False),
        ('contains(pretty_formula, "Co2")', True),
        ('contains(pretty_formula, "Co")', True),
        ('not contains(formula, "O") and bandgap_eV > 1', True),
        ('contains(warnings, "unlike")', True),
        ('warnings == ""', False),
        ('contains(path, ".cif") and index == 0', True),
        ("group.number == 225", True),
        ('column("group.number") > 225', False),
        ("metal", False),
        ("not metal and n_atoms > 2", True),
        ("metal == False", True),
        ('contains(tags, "Os")', True),
        ('contains(tags, "O")', False),
        ('note == ""', False),
        ('not contains(note, "x")', False),
    ],
)
def test_a_condition_on_texts_and_kept_columns(text: str, expected: bool) -> None:
    assert Condition(text, COLUMNS, EXTRA).matches(KEPT) is expected


@pytest.mark.parametrize(
    "text",
    [
        "metal > 1", "metal < True", "group.letter == 1", 'contains(n_atoms, "1")', "contains(formula)",
        'contains(formula, "")', "contains(formula, formula)", 'contains(formula, "O") > 1', 'column("nothing") > 1',
        'contains(formula.upper(), "O")', "column(formula) == 1", 'open("x") == 1', "metal + 1 > 1",
    ],
)  # fmt: skip
def test_other_calls_and_kinds_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(UsageError, match=r"^[^\n]*$"):
        Condition(text, COLUMNS, EXTRA)


def test_a_text_in_a_column_of_numbers_never_matches_and_is_sorted_last() -> None:
    assert not Condition("group.number != 1", COLUMNS, EXTRA).matches({**KEPT, "group.number": "unknown"})
    selection = Selection.of(None, "group.number", None, COLUMNS, EXTRA)
    found = [{**KEPT, "index": index, "group.number": value} for index, value in enumerate([3, "x", 1, None])]
    assert [row["index"] for row in selection.of_rows(iter(found), lambda row: row)] == [2, 0, 1, 3]


def test_what_cannot_match_is_known_before_anything_is_computed() -> None:
    known = {name: KEPT[name] for name in ("path", "index", "formula", "n_atoms", "group.number")}
    for text, fails in (
        ("n_atoms > 20 and bandgap_eV > 1", True),
        ("n_atoms > 20 or bandgap_eV > 1", False),
        ("group.number < 200 and gap > 1", True),
        ('not contains(formula, "Cl")', True),
        ('warnings == ""', False),
        ("not (n_atoms == 8 or gap > 1)", True),
    ):
        assert Condition(text, COLUMNS, EXTRA).fails(known) is fails
