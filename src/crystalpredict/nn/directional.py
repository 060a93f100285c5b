"""Attention with directions in frames (CrystalFramer; Ito et al., ICLR 2025) [M8]."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from crystalpredict.nn.attention import Geometry, InfinitelyConnectedAttention
from crystalpredict.nn.chebyshev import gaussians
from crystalpredict.nn.config import ModelConfig
from crystalpredict.nn.frames import direction_moments, frames_of


class FramedAttention(InfinitelyConnectedAttention):
    """Attention whose values encode the directions and the lengths of edges [M8]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        channels = config.width // config.heads
        self.direction_weights = nn.Parameter(torch.empty(3, config.heads, channels, config.direction_basis))

    def _moments(self, logits: Tensor, weights: Tensor, part: Geometry) -> Tensor:
        """Return moments of the lengths, then of the cosines with each axis, (G, T, H, K' + 3 L) with L = I J."""
        assert part.directions is not None
        radial = super()._moments(logits, weights, part)
        logits, weights = logits.transpose(1, 2).flatten(0, 1), weights.transpose(1, 2).flatten(0, 1)  # (R, H, M)
        directions = part.directions.flatten(0, 1)  # (R, M, 3)
        frames = frames_of(logits.detach(), weights.detach(), directions)
        coarse, fine, _ = self._gaussians(weights).shape
        found = direction_moments(weights, directions, frames, coarse, fine)
        return torch.cat([radial, found.view(*radial.shape[:3], -1)], dim=3)

    def _encoding(self, moments: Tensor) -> Tensor:
        """Return the value encoding (N, H, d) of moments (N, H, K' + 3 L)."""
        gaussians = self._gaussians(moments).flatten(0, 1)  # (L, D)
        terms = len(gaussians)
        directional = moments[..., -3 * terms :].view(*moments.shape[:2], 3, terms)  # (N, H, 3, L)
        weights = self.config.direction_factor * self.direction_weights @ gaussians.T  # (3, H, d, L)
        encoding = torch.einsum("nhal,ahdl->nhd", directional, weights)
        radial = super()._encoding(moments[..., : -3 * terms])
        return encoding if radial is None else encoding + self.config.radial_factor * radial

    def _gaussians(self, like: Tensor) -> Tensor:
        """Return the coefficients of phi_k in products of Chebyshev polynomials (I, J, basis functions)."""
        return gaussians(self.config.direction_basis, self.config.direction_width, like.dtype, like.device)
