"""The paper's sums as they are written: over pairs of atoms and, inside each pair, over lattice images.

Nothing here is shared with the package but the names of the weights. Notation of Taniai et al., ICLR 2024.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from crystalpredict.crystals.masses import ATOMIC_MASSES
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
    reciprocal = [reciprocal_head_names(config, block) for block in range(config.blocks)]
    state = mix @ weights["embedding.weight"]
    means = [state.mean(0)]
    images = torch.tensor(list(itertools.product(range(-reach, reach + 1), repeat=3)), dtype=lattice.dtype)
    vectors = positions[None, :, None] - positions[:, None, None] + (images @ lattice)[None, None]  # (n, n, I, 3)
    squared = (vectors**2).sum(-1)
    squared = torch.where(squared < cutoff**2, squared, 1e6)
    for i in range(config.blocks):
        part = {k.removeprefix(f"blocks.{i}."): v for k, v in weights.items() if k.startswith(f"blocks.{i}.")}
        waves = (lattice, positions, reciprocal[i])
        state = state + attention(part, config, state, squared, waves, vectors)
        hidden = torch.relu(state @ part["feedforward.0.weight"].T + part["feedforward.0.bias"])
        state = state + hidden @ part["feedforward.2.weight"].T + part["feedforward.2.bias"]
        means.append(state.mean(0))
    if "kernel.points" in weights:
        inputs = torch.cat([*means, bonds(squared, mix, config.radius)])
        far = 5**0.5 * ((inputs - weights["kernel.shift"]) * weights["kernel.scale"] - weights["kernel.points"]).norm(
            dim=1
        )
        compared = weights["kernel.weights"] @ ((1 + far + far**2 / 3) * torch.exp(-far))
    else:
        compared = torch.zeros(config.outputs, dtype=lattice.dtype)
    readouts = {"readout": means[-1], "readout_of_states": torch.cat(means)}
    outputs = []
    for name in [name for name in readouts if f"{name}.0.weight" in weights]:
        hidden = torch.relu(readouts[name] @ weights[f"{name}.0.weight"].T + weights[f"{name}.0.bias"])
        outputs.append(hidden @ weights[f"{name}.2.weight"].T + weights[f"{name}.2.bias"])
    return torch.stack(outputs).sum(0) + compared


def bonds(squared: Tensor, mix: Tensor, radius: float) -> Tensor:
    """Logarithms of masses, distances and stiffness, (6,); squared (n, n, I), |r_n|^2 of every pair and image."""
    mass = (mix * torch.tensor(ATOMIC_MASSES[1:99])).sum(1) / mix.sum(1)
    nearest, stiff = [], {3: [], 6: []}
    for i in range(len(mass)):
        lengths, inverse = [radius], [2 / mass[i]]
        for j, image in zip(
            *torch.nonzero((squared[i] > 1e-6) & (squared[i] <= radius**2), as_tuple=True), strict=True
        ):
            lengths.append(float(squared[i, j, image].sqrt()))
            inverse.append(1 / mass[i] + 1 / mass[j])
        nearest.append(min(lengths))
        for power, values in stiff.items():
            values.append(max(float(each / length**power) for each, length in zip(inverse, lengths, strict=True)))
    near = torch.tensor(nearest, dtype=mass.dtype)
    most = torch.tensor([max(values) for values in stiff.values()], dtype=mass.dtype)
    return torch.cat([torch.stack([mass.min(), mass.mean(), near.min(), near.mean()]), most]).log()


def reciprocal_head_names(config: ModelConfig, block: int) -> set[int]:
    """Numbers of the heads of a block that are in reciprocal space."""
    everything = set(range(config.heads))
    return {
        "dual": set(range(config.heads // 2, config.heads)),
        "alternating": everything if block % 2 else set(),
        "reciprocal": everything,
    }.get(config.attention, set())


def log_wave_sum(config: ModelConfig, rho: Tensor, lattice: Tensor, positions: Tensor) -> Tensor:
    """The paper's alpha (n, n) of a reciprocal head, by the box of waves of an upstream checkpoint."""
    reach = range(-config.reciprocal_reach, config.reciprocal_reach + 1)
    indices = torch.tensor(list(itertools.product(reach, repeat=3)), dtype=lattice.dtype)
    omega = indices @ torch.linalg.inv(lattice).T * 2 * math.pi
    variance = config.reciprocal_r0**2 * rho
    total = torch.zeros(len(positions), len(positions), dtype=lattice.dtype)
    for wave in omega:
        damping = torch.exp(-variance * (wave @ wave) / 2)
        total = total + damping[:, None] * torch.cos((positions[None] - positions[:, None]) @ wave)
    volume = torch.linalg.det(lattice).abs()
    return total.clamp(min=1e-6).log() + 1.5 * torch.log(2 * math.pi * variance)[:, None] - torch.log(volume)


def frame(products: Tensor, exponents: Tensor, vectors: Tensor, weight: Tensor) -> list[Tensor]:
    """Axes e_1, e_2, e_3 of one atom; products (n,), q.k / sqrt(d); exponents, weight (n, I); vectors (n, I, 3).

    Of equally good ones (an image and its opposite, if nothing else) that which points to more of the weight.
    """
    length = vectors.norm(dim=-1)
    score = torch.where(length**2 > 1e-5, products[:, None] + exponents, -torch.inf).flatten()
    unit = (vectors / length.clamp(min=1e-9)[..., None]).flatten(0, 1)
    candidates = []
    for first in unit[score > score.max() - 1e-9]:
        cosine = (unit @ first).abs()
        scores = torch.where(cosine < 0.9999, score + (1 - cosine).clamp(min=1e-5).log(), -torch.inf)
        for second in unit[scores > scores.max() - 1e-9]:
            across = second - (second @ first) * first
            across = across / across.norm()
            candidates.append([first, across, torch.linalg.cross(first, across)])
    pull = [
        float((weight.flatten() * torch.exp(unit @ (one + 1.3 * two + 1.7 * three))).sum())
        for one, two, three in candidates
    ]
    return candidates[pull.index(max(pull))]


def direction_encoding(
    matrices: Tensor, config: ModelConfig, weight: Tensor, frames: list[list[Tensor]], vectors: Tensor
) -> Tensor:
    """What directions add to each atom (n, d); matrices (3, d, D); weight (n, n, I), of atoms and their images."""
    functions = config.direction_basis
    centres = -1 + 2 * torch.arange(functions, dtype=vectors.dtype) / (functions - 1)
    length = vectors.norm(dim=-1)
    total = 0.0
    for axis in range(3):
        cosine = torch.stack([vectors[i] @ axes[axis] for i, axes in enumerate(frames)]) / length.clamp(min=1e-9)
        width = config.direction_width * 2 / (functions - 1)
        phi = torch.exp(-((cosine[..., None] - centres) ** 2) / (2 * width**2))
        phi = torch.where((length**2 > 1e-5)[..., None], phi, 0.0)
        total = total + (weight[..., None] * phi).sum((1, 2)) @ matrices[axis].T
    return torch.as_tensor(total)


def attention(
    part: dict[str, Tensor],
    config: ModelConfig,
    state: Tensor,
    squared: Tensor,
    waves: tuple[Tensor, Tensor, set[int]],
    vectors: Tensor,
) -> Tensor:
    """The attention term of each atom (n, D); squared (n, n, I), |r_n|^2 of every pair and image, vectors their r_n.

    waves: lattice, positions and which heads are in reciprocal space.
    """
    width, channels = config.width, config.width // config.heads
    projected = state @ part["attention.query_key_value.weight"].T + part["attention.query_key_value.bias"]
    outputs = []
    for head in range(config.heads):
        q, k, v = (projected[:, s * width + head * channels :][:, :channels] for s in range(3))
        scale, shift = part["attention.width_norm"]
        u = (q @ part["attention.width_weights"][head] + shift) * scale
        elu = torch.where(u >= 0, 0.1 * u / 0.5, torch.exp((0.1 * u / 0.5).clamp(max=0)) - 1)
        rho = 0.5 * elu + 1
        sigma = config.r0 / torch.sqrt(rho)
        if head in waves[2]:
            alpha = log_wave_sum(config, rho, waves[0], waves[1])
            outputs.append(torch.softmax(q @ k.T / math.sqrt(channels) + alpha, dim=1) @ v)
            continue
        exponents = -squared / (2 * sigma[:, None, None] ** 2)
        alpha = torch.logsumexp(exponents, dim=2)
        weight = torch.softmax(q @ k.T / math.sqrt(channels) + alpha, dim=1)
        value = v[None].expand(len(state), -1, -1)
        share = torch.softmax(exponents, dim=2)
        radial_factor = config.radial_factor if config.attention == "framed" else 1.0
        if config.radial_basis:
            step = config.r_max / config.radial_basis
            centres = step * torch.arange(1, config.radial_basis + 1, dtype=squared.dtype)
            psi = torch.exp(-((torch.sqrt(squared + 1e-30)[..., None] - centres) ** 2) / (2 * step**2))
            value = value + radial_factor * (share[..., None] * psi).sum(2) @ part["attention.radial_weights"][head].T
        found = (weight[..., None] * value).sum(1)
        if config.attention == "framed":
            matrices = part["attention.direction_weights"][:, head]
            with torch.no_grad():
                products = q @ k.T / math.sqrt(channels)
                shares = weight[..., None] * share
                frames = [frame(*atom) for atom in zip(products, exponents, vectors, shares, strict=True)]
            found = found + config.direction_factor * direction_encoding(
                matrices, config, weight[..., None] * share, frames, vectors
            )
        outputs.append(found)
    return torch.cat(outputs, 1) @ part["attention.output.weight"].T + part["attention.output.bias"]
