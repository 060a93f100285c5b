"""Training of a head of relaxation on a network that stays as it is: strain and displacements of perturbed crystals."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from crystalpredict.crystals.crystal import Crystal, Neighbors
from crystalpredict.crystals.neighbors import find_neighbors_of_many
from crystalpredict.errors import DataError
from crystalpredict.nn.batch import collate
from crystalpredict.nn.bins import split_by_crystal
from crystalpredict.nn.config import ModelConfig
from crystalpredict.nn.crystalformer import Crystalformer
from crystalpredict.nn.relaxation_head import (
    ATOM_HIDDEN,
    GAUSSIANS,
    HIDDEN,
    RADIUS,
    SHORTEST,
    VECTORS,
    Deformation,
    RelaxationHead,
    edges_within,
)

DISPLACEMENT_SCALE, STRAIN_SCALE = 0.1, 0.03  # Å, and of a logarithm: errors of about the same weight
BATCH_ATOMS = 700
WARM_UP_STEPS = 200
LAST_RATE = 0.02  # of the learning rate, at the end
MAX_GRADIENT = 5.0
INITIAL_OUTPUT = 0.02  # standard deviation of the weights of the outputs
Pair = tuple[Crystal, Crystal]
"""A crystal as it is given, and as it relaxes, with its atoms in the same order."""


class TorchRelaxationHead(nn.Module):
    """The head of `crystalpredict.nn.relaxation_head` in torch, for training."""

    centres: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.atoms = nn.Linear(config.states, ATOM_HIDDEN)
        self.mix = nn.Linear(ATOM_HIDDEN + VECTORS, ATOM_HIDDEN)
        self.own = nn.Linear(ATOM_HIDDEN, VECTORS)
        self.first = _step(VECTORS)
        self.second = _step(VECTORS + 2)
        self.second["projections"] = nn.Linear(2 * VECTORS, HIDDEN, bias=False)
        self.second["hidden"] = nn.Linear(HIDDEN, HIDDEN)
        self.register_buffer("centres", torch.linspace(SHORTEST, RADIUS, GAUSSIANS), persistent=False)

    def forward(self, states: Tensor, edges: TorchEdges) -> tuple[Tensor, Tensor]:
        """Return displacements (N, 3), Å, and strains (B, 3, 3) of B crystals with N atoms in all.

        Args:
            states: of the atoms, (N, (blocks + 1) D).
            edges: between the atoms.
        """
        atoms, neighbors, lengths, units = edges.atoms, edges.neighbors, edges.lengths, edges.units
        spacing = self.centres[1] - self.centres[0]
        psi = torch.exp(-0.5 * ((lengths[:, None] - self.centres) / spacing) ** 2)
        envelope = (0.5 * torch.cos(math.pi / RADIUS * lengths) + 0.5)[:, None]
        state = torch.relu(self.atoms(states))
        step = self.first
        hidden = torch.relu(step["atom"](state)[atoms] + step["neighbor"](state)[neighbors] + step["length"](psi))
        factors = step["output"](hidden) * envelope
        vectors = units.new_zeros(len(state), VECTORS, 3).index_add(0, atoms, factors[:, :, None] * units[:, None])
        state = torch.relu(self.mix(torch.cat([state, torch.log1p((vectors**2).sum(2))], 1))) + state
        step, far = self.second, vectors[neighbors]
        projections = [(those * units[:, None]).sum(2) for those in (vectors[atoms], far)]
        hidden = step["atom"](state)[atoms] + step["neighbor"](state)[neighbors] + step["length"](psi)
        hidden = torch.relu(hidden + step["projections"](torch.cat(projections, 1)))
        hidden = hidden + torch.relu(step["hidden"](hidden))
        factors = step["output"](hidden) * envelope
        moves = factors[:, VECTORS, None] * units + (factors[:, :VECTORS, None] * far).sum(1)
        own = (self.own(state)[:, :, None] * vectors).sum(1)
        squares = units[:, :, None] * units[:, None] - torch.eye(3, device=units.device) / 3
        strains = units.new_zeros(len(state), 3, 3).index_add(0, atoms, factors[:, -1, None, None] * squares)
        displacements = own.index_add(0, atoms, moves)
        return displacements - edges.mean(displacements)[edges.crystals], edges.mean(strains)


def _step(outputs: int) -> nn.ModuleDict:
    """Return the layers of a step whose edges have so many outputs."""
    last = nn.Linear(HIDDEN, outputs, bias=False)
    nn.init.normal_(last.weight, std=INITIAL_OUTPUT)
    return nn.ModuleDict(
        {
            "atom": nn.Linear(ATOM_HIDDEN, HIDDEN),
            "neighbor": nn.Linear(ATOM_HIDDEN, HIDDEN, bias=False),
            "length": nn.Linear(GAUSSIANS, HIDDEN, bias=False),
            "output": last,
        }
    )


class TorchEdges(NamedTuple):
    """Edges of B crystals as `crystalpredict.nn.relaxation_head.Edges`, and the crystals of the atoms.

    Attributes:
        atoms: where they begin, (E,).
        neighbors: where they end, (E,).
        lengths: Å, (E,).
        units: directions, (E, 3).
        crystals: of each atom, (N,).
        sizes: atoms of each crystal, (B,).
    """

    atoms: Tensor
    neighbors: Tensor
    lengths: Tensor
    units: Tensor
    crystals: Tensor
    sizes: Tensor

    def mean(self, values: Tensor) -> Tensor:
        """Return means over the atoms of each crystal, (B, ...), of values (N, ...)."""
        shape = (-1, *(1 for _ in values.shape[1:]))
        sums = values.new_zeros(len(self.sizes), *values.shape[1:]).index_add(0, self.crystals, values)
        return sums / self.sizes.view(shape)


def edges_of(lists: list[Neighbors]) -> TorchEdges:
    """Return the edges of neighbour lists with all atoms and vectors."""
    atoms, neighbors, lengths, units = map(torch.from_numpy, edges_within(lists))
    sizes = torch.tensor([each.size for each in lists])
    return TorchEdges(atoms, neighbors, lengths, units, torch.arange(len(lists)).repeat_interleave(sizes), sizes)


def deformation_of(given: Crystal, relaxed: Crystal) -> Deformation:
    """Return what turns a crystal into another with the same atoms in the same order, apart from volume and rotation.

    The strain is the logarithm of the symmetric factor of the deformation, which comes before the rotation.
    """
    left, stretches, _ = np.linalg.svd(np.linalg.solve(given.lattice, relaxed.lattice))
    logarithms = np.log(stretches)
    before, after = (each.positions @ np.linalg.inv(each.lattice) for each in (given, relaxed))
    moves = after - before
    moves = (moves - np.round(moves)) @ given.lattice
    return Deformation(moves - moves.mean(axis=0), (left * (logarithms - logarithms.mean())) @ left.T)


def train_head(
    network: Crystalformer,
    head: TorchRelaxationHead,
    pairs: Iterable[Pair],
    steps: int,
    learning_rate: float,
    on_step: Callable[[int, float, float], None] = lambda *_: None,
) -> None:
    """Train a head on pairs of crystals, once each; the mean absolute errors of both outputs are the loss.

    Args:
        network: whose states it gets; it is not changed.
        head: to be trained.
        pairs: in the order of the training.
        steps: about the number of batches, after which the learning rate is small.
        learning_rate: the largest.
        on_step: called after each step with its number and the errors of displacements, Å, and strains.

    Raises:
        DataError: the loss is not a number.
    """
    optimizer = torch.optim.AdamW(head.parameters(), lr=learning_rate, weight_decay=1e-4)
    network.eval()
    for step, (states, edges, wanted) in enumerate(_batches(network, pairs), start=1):
        rate = min(1.0, step / WARM_UP_STEPS) * max(LAST_RATE, 1 - step / steps)
        optimizer.param_groups[0]["lr"] = learning_rate * rate
        displacements, strains = head(states, edges)
        moves = torch.from_numpy(np.concatenate([each.displacements for each in wanted])).float()
        away = edges.mean((displacements - moves).norm(dim=1)).mean()
        strain = torch.from_numpy(np.stack([each.strain for each in wanted])).float()
        wrong = (strains - strain).flatten(1).norm(dim=1).mean()
        loss = away / DISPLACEMENT_SCALE + wrong / STRAIN_SCALE
        if not torch.isfinite(loss):
            raise DataError("the loss is not a number: try a smaller learning rate")
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(head.parameters(), MAX_GRADIENT)
        optimizer.step()
        on_step(step, away.item(), wrong.item())


def _batches(network: Crystalformer, pairs: Iterable[Pair]) -> Iterator[tuple[Tensor, TorchEdges, list[Deformation]]]:
    """Yield states, edges and deformations of batches of given crystals."""
    held: list[Pair] = []
    for pair in pairs:
        held.append(pair)
        if sum(given.n_atoms for given, _ in held) >= BATCH_ATOMS:
            yield _batch(network, held)
            held = []
    if held:
        yield _batch(network, held)


def _batch(network: Crystalformer, pairs: list[Pair]) -> tuple[Tensor, TorchEdges, list[Deformation]]:
    crystals = [given for given, _ in pairs]
    cells = [(crystal.lattice, crystal.positions) for crystal in crystals]
    lists = find_neighbors_of_many(cells, network.config.radius, vectors=True)
    batch = collate(crystals, lists)
    with torch.no_grad():
        _, states = network.all_states(batch)
    own = split_by_crystal(states.numpy(), batch.crystals, [each.size for each in lists])
    return torch.from_numpy(np.concatenate(own)), edges_of(lists), [deformation_of(*pair) for pair in pairs]


def trained(head: TorchRelaxationHead) -> RelaxationHead:
    """Return a head with the weights of one in torch, for predictions."""
    return RelaxationHead({name: weight.numpy(force=True) for name, weight in head.state_dict().items()})
