"""Fit heads for some properties on the frozen features of a checkpoint, and put them into the checkpoint.

python scripts/fit_head.py models/crystalformer-mp perturbed.npz volume_change
python scripts/fit_head.py models/crystalformer-mp gaps.npz bandgap_hse metal_probability_hse --units 64

The hidden layer of the readout grows by units that only one new output sees; all other outputs stay as they are. The
folder needs calibrating afterwards.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from export import golden_crystals, refresh_index
from torch import Tensor, nn

from crystalpredict.checkpoints.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from crystalpredict.data.dataset import TRAIN, VALIDATION, CrystalTable, encoded_labels, neighbor_table, scale_of_labels
from crystalpredict.nn import Crystalformer
from crystalpredict.properties import Property, find_property
from crystalpredict.training.calibrate import outputs_and_features

BATCH = 512


def main() -> None:
    """Compute features, fit, write, and say how well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the checkpoint, which is changed")
    parser.add_argument("table", type=Path, help="prepared crystals with labels of the property")
    parser.add_argument("properties", nargs="+", metavar="property")
    parser.add_argument("--cache", type=Path, help="folder of the neighbour lists [default: beside the table]")
    parser.add_argument("--units", type=int, default=256, help="new hidden units of each property")
    parser.add_argument("--epochs", type=int, default=60)
    options = parser.parse_args()
    checkpoint, table = load_checkpoint(options.folder), CrystalTable.load(options.table)
    if checkpoint.unrelaxed:
        parser.error(f"{options.folder}: a model for unrelaxed structures, whose features are those of scaled cells")
    for name in options.properties:
        checkpoint = with_output(checkpoint, find_property(name, table.properties), table)
    names = [prop.name for prop in checkpoint.properties]
    labels = (encoded_labels(table, checkpoint.properties) - checkpoint.mean) / checkpoint.deviation
    columns = [names.index(name) for name in options.properties]
    rows = np.flatnonzero(np.isfinite(labels[:, columns]).any(axis=1))
    config = checkpoint.model.config
    cache = options.cache or options.table.parent / "neighbors"
    neighbors = neighbor_table(table, config.radius, cache, os.cpu_count() or 1, merging=config.merging)
    _, features = outputs_and_features(checkpoint, table, neighbors, rows.tolist())
    for column in columns:
        known = torch.from_numpy(labels[rows, column].astype(np.float32))
        parts = [torch.from_numpy(table.splits[rows] == part) & known.isfinite() for part in (TRAIN, VALIDATION)]
        inputs = [torch.from_numpy(features)[part] for part in parts]
        loss = nn.functional.l1_loss if checkpoint.properties[column].has_interval else nn.functional.mse_loss
        head = fitted(inputs, [known[part] for part in parts], options.units, options.epochs, loss)
        checkpoint = replace(checkpoint, model=with_head(checkpoint.model, head, column))
        with torch.inference_mode():
            errors = (head(inputs[1])[:, 0] - known[parts[1]]).abs() * checkpoint.deviation[column]
        print(f"{names[column]}: error {errors.mean():.4f}, median {errors.median():.4f}, on the trained scale")
    card = (options.folder / "README.md").read_text(encoding="utf-8")
    save_checkpoint(replace(checkpoint, calibration=None), options.folder, golden_crystals(config), card)
    refresh_index(options.folder)


def with_output(checkpoint: Checkpoint, prop: Property, table: CrystalTable) -> Checkpoint:
    """The checkpoint with an output for a property, scaled by its training labels, if it has none."""
    if prop.identity in [known.identity for known in checkpoint.properties]:
        return checkpoint
    labels = encoded_labels(table, [prop])[table.splits == TRAIN]
    mean, deviation = scale_of_labels(labels, [prop])
    state = dict(checkpoint.model.state_dict())
    for name in ("readout.2.weight", "readout.2.bias"):
        state[name] = torch.cat([state[name], torch.zeros_like(state[name][:1])])
    model = Crystalformer(replace(checkpoint.model.config, outputs=len(checkpoint.properties) + 1)).eval()
    model.load_state_dict(state)
    return replace(
        checkpoint, model=model, properties=(*checkpoint.properties, prop),
        mean=np.concatenate([checkpoint.mean, mean]), deviation=np.concatenate([checkpoint.deviation, deviation]),
    )  # fmt: skip


def fitted(
    inputs: list[Tensor], labels: list[Tensor], units: int, epochs: int, loss: Callable[[Tensor, Tensor], Tensor]
) -> nn.Sequential:
    """A head with one hidden layer, by AdamW and one cycle; that of the best epoch on the second part.

    Args:
        inputs: features of training and validation crystals, (R, D) each.
        labels: standardised, (R,) each.
        units: of the hidden layer.
        epochs: of training.
        loss: of standardised outputs and labels.
    """
    torch.manual_seed(1)
    mean, scale = inputs[0].mean(dim=0), inputs[0].std(dim=0) + 1e-6
    train, check = ((each - mean) / scale for each in inputs)
    head = nn.Sequential(nn.Linear(train.shape[1], units), nn.ReLU(), nn.Linear(units, 1))
    optimiser = torch.optim.AdamW(head.parameters(), weight_decay=1e-2)
    steps = epochs * (len(train) // BATCH + 1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, steps)
    best, least = {}, np.inf
    for _ in range(epochs):
        for some in torch.randperm(len(train)).split(BATCH):
            optimiser.zero_grad()
            loss(head(train[some])[:, 0], labels[0][some]).backward()
            optimiser.step()
            schedule.step()
        with torch.inference_mode():
            error = float(loss(head(check)[:, 0], labels[1]))
        if error < least:
            best, least = {name: value.clone() for name, value in head.state_dict().items()}, error
    head.load_state_dict(best)
    first = head[0]
    assert isinstance(first, nn.Linear)
    with torch.no_grad():  # features as they are
        first.bias -= first.weight @ (mean / scale)
        first.weight /= scale
    return head


def with_head(model: nn.Module, head: nn.Sequential, column: int) -> Crystalformer:
    """The network with the head's hidden units beside its own, and one output that sees only the former."""
    state, added = dict(model.state_dict()), head.state_dict()
    state["readout.0.weight"] = torch.cat([state["readout.0.weight"], added["0.weight"]])
    state["readout.0.bias"] = torch.cat([state["readout.0.bias"], added["0.bias"]])
    old = state["readout.2.weight"]
    last = torch.cat([old, old.new_zeros(len(old), len(added["0.bias"]))], dim=1)
    last[column] = torch.cat([torch.zeros_like(old[column]), added["2.weight"][0]])
    state["readout.2.weight"], state["readout.2.bias"] = last, state["readout.2.bias"].clone()
    state["readout.2.bias"][column] = added["2.bias"][0]
    config = replace(model.config, readout=len(state["readout.0.bias"]))
    new = Crystalformer(config).eval()
    new.load_state_dict(state)
    return new


if __name__ == "__main__":
    main()
