"""What a screen costs besides computing: a second run from the cache, passing over other shards' files, and merging.

python benchmarks/screening.py FOLDER_OF_CIFS

Ratios are medians of rounds, each of a first and a second run. Prints one line of JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from provenance import provenance

ROUNDS = 3
SHARDS = 10
TIMES = 20  # that each file is named, for the rows to be merged
NAMES = 1_000_000


def seconds(*arguments: str | Path) -> float:
    """Time of the program, from its start to its end."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "crystalpredict", *map(str, arguments), "-q"]
    code = subprocess.run(command, check=False).returncode
    if code not in (0, 3, 4):
        raise SystemExit(f"{' '.join(command)}: exit code {code}")
    return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    paths = sorted(map(str, Path(sys.argv[1]).iterdir()))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "list").write_text("\n".join(paths))
        first, second = [], []
        for number in range(ROUNDS):
            run = (
                "predict",
                f"@{folder}/list",
                "--cache",
                folder / f"cache{number}",
                "-o",
                folder / "a.csv",
                "--force",
            )
            first.append(seconds(*run, "--force"))
            second.append(seconds(*run, "--force"))
        size = sum(file.stat().st_size for file in (folder / "cache0").iterdir())
        (folder / "long").write_text("\n".join(paths * TIMES))
        shards = [folder / f"{number}.csv" for number in range(1, SHARDS + 1)]
        for number, shard in enumerate(shards, start=1):
            seconds(
                "predict", f"@{folder}/long", "--cache", folder / "cache0", "--shard", f"{number}/{SHARDS}", "-o", shard
            )
        merged = seconds("merge", *shards, "-o", folder / "all.csv")
        (folder / "names").write_text("".join(f"{name}/{number:07}.cif\n" for number in range(NAMES)))
        passed = seconds("predict", f"@{folder}/names", "--shard", f"1/{NAMES}", "-o", folder / "one.csv")
    ratios = [two / one for one, two in zip(first, second, strict=True)]
    figures = {
        "files": len(paths), "first_s": round(float(np.median(first)), 2),
        "second_s": round(float(np.median(second)), 2),
        "ratio": round(float(np.median(ratios)), 3), "ratio_least": round(min(ratios), 3),
        "ratio_most": round(max(ratios), 3), "cache_bytes_per_structure": round(size / len(paths)),
        "merged_rows": len(paths) * TIMES, "merge_s": round(merged, 2), "names_passed": NAMES,
        "shard_of_one_s": round(passed, 2),
    }  # fmt: skip
    print(json.dumps(figures | provenance()))


if __name__ == "__main__":
    main()
