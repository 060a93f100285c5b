"""NumPy computes as long as there is little to do on a CPU; then torch does."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from crystalpredict.checkpoints.checkpoint import Checkpoint, load_checkpoint
from crystalpredict.checkpoints.registry import find_model
from crystalpredict.crystals.neighbors import find_neighbors
from crystalpredict.nn import devices, first_answers
from crystalpredict.nn.devices import choose_device, runs_on_cpu
from crystalpredict.nn.first_answers import EDGES_OF_A_CRYSTAL, MOST_EDGES, FirstAnswers
from crystalpredict.nn.weights import Weights
from tests.sample_crystals import random_crystal

CRYSTAL = random_crystal(0, n_atoms=12)
EDGES = find_neighbors(CRYSTAL.lattice, CRYSTAL.positions, 6.0)


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load_checkpoint(find_model())


@pytest.fixture
def without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch")


@pytest.mark.usefixtures("without_torch")
def test_numpy_computes_until_it_has_done_enough(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_answers, "MOST_EDGES", 3 * len(EDGES.indices))
    answers = FirstAnswers(checkpoint.source, "cpu")
    assert answers.network_for([EDGES]) is answers.network_for([EDGES]) is not None
    assert answers.network_for([EDGES, EDGES]) is None
    assert answers.network_for([EDGES]) is None  # torch's network is there by then
    assert answers.network is None


@pytest.mark.usefixtures("without_torch")
def test_many_sources_need_torch_at_once(checkpoint: Checkpoint) -> None:
    answers = FirstAnswers(checkpoint.source, "cpu")
    assert answers.expect(MOST_EDGES // EDGES_OF_A_CRYSTAL)
    assert not answers.expect(MOST_EDGES // EDGES_OF_A_CRYSTAL + 1)
    assert answers.network_for([EDGES]) is None


@pytest.mark.usefixtures("without_torch")
@pytest.mark.parametrize(("name", "times"), [("crystalformer-mp-ensemble", 3), ("crystalframer-elastic", 16)])
def test_larger_networks_need_torch_sooner(name: str, times: int) -> None:
    assert FirstAnswers(load_checkpoint(find_model(name)).source, "cpu").left == MOST_EDGES // times


@pytest.mark.usefixtures("without_torch")
def test_a_gpu_or_another_kind_of_network_needs_torch(checkpoint: Checkpoint) -> None:
    assert FirstAnswers(checkpoint.source, "cuda:0").network_for([EDGES]) is None
    dual = Weights(replace(checkpoint.config, attention="dual"), {})
    assert FirstAnswers(dual, "cpu").network_for([EDGES]) is None


def test_torch_computes_if_it_is_imported_already(checkpoint: Checkpoint) -> None:
    assert FirstAnswers(checkpoint.source, "cpu").network_for([EDGES]) is None
    assert FirstAnswers(checkpoint.model, "cpu").network_for([EDGES]) is None


def test_without_a_driver_of_a_gpu_auto_is_the_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert runs_on_cpu("cpu")
    assert not any(map(runs_on_cpu, ("cuda", "cuda:0", "cpu:0", "")))
    if runs_on_cpu("auto"):
        assert choose_device("auto").type == "cpu"  # torch agrees
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(devices, "DEVICE_FILES", tmp_path)
    (tmp_path / "null").touch()
    assert runs_on_cpu("auto")
    for name in ("nvidia0", "nvidiactl", "nvhost-gpu", "dxg", "kfd"):
        (tmp_path / name).touch()
        assert not runs_on_cpu("auto")
        (tmp_path / name).unlink()
    monkeypatch.setattr(sys, "platform", "win32")
    assert not runs_on_cpu("auto")  # torch knows
    monkeypatch.setattr(sys, "platform", "darwin")
    assert runs_on_cpu("auto")
