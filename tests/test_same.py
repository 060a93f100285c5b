"""The comparison that the tests of the whole program use."""

import pytest

from tests.same import alike


@pytest.mark.parametrize(
    ("one", "two", "same"),
    [
        ("a.cif,0,NaCl,4.9530", "a.cif,0,NaCl,4.9531", True), ("a.cif,0,NaCl,4.9530", "a.cif,0,NaCl,4.9532", False),
        ("a1.cif,0,-0.0000", "a1.cif,0,0.0001", True), ("x,1,2.5", "x,2,2.5", False), ("Na1", "Na2", False),
        (b"[1.5, 2.99]", "[1.5, 3.0]", True), ("2.5e-05", "2.6e-05", True), ("2.5e-05", "2.5e-04", False),
        ("1.5", "1.5 ", False), ([{"a": "1.20"}], [{"a": "1.21"}], True), ("0.9999", "1.0", True),
    ],
)  # fmt: skip
def test_only_the_last_digit_may_differ(one: object, two: object, same: bool) -> None:
    assert alike(one, two) == alike(two, one) == same
