"""Attention heads in reciprocal space (Taniai et al., ICLR 2024) [M7].

A reciprocal head has a wide Gaussian, whose lattice sum converges faster over plane waves than over images. The sum
over waves is a matrix product, which avoids a table of pairs times waves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from crystalpredict.nn.attention import Geometry, InfinitelyConnectedAttention, Waves
from crystalpredict.nn.batch import CrystalBatch
from crystalpredict.nn.config import ModelConfig

MIN_WAVE_SUM = 1e-6  # smaller sums over waves are rounding or truncation errors
WAVE_VALUES_PER_CHUNK = 2**22  # atoms times heads times waves: 16 MiB in single precision


class DualSpaceAttention(InfinitelyConnectedAttention):
    """Attention whose first heads are in real space and whose other heads are in reciprocal space [M7].

    Both kinds of heads share projections, widths and output. Reciprocal heads have no value encoding.
    """

    def __init__(self, config: ModelConfig, real_heads: int) -> None:
        super().__init__(config)
        self.real_heads = real_heads
        if self.radial_weights is not None:
            shape = (real_heads, *self.radial_weights.shape[1:])
            self.radial_weights = nn.Parameter(torch.empty(shape)) if real_heads else None

    def forward(self, state: Tensor, geometry: Sequence[Geometry]) -> Tensor:
        """Return the attention term of each atom (N, D), which the block adds to its state (N, D)."""
        projected = self.query_key_value(state).view(len(state), 3, self.config.heads, -1)
        rho = self._rho(projected[:, 0])
        real = self.real_heads
        heads = [reciprocal_heads(projected[:, :, real:], self.config.reciprocal_r0**2 * rho[:, real:], geometry)]
        if real:
            heads.insert(0, self._real_heads(projected[:, :, :real], rho[:, :real], geometry))
        term: Tensor = self.output(torch.cat(heads, dim=1).flatten(1))
        return term


def reciprocal_heads(projected: Tensor, variance: Tensor, geometry: Sequence[Geometry]) -> Tensor:
    """Return the sums over atoms (N, H, d) of heads in reciprocal space.

    Factors that do not depend on the key, such as the volume of the cell, cancel in the softmax and are left out.

    Args:
        projected: query, key and value, (N, 3, H, d).
        variance: sigma^2 of the Gaussian in real space, Å^2, (N, H).
        geometry: of each part.
    """
    sizes = [part.neighbors.shape[0] * part.neighbors.shape[1] for part in geometry]
    pieces = zip(torch.split(projected, sizes), torch.split(variance, sizes), geometry, strict=True)
    return torch.cat([_attend(*piece).flatten(0, 1) for piece in pieces])


def _attend(projected: Tensor, variance: Tensor, part: Geometry) -> Tensor:
    """Return weighted values (G, T, H, d) of a part; projected (G T, 3, H, d), variance (G T, H)."""
    assert part.waves is not None
    bins, slots = part.neighbors.shape[:2]
    grouped = projected.view(bins, slots, *projected.shape[1:])
    query, key, value = grouped.permute(2, 0, 3, 1, 4).contiguous()  # (G, H, T, d)
    query = query * query.shape[-1] ** -0.5
    variance = variance.view(bins, slots, -1).transpose(1, 2)  # (G, H, T)
    heads, waves = query.shape[1], part.waves.phases.shape[2]
    step = max(1, WAVE_VALUES_PER_CHUNK // (bins * heads * waves))
    rows = []
    for start in range(0, slots, step):
        own = slice(start, start + step)
        sums = wave_sums(variance[:, :, own], part.waves, own)
        logits = query[:, :, own] @ key.transpose(2, 3) + sums.clamp(min=MIN_WAVE_SUM).log()
        rows.append(logits.masked_fill(part.waves.apart[:, :, own], -torch.inf).softmax(dim=3) @ value)
    return torch.cat(rows, dim=2).transpose(1, 2)


def wave_sums(variance: Tensor, waves: Waves, own: slice) -> Tensor:
    """Return sum_m exp(-sigma_i^2 omega_m^2 / 2) cos(omega_m . (r_j - r_i)), (G, H, R, T), i in `own`, j in the bin.

    Because cos(a - b) = cos a cos b + sin a sin b, it is a product of two tables.

    Args:
        variance: sigma_i^2, Å^2, (G, H, R).
        waves: of all atoms of the part.
        own: R slots of each bin.
    """
    damping = torch.exp(-0.5 * variance[..., None] * waves.squares[:, None, own])  # (G, H, R, W)
    damped = torch.cat([damping, damping], dim=3) * waves.phases[:, None, own]
    products = damped.flatten(1, 2) @ waves.phases.transpose(1, 2)  # (G, H R, T)
    return products.view(*variance.shape, -1)


def waves_of(batch: CrystalBatch, config: ModelConfig) -> list[Waves]:
    """Return the waves of each part, padded to its largest number of waves; phases are computed in double precision."""
    assert batch.cells is not None
    vectors = [wave_vectors(lattice, config) for lattice in batch.cells.lattices]
    found, start = [], 0
    owners = batch.crystals.cpu()
    for part in batch.parts:
        bins, slots = part.neighbors.shape[:2]
        owner = owners[start : start + bins * slots]
        positions = batch.cells.positions[start : start + bins * slots]
        crystals = [crystal for crystal in sorted(set(owner.tolist())) if crystal < len(vectors)]
        most = max(len(vectors[crystal]) for crystal in crystals)
        phases = positions.new_zeros(bins * slots, 2, most)
        squares = positions.new_zeros(bins * slots, most)
        for crystal in crystals:
            mine, waves = owner == crystal, vectors[crystal]
            angles = positions[mine] @ waves.T
            # of two opposite vectors one is listed, with multiplicity 2; the zero vector has multiplicity 1
            amplitude = (2.0 - (waves == 0).all(dim=1).double()).sqrt()
            phases[mine, 0, : len(waves)] = angles.cos() * amplitude
            phases[mine, 1, : len(waves)] = angles.sin() * amplitude
            squares[mine, : len(waves)] = (waves**2).sum(dim=1)
        owner = owner.view(bins, slots)
        device, dtype = part.distances.device, part.distances.dtype
        found.append(
            Waves(
                phases.view(bins, slots, -1).to(device, dtype),
                squares.view(bins, slots, -1).to(device, dtype),
                (owner[:, None, :, None] != owner[:, None, None]).to(device),
            )
        )
        start += bins * slots
    return found


def wave_vectors(lattice: Tensor, config: ModelConfig) -> Tensor:
    """Return vectors omega (W, 3) of the reciprocal lattice, Å^-1, with the factor 2 pi, one of two opposite ones [M7].

    The indices are up to `reciprocal_reach`. If it is 0, the length is up to `reciprocal_cutoff`; these waves do not
    depend on the choice of the cell.

    Args:
        lattice: rows a, b, c, Å, (3, 3).
        config: of the network.
    """
    reciprocal = 2 * math.pi * torch.linalg.inv(lattice).T
    reach = config.reciprocal_reach
    # |m_a| = |omega . a| / 2 pi <= |omega| |a| / 2 pi
    bounds = [reach or int(config.reciprocal_cutoff * float(row.norm()) / (2 * math.pi)) for row in lattice]
    first, second, third = (torch.arange(-bound, bound + 1, dtype=lattice.dtype) for bound in bounds)
    indices = torch.cartesian_prod(first[bounds[0] :], second, third)
    m1, m2, m3 = indices.unbind(1)
    kept = (m1 > 0) | ((m1 == 0) & ((m2 > 0) | ((m2 == 0) & (m3 >= 0))))
    vectors: Tensor = indices[kept] @ reciprocal
    return vectors if reach else vectors[(vectors**2).sum(dim=1) <= config.reciprocal_cutoff**2]
