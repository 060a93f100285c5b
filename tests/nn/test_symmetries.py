"""Invariances of the predictions, in float64, on random crystals; each test states its tolerance."""

import numpy as np
import pytest
import torch

from crystalpredict.crystals.crystal import Crystal
from tests.reference import reference_model
from tests.sample_crystals import batch_of, random_crystal, rock_salt, supercell

RADIUS = 6.0
MODEL = reference_model(radius=RADIUS)
SEEDS = range(5)


def output(*crystals: Crystal) -> list[float]:
    with torch.no_grad():
        return MODEL(batch_of(*crystals, radius=RADIUS))[:, 0].tolist()


def with_positions(crystal: Crystal, positions: np.ndarray) -> Crystal:
    return Crystal(crystal.lattice, positions, crystal.numbers, crystal.occupancies)


@pytest.mark.parametrize("seed", SEEDS)
def test_rotation(seed: int) -> None:
    crystal = random_crystal(seed)
    rotation = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]
    rotation *= np.linalg.det(rotation)
    turned = Crystal(crystal.lattice @ rotation, crystal.positions @ rotation, crystal.numbers, crystal.occupancies)
    assert output(turned) == pytest.approx(output(crystal), abs=1e-11)


@pytest.mark.parametrize("seed", SEEDS)
def test_reflection_and_a_left_handed_lattice(seed: int) -> None:
    crystal = random_crystal(seed)
    mirror = np.diag([1.0, 1.0, -1.0])
    mirrored = Crystal(crystal.lattice @ mirror, crystal.positions @ mirror, crystal.numbers, crystal.occupancies)
    assert np.linalg.det(mirrored.lattice) < 0
    assert output(mirrored) == pytest.approx(output(crystal), abs=1e-11)


@pytest.mark.parametrize("seed", SEEDS)
def test_translation_of_all_atoms_and_of_one_by_a_lattice_vector(seed: int) -> None:
    crystal = random_crystal(seed)
    everywhere = with_positions(crystal, crystal.positions + np.array([1.7, -23.1, 5.5]))
    across = crystal.positions.copy()
    across[0] += crystal.lattice[0] - 2 * crystal.lattice[2]
    assert output(everywhere) == pytest.approx(output(crystal), abs=1e-11)
    assert output(with_positions(crystal, across)) == pytest.approx(output(crystal), abs=1e-11)


@pytest.mark.parametrize("seed", SEEDS)
def test_order_of_atoms(seed: int) -> None:
    crystal = random_crystal(seed, n_atoms=6)
    order = np.random.default_rng(seed).permutation(6)
    shuffled = Crystal(crystal.lattice, crystal.positions[order], crystal.numbers[order], crystal.occupancies[order])
    assert output(shuffled) == pytest.approx(output(crystal), abs=1e-11)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    "matrix",
    [
        [[2, 0, 0], [0, 1, 0], [0, 0, 1]],  # supercells
        [[2, 0, 0], [0, 2, 0], [0, 0, 2]],
        [[1, 1, 0], [-1, 1, 0], [0, 0, 1]],
        [[1, 3, 0], [0, 1, -2], [0, 0, 1]],  # another, very skewed, cell of the same crystal
    ],
    ids=str,
)
def test_supercell_and_any_other_cell(seed: int, matrix: list[list[int]]) -> None:
    crystal = random_crystal(seed, n_atoms=3)
    assert output(supercell(crystal, np.array(matrix))) == pytest.approx(output(crystal), abs=1e-11)


def test_a_batch_equals_single_crystals() -> None:
    crystals = [random_crystal(seed, n_atoms=1 + 9 * seed) for seed in range(12)] + [rock_salt()]
    alone = [output(crystal)[0] for crystal in crystals]
    assert output(*crystals) == pytest.approx(alone, abs=1e-11)
    assert output(*crystals[::-1]) == pytest.approx(alone[::-1], abs=1e-11)


@pytest.mark.parametrize("seed", SEEDS)
def test_neighbours_at_the_radius_are_left_out_in_every_cell(seed: int) -> None:
    crystal = rock_salt(RADIUS)  # every atom has six of its own kind at the lattice constant
    rotation = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]
    rotation *= np.linalg.det(rotation)
    turned = Crystal(
        crystal.lattice @ rotation, crystal.positions @ rotation + 0.1 * seed, crystal.numbers, crystal.occupancies
    )
    doubled = supercell(turned, np.diag([2, 1, 1]))
    assert output(turned, doubled) == pytest.approx(output(crystal, crystal), abs=1e-11)


def test_the_lattice_constant_matters() -> None:
    """Without radial encoding a one-atom cell could not tell; with it, 1 % of strain shows."""
    assert abs(output(rock_salt(5.64))[0] - output(rock_salt(5.70))[0]) > 1e-4


def test_an_edge_at_the_radius_has_almost_no_weight() -> None:
    crystal = random_crystal(1)
    converged = reference_model(radius=14.0)
    with torch.no_grad():
        reference = converged(batch_of(crystal, radius=14.0))[0, 0].item()
    assert output(crystal)[0] == pytest.approx(reference, abs=1e-3)
