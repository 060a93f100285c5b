"""Scores against values computed by hand or in another way, and the handling of unusable rows."""

import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from crystalpredict.data.labels import Dropped
from crystalpredict.errors import UsageError
from crystalpredict.evaluation.evaluate import collect_predictions, evaluate, prediction_rows, rows_of_split
from crystalpredict.prediction.predictor import Prediction
from crystalpredict.properties import PROPERTIES
from tests.scored import BULK, FORMATION, GAP, HULL, labelled, said

NAN = float("nan")


def test_a_case_worked_by_hand(tmp_path) -> None:
    table = labelled(tmp_path, [0.0, 0.05, 1.0, 3.0])
    report = evaluate(table, [said([0.1, 0.2, 0.0, 4.0], n_atoms=[2, 8, 9, 41])])
    (score,) = report.scores
    assert (score.model, score.unit, score.metrics.count) == ("one", "eV", 4)
    assert score.metrics.mae == pytest.approx((0.1 + 0.15 + 1 + 1) / 4)
    assert [(group.name, group.count) for group in score.by_size] == [("1-8", 2), ("9-40", 1), (">40", 1)]
    assert [group.mae for group in score.by_size] == pytest.approx([0.125, 1, 1])
    # metals, up to 0.1 eV: by their labels the first two, by the predictions the first and the third
    counts = score.confusion
    assert (counts.true_positives, counts.false_positives) == (1, 1)
    assert (counts.false_negatives, counts.true_negatives) == (1, 1)
    assert [(crystal.id, crystal.row, crystal.formula) for crystal in score.worst] == [
        ("c3", 3, "Si"), ("c4", 4, "CsCl"), ("c2", 2, "MgO"), ("c1", 1, "NaCl"),
    ]  # fmt: skip
    assert (score.worst[0].label, score.worst[0].prediction) == (1.0, 0.0)
    assert (report.rows, report.predicted, report.lost) == (4, 4, ())
    assert report.sha256 == sha256((tmp_path / "table.csv").read_bytes()).hexdigest()


def test_hull_energies_are_stable_up_to_a_limit_and_the_limit_is_stated(tmp_path) -> None:
    table = labelled(tmp_path, [0.0, 0.05, 0.051, 0.2], [HULL])
    entry = evaluate(table, [said([0.0, 0.06, 0.05, 0.3])]).to_dict()["scores"][0]
    assert entry["stable"] == {
        "at_most": 0.05, "accuracy": 0.5, "precision": 0.5, "recall": 0.5,
        "true_positives": 1, "false_positives": 1, "false_negatives": 1, "true_negatives": 1,
    }  # fmt: skip


def test_moduli_are_compared_as_logarithms_first_and_in_their_unit(tmp_path) -> None:
    table = labelled(tmp_path, [10.0, 100.0, NAN], [BULK])
    log, plain = evaluate(table, [said([100.0, 100.0, 50.0])]).scores
    assert (log.unit, log.metrics.count, log.metrics.mae) == ("log10(GPa)", 2, pytest.approx(0.5))
    assert (plain.unit, plain.metrics.count, plain.metrics.mae) == ("GPa", 2, pytest.approx(45))
    assert log.confusion is None
    report = evaluate(table, [said([100.0, 100.0, 50.0]), said([100.0, 10.0, 50.0], "two")])
    assert report.leading == (log,)
    assert [(score.model, score.unit) for score in report.beside(log)] == [("one", log.unit), ("two", log.unit)]


def test_elements_have_the_error_of_the_crystals_that_contain_them_if_there_are_enough(tmp_path) -> None:
    random = np.random.default_rng(3)
    labels, predictions = random.uniform(0, 4, (2, 60))
    formulas = ["NaCl", "MgO", "Na2O"] * 20
    formulas[:9] = ["Si"] * 9
    table = labelled(tmp_path, labels)
    (score,) = evaluate(table, [said(predictions, formulas=formulas)]).scores
    errors = np.abs(predictions - labels)
    expected = {
        symbol: (len(rows), errors[rows].mean())
        for symbol in ("O", "Na", "Mg", "Cl")
        if (rows := [row for row, formula in enumerate(formulas) if symbol in formula])
    }
    assert [group.name for group in score.by_element] == ["O", "Na", "Mg", "Cl"]  # Si is in 9 only; in their order
    for group in score.by_element:
        assert (group.count, group.mae) == (expected[group.name][0], pytest.approx(expected[group.name][1]))


def test_models_are_compared_on_the_crystals_that_all_predict_with_paired_intervals(tmp_path) -> None:
    random = np.random.default_rng(4)
    labels = random.normal(2, 1, 200)
    first, second = labels + random.normal(0, 0.3, 200), labels + random.normal(0, 0.6, 200)
    second[7] = NAN
    reasons = ["" if row != 7 else "too large" for row in range(200)]
    report = evaluate(labelled(tmp_path, labels), [said(first), said(second, "two", reasons=reasons)])
    one, two = report.scores
    both = np.arange(200) != 7
    change = np.abs(second - labels)[both] - np.abs(first - labels)[both]
    assert one.metrics.count == two.metrics.count == 199
    assert one.metrics.mae == pytest.approx(np.abs(first - labels)[both].mean())
    assert one.difference is None
    difference, low, high = two.difference
    assert difference == pytest.approx(change.mean()) == pytest.approx(two.metrics.mae - one.metrics.mae)
    half = 1.96 * change.std(ddof=1) / np.sqrt(199)  # the normal approximation of the bootstrap
    assert (low, high) == (
        pytest.approx(change.mean() - half, abs=0.015),
        pytest.approx(change.mean() + half, abs=0.015),
    )
    # far narrower than if the two were taken to be independent is not the rule; the same model twice is without any
    same = evaluate(labelled(tmp_path, labels), [said(first), said(first, "two")]).scores[1]
    assert same.difference == (0, 0, 0)
    assert [(loss.reason, loss.count, loss.row) for loss in report.lost] == [("too large", 1, 8)]
    assert report.predicted == 199


def test_a_property_that_one_model_lacks_is_compared_between_the_others(tmp_path) -> None:
    table = labelled(tmp_path, [[1, 0.1], [2, 0.2]], [GAP, HULL])
    values = [[1.5, 0.1], [2.5, 0.1]]
    report = evaluate(table, [said(values, properties=2), said([[1, NAN], [1, NAN]], "two", properties=2)])
    assert [(score.model, score.prop.name) for score in report.scores] == [
        ("one", "bandgap"), ("two", "bandgap"), ("one", "e_above_hull"),
    ]  # fmt: skip
    assert [score.metrics.count for score in report.scores] == [2, 2, 2]


def test_lost_rows_are_counted_by_reason_the_most_frequent_first(tmp_path) -> None:
    dropped = [Dropped("table.csv", row, f"d{row}", "no label") for row in (4, 5, 9)]
    left_out = [Dropped("table.csv", 2, "c2", "gap is infinite")]
    table = labelled(tmp_path, [1.0, NAN, 2.0], dropped=dropped, dropped_labels=left_out)
    report = evaluate(table, [said([NAN, 1.0, 1.0], reasons=["flat cell", "", ""])])
    assert [(loss.reason, loss.count, loss.row) for loss in report.lost] == [("no label", 3, 4), ("flat cell", 1, 1)]
    assert (report.rows, report.predicted) == (6, 2)
    assert report.notes == (
        "made up", "band gap: 1 of 3 rows have no label", "1 label(s) left out: gap is infinite (first: row 2)",
    )  # fmt: skip
    assert report.scores[0].metrics.count == 1


def test_a_report_with_undefined_values_is_strict_json(tmp_path) -> None:
    report = evaluate(labelled(tmp_path, [1.0]), [said([1.5])])
    entry = json.loads(json.dumps(report.to_dict(), allow_nan=False))["scores"][0]
    assert entry["mae_interval95"] == [None, None]
    assert (entry["r2"], entry["mae_over_mad"]) == (None, None)
    assert "mae_difference" not in entry
    assert entry["by_element"] == {}
    nothing = evaluate(labelled(tmp_path, [1.0]), [said([NAN], reasons=["broken"])])
    assert (nothing.scores, nothing.predicted) == ((), 0)
    assert json.loads(json.dumps(nothing.to_dict(), allow_nan=False))["lost"][0]["reason"] == "broken"


def test_labels_that_look_like_another_unit_are_noted(tmp_path) -> None:
    table = labelled(tmp_path, [120.0, 900.0, -1.0])
    notes = evaluate(table, [said([0.1, 0.9, 0.0])]).notes
    assert any("meV" in note for note in notes)
    assert any("1 labels are below 0 eV" in note for note in notes)


def prediction(path: str, index: int = 0, **values: float) -> Prediction:
    error = "" if values else "broken"
    return Prediction(path, index, "NaCl" if values else "", 2 if values else None, values, ("warned",), error)


def test_each_source_has_one_row_and_several_structures_in_it_are_an_error() -> None:
    stream = [
        prediction("a", bandgap_eV=1.0), prediction("b"), prediction("c", bandgap_eV=2.0),
        prediction("c", 1, bandgap_eV=3.0), prediction("c", 2, bandgap_eV=4.0), prediction("d", bandgap_eV=5.0),
    ]  # fmt: skip
    found = collect_predictions("one", "abc", ["bandgap_eV", "colour"], stream)
    assert found.values[:, 0].tolist() == pytest.approx([1.0, NAN, NAN, 5.0], nan_ok=True)
    assert np.isnan(found.values[:, 1]).all()
    assert [bool(reason) for reason in found.reasons] == [False, True, True, False]
    assert "several structures" in found.reasons[2]
    assert found.n_atoms.tolist() == [2, 0, 2, 2]
    assert collect_predictions("one", "abc", ["bandgap_eV"], []).values.shape == (0, 1)


def test_prediction_rows_are_all_rows_in_order_with_the_same_keys(tmp_path) -> None:
    dropped = [Dropped("table.csv", 2, "d2", "no label")]
    table = labelled(tmp_path, [[1.0, 10.0], [2.0, NAN], [0.5, 5.0]], [GAP, BULK], dropped=dropped)
    table.rows[1:] = [3, 4]
    one = said([[1.25, 11.126], [2.0, 20.0], [NAN, NAN]], properties=2, reasons=["", "", "broken"])
    two = said([[0.5, 10], [2.0, 20.0], [1, 1]], "two", properties=2)
    rows = list(prediction_rows(table, [one, two]))
    assert [row["row"] for row in rows] == [1, 2, 3, 4]
    assert len({tuple(row) for row in rows}) == 1
    assert rows[0] == {
        "id": "c1", "row": 1, "path": "table.csv, row 1", "formula": "NaCl", "n_atoms": 2,
        "bandgap_eV_label": 1.0, "bandgap_eV_predicted": 1.25, "bandgap_eV_error": 0.25,
        "bandgap_eV_predicted_two": 0.5, "bandgap_eV_error_two": -0.5,
        "bulk_modulus_GPa_label": 10.0, "bulk_modulus_GPa_predicted": 11.13, "bulk_modulus_GPa_error": 1.13,
        "bulk_modulus_GPa_predicted_two": 10.0, "bulk_modulus_GPa_error_two": 0.0, "warnings": "", "reason": "",
    }  # fmt: skip
    assert (rows[1]["id"], rows[1]["reason"], rows[1]["bandgap_eV_label"]) == ("d2", "no label", None)
    assert (rows[2]["bulk_modulus_GPa_label"], rows[2]["bulk_modulus_GPa_error"]) == (None, None)
    assert (rows[3]["reason"], rows[3]["bandgap_eV_predicted"], rows[3]["bandgap_eV_label"]) == ("broken", None, 0.5)
    json.dumps(rows, allow_nan=False)


def test_a_split_is_the_rows_that_the_table_puts_into_it(tmp_path) -> None:
    splits = ["train", "test", "val", "test"]
    left_out = [Dropped("t", row, f"c{row}", "is infinite") for row in (1, 4)]
    table = labelled(
        tmp_path, [0, 1, 2, 3], splits=splits, dropped=[Dropped("t", 9, "d9", "no label")], dropped_labels=left_out
    )
    part = rows_of_split(table, "Testing")
    assert (part.ids, part.rows.tolist(), part.labels[:, 0].tolist()) == (("c2", "c4"), [2, 4], [1, 3])
    assert part.sources == (table.sources[1], table.sources[3])
    assert [hole.row for hole in part.dropped_labels] == [4]
    assert part.dropped == table.dropped
    assert "2 of 4 rows" in part.notes[-1]
    with pytest.raises(UsageError, match=r"no row of split 'exam': it has test \(2\), train \(1\), val \(1\)"):
        rows_of_split(table, "exam")
    with pytest.raises(UsageError, match="no column of that name"):
        rows_of_split(labelled(tmp_path, [0, 1]), "test")
    lost = labelled(tmp_path, [0], dropped=[Dropped("t.csv", 2, "c1", "repeats the id of an earlier row")])
    with pytest.raises(UsageError, match="1 rows were dropped, the first, row 2: repeats the id of"):
        rows_of_split(lost, "test")


def test_the_checksum_of_a_folder_is_that_of_its_labels(tmp_path) -> None:
    (tmp_path / "id_prop.csv").write_text("a,1\n")
    table = labelled(tmp_path, [1.0])
    folder = type(table)(**{**vars(table), "path": str(tmp_path)})
    assert evaluate(folder, [said([1.0])]).sha256 == sha256(b"a,1\n").hexdigest()


def test_every_known_property_is_scored_on_a_scale_of_its_own(tmp_path) -> None:
    count = len(PROPERTIES)
    values = np.arange(1, 1 + 3 * count, dtype=float).reshape(3, count)
    report = evaluate(labelled(tmp_path, values, PROPERTIES), [said(values, properties=count)])
    assert [score.prop for score in report.leading] == list(PROPERTIES)
    assert all(score.metrics.mae == 0 for score in report.scores)
    assert Path(report.path).name == "table.csv"


def test_interval_coverage_is_computed_on_each_scale(tmp_path) -> None:
    table = labelled(tmp_path, [1.0, 10.0, 100.0, 1000.0], [BULK])
    levels = np.array([[0.9, 1.1], [0.8, 1.2], [0.5, 2.0], [0.1, 10.0], [0.01, 100.0]])
    predicted = np.array([1.0, 13.0, 500.0, 3000.0])
    model = replace(said(predicted, n_atoms=[2, 8, 9, 41]), bounds=(predicted[:, None, None] * levels)[:, None])
    logarithm, unit = (score.coverage for score in evaluate(table, [model]).scores)
    assert logarithm is not None
    assert unit is not None
    assert logarithm.shares == unit.shares == {50: 0.25, 68: 0.25, 80: 0.5, 90: 1.0, 95: 1.0}
    assert logarithm.widths[90] == pytest.approx(2)  # 0.1 to 10 times anything
    assert unit.widths[90] == pytest.approx(9.9 * predicted.mean())
    assert logarithm.by_third == (("1-8", 2, 1.0), ("9", 1, 1.0), (">9", 1, 1.0))
    assert evaluate(table, [said(predicted)]).scores[0].coverage is None


def test_a_label_at_the_end_of_an_interval_is_inside(tmp_path) -> None:
    bounds = np.array([[[0.0, 0.4]] * 5] * 2)[:, None]
    model = replace(said([0.1, 0.1]), bounds=bounds)
    for share, labels in {1.0: [0.0, 0.4], 0.0: [-0.1, 0.5]}.items():
        for scale in (1e-9, 1.0, 1e9):
            scaled = replace(model, values=model.values * scale, bounds=bounds * scale)
            coverage = evaluate(labelled(tmp_path, np.multiply(labels, scale)), [scaled]).scores[0].coverage
            assert coverage is not None
            assert set(coverage.shares.values()) == {share}


def test_interval_coverage_is_the_same_on_both_scales_and_at_zero(tmp_path) -> None:
    labels = 10.0 ** np.arange(-9, 7)
    table = labelled(tmp_path, labels, [BULK])
    factors = np.where(np.arange(16) % 2, 1.5, 0.5)  # half of the intervals miss
    bounds = (labels * factors)[:, None, None] * np.array([[0.8, 1.2]] * 5)
    model = replace(said(labels * factors), bounds=bounds[:, None])
    assert [score.coverage.shares[90] for score in evaluate(table, [model]).scores] == [0.0, 0.0]
    model = replace(model, bounds=np.concatenate([bounds[:8] / factors[:8, None, None], bounds[8:]])[:, None])
    assert [score.coverage.shares[90] for score in evaluate(table, [model]).scores] == [0.5, 0.5]
    far = labelled(tmp_path, np.array([0.0, 0.1, 0.2, 0.3]) - 1e6, [FORMATION])
    model = replace(said([0.0] * 4), bounds=np.array([[[[-0.05, 0.15]] * 5]] * 4) - 1e6)
    assert evaluate(far, [model]).scores[0].coverage.shares[90] == 0.5


def test_a_model_with_values_without_logarithm_has_no_log_score_and_others_keep_their_rows(tmp_path) -> None:
    table = labelled(tmp_path, [1.0, 2.0, 3.0], [BULK])
    bounds = np.array([[[-5.0, 9.0]] * 5] * 3)[:, None]
    one, two = said([1.0, 2.0, 4.0], "one"), replace(said([0.5, -1.0, 3.0], "two"), bounds=bounds)
    report = evaluate(table, [one, two])
    assert [(score.model, score.unit, score.metrics.count) for score in report.scores] == [
        ("one", "log10(GPa)", 3), ("one", "GPa", 3), ("two", "GPa", 3),
    ]  # fmt: skip
    assert report.notes[-1] == "bulk modulus: 1 predictions of two are not positive: no score in log10(GPa)"
    unlabelled = labelled(tmp_path, [[1.0, 1.0], [np.nan, 1.0], [3.0, 1.0]], [BULK, FORMATION])
    both = replace(two, values=np.array([[0.5, 1.0], [-1.0, 1.0], [3.0, 1.0]]), bounds=None)
    assert [score.unit for score in evaluate(unlabelled, [both]).scores] == ["log10(GPa)", "GPa", "eV/atom"]
    positive = replace(two, values=np.abs(two.values))
    scores = evaluate(table, [one, positive]).scores
    assert [score.coverage.shares[90] for score in scores if score.coverage] == [1.0, 1.0]


def test_labels_are_written_as_they_are(tmp_path) -> None:
    table = labelled(tmp_path, [0.00081, NAN], [BULK])
    first, second = prediction_rows(table, [said([0.0012345, 7.0])])
    assert [row["bulk_modulus_GPa_label"] for row in (first, second)] == [0.00081, None]


def test_a_property_without_a_score_is_noted(tmp_path) -> None:
    table = labelled(tmp_path, [[1.0, np.nan], [2.0, 5.0]], [GAP, BULK])
    report = evaluate(table, [said([[1.0, 7.0], [1.0, np.nan]], properties=2)])
    assert [score.prop for score in report.leading] == [GAP]
    assert report.notes[-1] == "bulk modulus: no row has both a label and a prediction"
