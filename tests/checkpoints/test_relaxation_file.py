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
from safetensors.numpy import save

from crystalpredict.checkpoints.checkpoint import (
    RELAXATION_FILE,
    load_checkpoint,
    save_checkpoint,
    save_relaxation,
)
from crystalpredict.checkpoints.registry import find_model
from crystalpredict.errors import CheckpointError
from crystalpredict.nn.config import ModelConfig
from crystalpredict.nn.relaxation_head import RelaxationHead, head_shapes
from tests.sample_crystals import rock_salt

Arrays = dict[str, np.ndarray]


def random_head(seed: int = 0) -> Arrays:
    random = np.random.default_rng(seed)
    return {
        name: random.normal(size=shape, scale=0.05).astype(np.float32)
        for name, shape in head_shapes(ModelConfig()).items()
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    copy = tmp_path / "model"
    shutil.copytree(find_model(unrelaxed=True), copy)
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


def test_older_formats_and_other_models_have_no_head(folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"format_version": 4}))
    refused(folder, "format 4 has no heads of relaxation")
    other = tmp_path / "default"
    shutil.copytree(find_model(), other)
    write(other, save(random_head()))
    refused(other, "config.json", "unrelaxed structures")
