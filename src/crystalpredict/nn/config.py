"""ModelConfig: every number that fixes the mathematics of a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any


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

    def __post_init__(self) -> None:
        for name in ("blocks", "width", "heads", "feedforward", "readout", "outputs"):
            if getattr(self, name) < 1:
                raise ValueError(f"ModelConfig.{name} is {getattr(self, name)}, but must be at least 1")
        for name in ("r0", "r_max", "radius"):
            if not getattr(self, name) > 0:
                raise ValueError(f"ModelConfig.{name} is {getattr(self, name)}, but must be positive")
        if self.radial_basis < 0:
            raise ValueError(f"ModelConfig.radial_basis is {self.radial_basis}, but must be 0 or more")
        if self.width % self.heads:
            raise ValueError(f"ModelConfig.width {self.width} is no multiple of heads {self.heads}")
        if not 0 < self.rho_bound < 1:
            raise ValueError(f"ModelConfig.rho_bound is {self.rho_bound}, but must lie between 0 and 1")

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
