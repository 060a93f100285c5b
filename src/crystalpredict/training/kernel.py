"""Kernel regression on the features of a network that is known, for properties with few labels [M11]."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from crystalpredict.crystals.crystal import FloatArray, IntArray
from crystalpredict.nn import Crystalformer
from crystalpredict.nn.batch import CrystalBatch
from crystalpredict.nn.config import BOND_DESCRIPTORS
from crystalpredict.nn.kernel import inputs_of
from crystalpredict.nn.terms import covariances

LENGTHS, SHARES = (1.5, 2.0, 3.0, 4.0), (0.1, 0.2, 0.3)  # of the kernel; of the descriptors of bonds
NOISES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)  # variances, of standardised labels
MOST_COMPARED = 1000  # crystals by which these are chosen
MOST_POINTS = 2**13  # a fit to these takes some 3 GiB
MOST_LEFT_OUT = 2000  # crystals; with more, a validation part is large enough for intervals
Batches = Iterator[tuple[IntArray, CrystalBatch]]


@dataclass(frozen=True)
class Kernel:
    """A kernel regression, and how it was chosen.

    Attributes:
        length: of the Matérn function, in standard deviations of the inputs.
        share: of the descriptors of bonds in squared distances.
        noises: variance of the noise of each property, (outputs,).
        tensors: by their names in `crystalpredict.nn.kernel.KernelReadout`.
        left_out: standardised properties of each of the P crystals without it, (P, outputs); not a number without its
            label, and with more than MOST_LEFT_OUT crystals.
    """

    length: float
    share: float
    noises: tuple[float, ...]
    tensors: dict[str, FloatArray]
    left_out: FloatArray

    @property
    def choices(self) -> dict[str, Any]:
        """What was chosen, for `config.json`."""
        return {"kernel_length": self.length, "kernel_share_of_bonds": self.share, "kernel_noises": list(self.noises)}

    def readout_of(self, network: Crystalformer) -> Crystalformer:
        """Return the encoder of a network with this kernel regression as the only readout that is not 0."""
        outputs, points = self.tensors["weights"].shape
        config = replace(network.config, readout=1, readout_of_states=0, kernel_points=points, outputs=outputs)
        found = Crystalformer(config)
        encoder = {name: value for name, value in network.state_dict().items() if not name.startswith("readout")}
        silent = {name: 0 * value for name, value in found.state_dict().items() if name.startswith("readout")}
        own = {f"kernel.{name}": torch.from_numpy(value.astype(np.float32)) for name, value in self.tensors.items()}
        found.load_state_dict(encoder | silent | own)
        return found.to(next(network.parameters()).device).eval()


def kernel_inputs(network: Crystalformer, count: int, batches: Batches) -> FloatArray:
    """Return mean states of atoms in all blocks, and descriptors of bonds, of some crystals, (count, inputs).

    Args:
        network: whose states are taken.
        count: of the crystals.
        batches: of all of them, with their places, on the device of the network.
    """
    found = np.empty((count, network.config.kernel_inputs))
    with torch.inference_mode():
        for rows, batch in batches:
            found[rows] = inputs_of(network.means(batch), batch, network.config.radius).cpu().numpy()
    return found


def fit_kernel(inputs: FloatArray, labels: FloatArray, seed: int = 0) -> Kernel:
    """Return the kernel regression of P crystals whose errors on crystals left out one by one are the smallest.

    Args:
        inputs: from `kernel_inputs`, (P, inputs).
        labels: standardised, not a number where missing, (P, outputs).
        seed: of the choice of the crystals that are left out, if there are many.
    """
    shift, spread = inputs.mean(axis=0), inputs.std(axis=0) + 1e-6
    order = np.random.default_rng(seed).permutation(len(inputs))
    some = np.unique(np.concatenate([order[np.isfinite(own[order])][:MOST_COMPARED] for own in labels.T]))
    fits = []
    for length, share in itertools.product(LENGTHS, SHARES):
        points = (inputs[some] - shift) * scales(spread, length, share)
        covariance = covariances(points, points, np)
        found = [errors_left_out(covariance, each, NOISES) for each in labels[some].T]
        own = [[float(np.abs(errors).mean()) for errors in each] for each in found]
        fits.append((sum(min(errors) for errors in own), length, share, tuple(NOISES[np.argmin(each)] for each in own)))
    _, length, share, noises = min(fits)
    scale = scales(spread, length, share)
    points = (inputs - shift) * scale
    covariance = covariances(points, points, np)
    weights = [weights_of(covariance, own, noise) for own, noise in zip(labels.T, noises, strict=True)]
    tensors = {"points": points, "shift": shift, "scale": scale, "weights": np.stack(weights)}
    left_out = np.full(labels.shape, np.nan)
    if len(points) <= MOST_LEFT_OUT:
        for column, (own, noise) in enumerate(zip(labels.T, noises, strict=True)):
            (errors,) = errors_left_out(covariance, own, [noise])
            known = np.isfinite(own)
            left_out[known, column] = own[known] - errors
    return Kernel(length, share, noises, tensors, left_out)


def scales(spread: FloatArray, length: float, share: float) -> FloatArray:
    """Return what inputs are multiplied by, so that states and descriptors have given shares of squared distances.

    Args:
        spread: standard deviations of the inputs, (inputs,).
        length: of the kernel.
        share: of the descriptors.
    """
    states = len(spread) - BOND_DESCRIPTORS
    parts = np.repeat([(1 - share) / states, share / BOND_DESCRIPTORS], [states, BOND_DESCRIPTORS])
    return np.asarray(np.sqrt(parts) / spread / length)


def errors_left_out(covariance: FloatArray, labels: FloatArray, noises: Sequence[float]) -> list[FloatArray]:
    """Return labels less predictions of crystals that are left out one by one, (labels,), for each of some noises.

    Without a fit for each of them (C. E. Rasmussen and C. K. I. Williams, Gaussian Processes for Machine Learning,
    2006, eq. 5.12).

    Args:
        covariance: of the crystals, (n, n).
        labels: not a number where missing, (n,).
        noises: variances.
    """
    known = np.isfinite(labels)
    values, vectors = np.linalg.eigh(covariance[np.ix_(known, known)])
    projected, found = labels[known] @ vectors, []
    for noise in noises:
        inverse = 1 / (np.maximum(values, 0) + noise)
        found.append(np.asarray(vectors @ (inverse * projected) / (np.square(vectors) @ inverse)))
    return found


def weights_of(covariance: FloatArray, labels: FloatArray, noise: float) -> FloatArray:
    """Return the weights of crystals in what is predicted, 0 without a label, (P,)."""
    known = np.isfinite(labels)
    weights = np.zeros(len(labels))
    weights[known] = np.linalg.solve(covariance[np.ix_(known, known)] + noise * np.eye(known.sum()), labels[known])
    return weights
