"""A readout by kernel regression, for properties with few labels [M11]."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from crystalpredict.crystals.masses import ATOMIC_MASSES
from crystalpredict.nn.batch import CrystalBatch
from crystalpredict.nn.config import ModelConfig
from crystalpredict.nn.terms import bond_terms, covariances


class KernelReadout(nn.Module):
    """Sum of Matérn functions of the distances of a crystal from P others (`crystalpredict.training.kernel`)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.radius = config.radius
        self.points = nn.Parameter(torch.randn(config.kernel_points, config.kernel_inputs))
        self.shift = nn.Parameter(torch.zeros(config.kernel_inputs))
        self.scale = nn.Parameter(torch.full((config.kernel_inputs,), config.kernel_inputs**-0.5))
        self.weights = nn.Parameter(torch.randn(config.outputs, config.kernel_points))

    def forward(self, means: Tensor, batch: CrystalBatch) -> Tensor:
        """Return standardised properties (B, outputs) of mean states (B, (blocks + 1) D)."""
        inputs = (inputs_of(means, batch, self.radius).double() - self.shift) * self.scale
        # in double precision: weights of near points are large and nearly cancel
        return (covariances(inputs, self.points.double(), torch) @ self.weights.double().T).to(means.dtype)


def inputs_of(means: Tensor, batch: CrystalBatch, radius: float) -> Tensor:
    """Return mean states (B, (blocks + 1) D) and descriptors of bonds side by side, (B, inputs)."""
    return torch.cat([means, bond_descriptors(batch, radius)], dim=1)


def bond_descriptors(batch: CrystalBatch, radius: float) -> Tensor:
    """Return logarithms of masses, distances of nearest neighbours and stiffness of bonds of crystals, (B, 6) [M11].

    Smallest and mean mass, smallest and mean distance, and the largest stiffness by each power of `bond_terms`.
    """
    table = torch.tensor(ATOMIC_MASSES, dtype=batch.counts.dtype, device=batch.counts.device)
    shares = batch.occupancies / batch.occupancies.sum(dim=1, keepdim=True).clamp(min=1e-9)
    masses = (table[batch.elements + 1] * shares).sum(dim=1) + (batch.counts == 0)
    parts, start = [], 0
    for part in batch.parts:
        bins, slots, _ = part.neighbors.shape
        own = masses[start : start + bins * slots].reshape(bins, slots)
        others = own.gather(1, part.neighbors.flatten(1)).reshape(part.neighbors.shape)
        parts.append(torch.stack(bond_terms(part.distances, own, others, radius, torch)).flatten(1))
        start += bins * slots
    nearest, *stiffness = torch.cat(parts, dim=1)
    count = len(batch.n_atoms)

    def of_crystals(values: Tensor, how: str) -> Tensor:
        found = values.new_zeros(count + 1).scatter_reduce(0, batch.crystals, values, how, include_self=False)
        return found[:count]  # the last row: empty slots

    means = [of_crystals(values * batch.counts, "sum") / batch.n_atoms for values in (masses, nearest)]
    least = [of_crystals(values, "amin") for values in (masses, nearest)]
    most = [of_crystals(values, "amax") for values in stiffness]
    return torch.stack([least[0], means[0], least[1], means[1], *most], dim=1).log()
