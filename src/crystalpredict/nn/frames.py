"""Frames of each atom and head, and moments of directions in them (CrystalFramer; Ito et al., ICLR 2025) [M8].

The axes of a frame are the directions with the largest attention, so it rotates with the crystal. It has no gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor

from crystalpredict.nn.batch import CrystalBatch
from crystalpredict.nn.chebyshev import ProductMoments
from crystalpredict.nn.terms import AXIS_WEIGHTS, COLLINEAR_COSINE, MIN_LENGTH, MIN_ONE_MINUS_COSINE, TIE_TOLERANCE

COSINES_PER_CHUNK = 2**16  # on a CPU, whose caches hold a few such tables
GPU_CHUNK_FACTOR = 2**7  # larger chunks on a GPU, where launching a kernel is expensive


def kernels_for(tensor: Tensor) -> ModuleType | None:
    """Return the module of GPU kernels if they can compute tensors like this one, else None."""
    return kernels_on(tensor.device) if tensor.dtype == torch.float32 else None


@cache
def kernels_on(device: torch.device) -> ModuleType | None:
    """Return the module of GPU kernels; None on a CPU, without Triton, or without the C compiler that Triton needs."""
    if device.type != "cuda" or not find_spec("triton"):
        return None
    from crystalpredict.nn import kernels

    return kernels if kernels.can_run(device) else None


def _chunk_size(tensor: Tensor) -> int:
    """Return the number of cosines to compute at a time on the device of a tensor."""
    return COSINES_PER_CHUNK * (GPU_CHUNK_FACTOR if tensor.is_cuda else 1)


def directions_of(batch: CrystalBatch) -> list[Tensor]:
    """Return the unit vectors of the edges of each part (G, T, M, 3), 0 for the self edge and a missing one."""
    found = []
    for part in batch.parts:
        assert part.vectors is not None
        length = part.vectors.norm(dim=3, keepdim=True)
        found.append(torch.where(length > 0, part.vectors / length.clamp(min=MIN_LENGTH), 0.0))
    return found


def direction_moments(weights: Tensor, directions: Tensor, frames: Tensor, coarse: int, fine: int) -> Tensor:
    """Return sum_e p_e T_(i J)(c_e) T_j(c_e), (R, H, 3 I J), of the cosines c_e = r_e . e_a with each axis a.

    T are Chebyshev polynomials, i < I, j < J. The self edge does not contribute.

    Args:
        weights: p, (R, H, M).
        directions: r_e, unit vectors, (R, M, 3).
        frames: rows e_1, e_2, e_3, (R, H, 3, 3).
        coarse: I.
        fine: J.
    """
    if kernels := kernels_for(weights):
        found: Tensor = kernels.direction_moments(weights, directions, frames, coarse, fine)
        return found
    step = max(1, _chunk_size(weights) // (3 * weights.shape[1] * weights.shape[2]))
    pieces = zip(torch.split(weights, step), torch.split(directions, step), torch.split(frames, step), strict=True)
    return torch.cat([_moments_of(*piece, coarse, fine) for piece in pieces])


def _moments_of(weights: Tensor, directions: Tensor, frames: Tensor, coarse: int, fine: int) -> Tensor:
    """Return the moments of one chunk of atoms."""
    cosines = torch.einsum("rhax,rmx->rham", frames, directions)
    weights = torch.where((directions != 0).any(dim=2)[:, None], weights, 0.0)
    weights = weights[:, :, None].expand_as(cosines)
    moments: Tensor = ProductMoments.apply(weights.flatten(0, 2), cosines.flatten(0, 2), coarse, fine)  # type: ignore[no-untyped-call]
    return moments.view(*frames.shape[:2], -1)


@torch.no_grad()
def frames_of(logits: Tensor, weights: Tensor, directions: Tensor) -> Tensor:
    """Return the frame (R, H, 3, 3) of each atom and head, rows e_1, e_2, e_3; axes that no edge defines are 0 [M8].

    In symmetric surroundings several frames tie. The one whose axes point to most of the attention is used, which does
    not depend on rotation, reflection or order of the atoms. Frames that still tie give the same values.

    Args:
        logits: e_1 is the direction of the largest, (R, H, M).
        weights: of the attention, (R, H, M).
        directions: unit vectors, 0 for the self edge and a missing one, (R, M, 3).
    """
    if kernels := kernels_for(logits):
        found: Tensor = kernels.frames_of(logits, weights, directions)
        return found
    atoms, heads, width = logits.shape
    there = (directions != 0).any(dim=2)
    first = logits.masked_fill(~there[:, None], -torch.inf).flatten(0, 1)  # (Q, M)
    weights = weights.flatten(0, 1)
    columns = directions.permute(2, 0, 1).contiguous()  # (3, R, M)
    frames = logits.new_zeros(atoms * heads, 3, 3)
    best = logits.new_full((atoms * heads,), -torch.inf)
    step = max(1, _chunk_size(logits) // width)
    for queries, edge in _split(step, *_tied(first)):
        atom = queries // heads
        axis = directions[atom, edge]
        cosine = _products(columns, atom, axis).abs_()
        second = (1 - cosine).clamp_(min=MIN_ONE_MINUS_COSINE).log_().add_(first.index_select(0, queries))
        rows, others = _tied(second.masked_fill_(cosine >= COLLINEAR_COSINE, -torch.inf))
        for row, other in _split(step, rows, others):
            chosen, home = queries[row], atom[row]
            frame = _frame(axis[row], directions[home, other])
            mixed = (frame * frame.new_tensor(AXIS_WEIGHTS)[:, None]).sum(dim=1)  # (t, 3)
            pull = (_products(columns, home, mixed).exp_() * weights.index_select(0, chosen)).sum(dim=1)
            greatest = best.scatter_reduce(0, chosen, pull, "amax")
            winners = ((pull == greatest[chosen]) & (pull > best[chosen])).nonzero()[:, 0]
            # only the first for each query: several writes to one place would mix on a GPU
            own = chosen[winners]
            winners = winners[own.diff(prepend=own.new_full((1,), -1)) != 0]
            best = greatest
            frames[chosen[winners]] = frame[winners]
    return frames.view(atoms, heads, 3, 3)


def _products(columns: Tensor, atoms: Tensor, vectors: Tensor) -> Tensor:
    """Return the products (t, M) of vectors (t, 3) with the directions of their atoms' edges.

    Args:
        columns: x, y and z of the directions, (3, R, M).
        atoms: of each vector, (t,).
        vectors: (t, 3).
    """
    found = columns[0].index_select(0, atoms).mul_(vectors[:, :1])
    for axis in (1, 2):
        found.addcmul_(columns[axis].index_select(0, atoms), vectors[:, axis, None])
    return found


def _tied(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows (t,) and columns (t,) of the edges that tie for the best score in each row.

    A row without edges gives column 0, the self edge, whose direction is 0.

    Args:
        scores: -inf for a missing edge, (Q, M).
    """
    least = scores.max(dim=1, keepdim=True).values - TIE_TOLERANCE
    tied = scores >= least.clamp(min=torch.finfo(scores.dtype).min)
    tied[:, 0] |= ~(least[:, 0] > -torch.inf)  # true for nan, too
    rows, columns = tied.nonzero(as_tuple=True)
    return rows, columns


def _split(step: int, rows: Tensor, columns: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield chunks of `step` rows with their columns."""
    return zip(torch.split(rows, step), torch.split(columns, step), strict=True)


def _frame(first: Tensor, second: Tensor) -> Tensor:
    """Return right-handed frames (q, 3, 3) with e_1 = first (q, 3) and e_2 in the plane of first and second (q, 3)."""
    across = second - (second * first).sum(dim=1, keepdim=True) * first
    across = across / across.norm(dim=1, keepdim=True).clamp(min=MIN_LENGTH)
    return torch.stack([first, across, torch.linalg.cross(first, across)], dim=1)
