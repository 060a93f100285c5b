"""Frames and moments of directions in NumPy [M8], a reading of nn/frames.py and nn/chebyshev.py for a few crystals.

In nearly symmetric surroundings rounding decides which of several frames is used. Outputs of such crystals differ from
torch's by up to some 6e-5, as torch's own do when the crystal is rotated.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from crystalpredict.nn.terms import AXIS_WEIGHTS, COLLINEAR_COSINE, MIN_LENGTH, MIN_ONE_MINUS_COSINE, TIE_TOLERANCE

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]
COSINES_PER_CHUNK = 2**16


def directions_of(vectors: Floats) -> Floats:
    """Return the unit vectors of edges (..., 3), 0 for the self edge and a missing one."""
    lengths = np.sqrt(np.square(vectors).sum(axis=-1, keepdims=True))
    found: Floats = vectors / np.maximum(lengths, MIN_LENGTH)
    return found


def direction_moments(weights: Floats, directions: Floats, frames: Floats, coarse: int, fine: int) -> Floats:
    """Return sum_e p_e T_(i J)(c_e) T_j(c_e), (R, H, 3, I J), of the cosines c_e = r_e . e_a with each axis a.

    Args:
        weights: p, (R, H, M).
        directions: r_e, unit vectors, (R, M, 3).
        frames: rows e_1, e_2, e_3, (R, H, 3, 3).
        coarse: I.
        fine: J.
    """
    rows, heads, width = weights.shape
    weights = np.where((directions != 0).any(axis=2)[:, None], weights, 0)
    found = np.empty((rows, heads, 3, coarse * fine), dtype=weights.dtype)
    step = max(1, COSINES_PER_CHUNK // (3 * heads * width))
    for start in range(0, rows, step):
        own = slice(start, start + step)
        cosines = frames[own] @ directions[own, None].swapaxes(2, 3)  # (r, H, 3, M)
        low = _polynomials(np.ones_like(cosines), cosines, fine + 1)
        high = _polynomials(np.broadcast_to(weights[own, :, None], cosines.shape), low[fine], coarse)
        moments = np.moveaxis(high, 0, 3) @ np.moveaxis(low[:fine], 0, 4)  # (r, H, 3, I, J)
        found[own] = moments.reshape(*moments.shape[:3], -1)
    return found


def _polynomials(factor: Floats, cosines: Floats, count: int) -> Floats:
    """Return factor times T_0(c) to T_(count - 1)(c), (count, ...); factor and c are (...)."""
    found = np.empty((count, *cosines.shape), dtype=cosines.dtype)
    found[0] = factor
    if count > 1:
        np.multiply(factor, cosines, out=found[1])
    twice = 2 * cosines
    for degree in range(2, count):
        np.multiply(found[degree - 1], twice, out=found[degree])
        found[degree] -= found[degree - 2]
    return found


def frames_of(logits: Floats, weights: Floats, directions: Floats) -> Floats:
    """Return the frame (R, H, 3, 3) of each atom and head, rows e_1, e_2, e_3; axes that no edge defines are 0.

    Args:
        logits: e_1 is the direction of the largest, (R, H, M).
        weights: of the attention, (R, H, M).
        directions: unit vectors, 0 for the self edge and a missing one, (R, M, 3).
    """
    rows, heads, width = logits.shape
    first = np.where((directions != 0).any(axis=2)[:, None], logits, -np.inf).reshape(-1, width)  # (Q, M)
    weights = weights.reshape(-1, width)
    frames = np.zeros((rows * heads, 3, 3), dtype=logits.dtype)
    best = np.full(rows * heads, -np.inf, dtype=logits.dtype)
    axis_weights = np.array(AXIS_WEIGHTS, dtype=logits.dtype)[:, None]
    step = max(1, COSINES_PER_CHUNK // width)
    for queries, edges in _split(step, *_tied(first)):
        atoms = queries // heads
        axes = directions[atoms, edges]
        cosines = np.abs(_products(directions, atoms, axes))
        second = np.log(np.maximum(1 - cosines, MIN_ONE_MINUS_COSINE)) + first[queries]
        second[cosines >= COLLINEAR_COSINE] = -np.inf
        for tied, others in _split(step, *_tied(second)):
            chosen, homes = queries[tied], atoms[tied]
            frame = _frame(axes[tied], directions[homes, others])
            mixed = (frame * axis_weights).sum(axis=1)  # (t, 3)
            pull = (np.exp(_products(directions, homes, mixed)) * weights[chosen]).sum(axis=1)
            greatest = best.copy()
            np.maximum.at(greatest, chosen, pull)
            winners = np.flatnonzero((pull == greatest[chosen]) & (pull > best[chosen]))
            winners = winners[np.diff(chosen[winners], prepend=-1) != 0]  # the first for each query
            best = greatest
            frames[chosen[winners]] = frame[winners]
    return frames.reshape(rows, heads, 3, 3)


def _products(directions: Floats, atoms: Integers, vectors: Floats) -> Floats:
    """Return the products (t, M) of vectors (t, 3) with the directions (R, M, 3) of their atoms' edges."""
    found: Floats = (directions[atoms] @ vectors[..., None])[..., 0]
    return found


def _tied(scores: Floats) -> tuple[Integers, Integers]:
    """Return rows (t,) and columns (t,) of the edges that tie for the best score in each row; column 0 without edges.

    Args:
        scores: -inf for a missing edge, (Q, M).
    """
    least = scores.max(axis=1, keepdims=True) - np.float32(TIE_TOLERANCE)
    tied = scores >= np.maximum(least, np.finfo(scores.dtype).min)
    tied[:, 0] |= ~(least[:, 0] > -np.inf)  # true for nan, too
    rows, columns = np.nonzero(tied)
    return rows, columns


def _split(step: int, rows: Integers, columns: Integers) -> Iterator[tuple[Integers, Integers]]:
    """Yield chunks of `step` rows with their columns."""
    for start in range(0, len(rows), step):
        yield rows[start : start + step], columns[start : start + step]


def _frame(first: Floats, second: Floats) -> Floats:
    """Return right-handed frames (q, 3, 3) with e_1 = first (q, 3) and e_2 in the plane of first and second (q, 3)."""
    across = second - (second * first).sum(axis=1, keepdims=True) * first
    across /= np.maximum(np.sqrt(np.square(across).sum(axis=1, keepdims=True)), MIN_LENGTH)
    return np.stack([first, across, np.cross(first, across)], axis=1)
