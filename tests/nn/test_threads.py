"""Batches computed in several threads equal those of one thread, and only crystals too large for memory fail."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import time
from threading import Lock

import numpy as np
import pytest
import torch

from crystalpredict import Predictor, load_model
from crystalpredict.crystals.crystal import IntArray
from crystalpredict.crystals.neighbors import find_neighbors
from crystalpredict.nn.batch import CrystalBatch
from tests.sample_crystals import random_crystal

FILES = ["examples/NaCl.cif", "examples/MgO.cif", "examples/TiO2_rutile.cif", "examples/MoS2.cif", "examples/ZnO.cif"]


def predictor(threads: int) -> Predictor:
    """One that computes each example by itself."""
    torch.set_num_threads(threads)
    return load_model(device="cpu", batch_atoms=1)


def test_several_threads_give_the_rows_of_one_in_order() -> None:
    one, three = (predictor(threads).predict(FILES * 4) for threads in (1, 3))
    assert [row.path for row in three] == FILES * 4
    for expected, row in zip(one, three, strict=True):
        assert row.values == pytest.approx(expected.values, rel=1e-5, abs=1e-6)
        assert row.intervals.keys() == expected.intervals.keys()


def test_a_batch_that_does_not_fit_in_parallel_is_computed_alone() -> None:
    model = predictor(3)
    crystals = [random_crystal(seed) for seed in range(7)]
    neighbors = [find_neighbors(crystal.lattice, crystal.positions, 6.0) for crystal in crystals]
    room, done = Lock(), []

    def compute(rows: IntArray, batch: CrystalBatch) -> None:
        if not room.acquire(blocking=False):
            raise MemoryError
        try:
            model.model(batch)
            done.extend(rows.tolist())
            time.sleep(0.05)  # long enough for the others to come
        finally:
            room.release()

    assert model._in_batches(crystals, neighbors, compute) == set()
    assert sorted(done) == list(range(7))


def test_a_crystal_that_never_fits_is_the_only_one_to_fail() -> None:
    model = predictor(3)
    crystals = [random_crystal(seed) for seed in range(4)]
    neighbors = [find_neighbors(crystal.lattice, crystal.positions, 6.0) for crystal in crystals]
    done: list[int] = []

    def compute(rows: IntArray, batch: CrystalBatch) -> None:
        if 2 in rows:
            raise MemoryError
        done.extend(rows.tolist())

    assert model._in_batches(crystals, neighbors, compute) == {2}
    assert sorted(np.unique(done).tolist()) == [0, 1, 3]


def test_a_predictor_is_copied_pickled_and_forked_after_it_has_predicted() -> None:
    model = load_model(device="cpu")
    before = model.predict(FILES)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):  # noqa: S301  its own
        for row, expected in zip(other.predict(FILES), before, strict=True):
            assert row.values == pytest.approx(expected.values, rel=1e-5, abs=1e-6)
    script = f"""
import multiprocessing, torch
from crystalpredict import load_model
torch.set_num_threads(2)
model = load_model(device="cpu")
first = model.predict({FILES})
def work(number): return [row.values for row in model.predict({FILES})]
with multiprocessing.get_context("fork").Pool(2) as pool:
    for found in pool.map(work, range(4)):
        for row, values in zip(first, found, strict=True):
            assert all(abs(row[name] - value) < 1e-5 * max(1, abs(value)) for name, value in values.items())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
