"""The paper's sums as they are written: over pairs of atoms and, inside each pair, over lattice images.

Nothing here is shared with the package but the names of the weights. Notation of Taniai et al., ICLR 2024.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from crystalpredict.nn import ModelConfig


def network(
    weights: dict[str, Tensor],
    config: ModelConfig,
    lattice: Tensor,
    positions: Tensor,
    mix: Tensor,
    reach: int,
    cutoff: float = math.inf,
) -> Tensor:
    """Standardised outputs of one crystal; mix (n, 98), share of each element on each site; images -reach..reach.

    What lies beyond `cutoff` (Å) is given no weight.
    """
    state = mix @ weights["embedding.weight"]
    images = torch.tensor(list(itertools.product(range(-reach, reach + 1), repeat=3)), dtype=lattice.dtype)
    vectors = positions[None, :, None] - positions[:, None, None] + (images @ lattice)[None, None]  # (n, n, I, 3)
    squared = (vectors**2).sum(-1)
    squared = torch.where(squared < cutoff**2, squared, 1e6)
    for i in range(config.blocks):
        part = {k.removeprefix(f"blocks.{i}."): v for k, v in weights.items() if k.startswith(f"blocks.{i}.")}
        state = state + attention(part, config, state, squared)
        hidden = torch.relu(state @ part["feedforward.0.weight"].T + part["feedforward.0.bias"])
        state = state + hidden @ part["feedforward.2.weight"].T + part["feedforward.2.bias"]
    hidden = torch.relu(state.mean(0) @ weights["readout.0.weight"].T + weights["readout.0.bias"])
    return hidden @ weights["readout.2.weight"].T + weights["readout.2.bias"]


def attention(part: dict[str, Tensor], config: ModelConfig, state: Tensor, squared: Tensor) -> Tensor:
    """The attention term of each atom (n, D); squared (n, n, I), |r_n|^2 of every pair and image."""
    width, channels = config.width, config.width // config.heads
    projected = state @ part["attention.query_key_value.weight"].T + part["attention.query_key_value.bias"]
    outputs = []
    for head in range(config.heads):
        q, k, v = (projected[:, s * width + head * channels :][:, :channels] for s in range(3))
        scale, shift = part["attention.width_norm"]
        u = (q @ part["attention.width_weights"][head] + shift) * scale
        elu = torch.where(u >= 0, 0.1 * u / 0.5, torch.exp((0.1 * u / 0.5).clamp(max=0)) - 1)
        sigma = config.r0 / torch.sqrt(0.5 * elu + 1)
        exponents = -squared / (2 * sigma[:, None, None] ** 2)
        alpha = torch.logsumexp(exponents, dim=2)
        weight = torch.softmax(q @ k.T / math.sqrt(channels) + alpha, dim=1)
        value = v[None].expand(len(state), -1, -1)
        if config.radial_basis:
            step = config.r_max / config.radial_basis
            centres = step * torch.arange(1, config.radial_basis + 1, dtype=squared.dtype)
            psi = torch.exp(-((torch.sqrt(squared + 1e-30)[..., None] - centres) ** 2) / (2 * step**2))
            share = torch.softmax(exponents, dim=2)
            value = value + (share[..., None] * psi).sum(2) @ part["attention.radial_weights"][head].T
        outputs.append((weight[..., None] * value).sum(1))
    return torch.cat(outputs, 1) @ part["attention.output.weight"].T + part["attention.output.bias"]
