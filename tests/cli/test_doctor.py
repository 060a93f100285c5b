from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from functools import cache

import pytest
import torch

import crystalpredict
from crystalpredict.checkpoints.registry import bundled_models
from crystalpredict.cli import checks


@pytest.fixture(scope="module", autouse=True)
def bundled_models_checked_once() -> Iterator[None]:
    """They are the same for all tests, and checking all of them takes longer than the rest; errors are found anew."""
    look = checks._model
    bundled = cache(look)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            checks, "_model", lambda name, device: (bundled if name in bundled_models() else look)(name, device)
        )
        yield


def test_a_sound_installation_is_all_lines_of_ok(program) -> None:
    outcome = program("doctor")
    assert (outcome.code, outcome.stderr) == (0, "")
    lines = outcome.stdout.splitlines()
    assert all(line.startswith("ok    ") for line in lines)
    for part in (f"crystalpredict {crystalpredict.__version__}", f"torch {torch.__version__}", "NaCl: bandgap_eV "):
        assert part in outcome.stdout
    assert [name for name in bundled_models() if f"model {name}: unaltered" in outcome.stdout] == list(bundled_models())


def test_json_has_the_same_checks(program) -> None:
    found = json.loads(program("doctor", "--format", "json").stdout)
    assert found["ok"] is True
    assert [check["name"] for check in found["checks"]][:3] == ["settings", "program", "libraries"]
    assert all(check["ok"] and check["said"] for check in found["checks"])


def test_what_is_wrong_is_one_line_and_the_rest_is_looked_at(program, folder, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CRYSTALPREDICT_MODELS", str(tmp_path / "models"))
    shutil.copytree(folder, tmp_path / "models" / "good")
    bad = shutil.copytree(folder, tmp_path / "models" / "bad")
    content = bytearray((bad / "model.safetensors").read_bytes())
    content[9000] ^= 1
    (bad / "model.safetensors").write_bytes(content)
    (tmp_path / "config.toml").write_text("modle = 'x'\n")
    monkeypatch.setenv("CRYSTALPREDICT_CONFIG", str(tmp_path / "config.toml"))
    outcome = program("doctor")
    assert (outcome.code, outcome.stderr) == (1, "")
    wrong = [line for line in outcome.stdout.splitlines() if not line.startswith("ok    ")]
    assert [line.split(": ")[0] for line in wrong] == ["WRONG settings", "WRONG model bad"]
    assert "did you mean 'model'?" in wrong[0]
    assert "sha256" in wrong[1]
    assert "ok    model good: unaltered" in outcome.stdout
    assert "ok    prediction: NaCl" in outcome.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is there")
def test_the_device_and_the_model_that_are_used_are_looked_at(program, folder, monkeypatch) -> None:
    monkeypatch.setenv("CRYSTALPREDICT_DEVICE", "cuda")
    outcome = program("doctor")
    assert outcome.code == 1
    assert "WRONG device: --device cuda: torch finds no CUDA device" in outcome.stdout
    outcome = program("doctor", "--device", "cpu", "--model", "nowhere")
    assert outcome.code == 1
    assert "WRONG prediction: no model 'nowhere'" in outcome.stdout


def test_a_library_that_cannot_be_imported_is_named(program, monkeypatch) -> None:
    monkeypatch.setattr("crystalpredict.cli.checks.LIBRARIES", ("torch", "nonexistent_library"))
    outcome = program("doctor")
    assert outcome.code == 1
    assert "WRONG libraries: ModuleNotFoundError: No module named 'nonexistent_library'; install" in outcome.stdout


@pytest.mark.parametrize(("variable", "value"), [("JOBS", "x"), ("BATCH_ATOMS", "foo"), ("FORMAT", "xls")])
def test_a_setting_that_ends_every_prediction_is_wrong(program, monkeypatch, variable: str, value: str) -> None:
    monkeypatch.setenv(f"CRYSTALPREDICT_{variable}", value)
    assert program("predict", "nowhere.cif").code == 2
    outcome = program("doctor")
    assert outcome.code == 1
    (wrong,) = [line for line in outcome.stdout.splitlines() if not line.startswith("ok    ")]
    assert wrong.startswith("WRONG settings: ")
    assert value in wrong or variable in wrong
