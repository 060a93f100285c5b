"""The neighbour-list form equals the double sum over pairs and images, in value and in gradient."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from crystalpredict.crystals.crystal import Crystal
from crystalpredict.crystals.neighbors import Neighbors, find_neighbors
from crystalpredict.nn import Crystalformer, ModelConfig
from crystalpredict.nn.batch import collate
from tests.brute_force import network
from tests.sample_crystals import batch_of, random_crystal

SMALL = ModelConfig(blocks=2, width=16, heads=2, feedforward=24, radial_basis=16, readout=8, outputs=2, radius=16.0)


def small_model(config: ModelConfig, seed: int) -> Crystalformer:
    """Random weights, a few times larger than at the start of a training, so that every term matters."""
    torch.manual_seed(seed)
    model = Crystalformer(config).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(torch.randn_like(parameter) * (0.3 if "bias" not in name else 0.1))
    crystals = random_crystal(seed), random_crystal(seed + 1)
    model.fit_width_norm(batch_of(*crystals, radius=config.radius, vectors=config.vectors))
    return model


def mix_of(crystal: Crystal) -> torch.Tensor:
    mix = torch.zeros(crystal.n_atoms, 98, dtype=torch.float64)
    for column in range(crystal.numbers.shape[1]):
        mix[torch.arange(crystal.n_atoms), torch.from_numpy(crystal.numbers[:, column] - 1)] += torch.from_numpy(
            crystal.occupancies[:, column]
        )
    return mix


def brute_force(model: Crystalformer, crystal: Crystal, positions: torch.Tensor | None = None) -> torch.Tensor:
    weights = dict(model.named_parameters()) | dict(model.named_buffers())
    spacing = 1 / np.linalg.norm(np.linalg.inv(crystal.lattice), axis=0).max()
    reach = int(np.ceil(18.0 / spacing)) + 2  # atoms lie up to 0.7 cells outside
    positions = torch.from_numpy(crystal.positions) if positions is None else positions
    return network(weights, model.config, torch.from_numpy(crystal.lattice), positions, mix_of(crystal), reach)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "change",
    [{}, {"radial_basis": 0}, {"blocks": 1}, {"blocks": 7, "width": 8}, {"readout_of_states": 6}, {"kernel_points": 4}],
    ids=str,
)
def test_outputs_equal_the_double_sum(seed: int, change: dict[str, int]) -> None:
    model = small_model(replace(SMALL, **change), seed)
    crystal = random_crystal(seed + 10, n_atoms=1 + seed % 3)
    with torch.no_grad():
        ours, theirs = model(batch_of(crystal, radius=16.0))[0], brute_force(model, crystal)
    assert ours.tolist() == pytest.approx(theirs.tolist(), abs=1e-10)


FAMILY: list[dict[str, Any]] = [
    {"attention": "dual", "reciprocal_reach": 2},
    {"attention": "dual", "reciprocal_reach": 1, "reciprocal_r0": 1.7, "radial_basis": 0},
    {"attention": "alternating", "reciprocal_reach": 2, "blocks": 3},
    {"attention": "reciprocal", "reciprocal_reach": 2},
    {"attention": "framed", "direction_basis": 16},
    {
        "attention": "framed",
        "direction_basis": 9,
        "direction_width": 1.0,
        "radial_factor": 1.5,
        "direction_factor": 6.0,
    },
    {"attention": "framed", "direction_basis": 16, "radial_basis": 0, "blocks": 4},
]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("change", FAMILY, ids=str)
def test_outputs_of_the_family_equal_the_double_sum(seed: int, change: dict[str, Any]) -> None:
    model = small_model(replace(SMALL, **change), seed)
    crystal = random_crystal(seed + 10, n_atoms=2 + seed)
    company = random_crystal(seed + 40, n_atoms=5)
    with torch.no_grad():
        ours, theirs = model(batch_of(company, crystal, radius=16.0, vectors=True))[1], brute_force(model, crystal)
    assert ours.tolist() == pytest.approx(theirs.tolist(), abs=1e-10)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("change", [{}, FAMILY[0], FAMILY[4]], ids=str)
def test_gradients_of_all_weights_equal_those_of_the_double_sum(seed: int, change: dict[str, Any]) -> None:
    model = small_model(replace(SMALL, **change), seed)
    crystal = random_crystal(seed + 20, n_atoms=3)
    batch = batch_of(crystal, radius=16.0, vectors=model.config.vectors)
    ours = torch.autograd.grad(model(batch).sum(), list(model.parameters()))
    theirs = torch.autograd.grad(brute_force(model, crystal).sum(), list(model.parameters()))
    for (name, _), one, two in zip(model.named_parameters(), ours, theirs, strict=True):
        assert (one - two).abs().max() < 1e-10, name
        assert one.abs().max() > 0, name


def test_gradient_in_the_distances_gives_the_forces_of_the_double_sum() -> None:
    """Chain rule by hand: d out / d x_i = sum over edges of d out / d d_e times the edge's direction."""
    model, crystal = small_model(SMALL, 5), random_crystal(30, n_atoms=3)
    positions = torch.from_numpy(crystal.positions).requires_grad_()
    (expected,) = torch.autograd.grad(brute_force(model, crystal, positions)[0], positions)

    edges = find_neighbors(crystal.lattice, crystal.positions, 16.0)
    batch = collate([crystal], [edges], torch.float64)
    (part,) = batch.parts
    distances = part.distances.clone().requires_grad_()
    moving = replace(batch, parts=(replace(part, distances=distances),))
    (slope,) = torch.autograd.grad(model(moving)[0, 0], distances)
    ends = images_of(crystal, edges)
    numeric = np.zeros((3, 3))
    for atom in range(3):
        for axis in range(3):
            step = 1e-5
            moved = []
            for sign in (1, -1):
                shifted = crystal.positions.copy()
                shifted[atom, axis] += sign * step
                moved.append(ordered_distances(shifted, edges, ends))
            numeric[atom, axis] = float(
                (slope[0, distances[0] < 100].numpy() * (moved[0] - moved[1])).sum() / (2 * step)
            )
    assert np.abs(numeric - expected.numpy()).max() < 1e-7


def images_of(crystal: Crystal, edges: Neighbors) -> np.ndarray:
    """Lattice vector (E, 3) of the image at the end of each edge: one that gives its distance, each but once."""
    centres = np.repeat(np.arange(crystal.n_atoms), np.diff(edges.first))
    grid = np.arange(-9, 10)
    images = np.stack(np.meshgrid(grid, grid, grid, indexing="ij"), -1).reshape(-1, 3) @ crystal.lattice
    chosen = np.empty((len(centres), 3))
    taken: dict[tuple[int, int], set[int]] = {}
    for e, (i, j) in enumerate(zip(centres, edges.indices, strict=True)):
        lengths = np.linalg.norm(crystal.positions[j] - crystal.positions[i] + images, axis=1)
        used = taken.setdefault((i, j), set())
        order = [n for n in np.argsort(np.abs(lengths - edges.distances[e]))[:4] if n not in used]
        used.add(order[0])
        chosen[e] = images[order[0]]
    return chosen


def ordered_distances(moved: np.ndarray, edges: Neighbors, ends: np.ndarray) -> np.ndarray:
    """Distances (E,) of the same edges after a small move."""
    centres = np.repeat(np.arange(len(moved)), np.diff(edges.first))
    return np.linalg.norm(moved[edges.indices] - moved[centres] + ends, axis=1)


def test_a_shared_site_is_the_mix_of_its_elements() -> None:
    model = small_model(SMALL, 6)
    crystal = random_crystal(40, n_atoms=3)
    numbers = np.concatenate([crystal.numbers, crystal.numbers[::-1]], axis=1)
    shared = Crystal(crystal.lattice, crystal.positions, numbers, np.array([[0.3, 0.7], [0.5, 0.25], [1.0, 0.0]]))
    with torch.no_grad():
        ours, theirs = model(batch_of(shared, radius=16.0))[0], brute_force(model, shared)
    assert ours.tolist() == pytest.approx(theirs.tolist(), abs=1e-10)
