"""Ensembles: the mean of several networks, whose error is smaller if the errors of the members differ."""

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
        return self.readout(self.features(batch))

    def readout(self, features: Tensor) -> Tensor:
        """Return standardised properties (B, outputs) of features (B, members D)."""
        parts = torch.split(features, self.config.width, dim=1)
        outputs = [member.readout(own) for member, own in zip(self.networks, parts, strict=True)]
        return torch.stack(outputs).mean(dim=0)

    def features(self, batch: CrystalBatch) -> Tensor:
        """Return the inputs of the readouts for each crystal (B, members D)."""
        return mean_over_atoms(self.encode(batch), batch)

    def encode(self, batch: CrystalBatch) -> Tensor:
        """Return the states of the atoms after the last block (N, members D)."""
        geometry = geometry_of_family(batch, self.config)
        return torch.cat([member.encode(batch, geometry) for member in self.networks], dim=1)


Network = Crystalformer | Ensemble


def network_of(config: ModelConfig) -> Network:
    """Return a new network, or ensemble, of the shape that a config describes."""
    return ensemble_of([Crystalformer(replace(config, members=1)) for _ in range(config.members)])


def ensemble_of(networks: Sequence[Crystalformer]) -> Network:
    """Return networks of one shape as an ensemble; a single network is returned as it is."""
    return networks[0] if len(networks) == 1 else Ensemble(networks)
