"""Attention that sees directions, in a frame of each atom and head (CrystalFramer; Ito et al., ICLR 2025) [M8].

The frame's axes are those in which the head attends most, so it turns with the crystal. It carries no gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from crystalpredict.batching import CrystalBatch
from crystalpredict.nn.attention import PSI_EXPONENT, Geometry, InfinitelyConnectedAttention
from crystalpredict.nn.config import ModelConfig

TIE = 1e-4  # of logits, within which edges are equally good: more than rounding in single precision
LEAST_SINE = 1e-5  # of 1 - |cos|, below which its logarithm is taken of this
COLLINEAR = 0.9999  # cosine above which two directions span no plane
MIX = (1.0, 1.3, 1.7)  # of the axes, in what tells tied frames apart: each axis, and its sign, counts differently
COSINES_AT_ONCE = 2**20  # values of direction functions held at once: what the caches of a CPU hold, or nearly


class FramedAttention(InfinitelyConnectedAttention):
    """Attention whose values encode the directions of edges beside their lengths [M8]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        channels = config.width // config.heads
        self.direction_weights = nn.Parameter(torch.empty(3, config.heads, channels, config.direction_basis))

    def _moments(self, logits: Tensor, weights: Tensor, part: Geometry) -> Tensor:
        """Moments of lengths, then of the cosines with each axis (G, T, H, K' + 3 D)."""
        assert part.directions is not None
        radial = super()._moments(logits, weights, part)
        logits, weights = logits.transpose(1, 2).flatten(0, 1), weights.transpose(1, 2).flatten(0, 1)  # (R, H, M)
        directions = part.directions.flatten(0, 1)  # (R, M, 3)
        functions = self.config.direction_basis
        frames = frames_of(logits.detach(), weights.detach(), directions)
        step = max(1, COSINES_AT_ONCE // (3 * functions * weights.shape[1] * weights.shape[2]))
        pieces = zip(torch.split(weights, step), torch.split(directions, step), torch.split(frames, step), strict=True)
        if torch.is_grad_enabled():
            # the table of direction functions is larger than all else together: it is made again in the backward pass
            again = partial(checkpoint, direction_moments, use_reentrant=False, preserve_rng_state=False)
            found = [again(*piece, self.config) for piece in pieces]
        else:
            found = [direction_moments(*piece, self.config) for piece in pieces]
        return torch.cat([radial, torch.cat(found).view(*radial.shape[:3], -1)], dim=3)

    def _encoding(self, moments: Tensor) -> Tensor:
        directional = moments[..., -3 * self.config.direction_basis :]
        directional = directional.view(*moments.shape[:2], 3, -1)  # (N, H, 3, D)
        encoding = self.config.direction_factor * torch.einsum("nhak,ahdk->nhd", directional, self.direction_weights)
        radial = super()._encoding(moments[..., : -3 * self.config.direction_basis])
        return encoding if radial is None else encoding + self.config.radial_factor * radial


def directions_of(batch: CrystalBatch) -> list[Tensor]:
    """Unit vectors of the edges of each part (G, T, M, 3); 0 for the self edge and a missing one."""
    found = []
    for part in batch.parts:
        assert part.vectors is not None
        length = part.vectors.norm(dim=3, keepdim=True)
        found.append(torch.where(length > 0, part.vectors / length.clamp(min=1e-3), 0.0))
    return found


def direction_moments(weights: Tensor, directions: Tensor, frames: Tensor, config: ModelConfig) -> Tensor:
    """sum_e p_e phi_k(r_e . e_a) (R, H, 3 D) of each axis a; the self edge, without a direction, adds nothing.

    weights (R, H, M), p; directions (R, M, 3); frames (R, H, 3, 3), rows e_1, e_2, e_3.
    """
    cosines = torch.einsum("rmx,rhax->rhma", directions, frames)
    spacing = 2 / (config.direction_basis - 1)
    scale = 0.5**0.5 / (spacing * config.direction_width)
    centres = torch.linspace(-1, 1, config.direction_basis, device=weights.device, dtype=weights.dtype) * scale
    offsets = (cosines * scale)[..., None] - centres  # (R, H, M, 3, D)
    phi = offsets.square_().clamp_(max=PSI_EXPONENT).neg_().exp_().flatten(3)
    weights = torch.where((directions != 0).any(dim=2)[:, None], weights, 0.0)
    moments: Tensor = weights[:, :, None] @ phi
    return moments.squeeze(2)


@torch.no_grad()
def frames_of(logits: Tensor, weights: Tensor, directions: Tensor) -> Tensor:
    """Frame (R, H, 3, 3) of each atom and head, rows e_1, e_2, e_3; axes that no edge defines are 0 [M8].

    logits (R, H, M), of which the greatest gives e_1; weights (R, H, M); directions (R, M, 3), 0 where there is none.

    Of several frames that are equally good, as symmetry has it, the one is taken whose axes point to more of the
    attention: what a rotated, mirrored or reordered crystal would choose too. What is equal even so gives equal values.
    """
    atoms, heads, _ = logits.shape
    there = (directions != 0).any(dim=2)
    first = logits.masked_fill(~there[:, None], -torch.inf).flatten(0, 1)  # (Q, M)
    weights = weights.flatten(0, 1)
    frames = logits.new_zeros(atoms * heads, 3, 3)
    best = logits.new_full((atoms * heads,), -torch.inf)
    owners = torch.arange(atoms, device=logits.device).repeat_interleave(heads)
    for queries, edge in _tied(first):
        along = directions[owners[queries]]  # (q, M, 3)
        axis = along[torch.arange(len(queries), device=logits.device), edge]
        cosine = (along @ axis[..., None]).squeeze(2).abs()
        second = first[queries] + (1 - cosine).clamp(min=LEAST_SINE).log()
        second = second.masked_fill(cosine >= COLLINEAR, -torch.inf)
        for rows, other in _tied(second):
            frame = _frame(axis[rows], along[rows, other])
            mixed = (frame * frame.new_tensor(MIX)[:, None]).sum(dim=1)  # (t, 3)
            pull = (weights[queries[rows]] * (along[rows] @ mixed[..., None]).squeeze(2).exp()).sum(dim=1)
            chosen = queries[rows]
            better = pull > best[chosen]
            frames[chosen[better]], best[chosen[better]] = frame[better], pull[better]
    return frames.view(atoms, heads, 3, 3)


def _tied(scores: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows (q,) and an edge (q,) of each: all rows and their first best edge, those with a second and it, and so on.

    scores (Q, M), -inf for an edge that is none. A row without any has edge 0, the self edge, whose direction is 0.
    """
    tied = (scores >= scores.max(dim=1, keepdim=True).values - TIE) & scores.isfinite()
    rank = tied.cumsum(dim=1)
    counts = rank[:, -1]
    yield torch.arange(len(scores), device=scores.device), torch.where(counts > 0, tied.int().argmax(dim=1), 0)
    for number in range(2, int(counts.max()) + 1):
        rows = (counts >= number).nonzero()[:, 0]
        yield rows, (rank[rows] == number).int().argmax(dim=1)


def _frame(first: Tensor, second: Tensor) -> Tensor:
    """Right-handed frames (q, 3, 3), rows e_1, e_2, e_3, of e_1 (q, 3) and a unit vector (q, 3) between e_1 and e_2."""
    across = second - (second * first).sum(dim=1, keepdim=True) * first
    across = across / across.norm(dim=1, keepdim=True).clamp(min=1e-3)
    return torch.stack([first, across, torch.linalg.cross(first, across)], dim=1)
