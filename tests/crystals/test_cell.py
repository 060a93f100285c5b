"""Cells that no crystal has are refused before any search; skewed ones of sound crystals are not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from crystalpredict.checkpoints.checkpoint import load_checkpoint, verify_golden
from crystalpredict.crystals.cell import (
    MAX_EDGES,
    MIN_DISTANCE,
    cell_error,
    estimate_edges,
    find_coincident_atoms,
    reduce_lattice,
    valid_cells,
    wrap_positions,
)
from crystalpredict.crystals.neighbors import find_neighbors
from crystalpredict.data.dataset import CrystalTable
from crystalpredict.errors import CheckpointError, DataError
from crystalpredict.io.entries import Inline, read_entries
from tests.sample_crystals import random_crystal, random_table

# rows a, b, c, Å, and what is said of the cell with one atom in it
HOSTILE = {
    "flat": ([[1e4, 0, 0], [0, 1e4, 0], [0, 0, 1.1e-8]], "1.1e-08 Å apart"),
    "thin plate": ([[1e4, 0, 0], [0, 1e4, 0], [0, 0, 0.01]], "0.01 Å apart"),
    "plate": ([[1e4, 0, 0], [0, 1e4, 0], [0, 0, 0.6]], "1e+04 Å by 1e+04 Å, but 0.6 Å thick"),
    "strip": ([[9999, 0, 0], [0, 0.51, 0], [0, 0, 2e-5]], "0.102 Å^3 for 1 atoms"),
    "needle that is skewed": ([[1e4, 0, 0], [9999, 0.0033, 0], [9999, 0, 0.0033]], "0.109 Å^3 for 1 atoms"),
    "wider needle that is skewed": ([[1e4, 0, 0], [9999, 0.02, 0], [9999, 0, 0.02]], "0.03 Å apart"),
    "in a plane": ([[5, 0, 0], [0, 5, 0], [3, 4, 0]], "0 Å^3 for 1 atoms"),
    "nearly in a plane": ([[5, 0, 0], [0, 5, 0], [30, 40, 1e-9]], "Å^3 for 1 atoms"),
    "too long": ([[2e4, 0, 0], [0, 5, 0], [0, 0, 5]], "2e+04 Å long"),
    "not a number": ([[np.nan, 0, 0], [0, 5, 0], [0, 0, 5]], "not a number"),
    "infinite": ([[np.inf, 0, 0], [0, 5, 0], [0, 0, 5]], "not a number"),
    "nothing": (np.zeros((3, 3)), "0 Å^3 for 1 atoms"),
    "two alike": ([[5, 0, 0], [5, 1e-12, 0], [0, 0, 1e4]], "Å^3 for 1 atoms"),
}
# of one atom each, all sound: long, skewed beyond measure, wide
SOUND = {
    "needle": np.diag([1e4, 1.0, 1.0]),
    "plate": np.diag([330.0, 330, 3]),
    "box": np.diag([1e4, 1e4, 1e4]),
    "skewed": np.array([[3.0, 0, 0], [2999, 3, 0], [-3001, 6000, 3]]),
    "skewed needle": np.array([[1.0, 0, 0], [9000.5, 1, 0], [0, 9000.5, 1]]),
}


def poscar(lattice: np.ndarray, places: np.ndarray) -> str:
    rows = [" ".join(repr(float(x)) for x in row) for row in (*lattice, *places)]
    return "\n".join(["x", "1.0", *rows[:3], "Po", str(len(places)), "Direct", *rows[3:], ""])


@pytest.mark.parametrize("name", HOSTILE)
def test_a_cell_that_no_crystal_has_is_refused(name: str) -> None:
    lattice, reason = np.array(HOSTILE[name][0], dtype=float), HOSTILE[name][1]
    assert reason in cell_error(lattice, 1)
    assert not valid_cells(lattice[None], [1], 6.0)[0]


@pytest.mark.parametrize("name", SOUND)
def test_a_long_or_skewed_cell_has_the_neighbours_of_its_shortest_vectors(name: str) -> None:
    lattice = SOUND[name]
    assert cell_error(lattice, 1) == ""
    edges = find_neighbors(lattice, np.zeros((1, 3)), 6.0)
    shifts = np.stack(np.meshgrid(*3 * [np.arange(-13, 14)], indexing="ij"), -1).reshape(-1, 3)
    lengths = np.linalg.norm(shifts @ reduce_lattice(lattice), axis=1)
    assert len(edges.distances) == (lengths < 6 - 1e-5).sum()
    (entry,) = read_entries(Inline("a", poscar(lattice, np.zeros((1, 3)))), 6.0)
    assert entry.error == ""


@pytest.mark.parametrize("seed", range(20))
def test_reduced_vectors_span_the_lattice_and_none_of_it_is_shorter(seed: int) -> None:
    random = np.random.default_rng(seed)
    lattice = random_crystal(seed).lattice
    skewed = lattice
    for _ in range(8):  # by steps that keep the lattice
        one, two = random.permutation(3)[:2]
        skewed = skewed + np.eye(3)[:, [one]] * random.integers(-4, 5) * skewed[two]
    basis = reduce_lattice(skewed)
    numbers = basis @ np.linalg.inv(lattice)
    assert np.allclose(numbers, np.rint(numbers), atol=1e-6)
    assert abs(np.linalg.det(numbers)) == pytest.approx(1, abs=1e-6)
    shifts = np.stack(np.meshgrid(*3 * [np.arange(-3, 4)], indexing="ij"), -1).reshape(-1, 3)
    lengths = np.sort(np.linalg.norm(shifts[(shifts != 0).any(axis=1)] @ lattice, axis=1))
    assert np.linalg.norm(basis[0]) == pytest.approx(lengths[0], abs=1e-6)
    assert (np.diff(np.linalg.norm(basis, axis=1)) > -1e-9).all()


HOSTILE_FILES = """
import json, resource, sys
from crystalpredict.io.entries import Inline, read_entries
resource.setrlimit(resource.RLIMIT_AS, (3 * 2**30,) * 2)
for text in json.load(sys.stdin):
    (entry,) = read_entries(Inline("a", text), 6.0)
    assert entry.neighbors is None
    print(entry.error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other limits")
def test_no_file_ends_hangs_or_fills_the_process_that_reads_it() -> None:
    random = np.random.default_rng(0)
    cells = {name: np.array(cell) for name, (cell, _) in HOSTILE.items() if name != "infinite"}
    texts = {name: poscar(cell, np.zeros((1, 3))) for name, cell in cells.items()}
    dense = random.uniform(0, 1, (864, 3))
    texts["dense"] = poscar(np.eye(3) * (0.1 * 864) ** (1 / 3), dense)
    texts["close"] = poscar(np.eye(3) * (0.6 * 864) ** (1 / 3), dense)
    texts["all in one place"] = poscar(np.eye(3) * 100.0, np.full((30_000, 3), 0.5))
    grid = np.stack(np.meshgrid(*3 * [np.arange(28)], indexing="ij"), -1).reshape(-1, 3)
    texts["crowd in a void"] = poscar(np.eye(3) * 500.0, grid * 0.51 / 500)
    texts["crowd in a tube"] = poscar(np.diag([1.1, 1.1, 9000.0]), _tube(4000) / [1.1, 1.1, 9000])
    done = subprocess.run(
        [sys.executable, "-c", HOSTILE_FILES], input=json.dumps(list(texts.values())), capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    said = dict(zip(texts, done.stdout.splitlines(), strict=True))
    reasons = {name: HOSTILE[name][1] for name in cells} | {
        "dense": "86.4 Å^3 for 864 atoms", "close": "Å apart", "all in one place": "0.00 Å apart",
        "crowd in a void": "more than 16,777,216", "crowd in a tube": "more than 16,777,216",
    }  # fmt: skip
    assert {name: reason for name, reason in reasons.items() if reason not in said[name]} == {}, said


def _tube(count: int) -> np.ndarray:
    """Atoms 0.55 Å apart, four in each layer, of which the cell repeats every 1.1 Å across."""
    layer = np.array([[0, 0, 0], [0.55, 0, 0], [0, 0.55, 0], [0.55, 0.55, 0]])
    return np.concatenate([layer + np.array([0, 0, 0.55 * number]) for number in range(count // 4)])


@pytest.mark.parametrize("atoms", [1, 30, 400])
def test_edges_are_counted_well_before_they_are_made(atoms: int) -> None:
    crystal = random_crystal(1, atoms)
    basis = reduce_lattice(crystal.lattice)
    found = len(find_neighbors(crystal.lattice, crystal.positions, 6.0).distances)
    assert 0.5 < estimate_edges(basis, wrap_positions(basis, crystal.positions), 6.0) / found < 4


def test_many_atoms_in_one_place_are_found_by_sorting() -> None:
    places = np.random.default_rng(0).uniform(0, 100, (2000, 3))
    places[700] = places[300] + 0.001
    assert find_coincident_atoms(places) == (300, 700)
    grid = np.stack(np.meshgrid(*3 * [np.arange(10)], indexing="ij"), -1).reshape(-1, 3)
    assert find_coincident_atoms(grid * 1.01 * MIN_DISTANCE) is None


def test_a_search_that_would_fill_the_memory_is_refused_at_the_last_door() -> None:
    for cell in ([[1e4, 0, 0], [0, 1e4, 0], [0, 0, 1.1e-8]], np.zeros((3, 3)), np.full((3, 3), np.nan)):
        with pytest.raises(ValueError, match="cell"):
            find_neighbors(np.array(cell), np.zeros((1, 3)), 6.0)
    with pytest.raises(ValueError, match=f"more than {MAX_EDGES:,}"):
        find_neighbors(np.eye(3), np.random.default_rng(0).uniform(0, 1, (300, 3)), 6.0)


@pytest.mark.parametrize("name", ["flat", "wider needle that is skewed", "in a plane", "infinite"])
def test_cells_of_golden_crystals_and_of_prepared_tables_are_looked_at(folder: Path, tmp_path: Path, name: str) -> None:
    golden = json.loads((folder / "golden.json").read_text())
    golden["crystals"][2]["lattice"] = np.array(HOSTILE[name][0], dtype=float).tolist()
    (folder / "golden.json").write_text(json.dumps(golden))
    with pytest.raises(CheckpointError, match=r"crystals\[2\]\.lattice: |Infinity is not a finite number"):
        verify_golden(load_checkpoint(folder), folder)
    table = random_table(4)
    table.lattices[2] = HOSTILE[name][0]
    table.save(tmp_path / "crystals.npz")
    with pytest.raises(DataError, match=r"crystals.npz: .*\(2: "):
        CrystalTable.load(tmp_path / "crystals.npz")
