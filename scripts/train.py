"""Train a checkpoint from a prepared file; started again on the same folder, it goes on where it was.

python scripts/train.py crystals.npz runs/first --set epochs=20 schedule=one_cycle learning_rate=1e-3

With --from, a run begins with a checkpoint's weights; --model attention=framed adds directions to them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from crystalpredict._schema import SchemaError, record
from crystalpredict.data.dataset import CrystalTable, neighbor_table
from crystalpredict.errors import CrystalPredictError
from crystalpredict.nn import ModelConfig
from crystalpredict.training import distributed
from crystalpredict.training.config import TrainingConfig
from crystalpredict.training.run_folder import Progress
from crystalpredict.training.trainer import Trainer


def show(progress: Progress, begun: list[float]) -> None:
    """One line that rewrites itself; one that stays at the end of an epoch."""
    begun.append(progress.done)
    share = progress.done - begun[0]
    left = progress.seconds * (1 - progress.done) / share if share > 0 else 0
    bar = "#" * round(progress.done * 24)
    line = (
        f"[{bar:24}] {progress.done:6.1%} epoch {progress.epoch} step {progress.step} loss {progress.loss:.4f} "
        f"lr {progress.learning_rate:.2e} {time.strftime('%H:%M:%S', time.gmtime(left))} left"
    )
    if progress.errors:
        print(line + " | " + " ".join(f"{name} {value:.4f}" for name, value in progress.errors.items()), flush=True)
    elif sys.stderr.isatty():
        print(line, end="\r", file=sys.stderr, flush=True)
    elif progress.step % 400 == 0:
        print(line, file=sys.stderr, flush=True)


def settings(pairs: list[str]) -> dict[str, Any]:
    """`name=value` pairs; a value is JSON or, failing that, a string."""
    parsed: dict[str, Any] = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        try:
            parsed[name] = json.loads(value)
        except ValueError:
            parsed[name] = value
    return parsed


def main() -> None:
    """Parse, prepare the neighbour lists, train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="fields of TrainingConfig")
    parser.add_argument("--model", nargs="*", default=[], metavar="NAME=VALUE", help="fields of ModelConfig")
    parser.add_argument("--from", dest="start", type=Path, help="checkpoint folder whose weights a new run begins with")
    parser.add_argument("--cache", type=Path, help="folder of the neighbour lists [default: beside the table]")
    parser.add_argument("--threads", type=int, help="of torch")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    changed = settings(options.set)
    start = None
    model = record(settings(options.model), ModelConfig)
    if options.start:
        from crystalpredict.checkpoints.checkpoint import load_checkpoint  # needs safetensors

        start = load_checkpoint(options.start)
        model = record({**asdict(start.model.config), **settings(options.model)}, ModelConfig)
    config = record(changed, TrainingConfig)
    table = CrystalTable.load(options.table)
    cache = options.cache or options.table.parent / "neighbors"
    neighbors = neighbor_table(table, model.radius, cache, jobs=os.cpu_count() or 1, merging=model.merging)
    training = Trainer(options.folder, table, neighbors, model, config, start)
    begun: list[float] = []
    training.run(lambda progress: None if distributed.rank() else show(progress, begun))
    distributed.leave_group()


if __name__ == "__main__":
    try:
        main()
    except (CrystalPredictError, SchemaError) as error:
        sys.exit(f"error: {error}")
