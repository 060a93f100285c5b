"""Quantities of the networks that torch and NumPy compute alike; this module is without torch.

The functions of arrays are written so that they serve both: what a network is is decided here, and in the classes of
torch, of which `crystalpredict.nn.numpy_network` is a reading.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from numpy.typing import NDArray

from crystalpredict.nn.config import ModelConfig

if TYPE_CHECKING:
    from torch import Tensor

    Array = TypeVar("Array", Tensor, NDArray[Any])

MAX_PSI_EXPONENT = 46.0  # psi is at least exp(-46) = 1e-20: subnormal numbers make a step 3 times slower
# of frames [M8]
TIE_TOLERANCE = 1e-4  # difference of logits up to which edges are tied: more than rounding in single precision
MIN_ONE_MINUS_COSINE = 1e-5  # lower bound of 1 - |cos| inside the logarithm
COLLINEAR_COSINE = 0.9999  # from here on, two directions span no plane
AXIS_WEIGHTS = (1.0, 1.3, 1.7)  # in the score of tied frames; different, so that each axis and its sign matter
MIN_LENGTH = 1e-3  # that a vector is divided by, Å for an edge
STIFFNESS_POWERS = (3, 6)  # of 1 / r, as the force constants of bonds fall with their lengths r [M11]


def radial_columns(config: ModelConfig) -> int:
    """Return K', the number of basis functions that matter: those with a centre up to 4 widths beyond the radius."""
    if config.radial_basis == 0:
        return 0
    spacing = config.r_max / config.radial_basis
    return min(config.radial_basis, int((config.radius + 4 * spacing) / spacing))


def bytes_per_edge(config: ModelConfig) -> int:
    """Return the memory of a prediction per edge, padding included: index, length, radial basis, tables of heads."""
    return 40 + 4 * radial_columns(config) + 16 * config.heads + (60 if config.vectors else 0)


def radial_offsets(distances: Array, numbers: Array, config: ModelConfig) -> Array:
    """Return (r - mu_k) / s sqrt(2), (..., K'), whose Gaussian exp(-x^2) is psi_k(r), with mu_k = k s, s = r_max / K.

    Args:
        distances: r, Å, (...).
        numbers: k, from 1 to K', (K',).
        config: of the network.
    """
    scale = 0.5**0.5
    spacing = config.r_max / config.radial_basis
    offsets: Array = (distances * (scale / spacing))[..., None] - numbers * scale
    return offsets


def width_argument(query: Array, weights: Array) -> Array:
    """Return q . w of each atom and head, (N, H), before normalisation; query (N, H, d), weights (H, d)."""
    argument: Array = (query * weights).sum(-1)
    return argument


def rho_of(argument: Array, norm: Array, elu: Callable[[Array], Array], config: ModelConfig) -> Array:
    """Return rho(u) = r0^2 / sigma^2 of each atom and head, (N, H) [M3].

    Args:
        argument: from `width_argument`, (N, H).
        norm: scale and shift of the argument, (2,).
        elu: the function of this name, with a slope of 1.
        config: of the network.
    """
    scale, shift = norm[0], norm[1]
    u = (argument + shift) * scale
    room = 1 - config.rho_bound
    return room * elu(config.rho_slope / room * u) + 1


def decay_of(rho: Array, config: ModelConfig) -> Array:
    """Return 1 / 2 sigma^2, Å^-2, (N, H), of rho (N, H)."""
    return rho / (2 * config.r0**2)


def bond_terms(distances: Array, masses: Array, others: Array, radius: float, numbers: Any) -> list[Array]:
    """Return quantities on which the frequencies of vibrations of atoms depend, each (G, T) [M11].

    The distance of the nearest neighbour, Å, and the largest r^-p / m of an edge for each power p, with its length r
    and the reduced mass m of its ends. An edge that is missing, and that of an atom to itself, count as one of length
    `radius` to an equal atom.

    Args:
        distances: of the edges of a part, Å, (G, T, M).
        masses: of the atoms, Da, (G, T).
        others: of the neighbours, Da, (G, T, M).
        radius: of the neighbour lists, Å.
        numbers: torch or NumPy.
    """
    bonds = (distances > MIN_LENGTH) & (distances <= radius)
    own = masses[..., None] + 0 * others
    lengths: Array = numbers.where(bonds, distances, radius + 0 * distances)
    ends: Array = numbers.where(bonds, others, own)
    inverse: Array = (own + ends) / (own * ends)
    return [numbers.amin(lengths, -1), *(numbers.amax(inverse / lengths**power, -1) for power in STIFFNESS_POWERS)]


def covariances(one: Array, two: Array, numbers: Any) -> Array:
    """Return the Matérn covariances of order 5/2, (A, B), of points with lengths of 1 (C. E. Rasmussen, 2006, 4.17).

    Args:
        one: (A, inputs), in double precision.
        two: (B, inputs), likewise.
        numbers: torch or NumPy.
    """
    squares = (one * one).sum(-1)[:, None] + (two * two).sum(-1) - 2 * one @ two.T
    scaled = 5**0.5 * numbers.sqrt(numbers.clip(squares, 0, None))
    found: Array = (1 + scaled + scaled * scaled / 3) * numbers.exp(-scaled)
    return found
