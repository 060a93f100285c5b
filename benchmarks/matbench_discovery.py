"""Predict the WBM test set of Matbench Discovery in one shot, and score it as its leaderboard does.

python benchmarks/matbench_discovery.py wbm-summary.csv.gz wbm-initial-structures.json.bz2 -o predictions.csv.gz

Both files are the published ones (https://matbench-discovery.materialsproject.org): the summary with a row for each
material, and the initial structures, as `.json.bz2` (columns `material_id`, `initial_structure`) or `.extxyz.zip`
(a file MATERIAL_ID.extxyz for each). One prediction for each unrelaxed structure, without a relaxation (the task
IS2E): the formation energy of the crystal that it relaxes to, with the corrections of 2020, which the labels have.

Writes `material_id,e_form_per_atom_crystalpredict` for the pull request, and predictions.json with F1, DAF and the
other metrics of the full test set, of the unique prototypes and of the 10,000 that are predicted to be most stable.
"""

from __future__ import annotations

import argparse
import bz2
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pandas
from provenance import provenance

from crystalpredict import predict
from crystalpredict._files import write_atomically

COLUMN = "e_form_per_atom_crystalpredict"
ID, PROTOTYPE = "material_id", "unique_prototype"
HULL, FORMATION = "e_above_hull_mp2020_corrected_ppd_mp", "e_form_per_atom_mp2020_corrected"
MOST_STABLE = 10_000
CHUNK = 20_000  # structures of one call
MAX_ERROR = 5.0  # eV/atom: the leaderboard counts a prediction that is further off as missing


def structures_of(path: Path, wanted: pandas.Index) -> pandas.Series:
    """Return the structures, dictionaries or texts, by material id, in the order of the summary."""
    if path.suffix == ".zip":
        with ZipFile(path) as archive:
            names = {Path(name).name.removesuffix(".extxyz"): name for name in archive.namelist()}
            texts = {key: archive.read(names[key]).decode() for key in wanted if key in names}
        return pandas.Series(texts, name="structure", dtype=object)
    with bz2.open(path, "rt", encoding="utf-8") as file:
        columns = json.load(file)
    if not {ID, "initial_structure"} <= set(columns):
        raise SystemExit(f"{path}: no columns {ID} and initial_structure")
    found = dict(zip(columns[ID].values(), columns["initial_structure"].values(), strict=True))
    return pandas.Series({key: found[key] for key in wanted if key in found}, name="structure", dtype=object)


def formation_energies(structures: pandas.Series, options: argparse.Namespace) -> Iterator[tuple[str, float, str]]:
    """Yield the id, the predicted formation energy (eV/atom, NaN if there is none) and the error of each structure."""
    for start in range(0, len(structures), CHUNK):
        some = structures.iloc[start : start + CHUNK]
        rows = predict(
            some, model=options.model, targets=["formation_energy"], unrelaxed=True, convention="mp2020",
            device=options.device, jobs=options.jobs, cache=options.cache,
        )  # fmt: skip
        for name, row in zip(some.index, rows, strict=True):
            yield str(name), row.values.get("formation_energy_eV_per_atom", np.nan), row.error
        print(f"{min(start + CHUNK, len(structures)):,} of {len(structures):,}", flush=True)


def metrics_of(truth: np.ndarray, found: np.ndarray, prevalence: float | None = None) -> dict[str, Any]:
    """Return the leaderboard's metrics of energies above the hull; a missing prediction counts as unstable.

    Args:
        truth: eV/atom, (n,).
        found: predictions, NaN where missing, (n,).
        prevalence: share of stable crystals by which DAF divides the precision; None: that of these crystals.
    """
    stable, called = truth <= 0, found <= 0  # NaN <= 0 is false
    hits, misses = int((stable & called).sum()), int((stable & ~called).sum())
    alarms, others = int((~stable & called).sum()), int((~stable & ~called).sum())
    known = np.isfinite(found)
    errors = found[known] - truth[known]
    spread = ((truth[known] - truth[known].mean()) ** 2).sum() if known.any() else 0.0
    precision = _ratio(hits, hits + alarms)
    share = stable.mean() if prevalence is None else prevalence
    return {
        "F1": _ratio(2 * hits, 2 * hits + misses + alarms),
        "DAF": _ratio(precision, share),
        "Precision": precision,
        "Recall": _ratio(hits, hits + misses),
        "Accuracy": _ratio(hits + others, len(truth)),
        "TPR": _ratio(hits, hits + misses),
        "FPR": _ratio(alarms, alarms + others),
        "TNR": _ratio(others, alarms + others),
        "FNR": _ratio(misses, hits + misses),
        "TP": hits,
        "FP": alarms,
        "TN": others,
        "FN": misses,
        "MAE": float(np.abs(errors).mean()) if known.any() else None,
        "RMSE": float(np.sqrt((errors**2).mean())) if known.any() else None,
        "R2": float(1 - (errors**2).sum() / spread) if spread else None,
        "missing_preds": int((~known).sum()),
    }


def _ratio(part: float | None, whole: float) -> float | None:
    return None if part is None or not whole else float(part / whole)


def metrics_by_subset(summary: pandas.DataFrame, energies: np.ndarray) -> dict[str, dict[str, Any]]:
    """Return the metrics of the leaderboard's three subsets.

    The predicted energy above the hull is the true one plus the error of the formation energy: the hull is that of the
    Materials Project, and fixed.

    Args:
        summary: (n,) rows with the columns HULL, FORMATION and PROTOTYPE.
        energies: predicted formation energies, eV/atom, NaN where missing, (n,).
    """
    truth = summary[HULL].to_numpy(dtype=float)
    errors = energies - summary[FORMATION].to_numpy(dtype=float)
    found = truth + np.where(np.abs(errors) > MAX_ERROR, np.nan, errors)
    unique = summary[PROTOTYPE].to_numpy(dtype=bool)
    prevalence = float((truth[unique] <= 0).mean()) if unique.any() else 0.0
    order = np.flatnonzero(unique & np.isfinite(found))
    best = order[np.argsort(found[order], kind="stable")[:MOST_STABLE]]
    return {
        "full_test_set": metrics_of(truth, found),
        "unique_prototypes": metrics_of(truth[unique], found[unique], prevalence),
        "most_stable_10k": metrics_of(truth[best], found[best], prevalence),
    }


def main() -> None:
    """Predict, write the predictions and the metrics."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("summary", type=Path)
    parser.add_argument("structures", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True, help="file of predictions, .csv or .csv.gz")
    parser.add_argument("--model", help="a model for unrelaxed structures; default: crystalformer-mp-unrelaxed")
    parser.add_argument("--cache", help="folder that keeps predictions, so that a second call continues")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--jobs", type=int, default=0, help="reader processes; 0: one for each core")
    options = parser.parse_args()
    summary = pandas.read_csv(options.summary).set_index(ID)
    if missing := {HULL, FORMATION, PROTOTYPE} - set(summary):
        raise SystemExit(f"{options.summary}: no column {', '.join(sorted(missing))}")
    structures = structures_of(options.structures, summary.index)
    found = {}
    for name, energy, error in formation_energies(structures, options):
        found[name] = energy
        if error:
            print(f"{name}: {error}")
    energies = summary.index.map(found).to_numpy(dtype=float)
    table = pandas.Series(energies, index=summary.index, name=COLUMN).round(4)
    kind = "gzip" if options.output.suffix == ".gz" else None
    table.to_csv(options.output, compression=kind)
    metrics = metrics_by_subset(summary, energies)
    facts = {"model": options.model or "crystalformer-mp-unrelaxed", **provenance(), "metrics": metrics}
    name = options.output.name.removesuffix(".gz").removesuffix(".csv") + ".json"
    with write_atomically(options.output.with_name(name)) as file:
        file.write(json.dumps(facts, indent=2).encode())
    for subset, values in metrics.items():
        shown = ", ".join(f"{key} {values[key]:.3f}" for key in ("F1", "DAF", "MAE", "R2") if values[key] is not None)
        print(f"{subset}: {shown}, {values['missing_preds']} missing")


if __name__ == "__main__":
    main()
