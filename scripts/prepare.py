"""Pack JSONL files of labelled crystals into one array file, to train where torch, NumPy and msgspec are installed.

python scripts/prepare.py --train a.jsonl.gz b.jsonl.gz --validation c.jsonl.gz -o crystals.npz

a.jsonl.gz:10 takes of a file only the crystals with at most 10 atoms.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from crystalpredict.data.dataset import TRAIN, VALIDATION, read_jsonl, table_from_rows
from crystalpredict.errors import CrystalPredictError


def rows_of(name: str) -> Iterator[dict[str, Any]]:
    """Rows of a file, or of `file:N` those with at most N atoms."""
    path, _, most = name.rpartition(":")
    if not (path and most.isdigit()) or Path(name).exists():
        return read_jsonl(Path(name))
    return (row for row in read_jsonl(Path(path)) if len(row["species"]) <= int(most))


def main() -> None:
    """Read, pack, write, and say how much."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", nargs="+", metavar="FILE[:ATOMS]", required=True)
    parser.add_argument("--validation", nargs="+", metavar="FILE[:ATOMS]", required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    files = [(name, TRAIN) for name in options.train] + [(name, VALIDATION) for name in options.validation]
    table = table_from_rows((row, split) for name, split in files for row in rows_of(name))
    table.save(options.output)
    size = options.output.stat().st_size / 2**20
    print(f"{options.output}: {len(table):,} crystals, {len(table.numbers):,} atoms, {size:.1f} MiB")


if __name__ == "__main__":
    try:
        main()
    except (CrystalPredictError, OSError) as error:
        sys.exit(f"error: {error}")
