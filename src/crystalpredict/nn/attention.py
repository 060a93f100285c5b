"""Infinitely connected attention over a neighbour list: the heart of Crystalformer (Taniai et al., ICLR 2024).

The paper sums over atoms j of the cell and, inside each pair, over the lattice images n of j. Both sums belong to one
softmax over the atoms of the infinite crystal, so it runs over the edges of a neighbour list (docs/method.md, [M5]).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crystalpredict.batching import CrystalBatch
from crystalpredict.nn.config import ModelConfig

PRODUCTS_AT_ONCE = 2**24  # q.k of atoms in one bin held at a time: memory stays linear in the size of a large cell
PSI_EXPONENT = 46.0  # exp(-46) = 1e-20: below it psi is 0, for subnormal numbers make a step 3 times slower


class Geometry(NamedTuple):
    """What the blocks share: it depends on the crystals alone, not on the state of the atoms.

    neighbors (G, H, T, M), slot of the neighbour, the same for each head; squared_distances (G, 1, T, M), Å^2;
    basis (G, T, M, K'), psi of each edge, or None for K = 0.
    """

    neighbors: Tensor
    squared_distances: Tensor
    basis: Tensor | None


def radial_columns(config: ModelConfig) -> int:
    """K', the leading basis functions that are not 0 for every edge: centres up to 4 widths beyond the radius."""
    if config.radial_basis == 0:
        return 0
    spacing = config.r_max / config.radial_basis
    return min(config.radial_basis, int((config.radius + 4 * spacing) / spacing))


def radial_basis(distances: Tensor, config: ModelConfig) -> Tensor:
    """psi_k(r) = exp(-(r - mu_k)^2 / 2 s^2) with mu_k = k s, s = r_max / K, k = 1..K' [M4].

    distances (...), Å. Returns (..., K').
    """
    spacing = config.r_max / config.radial_basis
    centres = torch.arange(1, radial_columns(config) + 1, device=distances.device, dtype=distances.dtype)
    exponent = 0.5 * (distances[..., None] / spacing - centres) ** 2
    return torch.where(exponent < PSI_EXPONENT, torch.exp(-exponent.clamp(max=PSI_EXPONENT)), 0.0)


def geometry_of(batch: CrystalBatch, config: ModelConfig) -> Geometry:
    """Indices, squared distances and radial basis of the edges of a batch."""
    bins, slots, width = batch.distances.shape
    return Geometry(
        batch.neighbors[:, None].expand(bins, config.heads, slots, width),
        (batch.distances**2)[:, None],
        radial_basis(batch.distances, config) if config.radial_basis else None,
    )


class InfinitelyConnectedAttention(nn.Module):
    """Multi-head attention of each atom over the infinite crystal, one softmax over the edges [M2]-[M5]."""

    width_norm: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.width // config.heads
        self.query_key_value = nn.Linear(config.width, 3 * config.width)
        self.width_weights = nn.Parameter(torch.empty(config.heads, channels))
        self.radial_weights = (
            nn.Parameter(torch.empty(config.heads, channels, config.radial_basis)) if config.radial_basis else None
        )
        self.output = nn.Linear(config.width, config.width)
        # scale and shift of the width's argument; not a number until `fit_width_norm`, so that nothing runs without
        self.register_buffer("width_norm", torch.full((2,), torch.nan))

    def forward(self, state: Tensor, geometry: Geometry) -> Tensor:
        """The attention term of each atom, to be added to its state; state (N, D) to (N, D).

        Exact up to edges beyond the list's radius r_c, whose weight is below exp(-r_c^2 / 2 sigma^2).
        """
        query, key, value = self._heads(state, geometry)
        bins, heads, slots, _ = query.shape
        rows = max(1, PRODUCTS_AT_ONCE // (bins * heads * slots))
        parts = [
            self._attend(query[:, :, start : start + rows], key, value, geometry, slice(start, start + rows))
            for start in range(0, slots, rows)
        ]
        term: Tensor = self.output(torch.cat(parts, dim=1).view(len(state), -1))
        return term

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, geometry: Geometry, rows: slice) -> Tensor:
        """Heads of the atoms in the slots `rows` of each bin (G, R, H, d); query (G, H, R, d), key and value of all."""
        neighbors = geometry.neighbors[:, :, rows]  # (G, H, R, M)
        products = (query * query.shape[-1] ** -0.5) @ key.transpose(2, 3)  # (G, H, R, T)
        decay = self._decay(query)[..., None] * geometry.squared_distances[:, :, rows]  # (G, H, R, M)
        weights = (products.gather(3, neighbors) - decay).softmax(dim=3)  # (G, H, R, M)
        # the images of one atom share its value, so their weights are summed first
        atom_weights = torch.zeros_like(products).scatter_add(3, neighbors, weights)
        heads = (atom_weights @ value).transpose(1, 2)  # (G, R, H, d)
        if self.radial_weights is None or geometry.basis is None:
            return heads
        # sum_e p_e psi(d_e) first and W^E after: the matrix leaves the sum over edges
        moments = weights.transpose(1, 2) @ geometry.basis[:, rows]  # (G, R, H, K')
        return heads + torch.einsum("grhk,hdk->grhd", moments, self.radial_weights[..., : moments.shape[-1]])

    def _heads(self, state: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value, each (G, H, T, d); heads are contiguous chunks of channels."""
        bins, heads, slots, _ = geometry.neighbors.shape
        projected = self.query_key_value(state).view(bins, slots, 3, heads, -1)
        query, key, value = projected.permute(2, 0, 3, 1, 4)
        return query, key, value

    def _decay(self, query: Tensor) -> Tensor:
        """1 / 2 sigma^2 = rho(u) / 2 r0^2 of each atom and head, Å^-2 [M3]; query (G, H, T, d) to (G, H, T)."""
        config = self.config
        scale, shift = self.width_norm
        u = (self._width_argument(query) + shift) * scale
        room = 1 - config.rho_bound
        rho = room * F.elu(config.rho_slope / room * u) + 1
        return rho / (2 * config.r0**2)

    def _width_argument(self, query: Tensor) -> Tensor:
        """Q . w of each head, before its normalisation; (G, H, T, d) to (G, H, T)."""
        return torch.einsum("ghtd,hd->ght", query, self.width_weights)

    @torch.no_grad()
    def fit_width_norm(self, state: Tensor, geometry: Geometry, occupied: Tensor) -> None:
        """Set scale and shift so that the width's argument has mean 0 and deviation 1 over atoms and heads [M3].

        state (N, D); occupied (N,), False for an empty slot. Done once, before training; constant from then on.
        """
        query, _, _ = self._heads(state, geometry)
        argument = self._width_argument(query).transpose(1, 2).flatten(0, 1)[occupied]  # (atoms, H)
        self.width_norm.copy_(torch.stack([1 / argument.std(), -argument.mean()]))
