"""Gaussians of cosines as sums of products of Chebyshev polynomials [M8]; without torch.

In single precision, a Gaussian of the width that frames use is a sum of about 40 polynomials, T_0 to T_(I J - 1). Only
T_0 to T_(J - 1) and T_0, T_J, ..., T_((I - 1) J) are computed, by recurrence. Their I J products span the same
functions, because T_a T_b = (T_(a + b) + T_|a - b|) / 2, and a weighted sum of products is one small matrix product.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

QUADRATURE_NODES = 1024


@cache
def product_coefficients(count: int, width: float, rounding: float) -> NDArray[np.float64]:
    """Return coefficients (I, J, count) of T_(i J) T_j in the Gaussians phi_k(c) = exp(-(c - nu_k)^2 / 2 w^2).

    Gauss-Chebyshev quadrature in double precision. Negligible terms are left out: the coefficient of T_l decreases as
    exp(-(l w)^2 / 2).

    Args:
        count: number of Gaussians, with centres nu_k evenly from -1 to 1.
        width: w over the spacing of the centres.
        rounding: of the numbers that sums are computed in, the difference between 1 and the next one.
    """
    spacing = 2 / (count - 1)
    odd = 2 * np.arange(QUADRATURE_NODES) + 1
    offsets = np.cos(odd * np.pi / (2 * QUADRATURE_NODES))[:, None] - (-1 + spacing * np.arange(count))
    values = np.exp(-0.5 * (offsets / (width * spacing)) ** 2)  # (nodes, count)
    # whole turns are removed in integer arithmetic: the cosine of a large angle is not exact
    turns = np.outer(np.arange(QUADRATURE_NODES), odd) % (4 * QUADRATURE_NODES)
    terms = 2 / QUADRATURE_NODES * np.cos(turns * np.pi / (2 * QUADRATURE_NODES)) @ values
    terms[0] /= 2
    needed = int(np.flatnonzero(np.abs(terms).max(axis=1) > 8 * rounding)[-1]) + 1
    fine = math.isqrt(needed - 1) + 1
    coarse = -(-needed // fine)
    found = np.linalg.solve(_products(coarse, fine).T, terms[: coarse * fine])
    found.flags.writeable = False  # it is kept
    return found.reshape(coarse, fine, count)


def _products(coarse: int, fine: int) -> NDArray[np.float64]:
    """Return the matrix (I J, I J) that writes each product T_(i J) T_j as a sum of T_l; I is coarse, J is fine."""
    matrix = np.zeros((coarse * fine, coarse * fine))
    for i in range(coarse):
        for j in range(fine):
            for degree in (i * fine + j, abs(i * fine - j)):
                matrix[i * fine + j, degree] += 0.5
    return matrix
