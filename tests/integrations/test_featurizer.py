"""Features of structures by the names of matminer and of scikit-learn."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas
import pytest
from pymatgen.core import Structure

from crystalpredict import CrystalFeaturizer, CrystalPredictError, load_model
from crystalpredict.errors import StructureError, UsageError, suppress_warnings

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
NAMES = ("NaCl.cif", "MgO.cif", "GaAs.cif", "Si.vasp", "NiAl.vasp", "CaF2.cif", "ZnO.cif", "CsPbBr3.cif")
PATHS = [EXAMPLES / name for name in NAMES]


@pytest.fixture(scope="module")
def structures() -> list[Structure]:
    with suppress_warnings():
        return [Structure.from_file(str(path)) for path in PATHS]


@pytest.fixture(scope="module")
def expected() -> np.ndarray:
    return np.array([row.features for row in load_model().embed(PATHS)])


def test_featurizer_gives_what_embed_gives(structures: list[Structure], expected: np.ndarray, tmp_path: Path) -> None:
    featurizer = CrystalFeaturizer()
    labels = featurizer.feature_labels()
    assert (len(labels), labels[3]) == (128, "crystalformer-mp_3")
    assert featurizer.featurize(structures[1]) == pytest.approx(expected[1].tolist(), abs=1e-5)
    mixed = [str(PATHS[0]), structures[1], PATHS[2].read_text(), structures[3].as_dict(), *structures[4:]]
    assert np.array(featurizer.featurize_many(mixed)) == pytest.approx(expected, abs=1e-5)
    frame = pandas.DataFrame({"structure": structures, "gap": range(8)}, index=list("abcdefgh"))
    found = featurizer.fit(structures).featurize_dataframe(frame, "structure", pbar=False)
    assert list(found.columns) == ["structure", "gap", *labels]
    assert list(found.index) == list(frame.index)
    assert found[labels].to_numpy() == pytest.approx(expected, abs=1e-5)
    assert featurizer.featurize_dataframe(frame, ["structure"], inplace=True) is None
    assert list(frame.columns) == list(found.columns)
    assert all(text.startswith("@") and text.count("{") == text.count("}") for text in featurizer.citations())
    assert featurizer.implementors()
    with pytest.raises(UsageError, match="already"):
        featurizer.featurize_dataframe(frame, "structure")


def test_featurizer_reports_what_it_cannot_compute(structures: list[Structure], tmp_path: Path) -> None:
    featurizer, several = CrystalFeaturizer(), tmp_path / "two.json"
    several.write_text(json.dumps([structures[0].as_dict(), structures[1].as_dict()]))
    bad = [structures[0], "nowhere.cif", None, float("nan"), several, 7]
    rows = featurizer.featurize_many(bad, ignore_errors=True, return_errors=True)
    assert [len(row) for row in rows] == [129] * 6
    assert np.isnan(rows[0][-1])
    assert [np.isnan(row[0]) for row in rows] == [False, *[True] * 5]
    said = ("no such file", "no structure", "no structure", "2 structures", "a int is no structure")
    assert all(str(row[-1]).startswith(text) for row, text in zip(rows[1:], said, strict=True))
    with pytest.raises(StructureError, match="structure 1: no such file"):
        featurizer.featurize_many(bad)
    with pytest.raises(UsageError, match="needs ignore_errors"):
        featurizer.featurize_many(bad, return_errors=True)
    with pytest.raises(UsageError, match="put the structure into a list"):
        featurizer.featurize_many(structures[0])
    with pytest.raises(UsageError, match="no model"):
        CrystalFeaturizer("none-such").feature_labels()


def test_transformer_is_an_estimator(structures: list[Structure], expected: np.ndarray) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install 'crystalpredict[sklearn]'")
    from sklearn.base import clone
    from sklearn.compose import ColumnTransformer
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.utils import estimator_checks

    from crystalpredict import CrystalTransformer

    transformer = CrystalTransformer(device="cpu")
    for check in (
        estimator_checks.check_estimator_cloneable,
        estimator_checks.check_estimator_repr,
        estimator_checks.check_estimator_tags_renamed,
        estimator_checks.check_valid_tag_types,
        estimator_checks.check_no_attributes_set_in_init,
        estimator_checks.check_parameters_default_constructible,
        estimator_checks.check_get_params_invariance,
        estimator_checks.check_set_params,
        estimator_checks.check_do_not_raise_errors_in_init_or_set_params,
        estimator_checks.check_mixin_order,
    ):
        check("CrystalTransformer", clone(transformer))
    assert transformer.fit(structures).transform(structures) == pytest.approx(expected, abs=1e-5)
    again = pickle.loads(pickle.dumps(transformer))  # noqa: S301  its own
    assert len(pickle.dumps(transformer)) < 500
    assert again.get_params() == transformer.get_params() == {"device": "cpu", "model": None, "on_error": "raise"}
    names = transformer.get_feature_names_out()
    assert (len(names), names[127]) == (128, "crystalformer-mp_127")
    frame = pandas.DataFrame({"structure": structures, "pressure": np.arange(8.0)})
    assert list(again.set_output(transform="pandas").fit_transform(frame[["structure"]]).columns) == list(names)
    regressor = make_pipeline(clone(transformer), Ridge())
    targets = expected[:, 0]
    assert regressor.fit(structures, targets).predict(structures) == pytest.approx(targets, abs=0.2)
    scores = cross_val_score(regressor, structures, targets, cv=2, scoring="neg_mean_absolute_error")
    assert np.isfinite(scores).all()
    columns = ColumnTransformer([("crystal", transformer, ["structure"])], remainder="passthrough")
    assert columns.fit_transform(frame).shape == (8, 129)
    assert list(columns.get_feature_names_out())[::128] == ["crystal__crystalformer-mp_0", "remainder__pressure"]


def test_transformer_reports_what_it_cannot_compute(structures: list[Structure]) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install 'crystalpredict[sklearn]'")
    from crystalpredict import CrystalTransformer

    with pytest.raises(StructureError, match="structure 1: no such file"):
        CrystalTransformer().fit_transform([structures[0], "nowhere.cif"])
    found = CrystalTransformer(on_error="nan").fit_transform([structures[0], "nowhere.cif"])
    assert np.isnan(found).all(axis=1).tolist() == [False, True]
    for wrong in (CrystalTransformer(on_error="skip"), CrystalTransformer(model="none-such")):
        with pytest.raises(UsageError):
            wrong.fit(structures)
    with pytest.raises(UsageError, match="X is one structure"):
        CrystalTransformer().fit(structures[0])
    with pytest.raises(UsageError, match="X has 2 columns"):
        CrystalTransformer().fit(pandas.DataFrame({"a": structures, "b": structures}))


def test_without_scikit_learn_there_is_one_line_that_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['sklearn'] = None\n"
        "import crystalpredict\n"
        "assert not {'torch', 'pymatgen', 'mcp'} & sys.modules.keys()\n"
        "try: crystalpredict.CrystalTransformer\n"
        "except crystalpredict.CrystalPredictError as error: print(error)\n"
    )
    found = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "scikit-learn is not installed: pip install 'crystalpredict[sklearn]'\n"
    assert issubclass(UsageError, CrystalPredictError)
