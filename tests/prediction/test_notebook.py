"""What a notebook shows of predictions."""

from __future__ import annotations

import numpy as np

from crystalpredict.prediction.predictions import Predictions
from crystalpredict.prediction.rows import Prediction
from crystalpredict.properties import find_property
from tests.sample_crystals import rock_salt

GAP = find_property("bandgap")
HOSTILE = '<img src=x onerror="alert(1)">'
BOUNDS = {"bandgap_eV": np.array([[4.0, 6.0]] * 5)}


def test_rows_show_counts_units_intervals_and_reasons() -> None:
    good = Prediction("NaCl.cif", 1, "NaCl", 8, {"bandgap_eV": 5.00291}, bounds=BOUNDS, warnings=(HOSTILE,))
    bad = Prediction(HOSTILE, 0, "", None, error=f"label 'Oh' of site 2 names no element: {HOSTILE}")
    page = Predictions([good, bad] * 600, [GAP], intervals=True)._repr_html_()
    assert "<b>1,200 predictions</b>, 600 failed, 600 with warnings" in page
    assert "600 label of site … names no element" in page
    assert "<th>band gap, eV</th>" in page
    assert "<td>5.003<br><small>4.00 to 6.00</small></td>" in page
    assert "NaCl.cif #1" in page
    assert "<img" not in page
    assert page.count("<tr>") == 11
    assert "the first 10 rows" in page


def test_rows_without_intervals_and_no_rows() -> None:
    row = Prediction("a.cif", 0, "NaCl", 8, {"bandgap_eV": 5.0})
    assert "<td>5.000</td>" in Predictions([row], [GAP], intervals=False)._repr_html_()
    assert "<b>0 predictions</b>" in Predictions([], [GAP], intervals=False)._repr_html_()


def test_a_row_shows_its_values_warnings_and_its_relaxed_cell() -> None:
    values = {"bandgap_eV": 5.0, "mine_1": 2.5}
    row = Prediction("a.cif", 0, "NaCl", 8, values, bounds=BOUNDS, warnings=(HOSTILE,), texts={"known_phase": HOSTILE})
    page = row._repr_html_()
    assert "<tr><td>band gap, eV</td><td>5.000<br><small>4.00 to 6.00</small></td></tr>" in page
    assert "<td>mine_1</td><td>2.500</td>" in page
    assert "lowest known phase" in page
    assert "<img" not in page
    assert "<svg" not in page
    relaxed = Prediction("a.cif", 0, "NaCl", 8, values, relaxed=rock_salt())
    assert 'aria-label="relaxed unit cell of NaCl"' in relaxed._repr_html_()
    failed = Prediction("a.cif", 0, "", None, error="no such file: check the path")
    assert "no such file" in failed._repr_html_()
    assert "<table" not in failed._repr_html_()
