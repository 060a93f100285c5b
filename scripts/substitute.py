"""Write training crystals with the cell of another crystal in which one element was exchanged, to learn how they relax.

python scripts/substitute.py a.jsonl.gz b.jsonl.gz -o pairs.jsonl --atoms 30 --most 12000

The rows are those of the crystals, with the other cell under the key `unrelaxed` (scripts/prepare.py --unrelaxed).
"""

from __future__ import annotations

import argparse
import json
from itertools import islice
from pathlib import Path

import numpy as np
from prepare import CELL

from crystalpredict.data.dataset import read_jsonl
from crystalpredict.data.substitute import substituted


def main() -> None:
    """Read, match, write, and say how many."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--atoms", type=int, default=40, help="of the largest crystals")
    parser.add_argument("--most", type=int, default=10**9, help="number of crystals after which to stop")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rows = [row for path in options.files for row in read_jsonl(path) if len(row["species"]) <= options.atoms]
    count = 0
    with options.output.open("w", encoding="utf-8") as file:
        for row, cell in islice(substituted(rows, rows, np.random.default_rng(options.seed)), options.most):
            file.write(json.dumps({**row, "unrelaxed": {name: cell[name] for name in CELL}}) + "\n")
            count += 1
    print(f"{options.output}: {count:,} of {len(rows):,} crystals")


if __name__ == "__main__":
    main()
