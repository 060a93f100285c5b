"""Where a GPU's memory runs out, batches are halved and the numbers are the same; runs where there is a device."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from pymatgen.core import Lattice, Structure

from crystalpredict import load_model
from crystalpredict.data.dataset import neighbor_table
from crystalpredict.nn import ModelConfig
from crystalpredict.training.config import TrainingConfig
from crystalpredict.training.trainer import Trainer
from tests.sample_crystals import random_table

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@contextmanager
def memory_left(megabytes: float) -> Iterator[None]:
    """Let this process have no more of the device's memory than it has now and this."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + megabytes * 2**20) / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def disordered(seed: int, n: int) -> Structure:
    """A cubic cell of n^3 atoms of random elements near the points of a lattice."""
    random = np.random.default_rng(seed)
    points = np.stack(np.meshgrid(*[np.arange(n)] * 3), axis=-1).reshape(-1, 3)
    positions = 2.8 * points + random.uniform(-0.4, 0.4, (n**3, 3))
    return Structure(Lattice.cubic(2.8 * n), random.integers(3, 84, n**3), positions, coords_are_cartesian=True)


def test_a_prediction_halves_its_batches() -> None:
    structures = [disordered(seed, 5) for seed in range(60)]
    model = load_model(device="cuda", batch_atoms=9000)
    with memory_left(200):
        found = [prediction.values for prediction in model.predict(structures)]
    assert model.batch_atoms < 9000
    expected = [prediction.values for prediction in load_model(device="cuda", batch_atoms=300).predict(structures)]
    for values, others in zip(found, expected, strict=True):
        assert values == pytest.approx(others, rel=1e-3, abs=1e-4)


def test_a_crystal_too_large_for_the_device_is_told_and_others_are_predicted() -> None:
    model = load_model(device="cuda")
    with memory_left(60):
        small, large, other = model.predict([disordered(0, 1), disordered(1, 26), disordered(2, 2)])
    assert small.values
    assert other.values
    assert not large.values
    assert "not enough memory on the cuda device for 17576 atoms" in large.error


def test_a_training_goes_on_in_smaller_parts(tmp_path: Path) -> None:
    table = random_table(1500)
    neighbors = neighbor_table(table, 6.0)
    config = TrainingConfig(device="cuda", learning_rate=1e-4, batch_atoms=2500, split_atoms=2500, epochs=1)

    def losses(folder: str, megabytes: float) -> tuple[list[float], Trainer]:
        training = Trainer(tmp_path / folder, table, neighbors, ModelConfig(), config)
        steps = list(training.data.steps(training.data.order(0)))
        with memory_left(megabytes):
            found = []
            for rows in steps:
                found.append(float(training._update(rows, 1e-5)))
                training.step += 1
        return found, training

    expected, whole = losses("whole", 40_000)
    assert whole.captured
    assert whole.split_atoms == 2500
    del whole
    found, halved = losses("halved", 150)
    assert halved.captured is None
    assert halved.split_atoms < 2500
    assert np.allclose(found, expected, rtol=3e-3)
