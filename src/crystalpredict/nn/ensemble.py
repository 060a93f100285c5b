"""Several networks as one: their mean, which is nearer the truth than they are, as far as their errors differ."""

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
    """Networks of one shape, each trained on its own: outputs are the mean of theirs, features stand side by side."""

    def __init__(self, networks: Sequence[Crystalformer]) -> None:
        super().__init__()
        self.config = replace(networks[0].config, members=len(networks))
        self.members = nn.ModuleList(networks)

    @property
    def networks(self) -> list[Crystalformer]:
        """The members."""
        return [member for member in self.members if isinstance(member, Crystalformer)]

    def forward(self, batch: CrystalBatch) -> Tensor:
        """Standardised properties (B, outputs)."""
        return self.readout(self.features(batch))

    def readout(self, features: Tensor) -> Tensor:
        """Standardised properties (B, outputs) of features (B, M D)."""
        parts = torch.split(features, self.config.width, dim=1)
        outputs = [member.readout(own) for member, own in zip(self.networks, parts, strict=True)]
        return torch.stack(outputs).mean(dim=0)

    def features(self, batch: CrystalBatch) -> Tensor:
        """What the readouts see of each crystal (B, M D)."""
        return mean_over_atoms(self.encode(batch), batch)

    def encode(self, batch: CrystalBatch) -> Tensor:
        """State after the last block (N, M D)."""
        geometry = geometry_of_family(batch, self.config)
        return torch.cat([member.encode(batch, geometry) for member in self.networks], dim=1)


Network = Crystalformer | Ensemble


def network_of(config: ModelConfig) -> Network:
    """A new network of a shape."""
    return ensemble_of([Crystalformer(replace(config, members=1)) for _ in range(config.members)])


def ensemble_of(networks: Sequence[Crystalformer]) -> Network:
    """Networks of one shape, with their weights, as one; one stays what it is."""
    return networks[0] if len(networks) == 1 else Ensemble(networks)
