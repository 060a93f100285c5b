"""Make a model of a checkpoint's encoder and a readout by kernel regression, for properties with few labels.

python scripts/fit_kernel.py models/crystalformer-mp vibrations.npz models/crystalformer-mp-vibrations phonon_peak \\
    --summary "..." --card scripts/cards/crystalformer-mp-vibrations.md

Lengths, the weight of the descriptors of bonds, and the noise of each property are those with the smallest errors on
training crystals that are left out one by one. The folder needs calibrating afterwards.
"""

from __future__ import annotations

import argparse
import itertools
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from export import enter_in_index, golden_crystals

from crystalpredict.checkpoints.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from crystalpredict.crystals.crystal import FloatArray
from crystalpredict.data.dataset import TRAIN, VALIDATION, CrystalTable, encoded_labels, neighbor_table, scale_of_labels
from crystalpredict.nn import Crystalformer
from crystalpredict.nn.batch import batches_of
from crystalpredict.nn.config import BOND_DESCRIPTORS
from crystalpredict.nn.kernel import bond_descriptors
from crystalpredict.nn.terms import matern
from crystalpredict.properties import find_property

LENGTHS, SHARES = (1.5, 2.0, 3.0, 4.0), (0.1, 0.2, 0.3)  # of the kernel; of the descriptors of bonds
NOISES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)  # variances, of standardised labels
BATCH_ATOMS = 2048


def main() -> None:
    """Compute inputs, fit, write, and say how well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path, help="checkpoint of one network, whose encoder is taken")
    parser.add_argument("table", type=Path, help="prepared crystals with labels of the properties")
    parser.add_argument("folder", type=Path, help="of the new checkpoint")
    parser.add_argument("properties", nargs="+", metavar="property")
    parser.add_argument("--summary", required=True, help="one line for `crystalpredict models list`")
    parser.add_argument("--card", type=Path, required=True, help="text of the model card")
    options = parser.parse_args()
    base, table = load_checkpoint(options.base), CrystalTable.load(options.table)
    properties = [replace(find_property(name, table.properties), on_request=False) for name in options.properties]
    table = table.take(np.flatnonzero(np.isfinite(encoded_labels(table, properties)).any(axis=1)))
    training, validation = (np.flatnonzero(table.splits == split) for split in (TRAIN, VALIDATION))
    labels = encoded_labels(table, properties)
    mean, deviation = scale_of_labels(labels[training], properties)
    labels = (labels - mean) / deviation
    inputs = inputs_of(base, table)
    shift, spread = inputs[training].mean(axis=0), inputs[training].std(axis=0) + 1e-6
    found = []
    for length, share in itertools.product(LENGTHS, SHARES):
        scale = scales(spread, length, share)
        covariance = covariances((inputs[training] - shift) * scale, (inputs[training] - shift) * scale)
        fits = [min(fitted(covariance, own, noise) for noise in NOISES) for own in labels[training].T]
        found.append((sum(fit[0] for fit in fits), length, share, [fit[1] for fit in fits]))
    _, length, share, noises = min(found)
    scale = scales(spread, length, share)
    points = (inputs[training] - shift) * scale
    covariance = covariances(points, points)
    weights = np.stack(
        [weights_of(covariance, own, noise) for own, noise in zip(labels[training].T, noises, strict=True)]
    )
    print(f"length {length}, share of bonds {share}, noise {noises}, {len(points)} crystals")
    predicted = covariances((inputs[validation] - shift) * scale, points) @ weights.T
    for column, prop in enumerate(properties):
        known = np.isfinite(labels[validation, column])
        values, wanted = (
            prop.decode(each[known, column] * deviation[column] + mean[column])
            for each in (predicted, labels[validation])
        )
        print(f"{prop.name}: error {np.abs(values - wanted).mean():.4g} {prop.unit}, {known.sum()} validation crystals")
    network = with_kernel(base, {"points": points, "shift": shift, "scale": scale, "weights": weights})
    facts = {
        "settings": {"base": base.name, "length": length, "share_of_bonds": share, "noises": noises},
        "crystals": {"train": len(training), "validation": len(validation)},
        "elements_seen": sorted(np.unique(table.take(training).numbers).tolist()),
        "learnt": sorted({*(prop.identity for prop in properties), *base.learnt}),
    }
    new = Checkpoint(options.folder.name, network, tuple(properties), mean, deviation, facts)
    save_checkpoint(new, options.folder, golden_crystals(network.config), options.card.read_text(encoding="utf-8"))
    enter_in_index(options.folder, options.summary, [prop.name for prop in properties])


def inputs_of(base: Checkpoint, table: CrystalTable) -> FloatArray:
    """Mean states of atoms in all blocks, and descriptors of bonds, of all crystals, (C, inputs)."""
    config, network = base.model.config, base.model
    assert isinstance(network, Crystalformer)
    lists = neighbor_table(table, config.radius, None, os.cpu_count() or 1, merging=config.merging)
    crystals = [table.crystal(row) for row in range(len(table))]
    found = np.empty((len(table), config.kernel_inputs))
    edges = [lists.neighbors(row) for row in range(len(table))]
    with torch.inference_mode():
        for rows, batch in batches_of(crystals, edges, BATCH_ATOMS):
            found[rows] = torch.cat([network.means(batch), bond_descriptors(batch, config.radius)], dim=1).numpy()
    return found


def scales(spread: FloatArray, length: float, share: float) -> FloatArray:
    """What inputs are multiplied by, (inputs,): states and descriptors have shares of a squared distance of 2.

    Args:
        spread: standard deviations of the inputs, (inputs,).
        length: of the kernel.
        share: of the descriptors.
    """
    states = len(spread) - BOND_DESCRIPTORS
    weights = np.concatenate(
        [np.full(states, (1 - share) / states), np.full(BOND_DESCRIPTORS, share / BOND_DESCRIPTORS)]
    )
    return np.asarray(np.sqrt(weights) / spread / length)


def covariances(one: FloatArray, two: FloatArray) -> FloatArray:
    """Covariances of scaled inputs (A, inputs) and (B, inputs), (A, B)."""
    squares = np.square(one).sum(axis=1)[:, None] + np.square(two).sum(axis=1) - 2 * one @ two.T
    return np.asarray(matern(np.sqrt(np.maximum(squares, 0)), np))


def fitted(covariance: FloatArray, labels: FloatArray, noise: float) -> tuple[float, float]:
    """Mean absolute error on crystals left out one by one (C. E. Rasmussen, 2006, 5.12), and the noise."""
    known = np.isfinite(labels)
    inverse = np.linalg.inv(covariance[np.ix_(known, known)] + noise * np.eye(known.sum()))
    return float(np.abs(inverse @ labels[known] / np.diag(inverse)).mean()), noise


def weights_of(covariance: FloatArray, labels: FloatArray, noise: float) -> FloatArray:
    """Weights of the crystals in what is predicted, 0 without a label, (P,)."""
    known = np.isfinite(labels)
    weights = np.zeros(len(labels))
    weights[known] = np.linalg.solve(covariance[np.ix_(known, known)] + noise * np.eye(known.sum()), labels[known])
    return weights


def with_kernel(base: Checkpoint, kernel: dict[str, FloatArray]) -> Crystalformer:
    """The encoder of a checkpoint with a kernel regression as the only readout that is not 0."""
    outputs, points = kernel["weights"].shape
    config = replace(base.model.config, readout=1, readout_of_states=0, kernel_points=points, outputs=outputs)
    network = Crystalformer(config)
    encoder = {name: value for name, value in base.model.state_dict().items() if not name.startswith("readout")}
    silent = {name: 0 * value for name, value in network.state_dict().items() if name.startswith("readout")}
    own = {f"kernel.{name}": torch.from_numpy(value.astype(np.float32)) for name, value in kernel.items()}
    network.load_state_dict(encoder | silent | own)
    return network.eval()


if __name__ == "__main__":
    main()
