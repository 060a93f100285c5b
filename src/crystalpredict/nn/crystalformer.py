"""Crystalformer (Taniai et al., ICLR 2024): blocks, network and initialisation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from crystalpredict.crystals.crystal import ELEMENTS
from crystalpredict.nn.attention import Geometry
from crystalpredict.nn.batch import CrystalBatch
from crystalpredict.nn.config import ModelConfig
from crystalpredict.nn.directional import FramedAttention
from crystalpredict.nn.factory import geometry_of_family, make_attention
from crystalpredict.nn.kernel import KernelReadout


class Block(nn.Module):
    """One block: attention, then a feed-forward network, each with a residual connection and no normalisation [M1]."""

    def __init__(self, config: ModelConfig, number: int = 0) -> None:
        super().__init__()
        self.attention = make_attention(config, number)
        self.feedforward = nn.Sequential(
            nn.Linear(config.width, config.feedforward), nn.ReLU(), nn.Linear(config.feedforward, config.width)
        )

    def forward(self, state: Tensor, geometry: Sequence[Geometry]) -> Tensor:
        """Return the new states of the atoms (N, D) from their states (N, D)."""
        state = state + self.attention(state, geometry)
        out: Tensor = state + self.feedforward(state)
        return out


class Crystalformer(nn.Module):
    """Network that predicts standardised properties from elements and lattice sums [M1].

    A new network needs `fit_width_norm` before its first use; a trained one has the result in its weights.
    """

    def __init__(self, config: ModelConfig | None = None) -> None:
        super().__init__()
        self.config = config or ModelConfig()
        self.embedding = nn.Embedding(len(ELEMENTS), self.config.width)
        self.blocks = nn.ModuleList(Block(self.config, number) for number in range(self.config.blocks))
        self.readout = _two_layers(self.config.width, self.config.readout, self.config.outputs)
        hidden, outputs = self.config.readout_of_states, self.config.outputs
        self.readout_of_states = _two_layers(self.config.states, hidden, outputs) if hidden else None
        self.kernel = KernelReadout(self.config) if self.config.kernel_points else None
        initialise(self)

    @property
    def first(self) -> Crystalformer:
        """The network for crystals as they are given: this one, alone."""
        return self

    def forward(self, batch: CrystalBatch) -> Tensor:
        """Return standardised properties (B, outputs) of a batch."""
        return self.answer(batch)[1]

    def answer(self, batch: CrystalBatch, geometry: Sequence[Geometry] | None = None) -> tuple[Tensor, Tensor]:
        """Return the features (B, D) and standardised properties (B, outputs); `geometry` as for `encode`."""
        if self.readout_of_states is None and self.kernel is None:
            features = mean_over_atoms(self.encode(batch, geometry), batch)
            return features, self.readout(features)
        means = self.means(batch, geometry)
        return means[:, -self.config.width :], self.outputs(means, batch)

    def outputs(self, means: Tensor, batch: CrystalBatch) -> Tensor:
        """Return standardised properties (B, outputs) of a batch and what `means` returns for it."""
        out: Tensor = self.readout(means[:, -self.config.width :])
        if self.readout_of_states is not None:
            out = out + self.readout_of_states(means)
        return out if self.kernel is None else out + self.kernel(means, batch)

    def means(self, batch: CrystalBatch, geometry: Sequence[Geometry] | None = None) -> Tensor:
        """Return the mean states of atoms before the first and after each block, (B, (blocks + 1) D)."""
        states = self._states(batch, geometry or geometry_of_family(batch, self.config))
        return torch.cat([mean_over_atoms(state, batch) for state in states], dim=1)

    def features(self, batch: CrystalBatch) -> Tensor:
        """Return the input of the readout: the mean state of each crystal's atoms after the last block (B, D)."""
        return mean_over_atoms(self.encode(batch), batch)

    def encode(self, batch: CrystalBatch, geometry: Sequence[Geometry] | None = None) -> Tensor:
        """Return the states of the atoms after the last block (N, D); a known `geometry` is not computed again."""
        geometry = geometry or geometry_of_family(batch, self.config)
        *_, state = self._states(batch, geometry)
        return state

    def all_states(self, batch: CrystalBatch) -> tuple[Tensor, Tensor]:
        """Return the outputs, and the states before the first and after each block, (N, (blocks + 1) D)."""
        states = torch.cat(list(self._states(batch, geometry_of_family(batch, self.config))), dim=1)
        return self.outputs(mean_over_atoms(states, batch), batch), states

    def _states(self, batch: CrystalBatch, geometry: Sequence[Geometry]) -> Iterator[Tensor]:
        """Yield the states of the atoms (N, D) before the first and after each block."""
        state = self.embed(batch)
        yield state
        for block in self.blocks:
            state = block(state, geometry)
            yield state

    def embed(self, batch: CrystalBatch) -> Tensor:
        """Return the states before the first block (N, D): embeddings of a site's elements, weighted by occupancy."""
        embedded: Tensor = self.embedding(batch.elements)  # (N, S, D)
        return (embedded * batch.occupancies[..., None]).sum(dim=1)

    @torch.no_grad()
    def fit_width_norm(self, batch: CrystalBatch) -> None:
        """Set scale and shift of the Gaussian widths of each block from one batch [M3]."""
        geometry = geometry_of_family(batch, self.config)
        state = self.embed(batch)
        for block in self.blocks:
            assert isinstance(block, Block)
            block.attention.fit_width_norm(state, batch.counts)
            state = block(state, geometry)


def _two_layers(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


def mean_over_atoms(state: Tensor, batch: CrystalBatch) -> Tensor:
    """Return the mean state (B, D) of the atoms of each crystal from their states (N, D) [M6]."""
    count = len(batch.n_atoms)
    weighted = state * batch.counts[:, None]
    sums = state.new_zeros(count + 1, state.shape[1]).index_add(0, batch.crystals, weighted)  # row B: empty slots
    return sums[:count] / batch.n_atoms[:, None]


@torch.no_grad()
def initialise(model: Crystalformer) -> None:
    """Initialise the weights by T-Fixup (Huang et al., ICML 2020), which makes normalisation layers unnecessary.

    With n blocks, width D and f = 0.67 n^(-1/4):
    embedding                 Normal(0, D^(-1/2) (9 n)^(-1/4))
    query, key                Xavier uniform
    value, attention output,
    feed-forward              Xavier uniform, times f
    width_weights             Normal(0, d^(-1/2)), d channels a head
    radial_weights            Xavier uniform of the (D, K) matrix, gain K^(-1/2)
    direction_weights         the same, for the matrix of each axis
    readout                   torch's default for Linear
    biases of the blocks      0
    """
    config = model.config
    depth = 0.67 * config.blocks**-0.25
    nn.init.normal_(model.embedding.weight, std=config.width**-0.5 * (9 * config.blocks) ** -0.25)
    for block in model.blocks:
        assert isinstance(block, Block)
        attention, (expand, _, contract) = block.attention, block.feedforward
        assert isinstance(expand, nn.Linear)
        assert isinstance(contract, nn.Linear)
        query, key, value = attention.query_key_value.weight.chunk(3)
        for weight, gain in (
            (query, 1.0),
            (key, 1.0),
            (value, depth),
            (attention.output.weight, depth),
            (expand.weight, depth),
            (contract.weight, depth),
        ):
            nn.init.xavier_uniform_(weight, gain=gain)
        nn.init.normal_(attention.width_weights, std=(config.width // config.heads) ** -0.5)
        encodings: list[Tensor | None] = [attention.radial_weights]
        if isinstance(attention, FramedAttention):
            encodings.append(attention.direction_weights)
        for encoding in encodings:
            if encoding is not None:
                functions = encoding.shape[-1]
                bound = math.sqrt(6 / (config.width + functions)) / math.sqrt(functions)
                nn.init.uniform_(encoding, -bound, bound)
        for layer in (attention.query_key_value, attention.output, expand, contract):
            nn.init.zeros_(layer.bias)
