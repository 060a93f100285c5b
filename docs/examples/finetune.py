"""Fine-tuning on a property of one's own: a model of the refractive index from 41 crystals."""

from __future__ import annotations

import csv
import json
import shlex
import sys
from pathlib import Path
from subprocess import run

from own_features import TABLE, structure  # of the example beside this one

from crystalpredict import load_model

COMMAND = "crystalpredict finetune indices.csv --target refractive_index --epochs 25 --test 0.2 -o refractive"


def write_table(path: Path) -> None:
    """Write a row for each crystal: its name, its structure as CIF, and its label."""
    with TABLE.open(encoding="utf-8") as known, path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "cif", "refractive_index"])
        for row in csv.DictReader(known):
            writer.writerow([row["formula"], structure(row).to(fmt="cif"), row["refractive_index"]])


def main() -> None:
    """Train in the working directory, print the errors on crystals held out, and predict one that is in no table."""
    write_table(Path("indices.csv"))
    print(f"$ {COMMAND}")
    run([sys.executable, "-m", *shlex.split(COMMAND)], check=True, capture_output=True)
    metrics = json.loads(Path("refractive/metrics.json").read_text(encoding="utf-8"))
    for part in ("val", "test"):
        errors = metrics[part]["refractive_index"][""]
        print(f"{part}: mean absolute error {errors['mae']:.2f} on {errors['count']} crystals")
    crystal = structure({"formula": "ZnTe", "structure": "zinc blende", "a": "6.104"})
    (row,) = load_model(Path("refractive")).predict([crystal])
    print(f"{row.formula}: {row['refractive_index']:.2f}")


if __name__ == "__main__":
    main()
