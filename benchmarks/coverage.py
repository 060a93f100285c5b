"""Whether prediction intervals hold where people choose: by what is predicted, and by what kind of crystal it is.

python benchmarks/coverage.py DATA [--model NAME] [--part val|test]

DATA is the folder of the labelled data. For each property: share of labels in 90 % intervals in bins of the prediction,
by size, by number of elements, and by whether the chemical system or an element is new to the training data; rank
correlation of width and error; mean error of the half of the crystals with the narrowest intervals; continuous
ranked probability score, from the quantiles that the intervals are. Intervals are calibrated on val, so that only test
measures them. Prints one line of JSON.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
from arguments import parser_of_part
from provenance import provenance
from scipy.stats import spearmanr
from unrelaxed import predicted

from crystalpredict import load_model
from crystalpredict.checkpoints.registry import find_model
from crystalpredict.crystals.crystal import Crystal, FloatArray
from crystalpredict.crystals.primitive import primitive_sizes
from crystalpredict.data.dataset import crystal_of_row, read_jsonl
from crystalpredict.prediction.rows import Prediction
from crystalpredict.uncertainty import DEFAULT_LEVEL, LEVELS

# upper ends of bins of predictions, in the property's unit
BINS = {
    "bandgap": [0.05, 0.5, 1.5, 3], "formation_energy": [-3, -2, -1, -0.5, 0],
    "e_above_hull": [0.001, 0.025, 0.05, 0.1, 0.5], "bulk_modulus": [20, 50, 100, 150, 200],
    "shear_modulus": [10, 25, 50, 100],
}  # fmt: skip
SETS = {"mp2018": list(BINS)[:3], "elastic": list(BINS)[3:]}
LOGARITHMS = {"bulk_modulus", "shear_modulus"}
MIN_CRYSTALS = 50  # in a bin that is shown
RARE = 100  # training crystals with an element
Row = dict[str, Any]


def crps(labels: FloatArray, values: FloatArray, ends: FloatArray) -> float:
    """Mean continuous ranked probability score: twice the integral of the quantile loss over the quantiles known."""
    tails = [(1 - level / 100) / 2 for level in LEVELS]
    shares = np.array([*tails[::-1], 0.5, *(1 - tail for tail in tails)])
    quantiles = np.column_stack([ends[:, ::-1, 0], values, ends[:, :, 1]])
    rest = labels[:, None] - quantiles
    losses = np.maximum(shares * rest, (shares - 1) * rest).mean(axis=0)
    return float(2 * np.trapezoid(losses, shares))


def shares_of(inside: FloatArray, groups: FloatArray, names: list[str]) -> dict[str, str]:
    """Number of crystals of each group, and the share of their labels in 90 % intervals."""
    found = {}
    for number, name in enumerate(names):
        own = inside[groups == number]
        if len(own) >= MIN_CRYSTALS:
            found[name] = f"{len(own)}: {own.mean():.3f}"
    return found


def names_of(ends: list[float]) -> list[str]:
    """Names of bins."""
    return [f"<= {ends[0]:g}", *(f"<= {end:g}" for end in ends[1:]), f"> {ends[-1]:g}"]


def scores(
    found: list[tuple[Row, Crystal, Prediction]], name: str, column: str, systems: set[frozenset[str]],
    counts: Counter[str],
) -> dict[str, Any]:  # fmt: skip
    """What is measured of one property; chemical systems of the training crystals, and how many have an element."""
    known = [each for each in found if each[0].get(name) is not None and each[2].bounds]
    rows, crystals, predictions = zip(*known, strict=True)
    labels = np.array([row[name] for row in rows], dtype=float)
    values = np.array([row.values[column] for row in predictions])
    ends = np.array([row.bounds[column] for row in predictions])  # (R, levels, 2)
    own = ends[:, LEVELS.index(DEFAULT_LEVEL)]
    inside = (labels >= own[:, 0] - 1e-9) & (labels <= own[:, 1] + 1e-9)
    bins = np.searchsorted(BINS[name], values)
    if name in LOGARITHMS:
        labels, values, ends, own = (np.log10(each) for each in (labels, values, ends, own))
    errors, widths = np.abs(labels - values), own[:, 1] - own[:, 0]
    sizes = primitive_sizes(crystals)
    elements = [set(row["species"]) for row in rows]
    new = np.array([frozenset(each) not in systems for each in elements])
    rare = np.array([min(counts[symbol] for symbol in each) < RARE for each in elements])
    order = np.argsort(widths)
    return {
        "crystals": len(rows),
        "mae": round(float(errors.mean()), 4),
        "inside_90": round(float(inside.mean()), 3),
        "width_90": round(float(widths.mean()), 4),
        "rank_correlation": round(float(spearmanr(widths, errors).statistic), 3),
        "mae_of_narrowest_half": round(float(errors[order[: len(order) // 2]].mean()), 4),
        "crps": round(crps(labels, values, ends), 4),
        "by_prediction": shares_of(inside, bins, names_of(BINS[name])),
        "by_atoms": shares_of(inside, np.searchsorted([4, 8, 20, 40], sizes), names_of([4, 8, 20, 40])),
        "by_elements": shares_of(
            inside, np.array([len(each) for each in elements]), ["0", *(str(number) for number in range(1, 7))]
        ),
        "chemical_system": shares_of(inside, new.astype(int), ["known", "new"]),
        "rarest_element": shares_of(inside, rare.astype(int), ["common", f"in fewer than {RARE}"]),
    }


def main() -> None:
    """Measure and print."""
    parser = parser_of_part(__doc__)
    parser.add_argument("--model")
    options = parser.parse_args()
    result: dict[str, Any] = provenance()
    train = [row for name in ("mp2018", "mp2019") for row in read_jsonl(options.data / f"{name}/train.jsonl.gz")]
    systems = {frozenset(row["species"]) for row in train}
    counts = Counter(symbol for row in train for symbol in set(row["species"]))
    for name, properties in SETS.items():
        rows = list(read_jsonl(options.data / f"{name}/{options.part}.jsonl.gz"))
        predictor = load_model(find_model(options.model), targets=properties)
        crystals = [crystal_of_row(row) for row in rows]
        found = list(zip(rows, crystals, predicted(predictor, crystals), strict=True))
        for prop, column in zip(properties, predictor.columns, strict=True):
            result[prop] = scores(found, prop, column, systems, counts)
            print(prop, json.dumps(result[prop], indent=1), flush=True)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
