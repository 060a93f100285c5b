"""The first answer comes without torch and other large libraries; much work is done by torch, with the same rows."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from crystalpredict import Predictor, load_model
from crystalpredict.checkpoints.checkpoint import CheckpointError, save_checkpoint
from tests.nn.test_factory import FAMILY, checkpoint_of
from tests.sample_crystals import rock_salt

ROOT = Path(__file__).resolve().parents[2]
LARGE = ("torch", "scipy", "pandas", "ase", "spglib", "rich", "jinja2", "sympy")
CODE = f"""
import os, sys
leave = os._exit
def tell(code):
    print("imported:", *(name for name in {LARGE} if name in sys.modules), file=sys.stderr, flush=True)
    leave(code)
os._exit = tell
from crystalpredict.cli import program
program()
"""
pytestmark = pytest.mark.skipif(
    sys.platform not in ("linux", "darwin") or not ROOT.joinpath("examples").is_dir(), reason="needs the examples"
)


def run(*arguments: str | Path, before: str = "") -> tuple[int, list[dict[str, str]], list[str]]:
    """Exit code, rows, and which of LARGE were imported, of a new process."""
    call = [sys.executable, "-c", before + CODE, "predict", "-f", "csv", "-q", "--device", "cpu", *map(str, arguments)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CRYSTALPREDICT_")}
    done = subprocess.run(call, capture_output=True, text=True, timeout=600, cwd=ROOT, env=environment)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("imported:"), done.stderr
    return done.returncode, list(csv.DictReader(done.stdout.splitlines())), last.split()[1:]


def assert_rows(rows: Sequence[dict[str, str]], model: Predictor, paths: Sequence[str]) -> None:
    """The rows are those of torch, which has been imported here, to the last digit but one of those written."""
    for row, expected in zip(rows, model.predict(paths), strict=True):
        assert not expected.error
        assert (row["formula"], row["warnings"]) == (expected.formula, "; ".join(expected.warnings))
        for column, value in expected.values.items():
            low, high = expected.intervals[column]
            for name, wanted in ((column, value), (f"{column}_lo90", low), (f"{column}_hi90", high)):
                assert float(row[name]) == pytest.approx(wanted, rel=1e-4, abs=1.5e-4 if "eV" in column else 0.015)


@pytest.mark.parametrize("name", ["crystalformer-mp", "crystalformer-mp-ensemble", "crystalframer-mp"])
def test_one_cif_is_predicted_without_torch(name: str) -> None:
    code, rows, imported = run("examples/NaCl.cif", "--model", name)
    assert (code, imported) == (0, [])
    model = load_model(name, device="cpu")
    assert "torch" in sys.modules
    assert_rows(rows, model, ["examples/NaCl.cif"])
    assert model.batch_threads.threads == 1  # torch did compute


@pytest.mark.parametrize("options", [["--unrelaxed"], ["-t", "hull_distance,decomposes_to,debye_temperature"]], ids=str)
def test_further_predictions_of_one_cif_do_without_torch(options: list[str]) -> None:
    code, rows, imported = run("examples/GaAs.cif", *options)
    assert (code, len(rows), imported) == (0, 1, [])
    assert not rows[0]["error"]


def test_auto_does_without_torch_where_there_is_no_gpu() -> None:
    from crystalpredict.nn.devices import runs_on_cpu

    _, _, imported = run("examples/NaCl.cif", "--device", "auto")
    assert (imported == []) == runs_on_cpu("auto")


def test_a_supercell_and_a_shared_site_are_predicted_without_torch(tmp_path: Path) -> None:
    """More than 100 atoms without symmetry: their neighbours are found by vesin, which would import torch and ASE."""
    random = np.random.default_rng(0)
    sites = np.stack(np.meshgrid(*[np.arange(6)] * 3), -1).reshape(-1, 3) / 6 + random.normal(size=(216, 3)) * 0.01
    large = Structure(Lattice.cubic(15), random.choice(["Na", "Cl", "Mg", "O"], 216), sites)
    mixed = Structure(Lattice.cubic(4.0), [{"Cu": 0.3, "Au": 0.7}], [[0, 0, 0]])
    paths = [str(tmp_path / "large.cif"), str(tmp_path / "mixed.cif")]
    for structure, path in zip((large, mixed), paths, strict=True):
        structure.to(filename=path)
    code, rows, imported = run(*paths)
    assert (code, imported) == (0, [])
    assert_rows(rows, load_model(device="cpu"), paths)


def test_a_file_that_fails_needs_no_torch(tmp_path: Path) -> None:
    (tmp_path / "bad.cif").write_text("data_x\n")
    code, rows, imported = run(tmp_path / "bad.cif")
    assert (code, imported) == (4, [])
    assert rows[0]["error"]


def test_other_networks_are_torchs(tmp_path: Path) -> None:
    save_checkpoint(checkpoint_of(FAMILY["dual"]), tmp_path, [rock_salt()], "")
    code, rows, imported = run("examples/NaCl.cif", "--model", tmp_path)
    assert (code, imported, rows[0]["error"]) == (0, ["torch"], "")


def test_many_structures_are_torchs(tmp_path: Path) -> None:
    """So many that torch is imported before the first of them is computed, while workers read, for half of the time."""
    less = "from crystalpredict.nn import first_answers; first_answers.MOST_EDGES //= 2\n"
    text = (ROOT / "examples/NaCl.cif").read_text()
    with (tmp_path / "many.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["cif"])
        table.writerows([[text]] * 1250)
    code, rows, imported = run(tmp_path / "many.csv", "--jobs", "2", before=less)
    assert (code, imported, len(rows)) == (0, ["torch"], 1250)
    assert len({row["formation_energy_eV_per_atom"] for row in rows}) <= 2  # batches round differently


def test_torch_takes_over_between_windows() -> None:
    """With little time for NumPy and windows of three: the rows of both networks agree."""
    less = "from crystalpredict.nn import first_answers; first_answers.MOST_EDGES = 400\n"
    less += "from crystalpredict.io import reader; reader.WINDOW_ENTRIES = 3\n"
    less += "from crystalpredict.nn import numpy_network as n; answer = n.NumpyNetwork.answer\n"
    less += "n.NumpyNetwork.answer = lambda *a: print('by NumPy', file=__import__('sys').stderr) or answer(*a)\n"
    paths = [f"examples/{name}.cif" for name in ("NaCl", "MgO", "GaAs", "CsPbBr3", "TiO2_rutile", "MoS2", "ZnO")]
    call = [sys.executable, "-c", less + CODE, "predict", "-f", "csv", "-q", *paths]
    done = subprocess.run(call, capture_output=True, text=True, timeout=600, cwd=ROOT)
    assert done.stderr.splitlines() == ["by NumPy", "imported: torch"]
    assert_rows(list(csv.DictReader(done.stdout.splitlines())), load_model(device="cpu"), paths)


def test_a_predictor_gives_torchs_network_when_asked() -> None:
    code = """
import sys
import numpy as np
from crystalpredict import load_model
model = load_model(device="cpu")
before = model.predict("examples/NaCl.cif"), model.embed("examples/NaCl.cif"), model.embed(
    "examples/NaCl.cif", per_atom=True)
assert "torch" not in sys.modules
assert model.checkpoint.config == model.config
features = np.stack([row.features for row in before[1]])
import torch
assert type(model.model) is type(model.checkpoint.model)
assert model.device == torch.device("cpu")
after = model.predict("examples/NaCl.cif"), model.embed("examples/NaCl.cif"), model.embed(
    "examples/NaCl.cif", per_atom=True)
for one, two in zip(before[0], after[0], strict=True):
    assert one.values.keys() == two.values.keys() and len(one.values) > 4
    assert all(abs(one[name] - two[name]) < 1e-4 * max(1, abs(two[name])) for name in one.values)
for one, two in zip(before[1] + before[2], after[1] + after[2], strict=True):
    assert one.features.dtype == two.features.dtype
    assert np.abs(one.features - two.features).max() < 1e-5
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_a_damaged_checkpoint_is_refused_without_torch(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    code = "import sys; from pathlib import Path; from crystalpredict.checkpoints.checkpoint import load_checkpoint\n"
    code += f"try: load_checkpoint(Path({str(folder)!r}))\nfinally: assert 'torch' not in sys.modules\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert f"{CheckpointError.__name__}: {path}: damaged or altered" in done.stderr
