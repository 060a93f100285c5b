"""Merged equivalent atoms give the outputs of all atoms; different atoms are never merged."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from crystalpredict.crystals.crystal import Crystal
from crystalpredict.crystals.equivalence import merge_equivalent
from crystalpredict.crystals.neighbors import find_neighbors
from crystalpredict.crystals.primitive import MAX_ATOMS_EXACT, primitive_size, primitive_sizes
from crystalpredict.nn.batch import collate
from tests.reference import reference_model
from tests.sample_crystals import FCC, random_crystal, rock_salt, supercell

RADIUS = 6.0


def merged(*crystals: Crystal) -> list:
    return merge_equivalent(crystals, [find_neighbors(c.lattice, c.positions, RADIUS) for c in crystals], RADIUS)


def counts(crystal: Crystal) -> list[int]:
    return merged(crystal)[0].counts.tolist()


def perovskite() -> Crystal:
    sites = np.array([[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    return Crystal.ordered(3.9 * np.eye(3), 3.9 * sites, np.array([38, 22, 8, 8, 8]))


def rutile() -> Crystal:
    u = 0.305
    sites = [[0, 0, 0], [0.5, 0.5, 0.5], [u, u, 0], [-u, -u, 0], [0.5 + u, 0.5 - u, 0.5], [0.5 - u, 0.5 + u, 0.5]]
    lattice = np.diag([4.594, 4.594, 2.959])
    return Crystal.ordered(lattice, np.array(sites) @ lattice, np.array([22, 22, 8, 8, 8, 8]))


def moved(crystal: Crystal, distance: float, seed: int = 0) -> Crystal:
    noise = np.random.default_rng(seed).normal(size=crystal.positions.shape) * distance
    return replace(crystal, positions=crystal.positions + noise)


def test_well_known_structures_have_their_crystallographic_orbits() -> None:
    diamond = Crystal.ordered(3.567 * FCC, 3.567 * np.array([[0, 0, 0], [0.25] * 3]), np.array([6, 6]))
    assert counts(diamond) == [2]
    assert counts(rock_salt()) == [1, 1]
    assert counts(perovskite()) == [1, 1, 3]
    assert counts(rutile()) == [2, 4]


def test_a_supercell_has_the_atoms_of_the_primitive_cell() -> None:
    crystal = random_crystal(1, n_atoms=3)
    assert counts(crystal) == [1, 1, 1]
    assert counts(supercell(crystal, 3 * np.eye(3, dtype=int))) == [27, 27, 27]


@pytest.mark.parametrize("crystal", [perovskite(), rutile(), supercell(random_crystal(5, 4), np.diag([2, 1, 3]))])
def test_outputs_and_gradients_are_those_of_all_atoms(crystal: Crystal) -> None:
    model = reference_model(radius=RADIUS).requires_grad_()
    results = []
    full = find_neighbors(crystal.lattice, crystal.positions, RADIUS)
    for edges in (full, *merged(crystal)):
        output = model(collate([crystal], [edges], torch.float64))
        results.append(
            (output, torch.cat([g.flatten() for g in torch.autograd.grad(output.sum(), model.parameters())]))
        )
    assert merged(crystal)[0].size < crystal.n_atoms
    assert torch.allclose(results[0][0], results[1][0], atol=1e-11)
    assert torch.allclose(results[0][1], results[1][1], atol=1e-10)


def test_a_small_displacement_splits_atoms_and_rounding_does_not() -> None:
    assert len(counts(moved(rutile(), 0.01))) == 6
    assert counts(moved(rutile(), 1e-6)) == [2, 4]


@pytest.mark.parametrize("noise", [1e-5, 1e-4, 3e-4])
def test_merging_does_not_change_the_output(noise: float) -> None:
    model = reference_model(radius=RADIUS)
    for seed in range(10):
        crystal = moved(supercell(rutile(), np.diag([2, 1, 1])), noise, seed)
        full = find_neighbors(crystal.lattice, crystal.positions, RADIUS)
        with torch.no_grad():
            one, two = (model(collate([crystal], [e], torch.float64)).item() for e in (full, *merged(crystal)))
        assert one == pytest.approx(two, abs=1e-4)


def test_sites_of_other_occupancy_are_not_equivalent() -> None:
    crystal = supercell(rock_salt(), np.diag([2, 1, 1]))
    occupancies = crystal.occupancies.copy()
    occupancies[0] = 0.9
    assert sorted(counts(replace(crystal, occupancies=occupancies))) == [1, 1, 2]


def test_atoms_of_a_large_disordered_cell_stay_apart() -> None:
    crystal = random_crystal(3, n_atoms=1500)
    alike = Crystal.ordered(crystal.lattice, crystal.positions, np.full(1500, 14))
    assert counts(alike) == [1] * 1500


def test_merging_does_not_depend_on_the_other_crystals() -> None:
    crystals = [moved(rutile(), 1e-4, seed) for seed in range(6)] + [random_crystal(2, 9), perovskite()]
    together = merged(*crystals)
    for crystal, edges in zip(crystals, together, strict=True):
        (alone,) = merged(crystal)
        for name in ("first", "indices", "distances", "atoms", "counts"):
            assert np.array_equal(getattr(alone, name), getattr(edges, name)), name
    assert merge_equivalent([], [], RADIUS) == []


@pytest.mark.parametrize("seed", range(3))
def test_a_nearly_symmetric_crystal_is_merged_the_same_among_disordered_ones(seed: int) -> None:
    mates = [replace(random_crystal(n, 3 + 2 * n), numbers=np.full((3 + 2 * n, 1), 14)) for n in range(7)]
    for crystal in (perovskite(), rutile()):
        near = moved(supercell(crystal, np.diag([2, 2, 1])), 3e-5, seed)
        (alone,) = merged(near)
        for company in range(1, 8):
            *_, edges = merged(*mates[:company], near)
            assert edges.atoms.tolist() == alone.atoms.tolist()
            assert edges.counts.tolist() == alone.counts.tolist()


def test_the_primitive_size_of_any_cell_is_that_of_the_crystal() -> None:
    for seed in range(12):
        crystal = random_crystal(seed, 1 + seed % 5)
        matrix = np.array([[1 + seed % 3, 1, 0], [0, 2, seed % 2], [1, 0, 1]])
        assert abs(round(np.linalg.det(matrix))) >= 2
        assert primitive_size(crystal) == crystal.n_atoms
        assert primitive_size(supercell(crystal, matrix)) == crystal.n_atoms
    conventional = supercell(rock_salt(), np.array([[-1, 1, 1], [1, -1, 1], [1, 1, -1]]))
    assert (conventional.n_atoms, primitive_size(conventional)) == (8, 2)


def test_primitive_sizes_of_many_cells_are_those_of_each() -> None:
    fcc = np.array([[-1, 1, 1], [1, -1, 1], [1, 1, -1]])
    cells = [rock_salt(), perovskite(), rutile(), *(random_crystal(seed, 1 + seed) for seed in range(6))]
    cells += [supercell(cell, matrix) for cell in cells for matrix in (fcc, np.diag([1, 2, 3]), np.diag([3, 3, 4]))]
    cells += [moved(cell, shift) for cell in cells for shift in (1e-4, 0.1)]
    silver = supercell(Crystal(3.9 * np.eye(3), np.zeros((1, 3)), np.array([[47, 79]]), np.array([[0.3, 0.7]])), fcc)
    cells += [silver, replace(silver, occupancies=np.linspace(0.1, 0.9, 8).reshape(4, 2))]
    sizes = [primitive_size(cell) for cell in cells]
    assert primitive_sizes(cells).tolist() == sizes
    assert sizes[-2:] == [1, 4]
    assert sum(size < cell.n_atoms for size, cell in zip(sizes, cells, strict=True)) > 20
    assert primitive_sizes([]).tolist() == []


def test_an_atom_out_of_place_makes_the_whole_cell_primitive() -> None:
    conventional = supercell(rock_salt(), np.diag([2, 2, 2]))
    positions = conventional.positions.copy()
    positions[3] += 0.1
    assert primitive_size(replace(conventional, positions=positions)) == 16
    for crystal in (rock_salt(), rutile()):
        large = supercell(crystal, np.diag([8, 8, 7]))
        assert primitive_size(large) == crystal.n_atoms
        assert primitive_size(moved(large, 0.1)) == large.n_atoms > 800


def test_the_primitive_size_of_a_large_cell_uses_every_sublattice() -> None:
    chain = np.arange(64.0)[:, None] * [0, 0, 3.0]
    chain[11] += [0, 0, 0.1]  # else its primitive cell has one atom
    cell = Crystal.ordered(np.diag([3.0, 3.0, 192.0]), chain, np.full(64, 84))
    large = supercell(cell, np.diag([4, 4, 1]))
    assert large.n_atoms > MAX_ATOMS_EXACT
    for seed in range(4):
        order = np.random.default_rng(seed).permutation(large.n_atoms)
        shuffled = replace(large, positions=large.positions[order])
        assert primitive_size(shuffled) == 64
        shuffled.positions[5] += 0.1  # one atom of 1,024
        assert primitive_size(shuffled) == 1024


def test_a_vacancy_makes_a_large_cell_primitive() -> None:
    copper = Crystal.ordered(3.6 * FCC, np.zeros((1, 3)), np.array([29]))
    large = supercell(copper, 8 * np.array([[-1, 1, 1], [1, -1, 1], [1, 1, -1]]))
    assert (large.n_atoms, primitive_size(large)) == (2048, 1)
    left = np.arange(large.n_atoms) != 700
    assert primitive_size(Crystal.ordered(large.lattice, large.positions[left], large.numbers[left, 0])) == 2047


@pytest.mark.parametrize("shear", [np.eye(3), [[1, 3, 0], [0, 1, 2], [0, 0, 1]]])
def test_the_primitive_size_of_a_large_noisy_cell_is_found_as_fast(shear: np.ndarray) -> None:
    vast = supercell(rock_salt(), (np.array(shear) @ np.diag([14, 14, 14])).astype(int))
    positions = (
        moved(vast, 1e-3).positions - np.random.default_rng(0).integers(-2, 3, (len(vast.numbers), 3)) @ vast.lattice
    )
    noisy = replace(vast, positions=positions)
    assert (noisy.n_atoms, primitive_size(noisy)) == (5488, 2)  # all pairs of all shifts would take minutes
    for part in (positions[200:], positions[::2]):  # views
        part += np.random.default_rng(1).uniform(-0.2, 0.2, part.shape)
        assert primitive_size(replace(vast, positions=positions)) == 5488
