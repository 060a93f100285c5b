"""The head of relaxation as a file of a checkpoint."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save

from crystalpredict.checkpoints.checkpoint import (
    RELAXATION_FILE,
    load_checkpoint,
    save_checkpoint,
    save_relaxation,
    verify_golden,
)
from crystalpredict.checkpoints.registry import find_model
from crystalpredict.errors import CheckpointError
from crystalpredict.nn.config import ModelConfig
from crystalpredict.nn.crystalformer import Crystalformer
from crystalpredict.nn.ensemble import Stages
from crystalpredict.nn.relaxation_head import RelaxationHead, head_shapes
from crystalpredict.prediction.predictor import Predictor
from crystalpredict.prediction.relaxation import GIVEN_SHARE
from tests.sample_crystals import rock_salt

NACL = str(Path(__file__).resolve().parents[2] / "examples" / "NaCl.cif")
Arrays = dict[str, np.ndarray]


def random_head(seed: int = 0) -> Arrays:
    random = np.random.default_rng(seed)
    return {
        name: random.normal(size=shape, scale=0.05).astype(np.float32)
        for name, shape in head_shapes(ModelConfig()).items()
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of a model with one network."""
    copy, checkpoint = tmp_path / "model", load_checkpoint(find_model(unrelaxed=True))
    save_checkpoint(replace(checkpoint, source=checkpoint.model.first, relaxation=None), copy, [rock_salt()], "card")
    save_relaxation(RelaxationHead(random_head()), copy)
    return copy


def write(folder: Path, content: bytes) -> None:
    """Write a file, and its checksum into config.json."""
    (folder / RELAXATION_FILE).write_bytes(content)
    config = json.loads((folder / "config.json").read_text())
    config["training"]["relaxation_sha256"] = hashlib.sha256(content).hexdigest()
    (folder / "config.json").write_text(json.dumps(config))


def refused(folder: Path, *parts: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder)
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


def test_a_head_is_loaded_as_saved(folder: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(folder)
    assert checkpoint.relaxation
    assert json.loads((folder / "config.json").read_text())["format_version"] == 5
    assert all(np.array_equal(checkpoint.relaxation.arrays[name], array) for name, array in random_head().items())
    save_checkpoint(checkpoint, tmp_path / "again", [rock_salt()], "card")
    again = load_checkpoint(tmp_path / "again")
    assert again.relaxation
    assert all(np.array_equal(again.relaxation.arrays[name], array) for name, array in random_head().items())
    save_checkpoint(replace(checkpoint, relaxation=None), tmp_path / "again", [rock_salt()], "card")
    assert load_checkpoint(tmp_path / "again").relaxation is None


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda arrays: arrays.pop("own.bias"), "'own.bias'"),
        (lambda arrays: arrays.update({"own.bias": np.zeros(3, np.float32)}), "'own.bias'"),
        (lambda arrays: arrays.update({"own.bias": np.full(16, np.nan, np.float32)}), "not finite"),
        (lambda arrays: arrays.update({"own.bias": np.zeros(16, np.int64)}), "has the type"),
    ],
)
def test_tensors_that_do_not_fit_are_named(folder: Path, change: Callable[[Arrays], object], part: str) -> None:
    arrays = random_head()
    change(arrays)
    write(folder, save(arrays))
    refused(folder, RELAXATION_FILE, part)


def test_a_file_that_is_altered_missing_or_not_named_is_refused(folder: Path) -> None:
    file = folder / RELAXATION_FILE
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    refused(folder, RELAXATION_FILE, "altered")
    file.unlink()
    refused(folder, RELAXATION_FILE)
    write(folder, b"no tensors")
    refused(folder, RELAXATION_FILE, "safetensors")
    config = json.loads((folder / "config.json").read_text())
    del config["training"]["relaxation_sha256"]
    (folder / "config.json").write_text(json.dumps(config))
    refused(folder, RELAXATION_FILE, "does not name it")


def test_two_stages_are_loaded_as_saved_and_the_second_sees_corrected_crystals(folder: Path, tmp_path: Path) -> None:
    """One network relaxes, the other predicts, and what both predict is averaged."""
    checkpoint = load_checkpoint(folder)
    first = checkpoint.model.first
    second = Crystalformer(first.config)
    second.load_state_dict(first.state_dict())
    row = [prop.name for prop in checkpoint.properties].index("formation_energy")
    with torch.no_grad():
        second.readout[2].bias[row] += 1.0
    save_checkpoint(replace(checkpoint, source=Stages([first, second])), tmp_path / "both", [rock_salt()], "card")
    both = load_checkpoint(tmp_path / "both")
    assert json.loads((tmp_path / "both" / "config.json").read_text())["format_version"] == 6
    assert verify_golden(both, tmp_path / "both") < 1e-6
    (before,), (after,) = (Predictor(each, "cpu", ["formation_energy"]).predict(NACL) for each in (checkpoint, both))
    column, scale = "formation_energy_eV_per_atom", checkpoint.deviation
    assert after[column] - before[column] == pytest.approx((1 - GIVEN_SHARE) * scale[row], abs=1e-4)
    assert after.relaxed is not None
    assert np.array_equal(after.relaxed.lattice, before.relaxed.lattice)
    config = json.loads((tmp_path / "both" / "config.json").read_text())
    (tmp_path / "both" / "config.json").write_text(json.dumps(config | {"format_version": 5}))
    refused(tmp_path / "both", "format 5 has no stages, readout_of_states or kernel_points")
    del config["training"]["relaxation_sha256"]
    (tmp_path / "both" / "config.json").write_text(json.dumps(config))
    refused(tmp_path / "both", "two stages need a head of relaxation")


def test_older_formats_and_other_models_have_no_head(folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"format_version": 4}))
    refused(folder, "format 4 has no heads of relaxation")
    other = tmp_path / "default"
    shutil.copytree(find_model(), other)
    write(other, save(random_head()))
    refused(other, "config.json", "unrelaxed structures")
