import subprocess
import sys

import numpy as np
import pytest

from crystalpredict.crystals import neighbors
from crystalpredict.crystals.neighbors import find_neighbors, find_neighbors_of_many, numpy_pairs, vesin_pairs
from tests.sample_crystals import FCC, random_crystal


def shells(distances: np.ndarray) -> list[tuple[float, int]]:
    values, counts = np.unique(distances.round(6), return_counts=True)
    return list(zip(values.tolist(), counts.tolist(), strict=True))


def test_face_centred_cubic_has_12_6_24_12_neighbours() -> None:
    edges = find_neighbors(4.0 * FCC, np.zeros((1, 3)), 5.7)
    expected = [(0.0, 1), (8**0.5, 12), (4.0, 6), (24**0.5, 24), (32**0.5, 12)]
    assert shells(edges.distances) == [(pytest.approx(distance, abs=1e-6), count) for distance, count in expected]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("radius", [0.4, 3.0, 6.0, 11.0])
def test_both_searches_find_the_same_edges(seed: int, radius: float) -> None:
    crystal = random_crystal(seed, n_atoms=1 + seed)
    found = [
        sorted(zip(np.sort(pairs, axis=1).tolist(), d.round(9).tolist(), strict=True))
        for pairs, d, _ in (search(crystal.lattice, crystal.positions, radius) for search in (vesin_pairs, numpy_pairs))
    ]
    assert [edge[0] for edge in found[0]] == [edge[0] for edge in found[1]]
    assert np.allclose([edge[1] for edge in found[0]], [edge[1] for edge in found[1]])


@pytest.mark.parametrize("search", [vesin_pairs, numpy_pairs])
def test_a_very_skewed_and_a_needle_cell(search) -> None:
    crystal = random_crystal(3, n_atoms=2)
    skewed = np.array([[1, 7, 0], [0, 1, -5], [0, 0, 1]]) @ crystal.lattice
    reference = search(crystal.lattice, crystal.positions, 6.0)
    assert shells(search(skewed, crystal.positions, 6.0)[1]) == shells(reference[1])
    needle = np.diag([1.5, 1.5, 60.0])
    assert len(search(needle, np.zeros((1, 3)), 3.1)[1]) == 6


def test_edges_are_grouped_by_centre_and_start_with_the_atom_itself() -> None:
    crystal = random_crystal(2, n_atoms=5)
    edges = find_neighbors(crystal.lattice, crystal.positions, 4.0)
    assert edges.indices[edges.first[:-1]].tolist() == [0, 1, 2, 3, 4]
    assert edges.distances[edges.first[:-1]].tolist() == [0.0] * 5
    assert edges.max_edge_count == np.diff(edges.first).max()


@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize(
    "matrix",
    [
        np.diag([1.51, 1.51, 60.0]), np.diag([40.0, 50.0, 1.1]), np.diag([250.0, 4.0, 4.0]), np.diag([350.0, 4.0, 4.0]),
        np.array([[3.0, 0, 0], [20, 3.1, 0], [-17, 9, 3.2]]), np.array([[0, 4.0, 0], [4, 0, 0], [0.3, 0, 5]]),
        np.array([[0.31, 0, 0], [0, 30, 0], [0, 0, 30]]), np.array([[5.0, 0, 0], [4.99, 0.4, 0], [0, 0, 6]]),
    ],
)  # fmt: skip
def test_odd_cells_have_the_edges_that_vesin_finds(matrix: np.ndarray, count: int) -> None:
    random = np.random.default_rng(count)
    positions = random.uniform(-3, 3, (count, 3)) @ matrix  # in other cells too
    edges = find_neighbors(matrix, positions, 6.0, vectors=True)
    pairs, lengths, _ = vesin_pairs(matrix, positions, 6.0)
    assert len(edges.distances) == count + 2 * len(pairs)
    centres = np.repeat(np.arange(count), edges.edge_counts)
    for one in range(count):
        for two in range(count):
            found = np.sort(edges.distances[(centres == one) & (edges.indices == two)])
            own = lengths[(pairs == (one, two)).all(axis=1)], lengths[(pairs == (two, one)).all(axis=1)]
            expected = np.sort(np.concatenate([*own, np.zeros(int(one == two))]))
            assert np.allclose(found, expected, atol=1e-9)
    assert np.allclose(np.linalg.norm(edges.vectors, axis=1), edges.distances, atol=1e-9)


def test_a_lone_atom_in_a_large_box_has_itself() -> None:
    edges = find_neighbors(30.0 * np.eye(3), np.zeros((1, 3)), 6.0)
    assert edges.distances.tolist() == [0.0]


@pytest.mark.parametrize(("small", "radix"), [(100, 2**16), (0, 2**16), (0, 0), (4, 2**16)])
def test_many_cells_at_once_have_the_edges_that_counting_images_gives(
    small: int, radix: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbors, "MAX_ATOMS_DENSE_SEARCH", small)  # for all cells, none, or some
    monkeypatch.setattr(neighbors, "MAX_ATOMS_RADIX_SORT", radix)  # more atoms than 16 bits can number, or fewer
    monkeypatch.setattr(neighbors, "CELLS_PER_DENSE_SEARCH", 3)
    crystals = [random_crystal(seed, n_atoms=1 + 3 * (seed % 4)) for seed in range(8)]
    cells = [(crystal.lattice, crystal.positions) for crystal in crystals]
    shifts = np.stack(np.meshgrid(*3 * [np.arange(-4, 5)], indexing="ij"), -1).reshape(-1, 3)
    for crystal, edges in zip(crystals, find_neighbors_of_many(cells, 4.0, vectors=True), strict=True):
        apart = crystal.positions[None, :] - crystal.positions[:, None]
        lengths = np.linalg.norm(apart[:, :, None] + shifts @ crystal.lattice, axis=3)
        assert edges.edge_counts.tolist() == (lengths < 4.0).sum(axis=(1, 2)).tolist()
        centres = np.repeat(np.arange(crystal.n_atoms), edges.edge_counts)
        assert edges.vectors is not None
        images = (edges.vectors - apart[centres, edges.indices]) @ np.linalg.inv(crystal.lattice)
        assert np.abs(images - images.round()).max() < 1e-9
        assert np.allclose(np.linalg.norm(edges.vectors, axis=1), edges.distances)
        assert len(np.unique(np.column_stack([centres, edges.indices, images.round()]), axis=0)) == len(centres)
    assert find_neighbors_of_many([], 4.0) == []


def test_vesin_is_imported_without_torch_and_the_callers_own_stays_whole() -> None:
    code = """
import sys
import numpy as np
from crystalpredict.crystals.neighbors import vesin_pairs
pairs, lengths, _ = vesin_pairs(4 * np.eye(3), np.zeros((1, 3)), 4.5)
assert len(pairs) == len(lengths) == 3
assert not {"torch", "ase", "cupy", "vesin"} & sys.modules.keys()
import vesin._ase  # the caller's own, which knows the libraries that are installed
from importlib.util import find_spec
assert (vesin._ase.ase is not None) == (find_spec("ase") is not None)
assert ("torch" in sys.modules) == (find_spec("torch") is not None)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
