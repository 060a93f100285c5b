"""A training step as a CUDA graph is the step made the ordinary way; runs where there is a device."""

from pathlib import Path

import numpy as np
import pytest
import torch

from crystalpredict.data.dataset import CrystalTable, neighbor_table
from crystalpredict.nn import ModelConfig
from crystalpredict.nn.config import Attention
from crystalpredict.nn.factory import needs_host
from crystalpredict.training.config import TrainingConfig
from crystalpredict.training.trainer import Trainer
from tests.sample_crystals import random_table

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture
def table() -> CrystalTable:
    return random_table(200)


def losses_and_weights(
    table: CrystalTable, folder: Path, model: ModelConfig, captured: bool
) -> tuple[list[float], torch.Tensor]:
    neighbors = neighbor_table(table, 6.0, merging=model.merging)
    config = TrainingConfig(device="cuda", muon_rate=2.0, learning_rate=1e-4, batch_atoms=40, epochs=1)
    training = Trainer(folder, table, neighbors, model, config)
    assert training.captured
    if not captured:
        training.captured = None
    losses = []
    for step, rows in enumerate(training.data.steps(training.data.order(0))):
        losses.append(training._update(rows, 1e-4 / (1 + step)))
        training.step += 1
    assert not captured or (training.captured and training.captured.graph)
    weights = torch.cat([parameter.detach().flatten() for parameter in training.average.parameters()])
    return [float(loss) for loss in losses], weights.cpu()


@pytest.mark.parametrize("attention", ["real", "framed"])
def test_it_trains_as_the_ordinary_step(table: CrystalTable, tmp_path: Path, attention: Attention) -> None:
    torch.set_float32_matmul_precision("highest")
    model = ModelConfig(attention=attention)
    if needs_host(model, torch.device("cuda")):
        pytest.skip("no Triton")
    losses, weights = losses_and_weights(table, tmp_path / "captured", model, captured=True)
    expected, expected_weights = losses_and_weights(table, tmp_path / "ordinary", model, captured=False)
    assert len(losses) > 8
    assert np.allclose(losses, expected, rtol=3e-3)
    assert torch.allclose(weights, expected_weights, atol=1e-3)
