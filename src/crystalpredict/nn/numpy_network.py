"""The networks in NumPy, for the first answer: a few crystals are predicted in less time than torch takes to import.

It is a reading of the classes in torch, which decide what a network is: the same names, sections of docs/method.md and
functions of `crystalpredict.nn.terms`, and tests compare every number. It has no gradients, and no attention in
reciprocal space.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crystalpredict.crystals.masses import ATOMIC_MASSES
from crystalpredict.nn.bins import Arrays
from crystalpredict.nn.config import ModelConfig
from crystalpredict.nn.gaussians import product_coefficients
from crystalpredict.nn.numpy_frames import direction_moments, directions_of, frames_of
from crystalpredict.nn.terms import (
    MAX_PSI_EXPONENT,
    bond_terms,
    covariances,
    decay_of,
    radial_columns,
    radial_offsets,
    rho_of,
    width_argument,
)
from crystalpredict.nn.weights import Weights

Floats = NDArray[np.float32]
PRODUCTS_PER_CHUNK = 2**20  # of atoms of a bin with each other, for all heads: 4 MiB


class Geometry(NamedTuple):
    """Quantities of a part that depend on the crystals only; all blocks use the same.

    Attributes:
        shape: bins, and slots of a bin, (G, T).
        slots: of the part in the batch.
        chunks: slots of each bin that are computed together, R of them; and the place of each of their edges among the
            products of these slots with all slots, (G, H, R, T), for each head, (G, R, H, M).
        squared_distances: Å^2, (G, T, 1, M).
        basis: psi of each edge, (G, T, M, K').
        directions: unit vectors of the edges, (G, T, M, 3); None unless the network uses directions.
    """

    shape: tuple[int, int]
    slots: slice
    chunks: list[tuple[slice, NDArray[np.int64]]]
    squared_distances: Floats
    basis: Floats
    directions: Floats | None


class NumpyNetwork:
    """A network that computes what `Crystalformer`, `Ensemble` or `Stages` does, in single precision.

    Attributes:
        first: of two stages, the first; otherwise the network itself.
    """

    def __init__(self, weights: Weights) -> None:
        """Take the weights of a network whose attention is in real space, with directions or without."""
        self.config = weights.config
        if not can_compute(self.config):
            raise ValueError(f"NumPy does not compute networks with {self.config.attention} attention")
        *others, own = weights.stages
        self.first = NumpyNetwork(others[0]) if others else self
        self.members = [_Member(each) for each in own.members]

    def features(self, batch: Arrays) -> Floats:
        """Return the mean states of each crystal's atoms after the last block, (B, members D) [M6]."""
        return _mean_over_atoms(self.encode(batch), batch)

    def all_states(self, batch: Arrays) -> tuple[Floats, Floats]:
        """Return the outputs, and the states before the first and after each block, (N, (blocks + 1) D)."""
        (member,) = self.members
        states = np.concatenate(list(member.states(batch, geometry_of(batch, self.config))), axis=1)
        return member.outputs(_mean_over_atoms(states, batch), batch), states

    def answer(self, batch: Arrays) -> tuple[Floats, Floats]:
        """Return the features (B, members D) and standardised properties (B, outputs) of a batch."""
        geometry, features, outputs = geometry_of(batch, self.config), [], []
        for member in self.members:
            states = list(member.states(batch, geometry))
            needed = states if self.config.readout_of_states or self.config.kernel_points else states[-1:]
            means = [_mean_over_atoms(state, batch) for state in needed]
            features.append(means[-1])
            outputs.append(member.outputs(np.concatenate(means, axis=1), batch))
        mean: Floats = np.stack(outputs).mean(axis=0)
        return np.concatenate(features, axis=1), mean

    def encode(self, batch: Arrays) -> Floats:
        """Return the states of the atoms after the last block (N, members D)."""
        geometry = geometry_of(batch, self.config)
        return np.concatenate([member.encode(batch, geometry) for member in self.members], axis=1)


def _mean_over_atoms(state: Floats, batch: Arrays) -> Floats:
    """Return the mean state (B, D) of the atoms of each crystal from their states (N, D) [M6]."""
    weighted: Floats = state * batch.counts[:, None]
    sums = np.zeros((len(batch.n_atoms) + 1, weighted.shape[1]), dtype=weighted.dtype)  # the last row: empty slots
    np.add.at(sums, batch.crystals, weighted)  # a number that is not finite stays in its crystal
    sizes: Floats = batch.n_atoms.astype(weighted.dtype)
    return sums[:-1] / sizes[:, None]


def _bond_descriptors(batch: Arrays, radius: float) -> Floats:
    """Return what `crystalpredict.nn.kernel.bond_descriptors` does, (B, 6)."""
    shares = batch.occupancies / np.maximum(batch.occupancies.sum(axis=1, keepdims=True), 1e-9)
    masses = (ATOMIC_MASSES.astype(shares.dtype)[batch.elements + 1] * shares).sum(axis=1) + (batch.counts == 0)
    parts, start = [], 0
    for part in batch.parts:
        bins, slots, _ = part.neighbors.shape
        own = masses[start : start + bins * slots].reshape(bins, slots)
        others = np.take_along_axis(own, part.neighbors.reshape(bins, -1), axis=1).reshape(part.neighbors.shape)
        parts.append(np.stack(bond_terms(part.distances, own, others, radius, np)).reshape(3, -1))
        start += bins * slots
    nearest, *stiffness = np.concatenate(parts, axis=1)
    means = _mean_over_atoms(np.stack([masses, nearest], axis=1), batch)
    least, most = np.full((2, len(means) + 1), np.inf), np.zeros((2, len(means) + 1))
    for row, values in enumerate((masses, nearest)):
        np.minimum.at(least[row], batch.crystals, values)
    for row, values in enumerate(stiffness):
        np.maximum.at(most[row], batch.crystals, values)
    found = np.stack([least[0, :-1], means[:, 0], least[1, :-1], means[:, 1], *most[:, :-1]], axis=1)
    logarithms: Floats = np.log(found).astype(means.dtype)
    return logarithms


def can_compute(config: ModelConfig) -> bool:
    """Return whether NumPy computes networks of this kind."""
    return config.attention in ("real", "framed")


def geometry_of(batch: Arrays, config: ModelConfig) -> list[Geometry]:
    """Return places, squared distances, radial basis and directions of the edges of each part."""
    found, start = [], 0
    for part in batch.parts:
        bins, slots, _ = part.neighbors.shape
        step = max(1, PRODUCTS_PER_CHUNK // (bins * config.heads * slots))
        owns = [slice(first, min(first + step, slots)) for first in range(0, slots, step)]
        chunks = [(own, _places(part.neighbors[:, own], config.heads, slots)) for own in owns]
        end = start + bins * slots
        squares = np.square(part.distances)[:, :, None]
        basis = radial_basis(part.distances, config)
        directions = directions_of(part.vectors) if config.vectors and part.vectors is not None else None
        found.append(Geometry((bins, slots), slice(start, end), chunks, squares, basis, directions))
        start = end
    return found


def _places(neighbors: NDArray[np.int64], heads: int, slots: int) -> NDArray[np.int64]:
    """Return the flat index of neighbours (G, R, M) in an array (G, H, R, T), for each head, (G, R, H, M)."""
    bins, rows, _ = neighbors.shape
    table = np.arange(bins * heads * rows).reshape(bins, heads, rows).transpose(0, 2, 1)
    places: NDArray[np.int64] = table[..., None] * slots + neighbors[:, :, None]
    return places


def radial_basis(distances: Floats, config: ModelConfig) -> Floats:
    """Return psi_k of distances (...), Å, (..., K') [M4]."""
    columns = radial_columns(config)
    if not columns:
        return np.empty((*distances.shape, 0), dtype=distances.dtype)
    psi = radial_offsets(distances, np.arange(1, columns + 1, dtype=distances.dtype), config)
    np.minimum(np.square(psi, out=psi), MAX_PSI_EXPONENT, out=psi)
    np.exp(np.negative(psi, out=psi), out=psi)
    return psi


class _Member:
    """One network."""

    def __init__(self, weights: Weights) -> None:
        self.config = weights.config
        self.weights = {name: array.astype(np.float32) for name, array in weights.arrays.items()}
        config, gaussians = self.config, np.empty((0, 0, 1))
        if config.attention == "framed":
            rounding = float(np.finfo(np.float32).eps)
            gaussians = product_coefficients(config.direction_basis, config.direction_width, rounding)
        self.terms = gaussians.shape[:2]  # I, J
        self.gaussians = gaussians.reshape(-1, gaussians.shape[2]).astype(np.float32)  # (L, direction basis)
        self.moments = radial_columns(config) + 3 * len(self.gaussians)
        names = (f"blocks.{number}.attention" for number in range(config.blocks))
        self.encodings = {name: self._encoding(name) for name in names}

    def _encoding(self, name: str) -> Floats:
        """Return what moments (H, N, K' + 3 L) are multiplied by to encode values, (H, K' + 3 L, d)."""
        config, columns = self.config, radial_columns(self.config)
        found = np.empty((config.heads, self.moments, config.width // config.heads), dtype=np.float32)
        if columns:
            found[:, :columns] = self.weights[f"{name}.radial_weights"][..., :columns].swapaxes(1, 2)
        if config.attention == "framed":
            weights = config.direction_factor * self.weights[f"{name}.direction_weights"] @ self.gaussians.T
            found[:, :columns] *= config.radial_factor
            found[:, columns:] = weights.transpose(1, 0, 3, 2).reshape(config.heads, -1, found.shape[2])
        return found

    @cached_property
    def points(self) -> NDArray[np.float64]:
        """Scaled inputs of the crystals of the kernel regression, (P, inputs), in double precision."""
        return self.weights["kernel.points"].astype(float)

    def outputs(self, means: Floats, batch: Arrays) -> Floats:
        """Return standardised properties (B, outputs) of mean states, or of the last ones if these suffice."""
        found = self._two_layers("readout", means[:, -self.config.width :])
        if self.config.readout_of_states:
            found += self._two_layers("readout_of_states", means)
        if self.config.kernel_points:
            found += self._kernel(np.concatenate([means, _bond_descriptors(batch, self.config.radius)], axis=1))
        return found

    def _kernel(self, inputs: Floats) -> Floats:
        """Return the outputs of the readout by kernel regression for its inputs (B, inputs) [M11]."""
        shift, scale = self.weights["kernel.shift"], self.weights["kernel.scale"]
        scaled: NDArray[Any] = (inputs.astype(float) - shift) * scale
        found: Floats = (covariances(scaled, self.points, np) @ self.weights["kernel.weights"].T).astype(np.float32)
        return found

    def encode(self, batch: Arrays, geometry: Sequence[Geometry]) -> Floats:
        """Return the states of the atoms after the last block (N, D) [M1]."""
        *_, state = self.states(batch, geometry)
        return state

    def states(self, batch: Arrays, geometry: Sequence[Geometry]) -> Iterator[Floats]:
        """Yield the states of the atoms (N, D) before the first and after each block."""
        embedded = self.weights["embedding.weight"][batch.elements]  # (N, S, D)
        state: Floats = (embedded * batch.occupancies[..., None]).sum(axis=1)
        yield state
        for number in range(self.config.blocks):
            state = state + self._attention(f"blocks.{number}.attention", state, geometry)
            state = state + self._two_layers(f"blocks.{number}.feedforward", state)
            yield state

    def _linear(self, name: str, values: Floats) -> Floats:
        found: Floats = values @ self.weights[f"{name}.weight"].T
        found += self.weights[f"{name}.bias"]
        return found

    def _two_layers(self, name: str, values: Floats) -> Floats:
        hidden = self._linear(f"{name}.0", values)
        return self._linear(f"{name}.2", np.maximum(hidden, 0, out=hidden))

    def _attention(self, name: str, state: Floats, geometry: Sequence[Geometry]) -> Floats:
        """Return the attention term of each atom (N, D) [M2]-[M5]; `name` of the layer."""
        config = self.config
        projected = self._linear(f"{name}.query_key_value", state).reshape(len(state), 3, config.heads, -1)
        argument = width_argument(projected[:, 0], self.weights[f"{name}.width_weights"])
        decay = decay_of(rho_of(argument, self.weights[f"{name}.width_norm"], _elu, config), config)
        projected[:, 0] *= projected.shape[-1] ** -0.5
        heads = np.empty_like(projected[:, 0])  # (N, H, d)
        moments = np.empty((len(state), config.heads, self.moments), dtype=heads.dtype)
        for part in geometry:
            _attend(projected[part.slots], decay[part.slots], part, heads[part.slots], moments[part.slots], self.terms)
        heads += np.matmul(moments.swapaxes(0, 1), self.encodings[name]).swapaxes(0, 1)
        return self._linear(f"{name}.output", heads.reshape(len(state), -1))


def _attend(
    projected: Floats, decay: Floats, part: Geometry, heads: Floats, moments: Floats, terms: tuple[int, ...]
) -> None:
    """Fill in weighted values and moments of the G T slots of a part.

    Args:
        projected: query, key and value, (G T, 3, H, d).
        decay: (G T, H).
        part: its geometry.
        heads: for the weighted values, (G T, H, d).
        moments: for sum_e p_e psi(d_e), and those of directions, (G T, H, K' + 3 L).
        terms: I, J, with L = I J; 0 without directions.
    """
    query, key, value = projected.reshape(*part.shape, *projected.shape[1:]).transpose(2, 0, 3, 1, 4)  # (G, H, T, d)
    decay, heads, moments = (each.reshape(*part.shape, *each.shape[1:]) for each in (decay, heads, moments))
    for own, places in part.chunks:
        products = query[:, :, own] @ key.swapaxes(2, 3)  # (G, H, R, T)
        logits = np.take(products, places)  # (G, R, H, M)
        logits -= decay[:, own, :, None] * part.squared_distances[:, own]
        logits -= logits.max(axis=3, keepdims=True)
        weights = np.exp(logits)
        weights /= weights.sum(axis=3, keepdims=True)
        # the images of an atom have the same value, so their weights are summed first
        sums = np.bincount(places.ravel(), weights.ravel(), products.size).astype(weights.dtype)
        heads[:, own] = (sums.reshape(products.shape) @ value).transpose(0, 2, 1, 3)
        moments[:, own, :, : part.basis.shape[3]] = weights @ part.basis[:, own]
        if part.directions is not None:
            shape = weights.shape[:3]
            one, two, three = (each.reshape(-1, *each.shape[2:]) for each in (logits, weights, part.directions[:, own]))
            moments[:, own, :, part.basis.shape[3] :] = _direction_moments(one, two, three, *terms).reshape(*shape, -1)


def _direction_moments(logits: Floats, weights: Floats, directions: Floats, coarse: int, fine: int) -> Floats:
    """Return moments of directions, in the frames that attention chooses, (R, H, 3, I J); arguments as `frames_of`."""
    return direction_moments(weights, directions, frames_of(logits, weights, directions), coarse, fine)


def _elu(values: Floats) -> Floats:
    return np.where(values > 0, values, np.expm1(np.minimum(values, 0)))
