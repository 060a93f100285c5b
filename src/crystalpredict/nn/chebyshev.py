"""Fast weighted sums of smooth functions of cosines, by Chebyshev polynomials (nn/gaussians.py) [M8]."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from crystalpredict.nn.gaussians import product_coefficients


@cache
def gaussians(count: int, width: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return coefficients (I, J, count) of T_(i J) T_j in the Gaussians phi_k(c) = exp(-(c - nu_k)^2 / 2 w^2).

    Args:
        count: number of Gaussians, with centres nu_k evenly from -1 to 1.
        width: w over the spacing of the centres.
        dtype: of the result.
        device: of the result.
    """
    found = product_coefficients(count, width, torch.finfo(dtype).eps)
    with torch.inference_mode(False):  # the cached tensor must also be usable in training
        return torch.from_numpy(found.copy()).to(device, dtype)


class ProductMoments(torch.autograd.Function):
    """Moments sum_e p_e T_(i J)(c_e) T_j(c_e), (Q, I, J), with the gradient for p; p and c are (Q, M), c in [-1, 1]."""

    @staticmethod
    def forward(ctx: FunctionCtx, weights: Tensor, cosines: Tensor, coarse: int, fine: int) -> Tensor:
        """Return the moments, by T_l+1 = 2 c T_l - T_l-1 and T_(i J)(c) = T_i(T_J(c))."""
        assert not ctx.needs_input_grad[1], "cosines have no gradient"  # type: ignore[attr-defined]
        ctx.save_for_backward(cosines)
        ctx.coarse, ctx.fine = coarse, fine  # type: ignore[attr-defined]
        low = _polynomials(torch.ones_like(cosines), cosines, fine + 1)
        high = _polynomials(weights, low[fine], coarse)
        return high.transpose(0, 1) @ low[:fine].permute(1, 2, 0)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        """Return the gradient of p. The polynomials are computed again: storing them would need too much memory."""
        (cosines,) = ctx.saved_tensors  # type: ignore[attr-defined]
        low = _polynomials(torch.ones_like(cosines), cosines, ctx.fine + 1)  # type: ignore[attr-defined]
        high = _polynomials(torch.ones_like(cosines), low[-1], ctx.coarse)  # type: ignore[attr-defined]
        slopes = gradient @ low[:-1].transpose(0, 1)  # (Q, I, M)
        of_weights = torch.zeros_like(cosines)
        for factor, slope in zip(high, slopes.unbind(dim=1), strict=True):
            of_weights.addcmul_(factor, slope)
        return of_weights, None, None, None


def _polynomials(factor: Tensor, cosines: Tensor, count: int) -> Tensor:
    """Return factor times T_0(c) to T_(count - 1)(c), (count, Q, M); factor and c are (Q, M)."""
    found = cosines.new_empty(count, *cosines.shape)
    rows = found.unbind()
    rows[0].copy_(factor)
    if count > 1:
        torch.mul(factor, cosines, out=rows[1])
    twice = 2 * cosines
    for before, now, after in zip(rows, rows[1:], rows[2:], strict=False):
        torch.mul(now, twice, out=after).sub_(before)
    return found
