"""NumPy's network computes what torch's does, of which it is a reading."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from crystalpredict.checkpoints.checkpoint import GOLDEN_TOLERANCE, Checkpoint, load_checkpoint
from crystalpredict.checkpoints.files import read_golden
from crystalpredict.checkpoints.registry import bundled_models
from crystalpredict.crystals.crystal import Crystal, Neighbors
from crystalpredict.crystals.equivalence import merge_equivalent
from crystalpredict.crystals.neighbors import find_neighbors
from crystalpredict.nn import ModelConfig, network_of, numpy_network
from crystalpredict.nn.attention import MAX_DENSE_SLOTS
from crystalpredict.nn.batch import collate
from crystalpredict.nn.bins import arrays_of
from crystalpredict.nn.numpy_network import NumpyNetwork, can_compute
from crystalpredict.nn.weights import Weights, shapes_of
from tests.sample_crystals import batch_of, random_crystal, rock_salt, supercell

TOLERANCE = 1e-5  # in standardised units
SERVED = list(bundled_models())
SMALL = ModelConfig(blocks=2, width=24, heads=3, feedforward=40, radial_basis=16, readout=20, outputs=3)


def mixed(crystal: Crystal, occupancy: float = 0.7) -> Crystal:
    """The crystal with a second element on each site, and a vacancy on the first."""
    numbers = np.column_stack([crystal.numbers[:, 0], crystal.numbers[::-1, 0] % 90 + 1])
    occupancies = np.tile([occupancy, 1 - occupancy], (len(numbers), 1))
    occupancies[0, 1] = 0
    return replace(crystal, numbers=numbers, occupancies=occupancies)


def cubic(a: float, number: int) -> Crystal:
    return Crystal.ordered(a * np.eye(3), np.zeros((1, 3)), np.array([number]))


def crystals() -> list[Crystal]:
    """Cells of 1 to 500 atoms: compounds, elements, supercells, shared sites, isolated atoms, and one of many bins."""
    large = supercell(random_crystal(1, n_atoms=5), 5 * np.eye(3, dtype=int))  # 625 atoms
    assert large.n_atoms > MAX_DENSE_SLOTS
    return [
        rock_salt(), supercell(rock_salt(), np.diag([2, 1, 3])), cubic(3.35, 84), cubic(2.87, 26), cubic(30.0, 2),
        mixed(rock_salt()), mixed(random_crystal(5, n_atoms=7), 0.2), mixed(cubic(3.9, 79)), large,
        *(random_crystal(seed, n_atoms=1 + 3 * seed) for seed in range(12)),
    ]  # fmt: skip


def lists_of(found: list[Crystal], config: ModelConfig, *, merge: bool) -> list[Neighbors]:
    radius = config.radius
    edges = [find_neighbors(each.lattice, each.positions, radius, vectors=config.vectors) for each in found]
    return merge_equivalent(found, edges, radius) if merge else edges  # not with vectors


def assert_same(checkpoint: Checkpoint, found: list[Crystal], *, merge: bool) -> None:
    network = NumpyNetwork(checkpoint.source)
    edges = lists_of(found, checkpoint.config, merge=merge)
    arrays, tensors = arrays_of(found, edges), collate(found, edges)
    with torch.no_grad():
        states = checkpoint.model.encode(tensors).numpy()
        features, outputs = (found.numpy() for found in checkpoint.model.answer(tensors))
        assert np.abs(checkpoint.model.features(tensors).numpy() - features).max() < TOLERANCE
    kept = arrays.counts > 0  # slots
    assert np.abs(network.encode(arrays) - states)[kept].max() < TOLERANCE * np.abs(states).max()
    own, theirs = network.answer(arrays)
    assert own.dtype == theirs.dtype == np.float32
    assert np.array_equal(own, network.features(arrays))
    assert np.abs(own - features).max() < TOLERANCE
    assert np.abs(theirs - outputs).max() < TOLERANCE
    assert np.ptp(outputs, axis=0).min() > 0.1  # crystals differ by more


@pytest.mark.parametrize("name", SERVED)
def test_numpy_repeats_every_bundled_network_that_it_serves(name: str) -> None:
    checkpoint = load_checkpoint(bundled_models()[name].folder)
    for merge in (False,) if checkpoint.config.vectors else (False, True):  # lists with vectors are not merged
        assert_same(checkpoint, crystals(), merge=merge)


def test_which_bundled_networks_numpy_serves() -> None:
    assert all(can_compute(load_checkpoint(model.folder).config) for model in bundled_models().values())
    dual = replace(SMALL, heads=2, attention="dual")
    assert not can_compute(dual)
    with pytest.raises(ValueError, match="dual"):
        NumpyNetwork(Weights(dual, {}))


@pytest.mark.parametrize("name", SERVED)
def test_numpy_repeats_golden_outputs(name: str) -> None:
    folder = bundled_models()[name].folder
    checkpoint, examples = load_checkpoint(folder), read_golden(folder).crystals
    found = [Crystal.ordered(*(np.array(part) for part in (e.lattice, e.positions, e.numbers))) for e in examples]
    network = NumpyNetwork(checkpoint.source)
    arrays = arrays_of(found, lists_of(found, checkpoint.config, merge=False))
    outputs = (network.first.answer(arrays)[1] + network.answer(arrays)[1]) / 2  # of two stages, both
    assert np.abs(outputs - [e.outputs for e in examples]).max() < GOLDEN_TOLERANCE


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"radial_basis": 0},
        {"members": 3},
        {"stages": 2},
        {"readout_of_states": 12},
        {"kernel_points": 7},
        {"rho_bound": 0.3, "rho_slope": 0.7, "r0": 1.1, "radius": 4.0},
        {"attention": "framed", "radius": 5.0, "radial_factor": 0.7, "direction_factor": 1.3},
        {"attention": "framed", "radial_basis": 0, "direction_basis": 12, "direction_width": 2.0, "radius": 5.0},
    ],
    ids=str,
)
def test_numpy_repeats_networks_of_other_shapes(change: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(3)
    config = replace(SMALL, **change)
    network = network_of(config).eval()
    some = batch_of(rock_salt(), random_crystal(2), radius=config.radius, vectors=True).to("cpu", torch.float32)
    for member in getattr(network, "networks", [network]):
        member.fit_width_norm(some)
        torch.nn.init.normal_(member.readout[2].weight)
    weights = Weights(config, {name: value.numpy() for name, value in network.state_dict().items()})
    checkpoint = Checkpoint("new", weights, (), np.zeros(3), np.ones(3), {})
    assert_same(checkpoint, crystals(), merge=False)
    if config.stages > 1:
        first = replace(checkpoint, source=weights.stages[0])
        assert_same(first, crystals(), merge=False)
        assert NumpyNetwork(weights).first.config == first.config
    monkeypatch.setattr(numpy_network, "PRODUCTS_PER_CHUNK", 5000)  # a few slots of a bin at a time
    assert_same(checkpoint, crystals(), merge=True)


@pytest.mark.parametrize("attention", ["real", "dual", "alternating", "reciprocal", "framed"])
@pytest.mark.parametrize(
    "change",
    [{}, {"radial_basis": 0}, {"members": 2}, {"stages": 2}, {"readout_of_states": 12}, {"kernel_points": 5}],
    ids=str,
)
def test_the_shapes_of_weights_are_those_of_the_network(attention: Any, change: dict[str, Any]) -> None:
    config = replace(SMALL, heads=4, attention=attention, **change)
    state = network_of(config).state_dict()
    assert shapes_of(config) == {name: tuple(value.shape) for name, value in state.items()}
    assert config.least_tensors < len(state)
