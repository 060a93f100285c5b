"""Fit heads for some properties on the frozen features of a checkpoint, and put them into the checkpoint.

python scripts/fit_head.py models/crystalformer-mp perturbed.npz volume_change
python scripts/fit_head.py models/crystalformer-mp gaps.npz bandgap_hse --base bandgap --units 32 --members 4

The hidden layer of the readout grows by units that only one new output sees; all other outputs stay as they are. With
--states it is that of the readout of the states before the first and after each block, which hold more of the geometry
than the features. With
--base a head learns what the best linear combination of other outputs leaves of the labels: a gap by HSE is most of
all a larger gap by PBE, of which there are a hundred times as many labels. --bend gives the line another slope beyond a
value, where labels are too few for a head to find it; hidden units learn the bend from all crystals of the table. With
--correct an output gets a correction, for crystals that the network was not trained on. The folder needs calibrating
afterwards.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from export import save_changed
from numpy.typing import NDArray
from torch import Tensor, nn

from crystalpredict.checkpoints.checkpoint import Checkpoint, load_checkpoint
from crystalpredict.data.dataset import TRAIN, VALIDATION, CrystalTable, encoded_labels, neighbor_table, scale_of_labels
from crystalpredict.nn import Crystalformer
from crystalpredict.properties import Property, find_property
from crystalpredict.training.calibrate import outputs_and_features
from crystalpredict.training.trainer import LAST_LAYERS

MAX_BATCH, STEPS_PER_EPOCH = 512, 10
BEND_UNITS, BEND_EPOCHS = 128, 60


def main() -> None:
    """Compute features, fit, write, and say how well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the checkpoint, which is changed")
    parser.add_argument("table", type=Path, help="prepared crystals with labels of the property")
    parser.add_argument("properties", nargs="+", metavar="property")
    parser.add_argument("--cache", type=Path, help="folder of the neighbour lists [default: beside the table]")
    parser.add_argument("--units", type=int, default=256, help="new hidden units of each member")
    parser.add_argument("--states", action="store_true", help="see the mean states of atoms in all blocks")
    parser.add_argument("--members", type=int, default=1, help="heads that are averaged")
    parser.add_argument("--correct", action="store_true", help="keep the outputs, and add what is left of the labels")
    parser.add_argument("--base", nargs="+", default=[], metavar="NAME", help="outputs that the new ones begin with")
    parser.add_argument("--bend", metavar="NAME=VALUE", help="a base more: what an output exceeds a value by")
    parser.add_argument("--epochs", type=int, default=60)
    options = parser.parse_args()
    if both := {*options.base} & {*options.properties}:
        parser.error(f"{min(both)} is fitted itself: fit it by a call of its own before it is a base")
    checkpoint, table = load_checkpoint(options.folder), CrystalTable.load(options.table)
    if checkpoint.unrelaxed:
        parser.error(f"{options.folder}: a model for unrelaxed structures, whose features are those of scaled cells")
    if not isinstance(checkpoint.model, Crystalformer):
        parser.error(f"{options.folder}: not a single network")
    wanted = [find_property(name, table.properties) for name in options.properties]
    for prop in wanted:
        checkpoint = with_output(checkpoint, prop, table)
    names = [prop.name for prop in checkpoint.properties]
    columns = [names.index(prop.name) for prop in wanted]
    scale = checkpoint.mean[columns], checkpoint.deviation[columns]
    labels = (encoded_labels(table, wanted) - scale[0]) / scale[1]  # (C, wanted)
    rows = np.flatnonzero(np.isfinite(labels).any(axis=1)) if options.bend is None else np.arange(len(table))
    config = checkpoint.model.config
    cache = options.cache or options.table.parent / "neighbors"
    neighbors = neighbor_table(table, config.radius, cache, os.cpu_count() or 1, merging=config.merging)
    outputs, features = outputs_and_features(
        checkpoint, table, neighbors, rows.tolist(), all_blocks=options.states, strained=False
    )
    training, bends = table.splits[rows] == TRAIN, []
    if options.bend is not None:
        bends = [bend_of(options.bend, checkpoint, outputs[training], torch.from_numpy(features[training]))]
    for column, own in zip(columns, labels[rows].T, strict=True):
        known = np.isfinite(own)
        bases = [column] if options.correct else [names.index(name) for name in options.base]
        design = np.column_stack([outputs[:, bases], np.ones(len(rows))])
        with torch.inference_mode():
            design = np.column_stack([*(bend(torch.from_numpy(features)).numpy() for bend in bends), design])
        slopes = np.array([1.0, 0.0])
        if not options.correct:
            slopes = np.linalg.lstsq(design[known & training], own[known & training], rcond=None)[0]
        rest = (own - design @ slopes).astype(np.float32)
        parts = [known & training, known & (table.splits[rows] == VALIDATION)]
        inputs = [torch.from_numpy(features[part]) for part in parts]
        loss = nn.functional.l1_loss if checkpoint.properties[column].has_interval else nn.functional.mse_loss
        heads = [
            fitted(inputs[0], torch.from_numpy(rest[parts[0]]), options.units, options.epochs, loss, seed)
            for seed in range(options.members)
        ]
        head = sum_of(heads, [1 / options.members] * options.members)
        with torch.inference_mode():
            before = np.abs(rest[parts[1]]).mean() * checkpoint.deviation[column]
            errors = np.abs(head(inputs[1])[:, 0].numpy() - rest[parts[1]]) * checkpoint.deviation[column]
        head = sum_of([*bends, head], [*slopes[: len(bends)], 1.0])
        straight = dict(zip(bases, slopes[len(bends) : -1], strict=True))
        readout = "readout_of_states" if options.states else "readout"
        model = with_head(checkpoint.model, head, column, straight, slopes[-1], readout)
        checkpoint = replace(checkpoint, source=model)
        print(f"{names[column]}: error {errors.mean():.4f}, {before:.4f} without the head, on the trained scale")
    save_changed(checkpoint, options.folder)


def with_output(checkpoint: Checkpoint, prop: Property, table: CrystalTable) -> Checkpoint:
    """The checkpoint with an output for a property, scaled by its training labels, if it has none."""
    if prop.identity in [known.identity for known in checkpoint.properties]:
        return checkpoint
    labels = encoded_labels(table, [prop])[table.splits == TRAIN]
    mean, deviation = scale_of_labels(labels, [prop])
    state = dict(checkpoint.model.state_dict())
    for name in [name for name in state if name.startswith(LAST_LAYERS)]:
        state[name] = torch.cat([state[name], torch.zeros_like(state[name][:1])])
    model = Crystalformer(replace(checkpoint.model.config, outputs=len(checkpoint.properties) + 1)).eval()
    model.load_state_dict(state)
    return replace(
        checkpoint, source=model, properties=(*checkpoint.properties, prop),
        mean=np.concatenate([checkpoint.mean, mean]), deviation=np.concatenate([checkpoint.deviation, deviation]),
    )  # fmt: skip


def fitted(
    inputs: Tensor, labels: Tensor, units: int, epochs: int, loss: Callable[[Tensor, Tensor], Tensor], seed: int
) -> nn.Sequential:
    """A head with one hidden layer, by AdamW and one cycle.

    Args:
        inputs: features, or mean states, of training crystals, (R, inputs).
        labels: what it is to learn, (R,).
        units: of the hidden layer.
        epochs: of training.
        loss: of outputs and labels.
        seed: of the first weights and the order.
    """
    torch.manual_seed(seed)
    mean, scale = inputs.mean(dim=0), inputs.std(dim=0) + 1e-6
    train = (inputs - mean) / scale
    first, last = nn.Linear(train.shape[1], units), nn.Linear(units, 1)
    head = nn.Sequential(first, nn.ReLU(), last)
    optimiser = torch.optim.AdamW(head.parameters(), weight_decay=0.1)
    batches = max(STEPS_PER_EPOCH, len(train) // MAX_BATCH + 1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, epochs * batches)
    for _ in range(epochs):
        for some in torch.randperm(len(train)).tensor_split(batches):
            optimiser.zero_grad()
            loss(head(train[some])[:, 0], labels[some]).backward()
            optimiser.step()
            schedule.step()
    with torch.no_grad():  # inputs as they are
        first.bias -= first.weight @ (mean / scale)
        first.weight /= scale
    return head


def bend_of(text: str, checkpoint: Checkpoint, outputs: NDArray[np.floating], features: Tensor) -> nn.Sequential:
    """A head that learnt by how much an output exceeds a value, on its trained scale.

    Args:
        text: NAME=VALUE.
        checkpoint: whose output it is.
        outputs: standardised, of any crystals, (R, outputs).
        features: theirs, or their mean states, (R, inputs).
    """
    name, _, value = text.partition("=")
    column = [prop.name for prop in checkpoint.properties].index(name)
    start = (float(value) - checkpoint.mean[column]) / checkpoint.deviation[column]
    excess = torch.from_numpy(np.maximum(outputs[:, column] - start, 0).astype(np.float32))
    return fitted(features, excess, BEND_UNITS, BEND_EPOCHS, nn.functional.l1_loss, 0)


def sum_of(heads: Sequence[nn.Sequential], shares: Sequence[float]) -> nn.Sequential:
    """One head whose output is the weighted sum of others'."""
    states = [head.state_dict() for head in heads]
    first = torch.cat([state["0.weight"] for state in states])
    found = nn.Sequential(nn.Linear(first.shape[1], len(first)), nn.ReLU(), nn.Linear(len(first), 1))
    last = [state["2.weight"] * share for state, share in zip(states, shares, strict=True)]
    shifts = [state["2.bias"] * share for state, share in zip(states, shares, strict=True)]
    found.load_state_dict(
        {
            "0.weight": first,
            "0.bias": torch.cat([state["0.bias"] for state in states]),
            "2.weight": torch.cat(last, dim=1),
            "2.bias": torch.stack(shifts).sum(dim=0),
        }
    )
    return found


def with_head(
    model: nn.Module, head: nn.Sequential, column: int, slopes: dict[int, float], shift: float, readout: str
) -> Crystalformer:
    """The network with a head's hidden units beside its own, and one output that is made of these and other outputs.

    Args:
        model: the network.
        head: of one output.
        column: of the output.
        slopes: weights of other outputs, by their columns.
        shift: what is added to them.
        readout: that has the units, `readout` or `readout_of_states`.
    """
    state, added = dict(model.state_dict()), head.state_dict()
    outputs = len(state["readout.2.bias"])
    if f"{readout}.0.weight" not in state:
        state |= {f"{readout}.0.weight": added["0.weight"][:0], f"{readout}.0.bias": added["0.bias"][:0]}
        state |= {f"{readout}.2.weight": torch.zeros(outputs, 0), f"{readout}.2.bias": torch.zeros(outputs)}
    sizes = {}
    for name in [name for name in ("readout", "readout_of_states") if f"{name}.0.weight" in state]:
        first = {kind: state[f"{name}.0.{kind}"] for kind in ("weight", "bias")}
        last, biases = state[f"{name}.2.weight"].clone(), state[f"{name}.2.bias"].clone()
        old = last.clone(), biases.clone()
        last[column] = sum((slope * old[0][base] for base, slope in slopes.items()), torch.zeros_like(last[column]))
        biases[column] = sum(slope * float(old[1][base]) for base, slope in slopes.items())
        if name == readout:
            first = {kind: torch.cat([value, added[f"0.{kind}"]]) for kind, value in first.items()}
            last = torch.cat([last, last.new_zeros(outputs, len(added["0.bias"]))], dim=1)
            last[column, -len(added["0.bias"]) :] = added["2.weight"][0]
        if name == "readout":  # which has all biases, and always a unit
            biases[column] += added["2.bias"][0] + shift
        used = (last != 0).any(dim=0)  # units of a former head are not
        used[:1] |= name == "readout"
        state |= {f"{name}.0.{kind}": value[used] for kind, value in first.items()}
        state |= {f"{name}.2.weight": last[:, used], f"{name}.2.bias": biases}
        sizes[name] = int(used.sum())
        state = {key: value for key, value in state.items() if sizes[name] or not key.startswith(f"{name}.")}
    found = Crystalformer(replace(model.config, **sizes)).eval()
    found.load_state_dict(state)
    return found


if __name__ == "__main__":
    main()
