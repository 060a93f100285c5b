"""CUDA gives what the CPU gives; runs where there is a device."""

import pytest
import torch

from crystalpredict import load_model
from crystalpredict.checkpoints.checkpoint import load_checkpoint, verify_golden
from crystalpredict.checkpoints.registry import bundled_models
from crystalpredict.nn import Crystalformer, ModelConfig
from crystalpredict.nn.config import Attention
from tests.sample_crystals import batch_of, random_crystal

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.parametrize("name", bundled_models())
def test_bundled_outputs(name: str) -> None:
    folder = bundled_models()[name].folder
    assert verify_golden(load_checkpoint(folder), folder, "cuda") < 1e-4
    assert load_model(name).device.type == "cuda"


@pytest.mark.parametrize("attention", ["real", "dual", "alternating", "framed"])
@pytest.mark.parametrize(
    ("dtype", "of_outputs", "of_gradients"), [(torch.float64, 1e-10, 1e-9), (torch.float32, 1e-4, 1e-2)]
)
def test_outputs_and_gradients(
    attention: Attention, dtype: torch.dtype, of_outputs: float, of_gradients: float
) -> None:
    torch.manual_seed(0)
    model = Crystalformer(ModelConfig(attention=attention)).to(dtype)
    crystals = [random_crystal(seed, n_atoms=1 + seed) for seed in range(20)]
    batch = batch_of(*crystals, radius=6.0, vectors=model.config.vectors).to("cpu", dtype)
    model.fit_width_norm(batch)
    results = []
    for device in ("cpu", "cuda"):
        model.to(device).zero_grad()
        output = model(batch.to(device))
        output.sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        results.append((output.detach().cpu(), gradient.cpu()))
    assert torch.allclose(results[0][0], results[1][0], atol=of_outputs)
    assert torch.allclose(results[0][1], results[1][1], atol=of_gradients)
