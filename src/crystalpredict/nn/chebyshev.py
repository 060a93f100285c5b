"""Weighted sums of smooth functions of cosines, by Chebyshev polynomials: what makes directions affordable [M8].

A Gaussian of the width that frames use is a sum of some 40 polynomials to single precision, T_0 to T_(I J - 1). Of
these only J and I are made, by recurrence: T_0 to T_(J - 1) and T_0, T_J, ..., T_((I - 1) J). Their I J products span
the same functions, for T_a T_b = (T_(a + b) + T_|a - b|) / 2, and sums of products are one small matrix product.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

NODES = 1024  # of the quadrature


@cache
def gaussians(count: int, width: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Coefficients (I, J, count), of T_(i J) T_j, of phi_k(c) = exp(-(c - nu_k)^2 / 2 w^2), nu_k evenly from -1 to 1.

    `width` is w over the spacing of the centres. By Gauss-Chebyshev quadrature, in double precision; there are as many
    as are not negligible: those of T_l fall as exp(-(l w)^2 / 2).
    """
    spacing = 2 / (count - 1)
    odd = 2 * np.arange(NODES) + 1
    offsets = np.cos(odd * np.pi / (2 * NODES))[:, None] - (-1 + spacing * np.arange(count))
    values = np.exp(-0.5 * (offsets / (width * spacing)) ** 2)  # (NODES, count)
    # whole turns are taken off in whole numbers: the cosine of a large angle is not exact
    turns = np.outer(np.arange(NODES), odd) % (4 * NODES)
    terms = 2 / NODES * np.cos(turns * np.pi / (2 * NODES)) @ values
    terms[0] /= 2
    needed = int(np.flatnonzero(np.abs(terms).max(axis=1) > 8 * torch.finfo(dtype).eps)[-1]) + 1
    fine = math.isqrt(needed - 1) + 1
    coarse = -(-needed // fine)
    found = np.linalg.solve(_products(coarse, fine).T, terms[: coarse * fine])
    with torch.inference_mode(False):  # what is kept may be asked for in training next
        return torch.from_numpy(found.reshape(coarse, fine, count)).to(device, dtype)


def _products(coarse: int, fine: int) -> NDArray[np.float64]:
    """Each product T_(i J) T_j as a sum of T_l (I J, I J); I coarse, J fine."""
    matrix = np.zeros((coarse * fine, coarse * fine))
    for i in range(coarse):
        for j in range(fine):
            for degree in (i * fine + j, abs(i * fine - j)):
                matrix[i * fine + j, degree] += 0.5
    return matrix


class ProductMoments(torch.autograd.Function):
    """sum_e p_e T_(i J)(c_e) T_j(c_e) (Q, I, J), with the gradient for p; p and c (Q, M), c in [-1, 1]."""

    @staticmethod
    def forward(ctx: FunctionCtx, weights: Tensor, cosines: Tensor, coarse: int, fine: int) -> Tensor:
        """By T_l+1 = 2 c T_l - T_l-1, and T_(i J)(c) = T_i(T_J(c))."""
        assert not ctx.needs_input_grad[1], "directions are given, not learnt"  # type: ignore[attr-defined]
        ctx.save_for_backward(cosines)
        ctx.coarse, ctx.fine = coarse, fine  # type: ignore[attr-defined]
        low = _polynomials(torch.ones_like(cosines), cosines, fine + 1)
        high = _polynomials(weights, low[fine], coarse)
        return high.transpose(0, 1) @ low[:fine].permute(1, 2, 0)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        """The polynomials are made again: they would fill the memory."""
        (cosines,) = ctx.saved_tensors  # type: ignore[attr-defined]
        low = _polynomials(torch.ones_like(cosines), cosines, ctx.fine + 1)  # type: ignore[attr-defined]
        high = _polynomials(torch.ones_like(cosines), low[-1], ctx.coarse)  # type: ignore[attr-defined]
        slopes = gradient @ low[:-1].transpose(0, 1)  # (Q, I, M)
        of_weights = torch.zeros_like(cosines)
        for factor, slope in zip(high, slopes.unbind(dim=1), strict=True):
            of_weights.addcmul_(factor, slope)
        return of_weights, None, None, None


def _polynomials(factor: Tensor, cosines: Tensor, count: int) -> Tensor:
    """Factor times T_0(c) to T_(count - 1)(c) (count, Q, M); factor and c (Q, M)."""
    found = cosines.new_empty(count, *cosines.shape)
    rows = found.unbind()
    rows[0].copy_(factor)
    if count > 1:
        torch.mul(factor, cosines, out=rows[1])
    twice = 2 * cosines
    for before, now, after in zip(rows, rows[1:], rows[2:], strict=False):
        torch.mul(now, twice, out=after).sub_(before)
    return found
