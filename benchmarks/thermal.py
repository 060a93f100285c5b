"""Debye temperatures and lattice thermal conductivities from predicted moduli, against the AFLOW library.

python benchmarks/thermal.py DATA [--part val|test]

DATA is the folder of the labelled data, with more/aflow_thermal. Prints errors, the share of labels in 90 % intervals,
and the same by the formulas with the library's own moduli, as one line of JSON.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from arguments import parser_of_part
from provenance import provenance
from scipy.stats import spearmanr
from unrelaxed import predicted

from crystalpredict import load_model
from crystalpredict.crystals.crystal import FloatArray
from crystalpredict.data.dataset import crystal_of_row, read_jsonl
from crystalpredict.prediction.derived import derive
from crystalpredict.prediction.thermal import matter_of

LABELS = {"debye_temperature": "debye_temperature", "thermal_conductivity": "thermal_conductivity_300K"}


def scores(values: FloatArray, labels: FloatArray) -> dict[str, float]:
    """Mean absolute error, and how well the logarithms and the order agree."""
    ratios = np.log10(values / labels)
    return {
        "mae": round(float(np.abs(values - labels).mean()), 2),
        "median_error": round(float(np.median(np.abs(values - labels))), 2),
        "log10_mae": round(float(np.abs(ratios).mean()), 3),
        "median_ratio": round(float(10 ** np.median(ratios)), 3),
        "rank_correlation": round(float(spearmanr(values, labels).statistic), 3),
    }


def main() -> None:
    """Measure and print."""
    parser = parser_of_part(__doc__)
    options = parser.parse_args()
    rows = list(read_jsonl(options.data / f"more/aflow_thermal/{options.part}.jsonl.gz"))
    crystals = [crystal_of_row(row) for row in rows]
    predictor = load_model(targets=list(LABELS))
    predictions = predicted(predictor, crystals)
    result: dict[str, Any] = provenance()
    for (name, label), column in zip(LABELS.items(), predictor.columns, strict=True):
        known = [number for number, row in enumerate(rows) if row.get(label, 0) > 0]
        labels = np.array([rows[number][label] for number in known])
        values = np.array([predictions[number].values[column] for number in known])
        ends = np.array([predictions[number].interval(column) for number in known])
        own = [np.array([rows[number][f"{which}_modulus_aflow"] for number in known]) for which in ("bulk", "shear")]
        by_formula = derive(name, *own, matter_of([crystals[number] for number in known]))
        result[name] = {
            "crystals": len(known),
            **scores(values, labels),
            "mad_of_labels": round(float(np.abs(labels - labels.mean()).mean()), 1),
            "inside_90": round(float(((labels >= ends[:, 0]) & (labels <= ends[:, 1])).mean()), 3),
            "by_its_own_moduli": scores(by_formula, labels),
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
