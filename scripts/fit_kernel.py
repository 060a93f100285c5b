"""Make a model of a checkpoint's encoder and a readout by kernel regression, for properties with few labels.

python scripts/fit_kernel.py models/crystalformer-mp vibrations.npz models/crystalformer-mp-vibrations phonon_peak \\
    --summary "..." --card scripts/cards/crystalformer-mp-vibrations.md

Lengths, the weight of the descriptors of bonds, and the noise of each property are those with the smallest errors on
training crystals that are left out one by one. The folder needs calibrating afterwards.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
from export import enter_in_index, golden_crystals

from crystalpredict.checkpoints.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from crystalpredict.data.dataset import TRAIN, VALIDATION, CrystalTable, encoded_labels, neighbor_table, scale_of_labels
from crystalpredict.nn import Crystalformer
from crystalpredict.nn.batch import batches_of
from crystalpredict.properties import find_property
from crystalpredict.training.calibrate import outputs_and_features
from crystalpredict.training.kernel import fit_kernel, kernel_inputs

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
    network = base.model
    if not isinstance(network, Crystalformer):
        parser.error(f"{options.base}: not a single network")
    properties = [replace(find_property(name, table.properties), on_request=False) for name in options.properties]
    table = table.take(np.flatnonzero(np.isfinite(encoded_labels(table, properties)).any(axis=1)))
    training, validation = (np.flatnonzero(table.splits == split) for split in (TRAIN, VALIDATION))
    labels = encoded_labels(table, properties)
    mean, deviation = scale_of_labels(labels[training], properties)
    lists = neighbor_table(table, base.config.radius, None, os.cpu_count() or 1, merging=base.config.merging)
    crystals, edges = zip(*((table.crystal(row), lists.neighbors(row)) for row in training), strict=True)
    inputs = kernel_inputs(network, len(training), batches_of(crystals, edges, BATCH_ATOMS))
    kernel = fit_kernel(inputs, (labels[training] - mean) / deviation)
    print(f"length {kernel.length}, share of bonds {kernel.share}, noises {kernel.noises}, {len(training)} crystals")
    facts = {
        "settings": {"base": base.name} | kernel.choices,
        "crystals": {"train": len(training), "validation": len(validation)},
        "elements_seen": sorted(np.unique(table.take(training).numbers).tolist()),
        "learnt": sorted({*(prop.identity for prop in properties), *base.learnt}),
    }
    own = kernel.readout_of(network)
    new = Checkpoint(options.folder.name, own, tuple(properties), mean, deviation, facts)
    predicted = new.decode(outputs_and_features(new, table, lists, validation.tolist())[0])
    for column, prop in enumerate(properties):
        errors = np.abs(predicted[prop.name] - prop.decode(labels[validation, column]))
        known = np.isfinite(errors).sum()
        print(f"{prop.name}: error {np.nanmean(errors):.4g} {prop.unit}, {known} validation crystals")
    save_checkpoint(new, options.folder, golden_crystals(own.config), options.card.read_text(encoding="utf-8"))
    enter_in_index(options.folder, options.summary, [prop.name for prop in properties])


if __name__ == "__main__":
    main()
