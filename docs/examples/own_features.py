"""Features for a model of one's own: ridge regression of refractive indices on the network's features."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from pymatgen.core import Composition, Lattice, Structure

from crystalpredict import load_model

TABLE = Path(__file__).with_name("refractive_index.csv")
SITES = {"rock salt": (0, 1 / 2), "zinc blende": (0, 1 / 4), "diamond": (0, 1 / 4), "fluorite": (0, 1 / 4, 3 / 4)}
"""Of each atom, its three equal coordinates in the primitive cell of the face-centred lattice."""


def structure(row: dict[str, str]) -> Structure:
    """The cubic crystal of a row of the table, in its primitive cell."""
    lattice = Lattice(float(row["a"]) / 2 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]))
    first, *others = (element.symbol for element in Composition(row["formula"]))
    sites = SITES[row["structure"]]
    elements = [first, *(others or [first]) * (len(sites) - 1)]
    return Structure(lattice, elements, [[site] * 3 for site in sites])


def ridge(features: np.ndarray, labels: np.ndarray, penalty: float) -> tuple[np.ndarray, float]:
    """Weights (D,) and constant of a ridge regression of labels (n,) on features (n, D)."""
    mean, level = features.mean(axis=0), labels.mean()
    centred = features - mean
    weights = np.linalg.solve(centred.T @ centred + penalty * np.eye(len(mean)), centred.T @ (labels - level))
    return weights, level - mean @ weights


def main() -> None:
    """Print the error of each crystal, predicted from all the others."""
    with TABLE.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    labels = np.array([float(row["refractive_index"]) for row in rows])
    embeddings = load_model().embed([structure(row) for row in rows])
    features = np.array([embedding.features for embedding in embeddings])
    features /= features.std(axis=0).mean()

    predicted = np.empty(len(rows))
    for left_out in range(len(rows)):
        others = np.arange(len(rows)) != left_out
        weights, constant = ridge(features[others], labels[others], penalty=10)
        predicted[left_out] = features[left_out] @ weights + constant
    errors = np.abs(predicted - labels)
    print(f"{len(rows)} crystals, {features.shape[1]} features")
    print(f"mean absolute error, each predicted from the others: {errors.mean():.2f}")
    print(f"of always predicting the mean: {np.abs(labels - labels.mean()).mean():.2f}\n")
    print("largest errors      label   predicted")
    for index in np.argsort(-errors)[:5]:
        print(f"{rows[index]['formula']:18} {labels[index]:6.2f} {predicted[index]:11.2f}")


if __name__ == "__main__":
    main()
