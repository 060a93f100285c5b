"""Several networks as one: ensembles, whose mean errs less if the members' errors differ, and stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from crystalpredict.nn.batch import CrystalBatch
from crystalpredict.nn.config import ModelConfig
from crystalpredict.nn.crystalformer import Crystalformer, mean_over_atoms
from crystalpredict.nn.factory import geometry_of_family


class Ensemble(nn.Module):
    """Ensemble of networks of one shape: the mean of their outputs, and their features concatenated."""

    def __init__(self, networks: Sequence[Crystalformer]) -> None:
        super().__init__()
        self.config = replace(networks[0].config, members=len(networks))
        self.members = nn.ModuleList(networks)

    @property
    def networks(self) -> list[Crystalformer]:
        """The ensemble members."""
        return [member for member in self.members if isinstance(member, Crystalformer)]

    def forward(self, batch: CrystalBatch) -> Tensor:
        """Return standardised properties (B, outputs) of a batch."""
        return self.answer(batch)[1]

    def answer(self, batch: CrystalBatch) -> tuple[Tensor, Tensor]:
        """Return the features (B, members D) and standardised properties (B, outputs) of a batch."""
        geometry = geometry_of_family(batch, self.config)
        features, outputs = zip(*(member.answer(batch, geometry) for member in self.networks), strict=True)
        return torch.cat(features, dim=1), torch.stack(outputs).mean(dim=0)

    def features(self, batch: CrystalBatch) -> Tensor:
        """Return the mean states of each crystal's atoms after the last blocks (B, members D)."""
        return mean_over_atoms(self.encode(batch), batch)

    def encode(self, batch: CrystalBatch) -> Tensor:
        """Return the states of the atoms after the last block (N, members D)."""
        geometry = geometry_of_family(batch, self.config)
        return torch.cat([member.encode(batch, geometry) for member in self.networks], dim=1)


class Stages(nn.Module):
    """Two networks of one shape: the first sees unrelaxed crystals, the second sees them as the first relaxes them.

    Methods are those of the second network. A call returns the mean of both outputs, so that golden outputs show both.
    """

    def __init__(self, networks: Sequence[Crystalformer]) -> None:
        super().__init__()
        self.config = replace(networks[0].config, stages=len(networks))
        self.stages = nn.ModuleList(networks)

    @property
    def networks(self) -> list[Crystalformer]:
        """Both networks."""
        return [stage for stage in self.stages if isinstance(stage, Crystalformer)]

    @property
    def first(self) -> Crystalformer:
        """The network for crystals as they are given."""
        return self.networks[0]

    @property
    def second(self) -> Crystalformer:
        """The network for crystals as the first relaxes them."""
        return self.networks[1]

    def forward(self, batch: CrystalBatch) -> Tensor:
        """Return standardised properties (B, outputs) of a batch: the mean of both networks."""
        out: Tensor = (self.first(batch) + self.second(batch)) / 2
        return out

    def answer(self, batch: CrystalBatch) -> tuple[Tensor, Tensor]:
        """Return the features (B, D) and standardised properties (B, outputs) of a batch."""
        return self.second.answer(batch)

    def features(self, batch: CrystalBatch) -> Tensor:
        """Return the mean state of each crystal's atoms after the last block (B, D)."""
        return self.second.features(batch)

    def encode(self, batch: CrystalBatch) -> Tensor:
        """Return the states of the atoms after the last block (N, D)."""
        return self.second.encode(batch)


Network = Crystalformer | Ensemble | Stages


def network_of(config: ModelConfig) -> Network:
    """Return a new network of the shape that a config describes."""
    if config.stages > 1:
        return Stages([Crystalformer(replace(config, stages=1)) for _ in range(config.stages)])
    return ensemble_of([Crystalformer(replace(config, members=1)) for _ in range(config.members)])


def ensemble_of(networks: Sequence[Crystalformer]) -> Network:
    """Return networks of one shape as an ensemble; a single network is returned as it is."""
    return networks[0] if len(networks) == 1 else Ensemble(networks)
