"""Build the attention layers and the geometry of each kind of network."""

from __future__ import annotations

import torch

from crystalpredict.nn.attention import Geometry, InfinitelyConnectedAttention, geometry_of
from crystalpredict.nn.batch import CrystalBatch
from crystalpredict.nn.config import ModelConfig
from crystalpredict.nn.directional import FramedAttention
from crystalpredict.nn.frames import directions_of, kernels_on
from crystalpredict.nn.reciprocal import DualSpaceAttention, waves_of


def make_attention(config: ModelConfig, block: int) -> InfinitelyConnectedAttention:
    """Return a new attention layer for a block, counted from 0."""
    if config.attention == "framed":
        return FramedAttention(config)
    real_heads = config.real_heads(block)
    if real_heads == config.heads:
        return InfinitelyConnectedAttention(config)
    return DualSpaceAttention(config, real_heads)


def needs_host(config: ModelConfig, device: torch.device) -> bool:
    """Return whether a training step needs the CPU between GPU operations, so that it cannot be a CUDA graph.

    The CPU computes waves; without Triton kernels, it also counts the edges that tie for an axis of a frame.
    """
    return kernels_on(device) is None if config.attention == "framed" else config.vectors


def geometry_of_family(batch: CrystalBatch, config: ModelConfig) -> list[Geometry]:
    """Return the geometry of each part, with directions or waves if the attention of the network needs them.

    Raises:
        ValueError: the batch has no vectors, or equivalent atoms are merged, but the network needs all of them.
    """
    geometry = geometry_of(batch, config)
    if not config.vectors:
        return geometry
    if any(part.vectors is None for part in batch.parts):
        raise ValueError(f"a network with {config.attention} attention needs neighbour lists with vectors")
    if config.attention != "framed" and batch.cells is None:
        raise ValueError(f"a network with {config.attention} attention needs neighbour lists of all atoms")
    if config.attention == "framed":
        return [
            part._replace(directions=directions)
            for part, directions in zip(geometry, directions_of(batch), strict=True)
        ]
    return [part._replace(waves=waves) for part, waves in zip(geometry, waves_of(batch, config), strict=True)]
