"""How well magnetic moments are predicted, and how well crystals with one are told from others.

python benchmarks/magnetic.py DATA [--model NAME] [--part val|test]

DATA is the folder of the labelled data; its more/magnetization_2024 part is predicted. Prints one line of JSON.
"""

from __future__ import annotations

import json

import numpy as np
from arguments import parser_of_part
from gaps import area_under_curve, values_of
from provenance import provenance

from crystalpredict import load_model
from crystalpredict.checkpoints.registry import find_model
from crystalpredict.data.dataset import read_jsonl

NONMAGNETIC = "NM"


def main() -> None:
    """Measure and print."""
    parser = parser_of_part(__doc__)
    parser.add_argument("--model")
    options = parser.parse_args()
    rows = list(read_jsonl(options.data / f"more/magnetization_2024/{options.part}.jsonl.gz"))
    predictor = load_model(find_model(options.model), targets=["magnetic_moment", "magnetic_probability"])
    moments, probabilities = values_of(predictor, rows)
    labels = np.array([row["moment_per_atom"] for row in rows])
    errors = np.abs(moments - labels)
    orderings = np.array([row.get("magnetic_ordering") or "" for row in rows])
    known = orderings != ""
    result = provenance() | {
        "crystals": len(rows),
        "moment_mae": round(float(errors.mean()), 4),
        "moment_mad": round(float(np.abs(labels - labels.mean()).mean()), 4),
        "by_ordering": {
            str(name): [int((orderings == name).sum()), round(float(errors[orderings == name].mean()), 4)]
            for name in np.unique(orderings[known])
        },
        "with_ordering": int(known.sum()),
        "area_under_curve": round(area_under_curve(probabilities[known], orderings[known] != NONMAGNETIC), 4),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
