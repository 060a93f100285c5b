from dataclasses import fields, replace

import numpy as np
import pytest
import safetensors.numpy

from crystalpredict.crystals.crystal import ATOMIC_NUMBERS, Crystal
from crystalpredict.crystals.neighbors import find_neighbors
from crystalpredict.uncertainty.applicability import COMPRESSION_FACTOR, Domain, fit_domain, nearest_neighbors
from crystalpredict.uncertainty.calibration import domain_from_bytes, domain_to_bytes
from tests.sample_crystals import rock_salt

SYMBOLS = [(one, two) for one in ("Na", "K", "Rb", "Cs") for two in ("F", "Cl", "Br", "I")]
LENGTHS = {"Na": 1.0, "K": 1.35, "Rb": 1.5, "Cs": 1.65, "F": 1.3, "Cl": 1.8, "Br": 1.95, "I": 2.2}


def salt(one: str, two: str, stretch: float = 1.0) -> Crystal:
    crystal = rock_salt(2 * (LENGTHS[one] + LENGTHS[two]) * stretch)
    numbers = np.array([[ATOMIC_NUMBERS[one]], [ATOMIC_NUMBERS[two]]])
    return replace(crystal, numbers=numbers)


def features_of(crystals: list[Crystal]) -> np.ndarray:
    return np.array([[np.log(crystal.volume), crystal.numbers.mean()] for crystal in crystals])


@pytest.fixture(scope="module")
def domain() -> Domain:
    rng = np.random.default_rng(0)
    crystals = [salt(*pair, 1 + rng.uniform(-0.03, 0.03)) for pair in SYMBOLS for _ in range(30)]
    return fit_domain(crystals, [neighbors(crystal) for crystal in crystals], features_of(crystals))


def neighbors(crystal: Crystal):
    return find_neighbors(crystal.lattice, crystal.positions, 6.0)


def said(domain: Domain, *crystals: Crystal, features: np.ndarray | None = None) -> list[str]:
    features = features_of(list(crystals)) if features is None else features
    return domain.warnings(crystals, [neighbors(crystal) for crystal in crystals], features)


def test_crystals_like_the_training_data_have_no_warning(domain) -> None:
    assert said(domain, *(salt(*pair) for pair in SYMBOLS)) == [""] * len(SYMBOLS)
    assert said(domain) == []


def test_statistics_are_those_of_the_crystals(domain) -> None:
    assert domain.elements[[10, 16, 5]].tolist() == [120, 120, 0]  # Na, Cl, C
    assert domain.pairs[10, 16] == 30
    assert domain.bonds[10, 16] == pytest.approx([2.8 * 0.97, 2.8 * 1.03], rel=5e-3)
    assert domain.bonds[10, 10].tolist() == [0, np.inf]  # no two sodium atoms are nearest neighbours


def test_warnings_of_stretched_and_compressed_crystals_state_bond_and_volume(domain) -> None:
    (wide,) = said(domain, salt("Na", "Cl", 1.3))
    assert "Na-Cl 3.64 Å apart, not 2.7" in wide
    assert "times the usual volume" in wide
    (dense,) = said(domain, salt("Na", "Cl", 0.75))
    assert "Na-Cl 2.10 Å apart" in dense
    assert "0.40 times the usual volume" in dense


def test_a_network_that_knows_relaxed_volumes_is_the_better_judge_of_loose_packing(domain) -> None:
    tolerant = replace(domain, bonds=np.broadcast_to([2.0, 4.0], (98, 98, 2)))
    crystals = [salt("Na", "Cl", 1.2), salt("Na", "Cl", 1.2), salt("Na", "Cl", 0.6)]
    edges, features = [neighbors(crystal) for crystal in crystals], features_of([salt("Na", "Cl")] * 3)
    known, unknown, dense = tolerant.warnings(crystals, edges, features, [True, False, True])
    assert known == ""
    assert "1.7 times the usual volume" in unknown
    assert "times the usual volume" in dense


def test_elements_at_their_usual_volume_are_not_left_out_as_expanded() -> None:
    salts = [salt(*pair) for pair in SYMBOLS for _ in range(30)]
    metal = Crystal.ordered(4.29 * np.eye(3), 4.29 * np.array([[0, 0, 0], [0.5, 0.5, 0.5]]), np.array([11, 11]))
    gas = Crystal.ordered(9.0 * np.eye(3), np.array([[0.0, 0, 0], [5.5, 0, 0]]), np.array([11, 11]))
    crystals = [*salts, *[metal] * 35, gas]
    bonds = fit_domain(crystals, [neighbors(crystal) for crystal in crystals]).bonds
    assert bonds[10, 10] == pytest.approx(4.29 * np.sqrt(3) / 2, rel=1e-4)


def test_an_element_and_a_pair_that_were_never_seen_are_named(domain) -> None:
    numbers = np.array([[ATOMIC_NUMBERS["Li"]], [ATOMIC_NUMBERS["Cl"]]])
    (reason,) = said(domain, replace(salt("Na", "Cl"), numbers=numbers))
    assert reason.startswith("unlike the training data: no Li in it")
    numbers = np.array([[ATOMIC_NUMBERS["F"]], [ATOMIC_NUMBERS["I"]]])
    (reason,) = said(domain, replace(salt("Na", "Cl"), numbers=numbers))
    assert "F with I in none of its crystals" in reason


def test_a_layer_without_atoms_is_noticed_in_any_direction(domain) -> None:
    for axis in range(3):
        cubic = 5.6 * np.eye(3)
        grid = np.array([[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]]) * 2.8
        positions = np.concatenate([grid, (grid + np.array([2.8, 0, 0])) % 5.6])
        cubic[axis, axis] += 12
        for skew in (np.eye(3), [[1, 0, 1], [0, 1, 0], [0, 0, 1]], [[1, -2, 0], [3, -5, 0], [0, 4, -1]]):
            slab = Crystal.ordered(np.array(skew) @ cubic, positions, np.repeat([11, 17], 4))
            (reason,) = said(domain, slab)
            assert "a layer of 15 Å without atoms" in reason


def test_features_far_from_all_centroids_are_noticed(domain) -> None:
    crystal = salt("K", "Br")
    far = features_of([crystal]) + np.array([[9.0, 0]])
    assert said(domain, crystal, features=far) == [
        "unlike the training data: its network features are far from those of any training crystal"
    ]


def test_nearest_neighbours_are_found_among_many_crystals_and_isolated_atoms_have_none() -> None:
    alone = Crystal.ordered(20 * np.eye(3), np.zeros((1, 3)), np.array([2]))
    crystals = [salt("Na", "Cl"), alone, salt("Cs", "I")]
    owners, one, two, lengths = nearest_neighbors(crystals, [neighbors(crystal) for crystal in crystals])
    assert owners.tolist() == [0, 0, 1, 2, 2]
    assert one.tolist() == [10, 16, 1, 54, 52]
    assert two[[0, 1, 3, 4]].tolist() == [16, 10, 52, 54]
    assert lengths == pytest.approx([2.8, 2.8, np.inf, 3.85, 3.85])


def test_of_neighbours_at_one_distance_the_first_element_counts_despite_rounding_and_order() -> None:
    cell = 4.0 * np.eye(3)
    sites = np.array([[0, 0, 0], [2, 0, 0], [0, 2, 0], [2, 2, 0], [0, 0, 2.0]])
    numbers = np.array([26, 23, 24, 26, 26])  # Fe with V and Cr at 2 Å
    for order in ([0, 1, 2, 3, 4], [4, 2, 1, 0, 3]):
        shifted = sites[order] + np.array([[0.3, 0.7, 0.1]]) / 3
        crystal = Crystal.ordered(cell, shifted, numbers[order])
        _, _, two, lengths = nearest_neighbors([crystal], [neighbors(crystal)])
        assert two[order.index(0)] == 22
        assert lengths == pytest.approx(np.full(5, 2.0))


def test_a_bond_is_named_the_same_from_both_of_its_atoms(domain) -> None:
    crystal = salt("Na", "Cl", 1.2)
    swapped = Crystal(crystal.lattice, crystal.positions, crystal.numbers[::-1], crystal.occupancies)
    assert said(domain, crystal) == said(domain, swapped)
    assert "Na-Cl 3.36 Å apart" in said(domain, swapped)[0]


def test_compressed_crystals_are_tolerated_and_expanded_ones_left_out() -> None:
    crystals = [salt("Na", "Cl", 1 + 0.0001 * number) for number in range(200)]
    features = features_of(crystals)
    alone = fit_domain(crystals, [neighbors(crystal) for crystal in crystals], features)
    assert alone.packing[0] == pytest.approx(
        COMPRESSION_FACTOR * alone.packing[1], rel=0.1
    )  # nearly all have one volume
    crystals += [salt("Na", "Cl", 1.9)] * 2
    with_blown_up = fit_domain(crystals, [neighbors(crystal) for crystal in crystals], features_of(crystals))
    assert with_blown_up.bonds[10, 16] == pytest.approx(alone.bonds[10, 16], rel=1e-3)


def test_crystals_of_a_later_training_are_added_and_features_are_left_out(domain) -> None:
    lithium = np.array([[ATOMIC_NUMBERS["Li"]], [ATOMIC_NUMBERS["Cl"]]])
    dense = [salt("Na", "Cl", 0.75 + 0.001 * number) for number in range(20)]
    new = [replace(salt("Na", "Cl"), numbers=lithium) for _ in range(25)]
    later = fit_domain([*dense, *new], [neighbors(crystal) for crystal in (*dense, *new)], base=domain)
    assert later.elements[[10, 2, 16]].tolist() == [140, 25, 165]
    assert later.pairs[10, 16] == 50
    assert later.bonds[10, 16] == pytest.approx([2.1, 2.8 * 1.03], rel=5e-3)
    assert later.bonds[2, 16] == pytest.approx([2.8, 2.8])
    assert later.bonds[18, 16].tolist() == domain.bonds[18, 16].tolist()
    assert later.volumes[10] == domain.volumes[10]
    rows = (salt("Na", "Cl"), dense[0], new[0], salt("K", "Br"))
    assert said(later, *rows, features=np.full((4, 7), np.nan)) == [""] * 4
    (unseen,) = said(later, replace(salt("Na", "Cl"), numbers=lithium + 20), features=np.zeros((1, 7)))
    assert "no V in it" in unseen
    (wide,) = said(later, salt("Na", "Cl", 1.3))
    assert "Na-Cl 3.64 Å apart, not 2.1" in wide
    assert "times the usual volume" in wide
    content = domain_to_bytes(later)
    again = domain_from_bytes(content, 128)
    assert all(np.array_equal(getattr(again, each.name), getattr(later, each.name)) for each in fields(Domain))
    with pytest.raises(ValueError, match="another model"):
        domain_from_bytes(domain_to_bytes(domain), 128)
    other = safetensors.numpy.save({"domain.reach": np.zeros(1)})
    for wrong, message in ((content[:50], "not a readable safetensors file"), (other, "missing or unknown")):
        with pytest.raises(ValueError, match=message):
            domain_from_bytes(wrong, 128)


def test_impossible_statistics_are_refused(domain) -> None:
    with pytest.raises(ValueError, match="bonds"):
        replace(domain, bonds=domain.bonds[:5])
    with pytest.raises(ValueError, match="not positive"):
        replace(domain, scale=domain.scale * 0)


def test_long_bonds_throughout_are_reported_if_none_is_out_of_range(domain) -> None:
    wide = domain.bonds.copy()
    wide[10, 16] = wide[16, 10] = 2.0, 3.6  # a few odd crystals are enough for that
    tolerant = replace(domain, bonds=wide, packing=np.array([0.5, 1.3, 3.0]), reach=np.array([np.inf]))
    (stretched,) = said(tolerant, salt("Na", "Cl", 1.2))  # 3.36 Å
    assert "all its bonds are long, 1.7 times the usual volume" in stretched
    assert said(tolerant, salt("Na", "Cl", 1.05)) == [""]  # not loosely packed
    tolerant.bonds[10, 16] = tolerant.bonds[16, 10] = 3.2, 4.0
    assert said(tolerant, salt("Na", "Cl", 1.2)) == [""]  # in the lower half
