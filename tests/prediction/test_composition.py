"""Which crystals pass conditions on their elements."""

from __future__ import annotations

import pytest

from crystalpredict.errors import UsageError
from crystalpredict.prediction.composition import Elements, elements_in


@pytest.mark.parametrize(
    ("options", "passing", "failing"),
    [
        (("Li,O", None, None), ["Li2O", "LiFePO4", "Li0.5CoO2"], ["NaCl", "LiF", "Os", "CoO"]),
        ((None, "Pb, O", None), ["NaCl", "Os"], ["PbTe", "SiO2"]),
        ((None, None, "Li-Fe-O"), ["LiFeO2", "Li5FeO4"], ["LiFePO4", "Li2O", "Fe"]),
        ((None, None, "Li-O,Fe-O"), ["Li2O", "Fe2O3"], ["LiFeO2", "O2"]),
        (("O", "Fe", None), ["SiO2"], ["Fe2O3", "Si"]),
        (("H", None, None), ["D2O", "H2O"], ["He", "Hg"]),
        ((None, None, None), ["NaCl", ""], []),
    ],
)
def test_crystals_that_pass(options, passing: list[str], failing: list[str]) -> None:
    elements = Elements.of(*options)
    assert all(map(elements.allow, passing))
    assert not any(map(elements.allow, failing))
    assert bool(elements) == any(options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("li", None, None), "--elements li: no element that a model covers: write Li"),
        (("Xx", None, None), "write symbols such as Li"),
        ((None, None, "Li-fe"), "--chemsys fe"),
        (("", None, None), "--elements names no element"),
        ((None, None, ","), "--chemsys names no element"),
        (("Li,O", "O", None), "both name O"),
        (("Na", None, "Li-O"), "no such crystal is left"),
    ],
)
def test_what_names_no_element_is_refused(options, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Elements.of(*options)


def test_the_elements_of_a_formula() -> None:
    assert elements_in("Ba0.5Sr0.5Co0.8Fe0.2O3") == {"Ba", "Sr", "Co", "Fe", "O"}
