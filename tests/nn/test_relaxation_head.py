"""The head of relaxation: what it predicts turns with the crystal and keeps its symmetry, in NumPy as in torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from crystalpredict.crystals.crystal import Crystal
from crystalpredict.crystals.neighbors import find_neighbors_of_many
from crystalpredict.nn import relaxation_head
from crystalpredict.nn.batch import collate
from crystalpredict.nn.bins import arrays_of, split_by_crystal
from crystalpredict.nn.config import ModelConfig
from crystalpredict.nn.crystalformer import Crystalformer
from crystalpredict.nn.numpy_network import NumpyNetwork
from crystalpredict.nn.relaxation_head import Deformation, RelaxationHead, head_shapes
from crystalpredict.nn.weights import Weights
from crystalpredict.training.relaxation import TorchRelaxationHead, edges_of, trained

CONFIG = ModelConfig(blocks=2, width=32, heads=4, feedforward=64, readout=16)
ROCK_SALT = Crystal.ordered(
    np.eye(3) * 5.6,
    5.6 * np.array([(x, y, z) for x in (0, 0.5) for y in (0, 0.5) for z in (0, 0.5)]),
    np.array([11, 17, 17, 11, 17, 11, 11, 17]),
)


@pytest.fixture(scope="module")
def network() -> Crystalformer:
    torch.manual_seed(0)
    made = Crystalformer(CONFIG).eval()
    given = crystals()
    lists = find_neighbors_of_many([(each.lattice, each.positions) for each in given], CONFIG.radius)
    made.fit_width_norm(collate(given, lists))
    return made


@pytest.fixture(scope="module")
def torch_head() -> TorchRelaxationHead:
    torch.manual_seed(1)
    head = TorchRelaxationHead(CONFIG)
    for layers in (head.first, head.second):
        torch.nn.init.normal_(layers["output"].weight, std=0.2)  # so that all parts count
    return head


def crystals(count: int = 4, seed: int = 0) -> list[Crystal]:
    """Crystals without symmetry."""
    random = np.random.default_rng(seed)
    found = []
    for atoms in range(2, 2 + count):
        lattice = np.eye(3) * (3 + atoms / 3) + random.normal(size=(3, 3)) * 0.4
        found.append(Crystal.ordered(lattice, random.random((atoms, 3)) @ lattice, random.integers(1, 90, atoms)))
    return found


def predicted(network: Crystalformer, head: TorchRelaxationHead, given: Sequence[Crystal]) -> list[Deformation]:
    """Deformations by NumPy, from the states of the network in torch."""
    lists = find_neighbors_of_many([(each.lattice, each.positions) for each in given], CONFIG.radius, vectors=True)
    batch = collate(given, lists)
    with torch.inference_mode():
        _, states = network.all_states(batch)
    own = split_by_crystal(states.numpy(), batch.crystals, [each.size for each in lists])
    return trained(head)(own, lists)


def test_numpy_computes_what_torch_does(network: Crystalformer, torch_head: TorchRelaxationHead) -> None:
    given = crystals()
    lists = find_neighbors_of_many([(each.lattice, each.positions) for each in given], CONFIG.radius, vectors=True)
    batch = collate(given, lists)
    sizes = [each.size for each in lists]
    with torch.inference_mode():
        outputs, states = network.all_states(batch)
        assert torch.allclose(outputs, network(batch), atol=1e-6)
        own = split_by_crystal(states.numpy(), batch.crystals, sizes)
        displacements, strains = torch_head(torch.from_numpy(np.concatenate(own)), edges_of(lists))
    found = trained(torch_head)(own, lists)
    assert np.abs(np.concatenate([each.displacements for each in found]) - displacements.numpy()).max() < 1e-5
    assert np.abs(np.stack([each.strain for each in found]) - strains.numpy()).max() < 1e-5
    assert displacements.abs().max() > 1e-3
    assert strains.abs().max() > 1e-3
    arrays = {name: array.numpy() for name, array in network.state_dict().items()}
    again = NumpyNetwork(Weights(CONFIG, arrays)).all_states(arrays_of(given, lists))
    assert np.abs(again[0] - outputs.numpy()).max() < 1e-4
    assert np.abs(again[1] - states.numpy()).max() < 1e-4


def test_it_turns_with_the_crystal(network: Crystalformer, torch_head: TorchRelaxationHead) -> None:
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]  # with a reflection or without
    given = crystals()
    turned = [replace(each, lattice=each.lattice @ turn, positions=each.positions @ turn) for each in given]
    pairs = zip(predicted(network, torch_head, given), predicted(network, torch_head, turned), strict=True)
    for one, two in pairs:
        assert np.abs(one.displacements @ turn - two.displacements).max() < 1e-5
        assert np.abs(turn.T @ one.strain @ turn - two.strain).max() < 1e-5
        assert abs(np.trace(one.strain)) < 1e-6
        assert np.abs(one.displacements.mean(axis=0)).max() < 1e-6


def test_order_origin_and_supercell_do_not_matter(network: Crystalformer, torch_head: TorchRelaxationHead) -> None:
    (crystal,) = crystals(1, seed=5)
    order = np.arange(crystal.n_atoms)[::-1]
    moved = replace(crystal, positions=crystal.positions[order] + 0.7, numbers=crystal.numbers[order])
    double = Crystal.ordered(
        crystal.lattice * np.array([[2], [1], [1]]),
        np.concatenate([crystal.positions, crystal.positions + crystal.lattice[0]]),
        np.tile(crystal.numbers[:, 0], 2),
    )
    one, two, three = predicted(network, torch_head, [crystal, moved, double])
    assert np.abs(one.displacements[order] - two.displacements).max() < 1e-5
    assert np.abs(np.tile(one.displacements, (2, 1)) - three.displacements).max() < 1e-5
    for other in (two, three):
        assert np.abs(one.strain - other.strain).max() < 1e-5


def test_symmetry_remains(network: Crystalformer, torch_head: TorchRelaxationHead) -> None:
    (found,) = predicted(network, torch_head, [ROCK_SALT])
    assert np.abs(found.displacements).max() < 1e-5
    assert np.abs(found.strain).max() < 1e-5
    longer = np.diag([1, 1, 1.1])  # tetragonal: the strain has its axes
    tetragonal = replace(ROCK_SALT, lattice=ROCK_SALT.lattice @ longer, positions=ROCK_SALT.positions @ longer)
    (found,) = predicted(network, torch_head, [tetragonal])
    assert np.abs(found.strain - np.diag(np.diag(found.strain))).max() < 1e-5
    assert found.strain[0, 0] == pytest.approx(found.strain[1, 1], abs=1e-5)
    assert abs(found.strain[2, 2]) > 1e-4


def test_a_crystal_has_the_same_digits_beside_others(network: Crystalformer, torch_head: TorchRelaxationHead) -> None:
    given = crystals()
    lists = find_neighbors_of_many([(each.lattice, each.positions) for each in given], CONFIG.radius, vectors=True)
    states = [np.random.default_rng(each.size).normal(size=(each.size, 3 * CONFIG.width)) for each in lists]
    head = trained(torch_head)
    for own, edges, found in zip(states, lists, head(states, lists), strict=True):
        (alone,) = head([own], [edges])
        assert np.array_equal(alone.displacements, found.displacements)
        assert np.array_equal(alone.strain, found.strain)


def test_pieces_of_the_edges_give_the_same(
    network: Crystalformer, torch_head: TorchRelaxationHead, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = crystals()
    whole = predicted(network, torch_head, given)
    monkeypatch.setattr(relaxation_head, "EDGES_PER_CHUNK", 7)
    for one, two in zip(whole, predicted(network, torch_head, given), strict=True):
        assert np.abs(one.displacements - two.displacements).max() < 1e-5
        assert np.abs(one.strain - two.strain).max() < 1e-5


def test_nothing_jumps_at_the_radius(network: Crystalformer, torch_head: TorchRelaxationHead) -> None:
    def chain(length: float) -> Deformation:
        cell = Crystal.ordered(np.diag([30.0, 30.0, 30.0]), np.array([[0, 0, 0], [0, 0, length]]), np.array([3, 9]))
        return predicted(network, torch_head, [cell])[0]

    inside, outside = chain(relaxation_head.RADIUS - 1e-3), chain(relaxation_head.RADIUS + 1e-3)
    assert np.abs(inside.displacements - outside.displacements).max() < 1e-4
    assert np.abs(chain(2.0).displacements).max() > 1e-3
    assert not outside.displacements.any()  # without neighbours


def test_shapes_are_those_of_the_trained_head(torch_head: TorchRelaxationHead) -> None:
    arrays = trained(torch_head).arrays
    assert {name: array.shape for name, array in arrays.items()} == head_shapes(CONFIG)
    assert isinstance(RelaxationHead(arrays), RelaxationHead)
