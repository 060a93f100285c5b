"""ModelConfig: every number that fixes the mathematics of a network."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any, Literal

from msgspec import Meta

from crystalpredict.crystals.crystal import ELEMENTS
from crystalpredict.crystals.equivalence import Merging

# a config from anywhere must not make a network, or lists of neighbours, that fill the memory
MOST_WEIGHTS = 2**27
BOND_DESCRIPTORS = 6  # of a crystal (`crystalpredict.nn.kernel.bond_descriptors`)
Size = Annotated[int, Meta(ge=1, le=4096)]
ReadoutSize = Annotated[int, Meta(ge=1, le=2**14)]  # heads of other outputs are a part of it
SizeOrNone = Annotated[int, Meta(ge=0, le=4096)]
Length = Annotated[float, Meta(gt=0, le=1000)]
Factor = Annotated[float, Meta(ge=-1000, le=1000)]
Attention = Literal["real", "dual", "alternating", "reciprocal", "framed"]
"""Which of the family a network is: `real`, the paper's model; `dual`, with half of the heads of each block in
reciprocal space; `alternating`, with every second block there; `reciprocal`, with all of them [M7]; `framed`, with
directions in frames that turn with the crystal [M8]."""


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a Crystalformer; the defaults are those of the paper (Taniai et al., ICLR 2024)."""

    blocks: Size = 4
    width: Size = 128
    """D, channels of an atom's state."""
    heads: Size = 8
    feedforward: Size = 512
    radial_basis: SizeOrNone = 64
    """K, Gaussians in the distance; 0 is the paper's simplified model, without value encoding."""
    readout: ReadoutSize = 128
    """Hidden width of the readout."""
    readout_of_states: Annotated[int, Meta(ge=0, le=2**14)] = 0
    """Hidden width of a second readout, whose outputs are added to those of the first. It sees the mean states of atoms
    before the first and after each block, of which early ones hold more of the geometry. 0: there is none."""
    kernel_points: Annotated[int, Meta(ge=0, le=2**14)] = 0
    """Crystals of a third readout, a kernel regression that compares a crystal with each of them, for properties with
    few labels [M11]. Its outputs are added, too. 0: there is none."""
    outputs: Size = 1
    r0: Length = 1.4
    """Width of the spatial Gaussian at rho = 1, Å."""
    r_max: Length = 14.0
    """Centre of the last radial basis function, Å."""
    rho_bound: Annotated[float, Meta(gt=0, lt=1)] = 0.5
    rho_slope: Factor = 0.1
    radius: Annotated[float, Meta(gt=0, le=30)] = 6.0
    """Length beyond which an edge is left out of the lattice sums, Å."""
    members: Annotated[int, Meta(ge=1, le=100)] = 1
    """Networks of this shape whose outputs are averaged."""
    stages: Annotated[int, Meta(ge=1, le=2)] = 1
    """2: a network for unrelaxed crystals as given, and one for them as the first relaxes them."""
    attention: Attention = "real"
    reciprocal_r0: Length = 2.2
    """Width of the reciprocal heads' Gaussian at rho = 1, Å."""
    reciprocal_reach: Annotated[int, Meta(ge=0, le=8)] = 0
    """Largest index of a wave along each axis of the cell, 2 in the paper's code; 0: the waves up to the cutoff."""
    reciprocal_cutoff: Annotated[float, Meta(gt=0, le=20)] = 3.4
    """Length of the longest wave vector where there is no reach, Å^-1; what is left out is below 1e-6."""
    direction_basis: Size = 64
    """Gaussians in the cosine between an edge and an axis of the frame."""
    direction_width: Length = 4.0
    """Their width, in units of their spacing."""
    radial_factor: Factor = 1.0
    direction_factor: Factor = 1.0
    """Weight of the encoding of distances, and of that of directions, in a framed network."""

    def __post_init__(self) -> None:
        """Raise ValueError for values that are impossible together; annotations limit each alone."""
        if self.attention == "dual" and self.heads % 2:
            raise ValueError(f"heads is {self.heads}, but must be even for half of them to be reciprocal")
        if self.attention == "framed" and self.direction_basis < 2:
            raise ValueError(f"direction_basis is {self.direction_basis}, but must be at least 2")
        if self.stages > 1 and self.members > 1:
            raise ValueError(f"{self.stages} stages and {self.members} members: a network has one of these")
        if self.width % self.heads:
            raise ValueError(f"width is {self.width}, but must be a multiple of heads, {self.heads}")
        if self.least_weights > MOST_WEIGHTS:
            raise ValueError(f"a network of {self.least_weights:,} weights or more: {MOST_WEIGHTS:,} at most")

    @property
    def vectors(self) -> bool:
        """Whether neighbour lists need vectors, because the network depends on more than distances."""
        return self.attention != "real"

    @property
    def merging(self) -> Merging:
        """Kind of equivalent atoms, which have equal states in the network: one of each kind is computed."""
        return {"real": "distances", "framed": "rotations"}.get(self.attention, "nothing")  # type: ignore[return-value]

    def real_heads(self, block: int) -> int:
        """Return how many heads of a block, counted from 0, are in real space."""
        reciprocal = {"dual": self.heads // 2, "alternating": self.heads * (block % 2), "reciprocal": self.heads}
        return self.heads - reciprocal.get(self.attention, 0)

    @property
    def features(self) -> int:
        """Number of features of a crystal, the input of the readout: the mean state of its atoms."""
        return self.members * self.width

    @property
    def states(self) -> int:
        """Number of channels of an atom's states before the first and after each block together."""
        return (self.blocks + 1) * self.width

    @property
    def kernel_inputs(self) -> int:
        """Number of inputs of the kernel regression: mean states, and descriptors of bonds."""
        return self.states + BOND_DESCRIPTORS

    @property
    def least_weights(self) -> int:
        """Lower bound on the number of weights, those in matrices; the true number is below twice this."""
        width, basis = self.width, 0 if self.attention == "reciprocal" else self.radial_basis // 2
        if self.attention == "framed":
            basis += 3 * self.direction_basis
        block = width * (4 * width + 2 * self.feedforward + basis)
        readout = self.readout * (width + self.outputs) + self.readout_of_states * (self.states + self.outputs)
        readout += self.kernel_points * (self.kernel_inputs + self.outputs)
        return self.members * self.stages * (self.blocks * block + len(ELEMENTS) * width + readout)

    @property
    def least_tensors(self) -> int:
        """Lower bound on the number of tensors that hold the weights."""
        return self.members * self.stages * self.blocks

    def to_dict(self) -> dict[str, Any]:
        """Return the config as a JSON object; keys of other attentions are left out if the attention is `real`."""
        values = {name: value for name, value in asdict(self).items() if self.vectors or name not in _OF_VARIANTS}
        return {name: value for name, value in values.items() if _OMITTED.get(name) != value}


_OMITTED = {"members": 1, "stages": 1, "readout_of_states": 0, "kernel_points": 0}  # which older versions do not know
_OF_VARIANTS = [f.name for f in fields(ModelConfig)][[f.name for f in fields(ModelConfig)].index("attention") :]
