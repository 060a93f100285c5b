import pytest
import torch
from torch import Tensor

from crystalpredict.nn.chebyshev import ProductMoments, gaussians

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
    moments = ProductMoments.apply(weights.to(dtype), cosines.to(dtype), *table.shape[:2])
    moments = moments.flatten(1) @ table.flatten(0, 1)
    expected = moments_of_gaussians(weights, cosines, count, width)
    assert (moments - expected).abs().max() < tolerance * expected.abs().max()


@pytest.mark.parametrize(("coarse", "fine"), [(1, 1), (1, 2), (2, 1), (2, 2), (4, 5)])
def test_gradient(coarse: int, fine: int) -> None:
    generator = torch.Generator().manual_seed(1)
    cosines = torch.rand(3, 7, generator=generator, dtype=torch.float64) * 2 - 1
    weights = torch.rand(3, 7, generator=generator, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: ProductMoments.apply(p, cosines, coarse, fine), (weights,))


def test_coefficients_cached_by_a_prediction_work_in_training() -> None:
    with torch.inference_mode():
        table = gaussians(17, 3.0, torch.float32, CPU)
    weights = torch.ones(3, 17, requires_grad=True)
    (weights @ table.flatten(0, 1).T).square().sum().backward()
    assert weights.grad is not None
