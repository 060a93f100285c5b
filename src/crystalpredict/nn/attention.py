"""Infinitely connected attention of Crystalformer (Taniai et al., ICLR 2024) over a neighbour list.

The paper sums over the atoms j of the cell and over the lattice images n of each j. Both sums are one softmax over the
atoms of the infinite crystal. Here it runs over the edges of a neighbour list (docs/method.md, [M5]).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crystalpredict.nn.batch import CrystalBatch
from crystalpredict.nn.config import ModelConfig
from crystalpredict.nn.terms import (
    MAX_PSI_EXPONENT,
    decay_of,
    radial_columns,
    radial_offsets,
    rho_of,
    width_argument,
)

MAX_DENSE_SLOTS = 384  # of a bin; in a larger one q.k is computed for neighbours only, at a cost linear in the atoms
EDGES_PER_CHUNK = 2**13  # whose keys and values are gathered at a time in a larger bin


class Waves(NamedTuple):
    """Plane waves of the reciprocal lattice of each atom's crystal [M7].

    Attributes:
        phases: cosines, then sines, of omega . r, times the square root of the multiplicity of a wave, (G, T, 2 W).
        squares: omega^2, Å^-2, (G, T, W).
        apart: True for two atoms of different crystals, (G, 1, T, T).
    """

    phases: Tensor
    squares: Tensor
    apart: Tensor


class Geometry(NamedTuple):
    """Quantities of a part that depend on the crystals only; all blocks use the same.

    Attributes:
        neighbors: slot of each neighbour, (G, T, M).
        squared_distances: Å^2, (G, 1, T, M).
        basis: psi of each edge, (G, T, M, K'); None for K = 0.
        directions: unit vectors of the edges, 0 for the self edge and a missing one, (G, T, M, 3); None unless the
            network uses directions.
        waves: of the atoms; None unless the network has reciprocal heads.
    """

    neighbors: Tensor
    squared_distances: Tensor
    basis: Tensor | None
    directions: Tensor | None = None
    waves: Waves | None = None

    def rows(self, bin: int, own: slice) -> Geometry:
        """Return the geometry of some slots of a bin, as a part of one bin."""
        basis, directions = (
            None if table is None else table[bin, None, own] for table in (self.basis, self.directions)
        )
        return Geometry(self.neighbors[bin, None, own], self.squared_distances[bin, None, :, own], basis, directions)


def radial_basis(distances: Tensor, config: ModelConfig) -> Tensor:
    """Return psi_k(r) = exp(-(r - mu_k)^2 / 2 s^2), (..., K'), with mu_k = k s, s = r_max / K, k = 1..K' [M4].

    Args:
        distances: r, Å, (...).
        config: of the network.
    """
    numbers = torch.arange(1, radial_columns(config) + 1, device=distances.device, dtype=distances.dtype)
    offsets = radial_offsets(distances, numbers, config)
    psi: Tensor = offsets.square_().clamp_(max=MAX_PSI_EXPONENT).neg_().exp_()
    return psi


def geometry_of(batch: CrystalBatch, config: ModelConfig) -> list[Geometry]:
    """Return neighbour slots, squared distances and radial basis of the edges of each part."""
    return [
        Geometry(
            part.neighbors,
            (part.distances**2)[:, None],
            radial_basis(part.distances, config) if config.radial_basis else None,
        )
        for part in batch.parts
    ]


class InfinitelyConnectedAttention(nn.Module):
    """Multi-head attention of each atom over the infinite crystal, by one softmax over its edges [M2]-[M5]."""

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
        # scale and shift of the argument of the width; nan until `fit_width_norm`, so that a network without it fails
        self.register_buffer("width_norm", torch.full((2,), torch.nan))

    def forward(self, state: Tensor, geometry: Sequence[Geometry]) -> Tensor:
        """Return the attention term of each atom, which the block adds to its state.

        It is exact except for edges longer than the radius r_c of the list, whose weight is below
        exp(-r_c^2 / 2 sigma^2).

        Args:
            state: of the atoms, (N, D).
            geometry: of each part.

        Returns:
            (N, D).
        """
        projected = self.query_key_value(state).view(len(state), 3, self.config.heads, -1)
        heads = self._real_heads(projected, self._rho(projected[:, 0]), geometry)
        term: Tensor = self.output(heads.flatten(1))
        return term

    def _real_heads(self, projected: Tensor, rho: Tensor, geometry: Sequence[Geometry]) -> Tensor:
        """Return the sums over edges (N, H, d) of heads in real space; projected (N, 3, H, d), rho (N, H)."""
        decay = decay_of(rho, self.config)
        query = projected[:, 0]
        scaled = torch.cat([query[:, None] * query.shape[-1] ** -0.5, projected[:, 1:]], dim=1)
        sizes = [part.neighbors.shape[0] * part.neighbors.shape[1] for part in geometry]
        attended = [
            self._attend(*pieces)
            for pieces in zip(torch.split(scaled, sizes), torch.split(decay, sizes), geometry, strict=True)
        ]
        heads = torch.cat([values.flatten(0, 1) for values, _ in attended])  # (N, H, d)
        # W^E is applied after the sum over edges, sum_e p_e psi(d_e), because it does not depend on the edge
        encoding = self._encoding(torch.cat([moments.flatten(0, 1) for _, moments in attended]))
        return heads if encoding is None else heads + encoding

    def _encoding(self, moments: Tensor) -> Tensor | None:
        """Return the value encoding (N, H, d) of moments (N, H, K'); None for K = 0."""
        if self.radial_weights is None:
            return None
        return torch.einsum("nhk,hdk->nhd", moments, self.radial_weights[..., : moments.shape[-1]])

    def _moments(self, logits: Tensor, weights: Tensor, part: Geometry) -> Tensor:
        """Return moments sum_e p_e psi(d_e), (G, T, H, K'), of a part; logits and weights p are (G, H, T, M)."""
        weights = weights.transpose(1, 2)
        return weights[..., :0] if part.basis is None else weights @ part.basis

    def _attend(self, projected: Tensor, decay: Tensor, part: Geometry) -> tuple[Tensor, Tensor]:
        """Return weighted values (G, T, H, d) and moments (G, T, H, K'); projected (G T, 3, H, d), decay (G T, H)."""
        bins, slots = part.neighbors.shape[:2]
        grouped = projected.view(bins, slots, *projected.shape[1:])
        query, key, value = grouped.permute(2, 0, 3, 1, 4).contiguous()  # (G, H, T, d)
        attend = self._attend_to_all if slots <= MAX_DENSE_SLOTS else self._attend_to_neighbors
        return attend(query, key, value, decay.view(bins, slots, -1).transpose(1, 2)[..., None], part)

    def _attend_to_all(
        self, query: Tensor, key: Tensor, value: Tensor, decay: Tensor, part: Geometry
    ) -> tuple[Tensor, Tensor]:
        """Do `_attend` by products of all atoms of a bin; query, key, value (G, H, T, d), decay (G, H, T, 1)."""
        neighbors = part.neighbors[:, None].expand(-1, query.shape[1], -1, -1)
        products = query @ key.transpose(2, 3)  # (G, H, T, T)
        logits = torch.addcmul(products.gather(3, neighbors), decay, part.squared_distances, value=-1)
        weights = logits.softmax(dim=3)  # (G, H, T, M)
        # the images of an atom have the same value, so their weights are summed first
        atom_weights = torch.zeros_like(products).scatter_add(3, neighbors, weights)
        return (atom_weights @ value).transpose(1, 2), self._moments(logits, weights, part)

    def _attend_to_neighbors(
        self, query: Tensor, key: Tensor, value: Tensor, decay: Tensor, part: Geometry
    ) -> tuple[Tensor, Tensor]:
        """Do `_attend_to_all` by products of neighbours only, for a chunk of the atoms of a large bin at a time."""
        slots, width = part.neighbors.shape[1:]
        heads, channels = query.shape[1], query.shape[3]
        step = max(1, EDGES_PER_CHUNK // width)
        # one table for the results of all chunks: small ones kept between large temporary tables fragment the memory,
        # 7 GiB for 100,000 atoms
        values = query.new_empty(len(part.neighbors), slots, heads, channels)
        moments = query.new_empty(0)
        for bin, neighbors in enumerate(part.neighbors):
            for start in range(0, slots, step):
                own = slice(start, start + step)
                near = neighbors[own].flatten()  # (R M,)
                keys, near_values = (
                    tensor[bin].index_select(1, near).view(-1, width, channels) for tensor in (key, value)
                )  # (H R, M, d)
                products = torch.bmm(keys, query[bin, :, own].reshape(-1, channels, 1)).view(heads, -1, width)
                edges = part.rows(bin, own)
                logits = torch.addcmul(products, decay[bin, :, own], edges.squared_distances[0], value=-1)
                weights = logits.softmax(dim=2)  # (H, R, M)
                found = torch.bmm(weights.flatten(0, 1)[:, None], near_values).view(heads, -1, channels)
                values[bin, own] = found.transpose(0, 1)
                own_moments = self._moments(logits[None], weights[None], edges)[0]  # (R, H, K')
                if not len(moments):
                    moments = query.new_empty(*values.shape[:3], own_moments.shape[-1])
                moments[bin, own] = own_moments
        return values, moments

    def _rho(self, query: Tensor) -> Tensor:
        """Return rho(u) = r0^2 / sigma^2 of each atom and head, (N, H) [M3]; query (N, H, d)."""
        return rho_of(width_argument(query, self.width_weights), self.width_norm, F.elu, self.config)

    @torch.no_grad()
    def fit_width_norm(self, state: Tensor, counts: Tensor) -> None:
        """Set scale and shift so that the argument of the width has mean 0 and standard deviation 1 [M3].

        This is done once, before training.

        Args:
            state: of the atoms, (N, D).
            counts: atoms that each slot represents, (N,).
        """
        query = self.query_key_value(state)[:, : self.config.width].unflatten(1, (self.config.heads, -1))
        argument = width_argument(query, self.width_weights)  # (N, H)
        weights = counts[:, None] / (counts.sum() * argument.shape[1])
        mean = (weights * argument).sum()
        deviation = (weights * (argument - mean) ** 2).sum().sqrt()
        self.width_norm.copy_(torch.stack([1 / deviation, -mean]))
