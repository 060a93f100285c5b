"""Train the head of relaxation of a model for unrelaxed structures, which predicts strain and displacements.

python scripts/train_relaxation.py models/crystalformer-mp-unrelaxed crystals.npz --pairs hypothetical.jsonl.gz ...

The network stays as it is. Relaxed training crystals are perturbed, anew in each epoch; --pairs adds crystals with the
cell that their relaxation began with (`unrelaxed`). The head is written into the folder after each epoch; with
--resume the training goes on from the one that is there. Then: calibrate again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from crystalpredict.checkpoints.checkpoint import load_checkpoint, save_relaxation
from crystalpredict.data.dataset import TRAIN, CrystalTable, crystal_of_row, read_jsonl
from crystalpredict.data.perturb import Perturbation, perturbed
from crystalpredict.errors import CrystalPredictError
from crystalpredict.nn.crystalformer import Crystalformer
from crystalpredict.properties import VOLUME_CHANGE
from crystalpredict.training.relaxation import (
    BATCH_ATOMS,
    Pair,
    TorchRelaxationHead,
    deformation_of,
    train_head,
    trained,
)

HOW = Perturbation(volume=0.07, strain=0.04, strained=0.5, displacement=0.2, displaced=0.6)
MAX_DISPLACEMENT, MAX_STRAIN = 0.8, 0.5  # Å, of a logarithm: pairs further apart are no guide


def main() -> None:
    """Train epoch by epoch, and say how large the errors are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="checkpoint of the network, which gets the head")
    parser.add_argument("table", type=Path, help="prepared crystals with volume changes")
    parser.add_argument("--pairs", type=Path, nargs="*", default=[], metavar="JSONL")
    parser.add_argument("--epochs", type=int, default=17)
    parser.add_argument("--crystals", type=int, default=15_000, help="perturbed in each epoch")
    parser.add_argument("--atoms", type=int, default=40, help="of the largest crystals")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--resume", action="store_true", help="begin with the head that the folder has")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    checkpoint = load_checkpoint(options.folder)
    network = getattr(checkpoint.model, "first", None)
    if not (checkpoint.unrelaxed and isinstance(network, Crystalformer) and checkpoint.config.attention == "real"):
        parser.error(f"{options.folder}: a head needs a single network of distances for unrelaxed structures")
    head = TorchRelaxationHead(checkpoint.config)
    if options.resume and checkpoint.relaxation:
        head.load_state_dict({name: torch.from_numpy(array) for name, array in checkpoint.relaxation.arrays.items()})
    table = CrystalTable.load(options.table)
    column = [prop.identity for prop in table.properties].index(VOLUME_CHANGE.identity)
    relaxed = (table.splits == TRAIN) & (table.labels[:, column] == 0) & (table.sizes <= options.atoms)
    rows = np.flatnonzero(relaxed)
    if not len(rows):
        parser.error(f"{options.table}: no relaxed training crystals of at most {options.atoms} atoms")
    pairs = [pair for path in options.pairs for pair in pairs_of(path, options.atoms)]
    count = min(options.crystals, len(rows))
    atoms = count * table.sizes[rows].mean() + sum(given.n_atoms for given, _ in pairs)
    errors: list[tuple[float, float]] = []

    def every_epoch() -> Iterator[Pair]:
        random = np.random.default_rng(options.seed)
        for epoch in range(options.epochs):
            chosen = random.permutation(rows)[:count]
            copies, of = perturbed(table, chosen, HOW, options.seed * 1000 + epoch)
            order = random.permutation(len(copies) + len(pairs))
            for number in order.tolist():
                if number < len(copies):
                    yield copies.crystal(number), table.crystal(int(chosen[of[number]]))
                else:
                    yield pairs[number - len(copies)]
            save_relaxation(trained(head), options.folder)
            found = np.mean(errors, axis=0)
            print(f"epoch {epoch + 1}: displacements {found[0]:.4f} Å, strains {found[1]:.4f}", flush=True)
            errors.clear()

    steps = int(options.epochs * atoms / BATCH_ATOMS) + 1
    train_head(
        network, head, every_epoch(), steps, options.learning_rate,
        lambda _, away, wrong: errors.append((away, wrong)),
    )  # fmt: skip
    save_relaxation(trained(head), options.folder)


def pairs_of(path: Path, atoms: int) -> list[Pair]:
    """Crystals of a file with the cells that their relaxations began with, if the way between them is short."""
    found = []
    for row in read_jsonl(path):
        start = row.get("unrelaxed")
        if start and start["species"] == row["species"] and len(row["species"]) <= atoms:
            pair = crystal_of_row(start), crystal_of_row(row)
            way = deformation_of(*pair)
            if np.abs(way.displacements).max() < MAX_DISPLACEMENT and np.abs(way.strain).max() < MAX_STRAIN:
                found.append(pair)
    return found


if __name__ == "__main__":
    try:
        main()
    except CrystalPredictError as error:
        sys.exit(f"error: {error}")
