"""The kernels of frames and moments give what torch alone gives; runs where there is a device that Triton knows."""

import pytest
import torch

from crystalpredict.checkpoints.checkpoint import load_checkpoint, verify_golden
from crystalpredict.checkpoints.registry import find_model
from crystalpredict.nn.frames import direction_moments, frames_of, kernels_on

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() or kernels_on(torch.device("cuda")) is None, reason="no CUDA device, or no Triton"
)


def edges(atoms: int, heads: int, width: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits, weights and directions: a self edge, as many others as there is room for or fewer, missing ones last."""
    torch.manual_seed(width)
    directions = torch.randn(atoms, width, 3)
    directions /= directions.norm(dim=2, keepdim=True)
    present = torch.randint(1, width + 1, (atoms, 1))
    present[:3, 0] = torch.tensor([1, min(2, width), width])
    missing = torch.arange(width) >= present
    directions[missing], directions[:, 0] = 0, 0
    logits = 3 * torch.randn(atoms, heads, width)
    weights = logits.masked_fill(missing[:, None], -torch.inf).softmax(dim=2)
    return logits, weights, directions


@pytest.mark.parametrize("width", [1, 2, 40, 64, 65, 300])
def test_frames(width: int) -> None:
    logits, weights, directions = edges(50, 8, width)
    expected = frames_of(logits, weights, directions)
    found = frames_of(logits.cuda(), weights.cuda(), directions.cuda())
    assert torch.allclose(found.cpu(), expected, atol=1e-4)


@pytest.mark.parametrize("width", [1, 40, 64, 65, 300])
@pytest.mark.parametrize(("coarse", "fine"), [(6, 7), (1, 1), (3, 10)])
def test_moments_and_their_gradients(width: int, coarse: int, fine: int) -> None:
    logits, weights, directions = edges(50, 8, width)
    frames = frames_of(logits, weights, directions)
    results = []
    for device, dtype in (("cpu", torch.float64), ("cuda", torch.float32)):
        own = weights.to(device, dtype).requires_grad_()
        moments = direction_moments(own, directions.to(device, dtype), frames.to(device, dtype), coarse, fine)
        slopes = torch.linspace(-1, 1, moments[0].numel(), device=device, dtype=dtype).view(moments.shape[1:])
        (gradient,) = torch.autograd.grad((moments * slopes).sum(), own)
        results.append((moments.detach().double().cpu(), gradient.double().cpu()))
    for expected, found in zip(*results, strict=True):
        assert torch.allclose(found, expected, atol=5e-3)


def test_crystals_with_symmetry() -> None:
    folder = find_model("crystalframer-elastic")
    assert verify_golden(load_checkpoint(folder), folder, "cuda") < 1e-3
