import pytest
import torch
from torch import Tensor

from crystalpredict.nn.chebyshev import ChebyshevMoments, gaussians

CPU = torch.device("cpu")


def moments_of_gaussians(weights: Tensor, cosines: Tensor, count: int, width: float) -> Tensor:
    centres = torch.linspace(-1, 1, count, dtype=cosines.dtype)
    spacing = 2 / (count - 1)
    values = torch.exp(-0.5 * ((cosines[..., None] - centres) / (width * spacing)) ** 2)
    return (weights[..., None] * values).sum(dim=-2)


@pytest.mark.parametrize(("count", "width"), [(64, 4.0), (16, 1.0), (2, 4.0)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_sums_of_gaussians(count: int, width: float, dtype: torch.dtype, tolerance: float) -> None:
    generator = torch.Generator().manual_seed(0)
    cosines = torch.rand(5, 40, generator=generator, dtype=torch.float64) * 2 - 1
    cosines[0, :3] = torch.tensor([-1.0, 0.0, 1.0])
    weights = torch.rand(5, 40, generator=generator, dtype=torch.float64)
    table = gaussians(count, width, dtype, CPU)
    moments = ChebyshevMoments.apply(weights.to(dtype), cosines.to(dtype), len(table)) @ table
    expected = moments_of_gaussians(weights, cosines, count, width)
    assert (moments - expected).abs().max() < tolerance * expected.abs().max()


def test_gradients() -> None:
    generator = torch.Generator().manual_seed(1)
    cosines = (torch.rand(3, 7, generator=generator, dtype=torch.float64) * 1.9 - 0.95).requires_grad_()
    weights = torch.rand(3, 7, generator=generator, dtype=torch.float64).requires_grad_()
    for terms in (1, 2, 3, 12):
        assert torch.autograd.gradcheck(lambda p, c, n=terms: ChebyshevMoments.apply(p, c, n), (weights, cosines))


def test_what_a_prediction_asked_for_serves_training() -> None:
    with torch.inference_mode():
        table = gaussians(17, 3.0, torch.float32, CPU)
    weights = torch.ones(3, 17, requires_grad=True)
    (weights @ table.T).square().sum().backward()
    assert weights.grad is not None
