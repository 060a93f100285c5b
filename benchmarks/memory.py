"""Peak memory of the whole command, all processes together, for many structures and for a tenth of them.

    python benchmarks/memory.py 100000

Makes a table or a zip of that many small CIFs, all different, one in twenty damaged, and samples the PSS of the process
tree every 50 ms: private memory, and of what is shared each process's part. Linux only. Ends in one line of JSON.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import random
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

from provenance import provenance
from speed import children, private_megabytes

from crystalpredict.crystals.crystal import ELEMENTS

DAMAGED = 20  # one in so many is cut off
LIMIT_MB = 1500


def cif(rng: random.Random) -> str:
    """A triclinic cell of 1 to 20 atoms on a grid, so that none are too close."""
    atoms = rng.randint(1, 20)
    side = next(n for n in (1, 2, 3) if n**3 >= atoms)
    lengths = [side * rng.uniform(2.4, 3.2) for _ in range(3)]
    angles = [rng.uniform(75, 105) for _ in range(3)]
    places = rng.sample([(x, y, z) for x in range(side) for y in range(side) for z in range(side)], atoms)
    names = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
    lines = ["data_x", *(f"_cell_{name} {value:.4f}" for name, value in zip(names, lengths + angles, strict=True))]
    lines += ["_symmetry_space_group_name_H-M 'P 1'", "loop_", "_atom_site_label", "_atom_site_type_symbol"]
    lines += [f"_atom_site_fract_{axis}" for axis in "xyz"]
    for number, place in enumerate(places):
        symbol = rng.choice(ELEMENTS[:83])
        lines.append(f"{symbol}{number} {symbol} " + " ".join(f"{x / side:.5f}" for x in place))
    text = "\n".join(lines) + "\n"
    return text[: len(text) // 2] if rng.randrange(DAMAGED) == 0 else text


def measure(count: int, kind: str, jobs: int, folder: Path) -> dict[str, float]:
    """Seconds, and the peak of the tree's PSS in MB, of `predict` on `count` structures."""
    rng = random.Random(0)
    source, output = folder / f"many.{kind}", folder / "rows.csv"
    if kind == "zip":
        with zipfile.ZipFile(source, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for number in range(count):
                archive.writestr(f"{number}.cif", cif(rng))
    else:
        with gzip.open(source, "wt", compresslevel=1, newline="") as file:
            table = csv.writer(file)
            table.writerow(["id", "cif"])
            table.writerows([number, cif(rng)] for number in range(count))
    command = [sys.executable, "-m", "crystalpredict", "predict", str(source), "-o", str(output), "-q", "--force"]
    start = time.perf_counter()
    program = subprocess.Popen([*command, "--jobs", str(jobs)])
    peak = 0.0
    while program.poll() is None:
        peak = max(peak, sum(map(private_megabytes, [program.pid, *children(program.pid)])))
        time.sleep(0.05)
    seconds = time.perf_counter() - start
    with output.open("rb") as rows:
        lines = sum(1 for _ in rows)
    if program.returncode != 3 or lines != count + 1:
        raise SystemExit(f"the command failed ({program.returncode}), {lines} lines for {count} structures")
    return {"structures": count, "seconds": round(seconds, 1), "peak_MB": round(peak)}


def main() -> int:
    """Print both figures; 1 if the larger is above the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int, nargs="?", default=100_000)
    parser.add_argument("--kind", choices=["csv.gz", "zip"], default="csv.gz")
    parser.add_argument("--jobs", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        few, many = (
            measure(count, options.kind, options.jobs, Path(folder)) for count in (options.count // 10, options.count)
        )
    for run in (few, many):
        print(
            f"{run['structures']:,} structures: peak {run['peak_MB']:,} MB (PSS of all processes), {run['seconds']} s"
        )
    print(json.dumps({"kind": options.kind, "tenth": few, "whole": many, "limit_MB": LIMIT_MB, **provenance()}))
    return int(many["peak_MB"] > LIMIT_MB)


if __name__ == "__main__":
    sys.exit(main())
