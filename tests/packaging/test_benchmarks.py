"""What measures the program still fits it; how fast it is, no test says."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

from crystalpredict import load_model
from tests.sample_crystals import random_table

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def speed(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import speed

    monkeypatch.setattr(speed, "STAGE_CELLS", {2: 3})
    monkeypatch.setattr(speed, "SCALING", (10, 30))
    monkeypatch.setattr(speed, "ROUNDS", 1)
    return speed


def test_the_stages_and_the_scaling_are_timed(speed: ModuleType) -> None:
    model = load_model(device="cpu")
    (times,) = speed.stages(model).values()
    assert times.keys() == {"read", "neighbours", "model", "write"}
    assert all(value > 0 for value in times.values())
    assert {name: len(values) for name, values in speed.scaling(model).items()} == {
        "neighbours": 2,
        "model": 2,
        "memory_GB": 2,
    }


def test_a_training_step_equals_the_direct_sum(speed: ModuleType) -> None:
    step = speed.training_step([str(ROOT / "examples" / name) for name in ("MgO.cif", "TiO2_rutile.cif")], count=2)
    assert step["largest_difference"] < 1e-4


def test_the_plain_network_is_ours_and_whole_steps_are_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import training

    monkeypatch.setattr(training, "STEPS", 1)
    monkeypatch.setattr(training, "CRYSTALS", 1)
    random_table(40).save(tmp_path / "table.npz")
    monkeypatch.setattr("sys.argv", ["training.py", str(tmp_path / "table.npz"), "--cache", str(tmp_path / "lists")])
    training.main()
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["largest_difference"] < 1e-5
    assert result["whole_step_ms"] > 0


@pytest.mark.slow
def test_the_first_answer_is_timed_against_the_import_of_torch(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import first_answer

    known = first_answer.commands
    monkeypatch.setattr(first_answer, "commands", lambda cif: {**known(cif), "import torch": known(cif)["python"]})
    monkeypatch.setattr("sys.argv", ["first_answer.py", "--rounds", "1"])
    first_answer.main()
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["predict by torch, cpu, s"] > 1.5 * result["predict, cpu, s"]
    assert result["help, cpu, s"] < result["predict, cpu, s"]
