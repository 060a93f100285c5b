from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from crystalpredict.crystals.crystal import Crystal, Neighbors
from crystalpredict.crystals.equivalence import merge_equivalent
from crystalpredict.crystals.fingerprint import fingerprint
from crystalpredict.crystals.neighbors import find_neighbors
from crystalpredict.data.dataset import TEST, TRAIN, VALIDATION
from crystalpredict.data.splits import repeated_rows, split_folds, split_groups
from crystalpredict.errors import UsageError
from tests.sample_crystals import random_crystal

RADIUS = 6.0
FORMULAS = [f"A{number}" for number in range(300) for _ in range(1 + number % 4)]  # 750 rows


def test_groups_stay_together_and_shares_are_kept() -> None:
    splits = split_groups(FORMULAS, validation=0.1, test=0.2, seed=1)
    counts = Counter(splits.tolist())
    assert counts == {TRAIN: 525, VALIDATION: 75, TEST: 150}
    assert len(set(zip(FORMULAS, splits.tolist(), strict=True))) == 300
    assert np.array_equal(splits, split_groups(FORMULAS, 0.1, 0.2, seed=1))
    assert not np.array_equal(splits, split_groups(FORMULAS, 0.1, 0.2, seed=2))


def test_a_part_with_fraction_0_is_empty_and_any_other_has_a_row() -> None:
    splits = split_groups(range(5), validation=0.01, test=0.0, seed=0)
    assert Counter(splits.tolist()) == {TRAIN: 4, VALIDATION: 1}


@pytest.mark.parametrize("groups", [["A"] * 50, ["A"] * 30 + ["B"] * 30, ["A"]])
def test_groups_that_cannot_be_split_are_an_error(groups: list[str]) -> None:
    with pytest.raises(UsageError, match="--split-by random"):
        split_groups(groups, 0.1, 0.1, seed=0)


def test_parts_that_leave_nothing_to_train_on_are_refused() -> None:
    with pytest.raises(UsageError, match=r"--validation 0.9 and --test 0.9 leave nothing"):
        split_groups(range(50), 0.9, 0.9, seed=0)


def test_each_row_is_tested_once_in_folds_of_like_size() -> None:
    folds = split_folds(FORMULAS, 5, validation=0.1, seed=3)
    tested = np.stack([splits == TEST for splits in folds])
    assert (tested.sum(axis=0) == 1).all()
    assert tested.sum(axis=1).max() - tested.sum(axis=1).min() <= 4
    for splits in folds:
        assert len(set(zip(FORMULAS, splits.tolist(), strict=True))) == 300
        assert {TRAIN, VALIDATION, TEST} == set(splits.tolist())
    with pytest.raises(UsageError, match="--kfold 5"):
        split_folds(["A", "B", "C", "D", "E"], 5, 0.1, seed=0)


def edges_of(crystal: Crystal) -> Neighbors:
    edges = find_neighbors(crystal.lattice, crystal.positions, RADIUS)
    return merge_equivalent([crystal], [edges], RADIUS)[0]


def print_of(crystal: Crystal) -> np.ndarray:
    edges = edges_of(crystal)
    return fingerprint(crystal.numbers[edges.atoms, 0], edges)


def test_the_same_crystal_in_another_cell_is_found_again_and_a_polymorph_is_not() -> None:
    crystal = random_crystal(4, n_atoms=6)
    order = np.random.default_rng(0).permutation(6)
    shifted = replace(crystal, positions=crystal.positions[order] + 1.7, numbers=crystal.numbers[order])
    doubled = Crystal.ordered(
        crystal.lattice * [[1], [1], [2]],
        np.concatenate([crystal.positions, crystal.positions + crystal.lattice[2]]),
        np.concatenate([crystal.numbers[:, 0]] * 2),
    )
    strained = replace(crystal, lattice=crystal.lattice * 1.002, positions=crystal.positions * 1.002)
    swapped = replace(crystal, numbers=np.roll(crystal.numbers, 1, axis=0))
    crystals = [crystal, strained, shifted, swapped, doubled, crystal]
    groups = repeated_rows(["X"] * 5 + ["Y"], np.stack([print_of(each) for each in crystals]))
    assert groups == [[0, 2, 4]]
