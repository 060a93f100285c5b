"""ModelConfig: every number that fixes the mathematics of a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from typing import Any, Literal, get_args

from crystalpredict.crystals.crystal import ELEMENTS
from crystalpredict.crystals.equivalence import Merging
from crystalpredict.crystals.neighbors import LONGEST_RADIUS

MOST = 4096  # of anything: a config from anywhere must not make a network that fills the memory
Attention = Literal["real", "dual", "alternating", "reciprocal", "framed"]
"""Which of the family a network is: `real`, the paper's model; `dual`, with half of the heads of each block in
reciprocal space; `alternating`, with every second block there; `reciprocal`, with all of them [M7]; `framed`, with
directions in frames that turn with the crystal [M8]."""


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a Crystalformer; the defaults are those of the paper (Taniai et al., ICLR 2024)."""

    blocks: int = 4
    width: int = 128
    """D, channels of an atom's state."""
    heads: int = 8
    feedforward: int = 512
    radial_basis: int = 64
    """K, Gaussians in the distance; 0 is the paper's simplified model, without value encoding."""
    readout: int = 128
    """Hidden width of the readout."""
    outputs: int = 1
    r0: float = 1.4
    """Width of the spatial Gaussian at rho = 1, Å."""
    r_max: float = 14.0
    """Centre of the last radial basis function, Å."""
    rho_bound: float = 0.5
    rho_slope: float = 0.1
    radius: float = 6.0
    """Length beyond which an edge is left out of the lattice sums, Å."""
    members: int = 1
    """Networks of this shape whose outputs are averaged."""
    attention: Attention = "real"
    reciprocal_r0: float = 2.2
    """Width of the reciprocal heads' Gaussian at rho = 1, Å."""
    reciprocal_reach: int = 0
    """Largest index of a wave along each axis of the cell, 2 in the paper's code; 0: the waves up to the cutoff."""
    reciprocal_cutoff: float = 3.4
    """Length of the longest wave vector where there is no reach, Å^-1; what is left out is below 1e-6."""
    direction_basis: int = 64
    """Gaussians in the cosine between an edge and an axis of the frame."""
    direction_width: float = 4.0
    """Their width, in units of their spacing."""
    radial_factor: float = 1.0
    direction_factor: float = 1.0
    """Weight of the encoding of distances, and of that of directions, in a framed network."""

    def __post_init__(self) -> None:
        for name in ("blocks", "width", "heads", "feedforward", "readout", "outputs", "members"):
            if getattr(self, name) < 1:
                raise ValueError(f"ModelConfig.{name} is {getattr(self, name)}, but must be at least 1")
        for field in fields(self):
            value = getattr(self, field.name)
            most = LONGEST_RADIUS if field.name == "radius" else MOST
            if not isinstance(value, str) and not abs(value) <= most:  # false for not-a-number too
                raise ValueError(f"ModelConfig.{field.name} is {value}, but must be {most:g} at most")
        if self.attention not in get_args(Attention):
            near = get_close_matches(str(self.attention), get_args(Attention), n=1) or get_args(Attention)
            raise ValueError(f"ModelConfig.attention is {self.attention!r}, but must be one of {', '.join(near)}")
        if self.attention == "dual" and self.heads % 2:
            raise ValueError(f"ModelConfig.heads is {self.heads}, but must be even for half of them to be reciprocal")
        if self.attention == "framed" and self.direction_basis < 2:
            raise ValueError(f"ModelConfig.direction_basis is {self.direction_basis}, but must be at least 2")
        if self.reciprocal_reach < 0:
            raise ValueError(f"ModelConfig.reciprocal_reach is {self.reciprocal_reach}, but must be 0 or more")
        for name in ("r0", "r_max", "radius", "reciprocal_r0", "reciprocal_cutoff", "direction_width"):
            if not getattr(self, name) > 0:
                raise ValueError(f"ModelConfig.{name} is {getattr(self, name)}, but must be positive")
        if self.members * self.blocks > MOST:
            raise ValueError(f"ModelConfig.members is {self.members}, of {self.blocks} blocks each: {MOST} at most")
        if self.radial_basis < 0:
            raise ValueError(f"ModelConfig.radial_basis is {self.radial_basis}, but must be 0 or more")
        if self.width % self.heads:
            raise ValueError(f"ModelConfig.width {self.width} is no multiple of heads {self.heads}")
        if not 0 < self.rho_bound < 1:
            raise ValueError(f"ModelConfig.rho_bound is {self.rho_bound}, but must lie between 0 and 1")

    @property
    def vectors(self) -> bool:
        """Whether the network sees more than distances, so that its neighbour lists need vectors."""
        return self.attention != "real"

    @property
    def merging(self) -> Merging:
        """Which atoms of a crystal the network cannot tell apart, so that one of each may stand for all."""
        return {"real": "distances", "framed": "rotations"}.get(self.attention, "nothing")  # type: ignore[return-value]

    @property
    def features(self) -> int:
        """Numbers that the readout sees of a crystal."""
        return self.members * self.width

    @property
    def least_weights(self) -> int:
        """Numbers in the matrices of the network, nearly all of its weights: it has at least so many, and not twice."""
        width, basis = self.width, 0 if self.attention == "reciprocal" else self.radial_basis // 2
        if self.attention == "framed":
            basis += 3 * self.direction_basis
        block = width * (4 * width + 2 * self.feedforward + basis)
        readout = self.readout * (width + self.outputs)
        return self.members * (self.blocks * block + len(ELEMENTS) * width + readout)

    def to_dict(self) -> dict[str, Any]:
        """The config as a JSON object; that of the paper's model has no key of the other members of the family."""
        values = {name: value for name, value in asdict(self).items() if self.vectors or name not in _OF_VARIANTS}
        if self.members == 1:
            del values["members"]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """The config of a JSON object; a key that does not exist is an error that names the nearest."""
        known = [f.name for f in fields(cls)]
        for key in values:
            if key not in known:
                near = get_close_matches(key, known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
                raise ValueError(f"ModelConfig has no {key!r}{hint}")
        return cls(**values)


_OF_VARIANTS = [f.name for f in fields(ModelConfig)][[f.name for f in fields(ModelConfig)].index("attention") :]
