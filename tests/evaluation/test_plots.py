"""Plots show every crystal: their counts add up, and elements are at their places in the periodic table."""

import io
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("matplotlib")
import matplotlib.image
from pymatgen.core.periodic_table import Element

from crystalpredict.crystals.crystal import ELEMENTS
from crystalpredict.evaluation import plots
from crystalpredict.evaluation.evaluate import evaluate
from crystalpredict.evaluation.scores import Coverage
from tests.scored import GAP, labelled, said


def score_of(folder, labels, predictions, formulas=(), prop=GAP):
    return evaluate(labelled(folder, labels, [prop]), [said(predictions, formulas=formulas)]).scores[0]


@pytest.fixture
def many(tmp_path):
    random = np.random.default_rng(6)
    labels = random.uniform(0, 5, 1000)
    return score_of(tmp_path, labels, labels + random.standard_cauchy(1000) * 0.1)


def test_images_are_large_png_of_all_kinds(many) -> None:
    images = plots.plots_of(many)
    assert list(images) == ["parity", "errors", "elements"]
    for png in images.values():
        pixels = matplotlib.image.imread(io.BytesIO(png))
        assert min(pixels.shape[:2]) > 500
        assert 0.01 < (pixels[..., :3].min(axis=2) < 0.9).mean() < 0.9  # neither empty nor full
    assert plots.plots_of(many) == images


def test_every_crystal_is_in_the_parity_plot(many, tmp_path) -> None:
    (hexagons,) = plots._parity(many).axes[0].collections
    assert hexagons.get_array().sum() == 1000
    few = score_of(tmp_path, [0, 1, 2.5], [0.5, 1, 2])
    (points,) = plots._parity(few).axes[0].collections
    assert points.get_offsets().tolist() == [[0, 0.5], [1, 1], [2.5, 2]]


def test_every_crystal_is_in_the_histogram_or_counted_outside(many) -> None:
    axes = plots._errors(many).axes[0]
    shown = sum(bar.get_height() for bar in axes.patches)
    (text,) = (text.get_text() for text in axes.texts)
    beyond = int(text.splitlines()[-1].split()[0])
    assert shown + beyond == 1000
    assert beyond == 10  # a hundredth


def test_elements_are_where_pymatgen_has_them() -> None:
    for number, symbol in enumerate(ELEMENTS, start=1):
        row, column = plots.place_in_periodic_table(number)
        element = Element(symbol)
        if 57 <= number <= 71 or 89 <= number <= 103:
            assert (row, column) == ((8, number - 57 + 3) if number < 72 else (9, number - 89 + 3))
        else:
            assert (row, column) == (element.row, element.group)
    assert len({plots.place_in_periodic_table(number) for number in range(1, 99)}) == 98


def test_the_periodic_table_says_error_and_number_of_crystals(tmp_path) -> None:
    labels = np.arange(24.0)
    formulas = ["NaCl"] * 12 + ["MgO"] * 12
    errors = np.repeat([0.25, 0.5], 12)
    axes = plots._periodic_table(score_of(tmp_path, labels, labels + errors, formulas)).axes[0]
    words = [text.get_text() for text in axes.texts]
    assert sorted(words) == sorted([*ELEMENTS, "0.25", "0.25", "0.50", "0.50", "12", "12", "12", "12"])
    near = {word: text.get_position() for word, text in zip(words, axes.texts, strict=True)}
    assert near["Na"][0] == 1
    assert near["Cl"][0] == 17


@pytest.mark.parametrize(
    ("labels", "predictions"),
    [([1.0], [1.0]), ([0.0] * 12, [0.0] * 12), ([1.0, 1.0], [2.0, 2.0]), ([-1e6, 1e6], [1e6, -1e6])],
)
def test_degenerate_data_can_be_plotted(tmp_path, labels, predictions) -> None:
    images = plots.plots_of(score_of(tmp_path, labels, predictions, ["NaCl"] * len(labels)))
    assert all(png.startswith(b"\x89PNG") for png in images.values())


def test_a_unit_is_not_parsed_as_a_formula(tmp_path) -> None:
    prop = replace(GAP, name="price", label="price_of {it", unit="$\\frac{$ µ")
    assert plots.plots_of(score_of(tmp_path, [1.0, 2.0], [2.0, 2.0], prop=prop))["parity"].startswith(b"\x89PNG")


def test_a_loss_curve_marks_the_least_error_of_each_property() -> None:
    png = plots.loss_curve([1, 2, 3], [0.5, 0.3, 0.2], {"gap": [0.4, 0.2, 0.3], "K": [0.1, float("nan"), 0.05]})
    pixels = matplotlib.image.imread(io.BytesIO(png))
    assert 0.005 < (pixels[..., :3].min(axis=2) < 0.9).mean() < 0.5
    moved = plots.loss_curve([1, 2, 3], [0.5, 0.3, 0.2], {"gap": [0.4, 0.3, 0.2], "K": [0.1, float("nan"), 0.05]})
    assert moved != png


def test_interval_coverage_is_drawn_over_the_levels(many) -> None:
    coverage = Coverage({50: 0.4, 90: 0.95}, {50: 0.1, 90: 0.3}, (), 90)
    score = replace(many, coverage=coverage)
    _, line = plots._coverage(score, coverage).axes[0].lines
    assert line.get_xydata().tolist() == [[50, 40], [90, 95]]
    assert list(plots.plots_of(score)) == ["parity", "errors", "elements", "coverage"]
