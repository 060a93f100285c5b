"""Pack JSONL files of labelled crystals into one array file that trains where only torch and NumPy are installed.

python scripts/prepare.py --train a.jsonl.gz b.jsonl.gz --validation c.jsonl.gz -o crystals.npz
"""

from __future__ import annotations

import argparse
from pathlib import Path

from crystalpredict.dataset import TRAIN, VALIDATION, read_jsonl, table_of_rows


def main() -> None:
    """Read, pack, write, and say how much."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", nargs="+", type=Path, required=True)
    parser.add_argument("--validation", nargs="+", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    files = [(path, TRAIN) for path in options.train] + [(path, VALIDATION) for path in options.validation]
    table = table_of_rows((row, split) for path, split in files for row in read_jsonl(path))
    table.save(options.output)
    size = options.output.stat().st_size / 2**20
    print(f"{options.output}: {len(table):,} crystals, {len(table.numbers):,} atoms, {size:.1f} MiB")


if __name__ == "__main__":
    main()
