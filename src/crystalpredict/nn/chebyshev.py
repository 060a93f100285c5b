"""Weighted sums of smooth functions of cosines, by Chebyshev polynomials: what makes directions affordable [M8].

A Gaussian of the width that frames use is a sum of some 40 polynomials to single precision, which a recurrence gives
with two operations each and no exponential; all Gaussians share them.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

NODES = 1024  # of the quadrature


@cache
def gaussians(count: int, width: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Coefficients (L, count) of phi_k(c) = exp(-(c - nu_k)^2 / 2 w^2), nu_k evenly from -1 to 1, to its rounding.

    `width` is w over the spacing of the centres. By Gauss-Chebyshev quadrature, in double precision; L is as many as
    are not negligible: they fall as exp(-(l w)^2 / 2).
    """
    spacing = 2 / (count - 1)
    odd = 2 * np.arange(NODES) + 1
    offsets = np.cos(odd * np.pi / (2 * NODES))[:, None] - (-1 + spacing * np.arange(count))
    values = np.exp(-0.5 * (offsets / (width * spacing)) ** 2)  # (NODES, count)
    # whole turns are taken off in whole numbers: the cosine of a large angle is not exact
    turns = np.outer(np.arange(NODES), odd) % (4 * NODES)
    terms = 2 / NODES * np.cos(turns * np.pi / (2 * NODES)) @ values
    terms[0] /= 2
    needed = np.flatnonzero(np.abs(terms).max(axis=1) > 8 * torch.finfo(dtype).eps)
    with torch.inference_mode(False):  # what is kept may be asked for in training next
        return torch.from_numpy(terms[: needed[-1] + 1]).to(device, dtype)


class ChebyshevMoments(torch.autograd.Function):
    """sum_e p_e T_l(c_e) (..., L) for l = 0..L-1, with gradients for both; p and c (..., M), c in [-1, 1]."""

    @staticmethod
    def forward(ctx: FunctionCtx, weights: Tensor, cosines: Tensor, terms: int) -> Tensor:
        """By T_l+1 = 2 c T_l - T_l-1, begun with p and p c."""
        ctx.save_for_backward(weights, cosines)
        twice = 2 * cosines
        before, now = weights.clone(), weights * cosines
        moments = [before.sum(dim=-1), now.sum(dim=-1)]
        for _ in range(2, terms):
            before, now = now, before.neg_().addcmul_(twice, now)
            moments.append(now.sum(dim=-1))
        return torch.stack(moments[:terms], dim=-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """By Clenshaw's recurrence; the derivative of T_l is l U_l-1."""
        weights, cosines = ctx.saved_tensors  # type: ignore[attr-defined]
        twice = 2 * cosines
        of_weights = of_cosines = None
        if ctx.needs_input_grad[0]:  # type: ignore[attr-defined]
            first, second = _clenshaw(gradient, twice)
            of_weights = first - cosines * second
        if ctx.needs_input_grad[1]:  # type: ignore[attr-defined]
            order = torch.arange(1, gradient.shape[-1], device=gradient.device, dtype=gradient.dtype)
            of_cosines = weights * _clenshaw(gradient[..., 1:] * order, twice)[0]
        return of_weights, of_cosines, None


def _clenshaw(coefficients: Tensor, twice: Tensor) -> tuple[Tensor, Tensor]:
    """b_0 and b_1 (..., M) of b_l = a_l + 2 c b_l+1 - b_l+2, with a (..., L) and 2 c (..., M)."""
    now, before = torch.zeros_like(twice), torch.zeros_like(twice)
    for column in coefficients.unbind(dim=-1)[::-1]:
        now, before = before.neg_().addcmul_(twice, now).add_(column[..., None]), now
    return now, before
