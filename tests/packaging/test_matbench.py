"""benchmarks/matbench.py and matbench_discovery.py on small files in the layout of the downloads."""

from __future__ import annotations

import bz2
import csv
import gzip
import hashlib
import io
import json
import zipfile
from argparse import Namespace
from pathlib import Path
from types import ModuleType
from typing import Any

import ase.io
import numpy as np
import pandas
import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.io.ase import AseAtomsAdaptor

from tests.labelled import METALS, PARTNERS

ROOT = Path(__file__).resolve().parents[2]
STRUCTURES = [
    Structure(Lattice.cubic(4 + 0.02 * number), [one, two], [[0, 0, 0], [0.5, 0.5, 0.5]])
    for number, (one, two) in enumerate([(one, two) for two in PARTNERS for one in METALS][:40])
]


@pytest.fixture
def matbench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import matbench

    return matbench


@pytest.fixture
def discovery(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import matbench_discovery

    return matbench_discovery


def test_the_folds_and_ids_are_the_official_ones(matbench: ModuleType) -> None:
    """The first rows of each fold of jdft2d, as matbench 0.6 has them in its validation file."""
    starts = [fold[:6].tolist() for fold in matbench.test_rows(636)]
    assert starts == [
        [11, 13, 26, 30, 31, 39], [2, 4, 6, 18, 19, 22], [3, 7, 17, 34, 35, 40], [8, 9, 10, 16, 20, 32],
        [0, 1, 5, 12, 14, 15],
    ]  # fmt: skip
    assert matbench.ids_of("matbench_jdft2d", 636)[11] == "mb-jdft2d-012"
    assert matbench.ids_of("matbench_mp_e_form", 132752)[0] == "mb-mp-e-form-000001"


@pytest.mark.slow
def test_a_task_becomes_a_record(
    matbench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = [[structure.as_dict(), 0.1 * (number % 7)] for number, structure in enumerate(STRUCTURES)]
    data[3][0]["sites"][0]["species"][0]["occu"] = 0.5  # predicted all the same
    table = {"index": list(range(40)), "columns": ["structure", "gap pbe"], "data": data}
    with gzip.open(tmp_path / "matbench_mp_gap.json.gz", "wt") as file:
        json.dump(table, file)
    output = tmp_path / "out"
    arguments = ["matbench.py", tmp_path, "--task", "matbench_mp_gap", "--epochs", "1", "--jobs", "1", "-o", output]
    monkeypatch.setattr("sys.argv", list(map(str, arguments)))
    matbench.main()
    assert "matbench_mp_gap: MAE" in capsys.readouterr().out
    with gzip.open(output / "results.json.gz", "rt") as file:
        record = json.load(file)
    results = record["tasks"]["matbench_mp_gap"]["results"]
    tested = [name for fold in results.values() for name in fold["data"]]
    assert sorted(tested) == [f"mb-mp-gap-{number:02d}" for number in range(1, 41)]
    labels = {f"mb-mp-gap-{number:02d}": row[1] for number, row in enumerate(data, start=1)}
    for fold in results.values():
        errors = [abs(labels[name] - value) for name, value in fold["data"].items()]
        assert fold["scores"]["mae"] == pytest.approx(np.mean(errors))
        assert fold["scores"]["max_error"] == pytest.approx(max(errors))
        assert fold["parameters"]["start"] == "random weights"
        assert min(fold["data"].values()) >= 0
    checksum = record.pop("hash")
    assert checksum == hashlib.sha256(json.dumps(matbench.frozen(record)).encode()).hexdigest()
    assert (output / "info.json").is_file()

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(matbench, "finetune", never)  # the second call takes the runs as they are
    matbench.main()
    with gzip.open(output / "results.json.gz", "rt") as file:
        assert json.load(file)["tasks"] == record["tasks"]


def test_another_table_is_refused(matbench: ModuleType, tmp_path: Path) -> None:
    with gzip.open(tmp_path / "matbench_mp_gap.json.gz", "wt") as file:
        json.dump({"columns": ["structure", "e_form"], "data": []}, file)
    with pytest.raises(SystemExit, match="its columns are structure, e_form, not structure and gap pbe"):
        matbench.read_task(tmp_path / "matbench_mp_gap.json.gz", matbench.TASKS["matbench_mp_gap"])


def test_the_metrics_are_those_of_the_leaderboard(discovery: ModuleType) -> None:
    """ALIGNN's published figures on the full test set follow from its published counts."""
    counts = {(True, True): 28598, (False, True): 28464, (False, False): 184407, (True, False): 15494}
    truth = np.concatenate([np.full(n, -0.1 if stable else 0.1) for (stable, _), n in counts.items()])
    found = np.concatenate([np.full(n, -0.1 if called else 0.1) for (_, called), n in counts.items()])
    found[-1] = np.nan  # a missing prediction counts as unstable
    metrics = discovery.metrics_of(truth, found)
    published = {"F1": 0.565, "DAF": 2.921, "Precision": 0.501, "Recall": 0.649, "Accuracy": 0.829}
    assert {name: round(metrics[name], 3) for name in published} == published
    assert (metrics["TP"], metrics["FN"], metrics["missing_preds"]) == (28598, 15494, 1)
    none = discovery.metrics_of(np.array([0.1, -0.1]), np.array([0.2, np.nan]))
    assert (none["F1"], none["Precision"], none["DAF"]) == (0.0, None, None)


def test_unrelaxed_structures_are_predicted_in_one_shot(
    discovery: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"wbm-1-{number}" for number in range(1, 13)]
    structures = dict(zip(names, STRUCTURES, strict=False))
    summary = pandas.DataFrame({
        "material_id": names, "e_form_per_atom_mp2020_corrected": -2.0,
        "e_above_hull_mp2020_corrected_ppd_mp": [-0.01, 0.05] * 6, "unique_prototype": [True, True, False] * 4,
    })  # fmt: skip
    summary.to_csv(tmp_path / "summary.csv.gz", index=False)
    frame = pandas.DataFrame({"material_id": names[:11], "initial_structure": [s.as_dict() for s in STRUCTURES[:11]]})
    frame.to_json(tmp_path / "initial.json.bz2")
    with zipfile.ZipFile(tmp_path / "initial.extxyz.zip", "w") as archive:
        for name in reversed(names[:11]):  # the last one is missing
            text = io.StringIO()
            ase.io.write(text, AseAtomsAdaptor.get_atoms(structures[name]), format="extxyz")
            archive.writestr(f"{name}.extxyz", text.getvalue())
    tables = []
    for kind in ("json.bz2", "extxyz.zip"):
        output = tmp_path / f"{kind}.csv.gz"
        files = [str(tmp_path / "summary.csv.gz"), str(tmp_path / f"initial.{kind}")]
        monkeypatch.setattr("sys.argv", ["matbench_discovery.py", *files, "--jobs", "1", "-o", str(output)])
        discovery.main()
        with gzip.open(output, "rt") as file:
            tables.append(list(csv.reader(file)))
        metrics = json.loads((tmp_path / f"{kind}.json").read_text())["metrics"]
        assert metrics["full_test_set"]["missing_preds"] == 1
        assert metrics["unique_prototypes"]["TP"] + metrics["unique_prototypes"]["FN"] == 4
    header, *values = tables[0]
    assert header == ["material_id", "e_form_per_atom_crystalpredict"]
    assert [row[0] for row in values] == names
    assert values[-1][1] == ""
    energies = np.array([float(row[1]) for row in values[:-1]])
    assert energies == pytest.approx([float(row[1]) for row in tables[1][1:-1]], abs=1e-3)
    options = Namespace(model=None, device="cpu", jobs=1, cache=None)
    (one,) = discovery.formation_energies(pandas.Series({names[0]: structures[names[0]]}, name="structure"), options)
    assert one[1] == pytest.approx(energies[0], abs=1e-3)


def test_the_json_of_another_file_is_refused(discovery: ModuleType, tmp_path: Path) -> None:
    with bz2.open(tmp_path / "cses.json.bz2", "wt") as file:
        json.dump({"material_id": {"0": "wbm-1-1"}, "computed_structure_entry": {"0": {}}}, file)
    with pytest.raises(SystemExit, match="no columns material_id and initial_structure"):
        discovery.structures_of(tmp_path / "cses.json.bz2", pandas.Index(["wbm-1-1"]))
