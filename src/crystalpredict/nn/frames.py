"""Attention that sees directions, in a frame of each atom and head (CrystalFramer; Ito et al., ICLR 2025) [M8].

The frame's axes are those in which the head attends most, so it turns with the crystal. It carries no gradient.
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

TIE = 1e-4  # of logits, within which edges are equally good: more than rounding in single precision
LEAST_SINE = 1e-5  # of 1 - |cos|, below which its logarithm is taken of this
COLLINEAR = 0.9999  # cosine above which two directions span no plane
MIX = (1.0, 1.3, 1.7)  # of the axes, in what tells tied frames apart: each axis, and its sign, counts differently
COSINES_AT_ONCE = 2**16  # what the caches of a CPU hold a few tables of
ON_A_GPU = 2**7  # times as many at once on a GPU, where a launch costs more than what it computes


def kernels_for(tensor: Tensor) -> ModuleType | None:
    """The module of GPU kernels, where they can compute what is like this tensor."""
    return kernels_on(tensor.device) if tensor.dtype == torch.float32 else None


@cache
def kernels_on(device: torch.device) -> ModuleType | None:
    """The same for a device; None without Triton, or where it cannot compile: it needs a C compiler."""
    if device.type != "cuda" or not find_spec("triton"):
        return None
    from crystalpredict.nn import kernels

    return kernels if kernels.work(device) else None


def _at_once(tensor: Tensor) -> int:
    """Cosines that are computed at a time where the tensor is."""
    return COSINES_AT_ONCE * (ON_A_GPU if tensor.is_cuda else 1)


def directions_of(batch: CrystalBatch) -> list[Tensor]:
    """Unit vectors of the edges of each part (G, T, M, 3); 0 for the self edge and a missing one."""
    found = []
    for part in batch.parts:
        assert part.vectors is not None
        length = part.vectors.norm(dim=3, keepdim=True)
        found.append(torch.where(length > 0, part.vectors / length.clamp(min=1e-3), 0.0))
    return found


def direction_moments(weights: Tensor, directions: Tensor, frames: Tensor, coarse: int, fine: int) -> Tensor:
    """sum_e p_e T_(i J)(c_e) T_j(c_e), c_e = r_e . e_a, of each axis a (R, H, 3 I J); the self edge adds nothing.

    weights (R, H, M), p; directions (R, M, 3); frames (R, H, 3, 3), rows e_1, e_2, e_3; T, Chebyshev polynomials with
    i up to I, coarse, and j up to J, fine.
    """
    if kernels := kernels_for(weights):
        found: Tensor = kernels.direction_moments(weights, directions, frames, coarse, fine)
        return found
    step = max(1, _at_once(weights) // (3 * weights.shape[1] * weights.shape[2]))
    pieces = zip(torch.split(weights, step), torch.split(directions, step), torch.split(frames, step), strict=True)
    return torch.cat([_moments_of(*piece, coarse, fine) for piece in pieces])


def _moments_of(weights: Tensor, directions: Tensor, frames: Tensor, coarse: int, fine: int) -> Tensor:
    """The same for as many atoms as are computed at a time."""
    cosines = torch.einsum("rhax,rmx->rham", frames, directions)
    weights = torch.where((directions != 0).any(dim=2)[:, None], weights, 0.0)
    weights = weights[:, :, None].expand_as(cosines)
    moments: Tensor = ProductMoments.apply(weights.flatten(0, 2), cosines.flatten(0, 2), coarse, fine)  # type: ignore[no-untyped-call]
    return moments.view(*frames.shape[:2], -1)


@torch.no_grad()
def frames_of(logits: Tensor, weights: Tensor, directions: Tensor) -> Tensor:
    """Frame (R, H, 3, 3) of each atom and head, rows e_1, e_2, e_3; axes that no edge defines are 0 [M8].

    logits (R, H, M), of which the greatest gives e_1; weights (R, H, M); directions (R, M, 3), 0 where there is none.

    Of several frames that are equally good, as symmetry has it, the one is taken whose axes point to more of the
    attention: what a rotated, mirrored or reordered crystal would choose too. What is equal even so gives equal values.
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
    step = max(1, _at_once(logits) // width)
    for queries, edge in _split(step, *_tied(first)):
        atom = queries // heads
        axis = directions[atom, edge]
        cosine = _products(columns, atom, axis).abs_()
        second = (1 - cosine).clamp_(min=LEAST_SINE).log_().add_(first.index_select(0, queries))
        rows, others = _tied(second.masked_fill_(cosine >= COLLINEAR, -torch.inf))
        for row, other in _split(step, rows, others):
            chosen, home = queries[row], atom[row]
            frame = _frame(axis[row], directions[home, other])
            mixed = (frame * frame.new_tensor(MIX)[:, None]).sum(dim=1)  # (t, 3)
            pull = (_products(columns, home, mixed).exp_() * weights.index_select(0, chosen)).sum(dim=1)
            greatest = best.scatter_reduce(0, chosen, pull, "amax")
            winners = ((pull == greatest[chosen]) & (pull > best[chosen])).nonzero()[:, 0]
            # one for each query, the first: threads that write several into one place would mix them
            own = chosen[winners]
            winners = winners[own.diff(prepend=own.new_full((1,), -1)) != 0]
            best = greatest
            frames[chosen[winners]] = frame[winners]
    return frames.view(atoms, heads, 3, 3)


def _products(columns: Tensor, atoms: Tensor, vectors: Tensor) -> Tensor:
    """Each vector (t, 3) times the directions of the edges of its atom (t, M); columns (3, R, M), atoms (t,)."""
    found = columns[0].index_select(0, atoms).mul_(vectors[:, :1])
    for axis in (1, 2):
        found.addcmul_(columns[axis].index_select(0, atoms), vectors[:, axis, None])
    return found


def _tied(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (t,) and columns (t,) of all best edges of each row of scores (Q, M), -inf where there is no edge.

    A row without any has column 0, the self edge, whose direction is 0.
    """
    least = scores.max(dim=1, keepdim=True).values - TIE
    tied = scores >= least.clamp(min=torch.finfo(scores.dtype).min)
    tied[:, 0] |= ~(least[:, 0] > -torch.inf)  # not a number either
    rows, columns = tied.nonzero(as_tuple=True)
    return rows, columns


def _split(step: int, rows: Tensor, columns: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(torch.split(rows, step), torch.split(columns, step), strict=True)


def _frame(first: Tensor, second: Tensor) -> Tensor:
    """Right-handed frames (q, 3, 3), rows e_1, e_2, e_3, of e_1 (q, 3) and a unit vector (q, 3) between e_1 and e_2."""
    across = second - (second * first).sum(dim=1, keepdim=True) * first
    across = across / across.norm(dim=1, keepdim=True).clamp(min=1e-3)
    return torch.stack([first, across, torch.linalg.cross(first, across)], dim=1)
