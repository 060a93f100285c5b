"""Head of relaxation [M9]: from the states of a network's atoms, how cell and atoms move on relaxation; in NumPy.

Each edge of length r below 5 Å and direction u gets weights from the states of its atoms and r. In a first step they
make vectors of each atom, V = sum w u, which turn with the crystal. In a second step the edges see the projections of
these vectors on u too, and add w u and w V of the neighbour to the displacement of the atom, and w (u u^T - 1/3) to the
strain of the cell. So displacements and strain turn with the crystal, and a crystal's symmetry remains. The idea is
that of equivariant message passing (Schütt, Unke and Gastegger, PMLR 139, 9377 (2021)).

`crystalpredict.training.relaxation` trains the same head in torch; tests compare every number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crystalpredict.crystals.crystal import FloatArray, IntArray, Neighbors
from crystalpredict.nn.config import ModelConfig

Floats = NDArray[np.float32]
RADIUS = 5.0  # Å
SHORTEST = 0.8  # Å, centre of the first Gaussian in the length of an edge
GAUSSIANS = 24
HIDDEN = 64  # of an edge
ATOM_HIDDEN = 96
VECTORS = 16  # of an atom
EDGES_PER_CHUNK = 2**13  # 2 MiB for each intermediate result


class Deformation(NamedTuple):
    """What a crystal of n atoms does on relaxation, apart from the change of its volume.

    Attributes:
        displacements: Å, of mean 0, in the cell as it is given, (n, 3).
        strain: logarithm of the symmetric deformation of the cell, without trace, (3, 3).
    """

    displacements: FloatArray
    strain: FloatArray


def head_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the weights of the head of a config's network by their names."""
    shapes = _linear("atoms", config.states, ATOM_HIDDEN) | _linear("mix", ATOM_HIDDEN + VECTORS, ATOM_HIDDEN)
    for step in ("first", "second"):
        shapes |= _linear(f"{step}.atom", ATOM_HIDDEN, HIDDEN)
        shapes[f"{step}.neighbor.weight"] = (HIDDEN, ATOM_HIDDEN)
        shapes[f"{step}.length.weight"] = (HIDDEN, GAUSSIANS)
    shapes["first.output.weight"] = (VECTORS, HIDDEN)
    shapes["second.projections.weight"] = (HIDDEN, 2 * VECTORS)
    shapes |= _linear("second.hidden", HIDDEN, HIDDEN)
    shapes["second.output.weight"] = (VECTORS + 2, HIDDEN)
    return shapes | _linear("own", ATOM_HIDDEN, VECTORS)


def _linear(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


class RelaxationHead:
    """A trained head."""

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take weights that have the shapes of `head_shapes`."""
        self.arrays = dict(arrays)
        self.weights = {name: np.ascontiguousarray(array.T, dtype=np.float32) for name, array in arrays.items()}
        self.centres = np.linspace(SHORTEST, RADIUS, GAUSSIANS, dtype=np.float32)

    def __call__(self, states: Sequence[FloatArray], neighbors: Sequence[Neighbors]) -> list[Deformation]:
        """Return how crystals relax.

        Args:
            states: of the atoms of each crystal, before the first and after each block, each (n, (blocks + 1) D).
            neighbors: a list of each crystal with all its n atoms, with vectors, and at least up to RADIUS.
        """
        # one after the other: in matrix products of all together the last digits would depend on the other crystals
        return [self._of_crystal(*own) for own in zip(states, neighbors, strict=True)]

    def _of_crystal(self, states: FloatArray, edges: Neighbors) -> Deformation:
        weights, near = self.weights, edges_within([edges])
        atoms = np.maximum(self._dense("atoms", states.astype(np.float32)), 0)
        count = len(atoms)
        vectors = np.zeros((count, VECTORS, 3), dtype=np.float32)
        own, other = self._dense("first.atom", atoms), atoms @ weights["first.neighbor.weight"]
        for part in near.chunks():
            hidden = np.maximum(own[part.atoms] + other[part.neighbors] + self._of_length(part, "first"), 0)
            factors: Floats = (hidden @ weights["first.output.weight"]) * part.envelope
            part.add(vectors, factors[:, :, None] * part.units[:, None])
        lengths = np.log1p(np.square(vectors).sum(axis=2))
        atoms = np.maximum(self._dense("mix", np.concatenate([atoms, lengths], axis=1)), 0) + atoms
        displacements: Floats = np.einsum("nc,ncx->nx", self._dense("own", atoms), vectors)
        strains = np.zeros((count, 3, 3), dtype=np.float32)
        own, other = self._dense("second.atom", atoms), atoms @ weights["second.neighbor.weight"]
        for part in near.chunks():
            far = vectors[part.neighbors]
            projections = [np.matmul(those, part.units[:, :, None])[:, :, 0] for those in (vectors[part.atoms], far)]
            hidden = own[part.atoms] + other[part.neighbors] + self._of_length(part, "second")
            hidden += np.concatenate(projections, axis=1) @ weights["second.projections.weight"]
            np.maximum(hidden, 0, out=hidden)
            hidden += np.maximum(self._dense("second.hidden", hidden), 0)
            factors = np.multiply(hidden @ weights["second.output.weight"], part.envelope)
            moves = factors[:, VECTORS, None] * part.units
            moves += np.matmul(factors[:, None, :VECTORS], far)[:, 0]
            part.add(displacements, moves)
            squares = part.units[:, :, None] * part.units[:, None]
            part.add(strains, factors[:, -1, None, None] * squares)
        strain = strains.mean(axis=0, dtype=float)
        return Deformation(
            displacements - displacements.mean(axis=0, dtype=float), strain - np.eye(3) * np.trace(strain) / 3
        )

    def _dense(self, name: str, values: Floats) -> Floats:
        found: Floats = values @ self.weights[f"{name}.weight"]
        found += self.weights[f"{name}.bias"]
        return found

    def _of_length(self, part: Edges, step: str) -> Floats:
        """Return what the lengths of edges add to their hidden values in a step, (E, HIDDEN)."""
        offsets = (part.lengths[:, None] - self.centres) / (self.centres[1] - self.centres[0])
        psi: Floats = np.exp(-0.5 * np.square(offsets)) @ self.weights[f"{step}.length.weight"]
        return psi


class Edges(NamedTuple):
    """E edges within RADIUS, sorted by their atoms, which are numbered over all crystals.

    Attributes:
        atoms: where they begin, (E,).
        neighbors: where they end, (E,).
        lengths: Å, (E,).
        units: directions, (E, 3).
    """

    atoms: IntArray
    neighbors: IntArray
    lengths: Floats
    units: Floats

    @property
    def envelope(self) -> Floats:
        """Factor (E, 1) that is 0 at RADIUS, so that nothing jumps when an edge gets longer than that."""
        found: Floats = np.cos(self.lengths * np.float32(np.pi / RADIUS))[:, None] * np.float32(0.5) + np.float32(0.5)
        return found

    def chunks(self) -> list[Edges]:
        """Return the edges in pieces, whose intermediate results stay in the caches."""
        owns = [slice(start, start + EDGES_PER_CHUNK) for start in range(0, len(self.atoms), EDGES_PER_CHUNK)]
        return [Edges(self.atoms[own], self.neighbors[own], self.lengths[own], self.units[own]) for own in owns]

    def add(self, sums: Floats, terms: Floats) -> None:
        """Add terms of the edges (E, ...) to the sums of their atoms (n, ...)."""
        starts = np.flatnonzero(np.diff(self.atoms, prepend=-1))
        if len(starts):
            sums[self.atoms[starts]] += np.add.reduceat(terms, starts)


def edges_within(neighbors: Sequence[Neighbors]) -> Edges:
    """Return the edges to other atoms, or images, within RADIUS; atoms are numbered over all crystals."""
    sizes = np.array([edges.size for edges in neighbors])
    counts = [len(edges.indices) for edges in neighbors]
    distances = np.concatenate([edges.distances for edges in neighbors])
    kept = np.flatnonzero((distances < RADIUS) & (distances > 0))
    atoms = np.repeat(np.arange(sizes.sum()), np.concatenate([edges.edge_counts for edges in neighbors]))[kept]
    ends = np.concatenate([edges.indices for edges in neighbors]) + np.repeat(np.cumsum(sizes) - sizes, counts)
    vectors = np.concatenate([edges.vectors for edges in neighbors if edges.vectors is not None])[kept]
    lengths = distances[kept].astype(np.float32)
    return Edges(atoms, ends[kept], lengths, vectors.astype(np.float32) / lengths[:, None])
