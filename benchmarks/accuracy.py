"""Errors of a model on labelled crystals, as a user meets them: files in, `crystalpredict predict`, rows out.

python benchmarks/accuracy.py DATA.jsonl.gz... [--model NAME|PATH]

Every crystal is written as a POSCAR and predicted by the command itself; the rows are compared with the labels. Prints
a table, then one line of JSON. Moduli are compared as log10(K/GPa), as the literature has it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from provenance import provenance

from crystalpredict.dataset import lattice_of_parameters, read_jsonl
from crystalpredict.properties import PROPERTIES

RESAMPLES = 2000
SIZES = ((1, 8), (9, 40), (41, 10_000))


def poscar(row: dict[str, Any]) -> str:
    """Text of a POSCAR: one group of atoms after the other, in the row's order."""
    lines = [row["id"], "1.0"]
    lines += [" ".join(f"{x:.10f}" for x in vector) for vector in lattice_of_parameters(row["lattice"])]
    symbols: list[str] = []
    counts: list[int] = []
    for symbol in row["species"]:
        if symbols and symbols[-1] == symbol:
            counts[-1] += 1
        else:
            symbols.append(symbol)
            counts.append(1)
    lines += [" ".join(symbols), " ".join(map(str, counts)), "Direct"]
    lines += [" ".join(f"{x:.10f}" for x in site) for site in row["frac_coords"]]
    return "\n".join(lines) + "\n"


def predict(rows: list[dict[str, Any]], model: str | None) -> list[dict[str, Any]]:
    """The command's JSON lines for the crystals of the rows."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}.vasp" for number in range(len(rows))]
        for path, row in zip(paths, rows, strict=True):
            path.write_text(poscar(row))
        command = [sys.executable, "-m", "crystalpredict", "predict", "-", "--format", "jsonl"]
        command += ["--model", model] if model else []
        done = subprocess.run(command, input="\n".join(map(str, paths)), stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode not in (0, 3):
            sys.exit(f"crystalpredict predict ended with exit code {done.returncode}")
        return [json.loads(line) for line in done.stdout.splitlines()]


def errors_of(rows: list[dict[str, Any]], predictions: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Mean absolute error with its bootstrap interval, count and mean absolute deviation, by property."""
    sizes = np.array([len(row["species"]) for row in rows])
    report: dict[str, dict[str, Any]] = {}
    for prop in PROPERTIES:
        label = np.array([np.nan if row.get(prop.name) is None else row[prop.name] for row in rows], dtype=float)
        value = np.array([np.nan if p.get(prop.column) is None else p[prop.column] for p in predictions], dtype=float)
        label, value = prop.encode(label), prop.encode(value)
        known = np.isfinite(label) & np.isfinite(value)
        if not known.any():
            continue
        error = np.abs(value - label)[known]
        random = np.random.default_rng(0)
        means = error[random.integers(0, len(error), (RESAMPLES, len(error)))].mean(axis=1)
        report[prop.name] = {
            "unit": f"log10({prop.unit})" if prop.transform == "log10" else prop.unit,
            "crystals": int(known.sum()),
            "mae": round(float(error.mean()), 5),
            "interval95": [round(float(x), 5) for x in np.percentile(means, [2.5, 97.5])],
            "median": round(float(np.median(error)), 5),
            "deviation": round(float(np.abs(label[known] - label[known].mean()).mean()), 5),
            "by_atoms": {
                f"{low}-{high}": [int(part.sum()), round(float(error[part].mean()), 5)]
                for low, high in SIZES
                if (part := ((sizes >= low) & (sizes <= high))[known]).any()
            },
        }
    return report


def main() -> None:
    """Predict, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", type=Path)
    parser.add_argument("--model")
    options = parser.parse_args()
    rows = [row for path in options.data for row in read_jsonl(path)]
    predictions = predict(rows, options.model)
    failed = [p for p in predictions if p["error"]]
    report = errors_of(rows, predictions)
    print(f"{'property':18} {'unit':12} {'n':>6} {'MAE':>8} {'95 % interval':>18} {'median':>8} {'MAD':>7}")
    for name, item in report.items():
        low, high = item["interval95"]
        print(
            f"{name:18} {item['unit']:12} {item['crystals']:6d} {item['mae']:8.4f} {low:8.4f} - {high:7.4f} "
            f"{item['median']:8.4f} {item['deviation']:7.3f}"
        )
    for prediction in failed[:10]:
        print("failed:", prediction["path"], prediction["error"])
    files = [f"{path.parent.name}/{path.name}" for path in options.data]
    print(json.dumps({"data": files, "failed": len(failed), "errors": report, **provenance()}))


if __name__ == "__main__":
    main()
