import numpy as np
import pytest
import torch

from crystalpredict.crystals.crystal import Crystal
from crystalpredict.crystals.neighbors import find_neighbors
from crystalpredict.nn.batch import collate
from crystalpredict.nn.bins import MIN_SLOTS, pack, split_by_atoms
from tests.sample_crystals import random_crystal


@pytest.mark.parametrize("seed", range(5))
def test_packed_crystals_neither_overlap_nor_straddle_bins(seed: int) -> None:
    sizes = np.random.default_rng(seed).integers(1, 90, 40)
    starts, bins, slots = pack(sizes)
    used = np.zeros(bins * slots, dtype=int)
    for start, size in zip(starts, sizes, strict=True):
        assert start // slots == (start + size - 1) // slots
        used[start : start + size] += 1
    assert used.max() == 1
    assert slots >= MIN_SLOTS
    assert used.mean() > 0.8


def test_few_slots_are_empty() -> None:
    """In 300 steps of 40 crystals, of up to 2 or up to 59 atoms."""
    random = np.random.default_rng(0)
    filled = []
    for _ in range(300):
        sizes = random.integers(1, random.integers(2, 60), 40)
        _, bins, slots = pack(sizes)
        filled.append(sizes.sum() / (bins * slots))
    assert np.mean(filled) > 0.98


def test_one_small_crystal_makes_a_small_batch() -> None:
    assert pack(np.array([2]))[1:] == (1, 2)


def test_batches_contain_every_crystal_once_and_respect_the_number_of_atoms() -> None:
    rng = np.random.default_rng(0)
    sizes, widths = rng.integers(1, 300, 200), rng.integers(20, 120, 200)
    batches = split_by_atoms(sizes, widths, 250)
    assert sorted(np.concatenate(batches).tolist()) == list(range(200))
    assert all(sizes[batch].sum() <= 250 or len(batch) == 1 for batch in batches)


def test_slots_elements_and_neighbours_of_a_batch_in_parts() -> None:
    crystals = [random_crystal(seed, n_atoms=seed) for seed in (1, 3, 2, 40)]
    edges = [find_neighbors(c.lattice, c.positions, 5.0) for c in crystals]
    batch = collate(crystals, edges, part_atoms=5)
    assert len(batch.parts) > 1
    assert batch.n_atoms.tolist() == [1, 3, 2, 40]
    total = 0
    for part in batch.parts:
        bins, slots, _ = part.distances.shape
        for slot, (neighbors, distances) in enumerate(
            zip(part.neighbors.flatten(0, 1), part.distances.flatten(0, 1), strict=True)
        ):
            number = int(batch.crystals[total + slot])
            if number == len(crystals):
                assert batch.counts[total + slot] == 0
                assert (distances > 100).all()
                continue
            begin = int((batch.crystals == number).nonzero()[0])
            atom, own = total + slot - begin, edges[number]
            assert batch.counts[total + slot] == 1
            assert batch.elements[total + slot, 0] == crystals[number].numbers[atom, 0] - 1
            mine = slice(own.first[atom], own.first[atom + 1])
            assert torch.allclose(distances[distances < 100], torch.from_numpy(own.distances[mine]).float())
            found = neighbors[distances < 100] + total + slot - slot % slots - begin
            assert found.tolist() == own.indices[mine].tolist()
        total += bins * slots
    assert total == len(batch.crystals)


def test_padding_columns_of_shared_sites_do_not_matter() -> None:
    crystal = random_crystal(0, n_atoms=2)
    odd = Crystal(crystal.lattice, crystal.positions, np.array([[3, 0], [4, 5]]), np.array([[1.0, 0.0], [0.5, 0.5]]))
    batch = collate([odd], [find_neighbors(crystal.lattice, crystal.positions, 4.0)])
    assert batch.elements.min() >= 0


def test_precision_and_device_move_only_real_numbers() -> None:
    crystal = random_crystal(0)
    batch = collate([crystal], [find_neighbors(crystal.lattice, crystal.positions, 4.0)]).to("cpu", torch.float64)
    assert batch.parts[0].distances.dtype == batch.occupancies.dtype == torch.float64
    assert batch.parts[0].neighbors.dtype == batch.elements.dtype == torch.int64
