"""Models of few labels: an encoder that is known, and a kernel regression beside it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pymatgen.core import Lattice, Structure

from crystalpredict import Predictor, load_model
from crystalpredict.checkpoints.checkpoint import load_checkpoint, verify_golden
from crystalpredict.data.dataset import TRAIN, VALIDATION, table_from_rows
from crystalpredict.errors import UsageError
from crystalpredict.nn.bins import arrays_of
from crystalpredict.nn.numpy_network import NumpyNetwork
from crystalpredict.training import kernel
from crystalpredict.training.options import FinetuneOptions
from crystalpredict.training.start import start_run
from tests.sample_crystals import batch_of

ROOT = Path(__file__).resolve().parents[2]
PEAK, HEAT = "phonon_peak_per_cm", "heat_capacity_300K_J_per_K_mol"


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))


@pytest.fixture(scope="module")
def vibrations() -> Predictor:
    return load_model("crystalformer-mp-vibrations", "cpu")


def halide(cation: str, anion: str, length: float) -> dict[str, object]:
    sites = [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
    shifted = [[0.5 + each for each in site] for site in sites]
    lattice = [length, length, length, 90, 90, 90]
    return {
        "id": cation + anion,
        "lattice": lattice,
        "species": [cation] * 4 + [anion] * 4,
        "frac_coords": sites + shifted,
    }


def test_noise_is_weighed_by_crystals_that_are_left_out_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(4)
    inputs, labels = random.normal(size=(12, 5)), random.normal(size=12)
    labels[3] = np.nan  # of another property
    covariance = kernel.covariances(inputs, inputs, np)
    predicted = np.full(12, np.nan)
    for row in np.flatnonzero(np.isfinite(labels)):
        others = labels.copy()
        others[row] = np.nan
        weights = kernel.weights_of(covariance, others, 0.01)
        assert weights[row] == weights[3] == 0
        predicted[row] = covariance[row] @ weights
    known = np.isfinite(labels)
    assert kernel.errors_left_out(covariance, labels, [0.5, 0.01])[1] == pytest.approx((labels - predicted)[known])
    monkeypatch.setattr(kernel, "NOISES", (0.01,))
    both = np.column_stack([labels, labels[::-1]])
    found = kernel.fit_kernel(random.normal(size=(12, 9)), both).left_out
    assert np.isfinite(found).tolist() == np.isfinite(both).tolist()
    assert np.abs(found - both)[np.isfinite(both)].min() > 1e-3


def test_a_model_of_few_labels_repeats_them_and_is_not_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fit_kernel

    known = [
        halide("Li", "F", 4.07) | {"phonon_peak": 620.0}, halide("Na", "Cl", 5.69) | {"phonon_peak": 250.0},
        halide("K", "Br", 6.7) | {"phonon_peak": 160.0, "heat_capacity_300K": 24.7},
        halide("Mg", "O", 4.25) | {"phonon_peak": 700.0, "heat_capacity_300K": 18.9},
        halide("Ca", "O", 4.84) | {"heat_capacity_300K": 21.0}, halide("Rb", "I", 7.4) | {"heat_capacity_300K": 24.8},
    ]  # fmt: skip
    table = table_from_rows([*((row, TRAIN) for row in known), (known[2], VALIDATION)])
    table.save(tmp_path / "few.npz")
    (tmp_path / "card.md").write_text("# few\n")
    shutil.copytree(ROOT / "models" / "crystalformer-mp", tmp_path / "base")
    arguments = ["fit_kernel.py", tmp_path / "base", tmp_path / "few.npz", tmp_path / "new", "phonon_peak"]
    arguments += ["heat_capacity_300K", "--summary", "few", "--card", tmp_path / "card.md"]
    monkeypatch.setattr(sys, "argv", list(map(str, arguments)))
    monkeypatch.setattr(kernel, "NOISES", (1e-6,))
    fit_kernel.main()
    checkpoint = load_checkpoint(tmp_path / "new")
    assert verify_golden(checkpoint, tmp_path / "new") < 1e-4
    crystals = [table.crystal(row) for row in range(6)]
    with torch.inference_mode():
        values = checkpoint.decode(checkpoint.model(batch_of(*crystals, radius=6.0).to("cpu", torch.float32)).numpy())
    for prop in ("phonon_peak", "heat_capacity_300K"):
        labels = np.array([row.get(prop, np.nan) for row in known], dtype=float)
        has = np.isfinite(labels)
        assert values[prop][has] == pytest.approx(labels[has], rel=1e-3)
    with pytest.raises(UsageError, match="is a kernel regression, which is not trained: start from another"):
        start_run("none.csv", tmp_path / "run", FinetuneOptions(), tmp_path / "new")


def test_numpy_repeats_what_the_bundled_one_says_of_any_crystal(vibrations: Predictor) -> None:
    checkpoint = vibrations.checkpoint
    cells = [
        Structure(Lattice.cubic(9), ["Xe"], [[0, 0, 0]]),
        Structure(Lattice.cubic(3), [{"Fe": 0.5, "Ni": 0.3}], [[0, 0, 0]]),
    ]
    from crystalpredict.io.entries import entries_of_structures
    from crystalpredict.io.reader import found_in
    from crystalpredict.nn.batch import collate

    crystals, lists = found_in(list(entries_of_structures(cells, checkpoint.config.radius)))
    with torch.inference_mode():
        outputs = checkpoint.model(collate(crystals, lists)).numpy()
    assert NumpyNetwork(checkpoint.source).answer(arrays_of(crystals, lists))[1] == pytest.approx(outputs, abs=1e-4)


def test_light_and_stiff_crystals_vibrate_fast_and_store_less_heat(vibrations: Predictor) -> None:
    """By measurements the highest modes are at 1,332 (diamond), 718 (MgO), 264 (NaCl) and 90 (CsI) 1/cm.

    The heat capacities of MgO and NaCl, less what their expansion takes, are 18.4 and 24 J/(K mol).
    """
    sites = ([0, 0, 0], [0.5, 0.5, 0.5])
    salts = [
        Structure.from_spacegroup("Fd-3m", Lattice.cubic(3.57), ["C"], [[0, 0, 0]]),
        Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.25), ["Mg", "O"], sites),
        Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.69), ["Na", "Cl"], sites),
        Structure.from_spacegroup("Pm-3m", Lattice.cubic(4.66), ["Cs", "I"], sites),
    ]
    rows = vibrations.predict(salts)
    assert (np.diff([row[PEAK] for row in rows]) < 0).all()
    assert [row[HEAT] for row in rows[1:3]] == pytest.approx([18.4, 24.0], rel=0.06)
    for row, measured in zip(rows, (1332, 718, 264, 90), strict=True):
        assert row[PEAK] == pytest.approx(measured, rel=0.35)
        assert row[HEAT] < row.intervals[HEAT][1] <= 24.94  # Dulong and Petit
    (double,) = vibrations.predict(salts[1].make_supercell(2, in_place=False))
    assert double[PEAK] == pytest.approx(rows[1][PEAK], rel=1e-4)
