"""Time of a training step and of a prediction, per atom, on random crystals of 4 to 60 atoms.

python benchmarks/speed.py [--threads N]

Also measures both with subnormal numbers left in the radial basis (docs/log.md). Prints a table, then one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import torch
from provenance import provenance

from crystalpredict.batching import CrystalBatch, batches_of
from crystalpredict.crystal import Crystal
from crystalpredict.neighbors import find_neighbors
from crystalpredict.nn import Crystalformer, ModelConfig, attention

REPEATS = 5
ATOMS = 700


def random_crystal(random: np.random.Generator) -> Crystal:
    """Atoms at random in a cell of 12 to 22 Å^3 an atom, the range of most inorganic crystals."""
    count = int(random.integers(4, 61))
    lattice = np.eye(3) + random.uniform(-0.2, 0.2, (3, 3))
    lattice *= (count * random.uniform(12, 22) / np.linalg.det(lattice)) ** (1 / 3)
    return Crystal.ordered(lattice, random.random((count, 3)) @ lattice, random.integers(1, 90, count))


def microseconds_per_atom(model: Crystalformer, batches: list[CrystalBatch], *, train: bool) -> float:
    """Least time of REPEATS passes over the batches, per atom; forward and backward if `train`."""
    atoms = sum(int(batch.n_atoms.sum()) for batch in batches)
    times = []
    for _ in range(REPEATS + 1):  # the first warms up
        start = time.perf_counter()
        with torch.set_grad_enabled(train):
            for batch in batches:
                output = model(batch)
                if train:
                    output.mean().backward()
        times.append(time.perf_counter() - start)
    return min(times[1:]) / atoms * 1e6


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    model = Crystalformer(ModelConfig(outputs=5))
    crystals = [random_crystal(random) for _ in range(128)]
    edges = [find_neighbors(crystal.lattice, crystal.positions, model.config.radius) for crystal in crystals]
    batches = [batch for _, batch in batches_of(crystals, edges, ATOMS)]
    model.fit_width_norm(batches[0])
    filled = sum(int((batch.distances < 100).sum()) for batch in batches) / sum(b.distances.numel() for b in batches)
    result: dict[str, float] = {"neighbour_slots_filled": round(filled, 3)}
    cut = attention.PSI_EXPONENT
    for name, exponent in (("", cut), ("_with_subnormals", 1e6)):
        attention.PSI_EXPONENT = exponent
        result[f"train_us_per_atom{name}"] = round(microseconds_per_atom(model, batches, train=True), 1)
        result[f"predict_us_per_atom{name}"] = round(microseconds_per_atom(model, batches, train=False), 1)
    attention.PSI_EXPONENT = cut
    for name, value in result.items():
        print(f"{name:36} {value:8.3f}")
    print(json.dumps({**result, "threads": torch.get_num_threads(), **provenance()}))


if __name__ == "__main__":
    main()
