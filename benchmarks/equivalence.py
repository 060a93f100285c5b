"""How many atoms are left when equivalent ones are merged, and how much the bundled model's outputs change by it.

python benchmarks/equivalence.py DATA.jsonl.gz [--count 600]

Outputs in float64, in units of each property's standard deviation. Prints a table, then one line of JSON.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from provenance import provenance

from crystalpredict import load_model
from crystalpredict.crystals.crystal import Crystal, Neighbors
from crystalpredict.crystals.equivalence import merge_equivalent
from crystalpredict.crystals.neighbors import find_neighbors
from crystalpredict.data.dataset import read_jsonl, table_from_rows
from crystalpredict.nn.batch import batches_of


def main() -> None:
    """Compute both and print the difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="JSONL of labelled crystals, as scripts/prepare.py takes it")
    parser.add_argument("--count", type=int, default=600, help="crystals, chosen at random")
    options = parser.parse_args()
    table = table_from_rows((row, 0) for row in read_jsonl(options.data))
    rows = np.random.default_rng(0).permutation(len(table))[: options.count]
    model = load_model(device="cpu").model.double()
    radius = model.config.radius
    crystals = [table.crystal(row) for row in rows]
    full = [find_neighbors(crystal.lattice, crystal.positions, radius) for crystal in crystals]

    def outputs(neighbors: list[Neighbors], crystals: list[Crystal] = crystals) -> np.ndarray:
        found = np.empty((len(crystals), model.config.outputs))
        with torch.inference_mode():
            for chosen, batch in batches_of(crystals, neighbors, 1000):
                found[chosen] = model(batch.to("cpu", torch.float64)).numpy()
        return found

    merged = merge_equivalent(crystals, full, radius)
    changes = np.abs(outputs(merged) - outputs(full))
    result = {
        "crystals": len(crystals),
        "atoms_left": round(sum(edges.size for edges in merged) / sum(edges.size for edges in full), 3),
        "largest_change": float(f"{changes.max():.2g}"),
        "change_of_99_percent": float(f"{np.quantile(changes, 0.99):.2g}"),
        "mean_change": float(f"{changes.mean():.2g}"),
    }
    print("\n".join(f"{name:24} {value}" for name, value in result.items()))
    print(json.dumps({**result, **provenance()}))


if __name__ == "__main__":
    main()
