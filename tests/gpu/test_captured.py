"""A training step as a CUDA graph is the step made the ordinary way; runs where there is a device."""

from pathlib import Path

import numpy as np
import pytest
import torch

from crystalpredict.dataset import CrystalTable, neighbor_table
from crystalpredict.nn import ModelConfig
from crystalpredict.training import Training
from crystalpredict.training_config import TrainingConfig
from tests.crystals import random_table

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture
def table() -> CrystalTable:
    return random_table(200)


def losses_and_weights(table: CrystalTable, folder: Path, captured: bool) -> tuple[list[float], torch.Tensor]:
    neighbors = neighbor_table(table, 6.0)
    config = TrainingConfig(device="cuda", muon_rate=2.0, learning_rate=1e-4, batch_atoms=40, epochs=1)
    training = Training(folder, table, neighbors, ModelConfig(), config)
    assert training.captured
    if not captured:
        training.captured = None
    losses = []
    for step, rows in enumerate(training._steps(training._order(0))):
        losses.append(training._update(rows, 1e-4 / (1 + step)))
        training.step += 1
    assert not captured or (training.captured and training.captured.graph)
    weights = torch.cat([parameter.detach().flatten() for parameter in training.average.parameters()])
    return [float(loss) for loss in losses], weights.cpu()


def test_it_trains_as_the_ordinary_step(table: CrystalTable, tmp_path: Path) -> None:
    torch.set_float32_matmul_precision("highest")
    losses, weights = losses_and_weights(table, tmp_path / "captured", captured=True)
    expected, expected_weights = losses_and_weights(table, tmp_path / "ordinary", captured=False)
    assert len(losses) > 8
    assert np.allclose(losses, expected, rtol=3e-3)
    assert torch.allclose(weights, expected_weights, atol=1e-3)
