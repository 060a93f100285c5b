"""The Crystalformer family under one budget: errors on validation crystals, time of a step, parameters.

PYTHONPATH=src python benchmarks/variants.py crystals.npz RUNS --crystals 6000 --most-atoms 20 --epochs 10 --seeds 3

Every variant sees the same crystals in the same order, for the same number of epochs, with the same settings; a seed is
another subset and another start. `--targets` trains on one property, or on all that the table has. Torch and NumPy are
enough. Each run goes on where it was when the command is started again on the same folder; a run that is done is not
repeated. Steps are timed at the end, the variants in turn. Prints a table, then one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from provenance import provenance

from crystalpredict.data.dataset import TRAIN, VALIDATION, CrystalTable, neighbor_table
from crystalpredict.nn import ModelConfig
from crystalpredict.training.config import TrainingConfig
from crystalpredict.training.trainer import Trainer

TIMED, STEPS, ROUNDS = 300, 3, 3  # crystals that steps are timed on, steps of a round, rounds
VARIANTS: dict[str, dict[str, Any]] = {
    "reference": {},
    "K = 0": {"radial_basis": 0},
    "7 blocks": {"blocks": 7},
    "dual space": {"attention": "dual"},
    "alternating": {"attention": "alternating"},
    "frames": {"attention": "framed"},
}


def subset(table: CrystalTable, crystals: int, most_atoms: int, seed: int, names: list[str]) -> CrystalTable:
    """So many training crystals and all validation crystals of at most so many atoms, with a label of `names`."""
    columns = [table.properties.index(prop) for prop in table.properties if not names or prop.name in names]
    if not columns:
        raise SystemExit(f"the table has none of {', '.join(names)}")
    usable = (table.sizes <= most_atoms) & np.isfinite(table.labels[:, columns]).any(axis=1)
    train = np.random.default_rng(seed).permutation(np.flatnonzero(usable & (table.splits == TRAIN)))[:crystals]
    rows = np.concatenate([np.sort(train), np.flatnonzero(usable & (table.splits == VALIDATION))])
    part = table.take(rows)
    return replace(
        part, labels=part.labels[:, columns], properties=tuple(table.properties[column] for column in columns)
    )


def run(folder: Path, table: CrystalTable, model: ModelConfig, config: TrainingConfig) -> dict[str, Any]:
    """Train to the end, or go on; errors in each property's unit on the trained scale, steps, parameters."""
    result = folder / "result.json"
    if result.exists():
        found: dict[str, Any] = json.loads(result.read_text())
        return found
    neighbors = neighbor_table(table, model.radius, jobs=os.cpu_count() or 1, merging=model.merging)
    training = Trainer(folder, table, neighbors, model, config)
    training.run(lambda progress: None)
    errors, _ = training.errors(training.data.validation_rows)
    found = {
        "errors": errors,
        "steps": training.step,
        "parameters": sum(parameter.numel() for parameter in training.model.parameters()),
    }
    result.write_text(json.dumps(found))
    return found


def ms_of_steps(table: CrystalTable, variants: list[str], config: TrainingConfig) -> dict[str, float]:
    """Milliseconds of a training step of each variant: the best of some rounds, in each of which all take the same."""
    with TemporaryDirectory() as folder:
        trainings = {}
        for name in variants:
            model = ModelConfig(**VARIANTS[name])
            neighbors = neighbor_table(table, model.radius, merging=model.merging)
            (Path(folder) / name).mkdir()
            trainings[name] = Trainer(Path(folder) / name, table, neighbors, model, config)
        steps = list(trainings[variants[0]].data.steps(trainings[variants[0]].data.order(0)))[: STEPS + 1]
        best = dict.fromkeys(variants, float("inf"))
        for _ in range(ROUNDS):
            for name, training in trainings.items():
                training._update(steps[0], 1e-4)
                started = time.perf_counter()
                for rows in steps[1:]:
                    float(training._update(rows, 1e-4))  # waits for the device
                best[name] = min(best[name], 1000 * (time.perf_counter() - started) / (len(steps) - 1))
    return best


def main() -> None:
    """Run all variants with all seeds; print mean and deviation over the seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--crystals", type=int, default=6000)
    parser.add_argument("--most-atoms", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-atoms", type=int, default=600, help="of a step: few crystals need small steps")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--variants", nargs="*", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--targets", nargs="*", default=[], help="names of properties [default: all of the table]")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    table = CrystalTable.load(options.table)
    config = TrainingConfig(
        epochs=options.epochs, batch_atoms=options.batch_atoms, schedule="one_cycle", learning_rate=1e-3,
        device=options.device,
    )  # fmt: skip
    results: dict[str, list[dict[str, Any]]] = {}
    for seed in range(options.seeds):
        part = subset(table, options.crystals, options.most_atoms, seed, options.targets)
        for name in options.variants:
            folder = options.folder / f"{name.replace(' ', '').replace('=', '')}-{seed}"
            model = ModelConfig(**VARIANTS[name])
            found = run(folder, part, model, replace(config, seed=123 + seed))
            results.setdefault(name, []).append(found)
            print(f"{name}, seed {seed}: " + json.dumps(found), flush=True)
    timed = subset(table, TIMED, options.most_atoms, 0, options.targets)
    times = ms_of_steps(timed, list(results), config)
    names = list(next(iter(results.values()))[0]["errors"])
    print("| variant | parameters | ms a step | of the first | " + " | ".join(names) + " |")
    print("|---|---|---|---|" + "---|" * len(names))
    for name, found in results.items():
        errors = np.array([[each["errors"][prop] for prop in names] for each in found])
        spread = errors.std(axis=0, ddof=1) if len(found) > 1 else np.full(len(names), np.nan)
        cells = [f"{mean:.4f} ± {deviation:.4f}" for mean, deviation in zip(errors.mean(axis=0), spread, strict=True)]
        ratio = times[name] / next(iter(times.values()))
        figures = f"{found[0]['parameters']:,} | {times[name]:.0f} | {ratio:.1f}"
        print(f"| {name} | {figures} | " + " | ".join(cells) + " |")
    settings = {key: str(value) for key, value in vars(options).items() if key not in ("table", "folder")}
    print(json.dumps({"benchmark": "variants", **settings, "ms_a_step": times, "results": results, **provenance()}))


if __name__ == "__main__":
    main()
