"""Suggest what to measure next: crystals of a pool that are uncertain or promising, and unlike each other."""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import sqrt
from pathlib import Path
from typing import IO

import numpy as np
from scipy.spatial.distance import cdist

from crystalpredict.crystals.crystal import FloatArray, IntArray
from crystalpredict.data.dataset import CrystalTable, neighbor_table
from crystalpredict.errors import UsageError
from crystalpredict.io.entries import Source
from crystalpredict.prediction.pipeline import Pipeline
from crystalpredict.prediction.predictor import Predictor
from crystalpredict.prediction.rows import Prediction, cells_of, columns_of
from crystalpredict.properties import Property
from crystalpredict.training.calibrate import outputs_and_features

Pair = tuple[Prediction, FloatArray | None]  # a row, and the features (D,) of its crystal
LOG = logging.getLogger(__name__)
CANDIDATES_EACH = 10  # crystals with the best scores, for each that is suggested, but at most half of the pool
CANDIDATES_SHARE = 0.1  # of the pool, if that is more
BLOCK = 256  # measured crystals whose distances are computed at once
SAME = 1e-4  # a distance below which two crystals are the same


class By(StrEnum):
    """What makes a crystal worth measuring."""

    uncertain = "uncertain"
    high = "high"
    low = "low"
    distance = "distance"


@dataclass(frozen=True)
class Suggestion:
    """A crystal that is worth measuring.

    Attributes:
        row: prediction of the crystal.
        score: half the width of the interval, or the end of the interval that may be best, in the unit of training.
        rank: share of the pool with a smaller score.
        distance: from the nearest crystal that was measured or suggested before, in root mean squares of the standard
            deviations of the features; infinite for the first one.
        nearest: name of that crystal; empty for the first one.
    """

    row: Prediction
    score: float
    rank: float
    distance: float
    nearest: str


def suggest(
    pool: Iterable[Source], pipeline: Pipeline, count: int, by: By = By.uncertain,
    watch: Callable[[Iterator[Pair]], Iterable[Pair]] = iter,
) -> list[Suggestion]:  # fmt: skip
    """Return the crystals of a pool to measure next, the first first.

    The crystals with the best scores, a tenth of the pool or more if it is small, are candidates. Of these,
    each next one is the farthest, in the network's features, from all that were measured or suggested before (greedy
    k-center: Sener and Savarese, ICLR 2018). Measured are the crystals that the model was fine-tuned on, if its folder
    is that of the run.

    Args:
        pool: sources of the structures.
        pipeline: of the model, with one target.
        count: number of suggestions.
        by: `uncertain`: widest interval; `high` and `low`: the end of the interval that is highest or lowest, else the
            value; `distance`: all are candidates.
        watch: wraps the iterator of the predictions, for example in a progress bar.

    Raises:
        UsageError: the model has no intervals for what is asked, or no structure of the pool could be predicted.
    """
    with pipeline.open(pool) as (load, reader):
        predictor = load()
        if len(predictor.properties) != 1:  # such as decomposes_to
            raise UsageError(f"{', '.join(pipeline.targets)}: no number by which to choose: use another --target")
        (prop,) = predictor.properties
        if by == By.uncertain and not (pipeline.intervals and prop.has_interval):
            raise UsageError(f"{pipeline.folder.name} has no intervals of {prop.name}: use another --target or --by")
        rows, features = _predicted(watch(predictor.stream_with_features(reader.entries(), lambda: reader.busy)))
    if not rows:
        raise UsageError("no structure of the pool could be predicted: `crystalpredict predict` says why")
    measured, names = _measured(pipeline.folder, predictor)
    scores = np.array([score_of(row, prop, by) for row in rows])
    size = max(count, min(CANDIDATES_EACH * count, len(rows) // 2), round(CANDIDATES_SHARE * len(rows)))
    candidates = np.arange(len(rows)) if by == By.distance else np.argsort(-scores, kind="stable")[:size]
    scale = np.concatenate([features, measured]).std(axis=0)
    used = scale > 0
    scale = scale[used] * sqrt(max(1, used.sum()))
    chosen = farthest(features[candidates][:, used] / scale, measured[:, used] / scale, count)
    LOG.info("%s structures, %s measured, %s suggestions", f"{len(rows):,}", f"{len(measured):,}", f"{len(chosen):,}")
    order = np.sort(scores)
    names += [f"{rows[candidates[number]].path}" for number, _, _ in chosen]
    return [
        Suggestion(
            rows[row],
            float(scores[row]),
            float(np.searchsorted(order, scores[row]) / len(order)),
            distance,
            names[nearest] if nearest >= 0 else "",
        )
        for row, distance, nearest in ((candidates[number], distance, nearest) for number, distance, nearest in chosen)
    ]


def _predicted(found: Iterable[Pair]) -> tuple[list[Prediction], FloatArray]:
    """Return the predictions and the features (R, D) of the structures that have both."""
    every = list(found)
    pairs = [(row, own) for row, own in every if own is not None]
    if failed := len(every) - len(pairs):
        LOG.info("%s structures could not be predicted: `crystalpredict predict` says why", f"{failed:,}")
    return [row for row, _ in pairs], np.array([features for _, features in pairs], dtype=np.float32)


def _measured(folder: Path, predictor: Predictor) -> tuple[FloatArray, list[str]]:
    """Return the features (M, D) and the ids of the crystals of a fine-tuning run; none if the folder is none."""
    path, checkpoint = folder / "training" / "crystals.npz", predictor.checkpoint
    if not path.is_file():
        return np.empty((0, checkpoint.model.config.features), dtype=np.float32), []
    table = CrystalTable.load(path)
    lists = neighbor_table(table, checkpoint.model.config.radius, merging=checkpoint.model.config.merging)
    _, features = outputs_and_features(checkpoint, table, lists, range(len(table)), strained=False)
    return features, [str(name) for name in table.ids]


def score_of(row: Prediction, prop: Property, by: By) -> float:
    """Return how much a prediction speaks for measuring its crystal, on the trained scale; 0 for `distance`."""
    value = row.values[prop.column]
    low, high = row.interval(prop.column) if prop.column in row.bounds else (value, value)
    if by == By.high:
        return float(prop.encode(np.array([high]))[0])
    if by == By.low:
        return -float(prop.encode(np.array([low]))[0])
    if by == By.uncertain:
        ends: FloatArray = prop.encode(np.array([low, high]))
        return float(ends[1] - ends[0]) / 2
    return 0.0


def farthest(candidates: FloatArray, measured: FloatArray, count: int) -> list[tuple[int, float, int]]:
    """Return at most `count` candidates, each as far as possible from those before and from what was measured.

    Args:
        candidates: features (C, D), the first of which is taken first if nothing was measured.
        measured: features (M, D).
        count: number of candidates to return; there are fewer if the others are the same as those before.

    Returns:
        For each: its number; the distance from the nearest one before, infinite if there is none; and the number of
        that, below M for one that was measured, otherwise M plus its place in the list, -1 if there is none.
    """
    distances, nearest = np.full(len(candidates), np.inf), np.full(len(candidates), -1)
    for start in range(0, len(measured), BLOCK):
        found = cdist(candidates, measured[start : start + BLOCK])
        _update(distances, nearest, found.min(axis=1), start + found.argmin(axis=1))
    chosen: list[tuple[int, float, int]] = []
    while len(chosen) < min(count, len(candidates)):
        best = int(distances.argmax())
        if distances[best] < SAME:
            break
        chosen.append((best, float(distances[best]), int(nearest[best])))
        number = np.full(len(candidates), len(measured) + len(chosen) - 1)
        _update(distances, nearest, cdist(candidates, candidates[[best]])[:, 0], number)
    return chosen


def _update(distances: FloatArray, nearest: IntArray, found: FloatArray, numbers: IntArray) -> None:
    """Take new centres into account: for each of C points, the distance from the nearest of them and its number."""
    closer = found < distances
    distances[closer], nearest[closer] = found[closer], numbers[closer]


def reason_of(found: Suggestion, prop: Property, by: By) -> str:
    """Return why a crystal is suggested, in words."""
    share = f"{100 * found.rank:.0f} % of the pool"
    row, column = found.row, prop.column
    low, high = row.interval(column) if column in row.bounds else (row[column], row[column])
    width = f"{found.score:.3g} {prop.trained_unit}".rstrip()
    why = {
        By.uncertain: f"interval of ± {width}, wider than that of {share}",
        By.high: f"may be as high as {high:.3g} {prop.unit}".rstrip() + f", more than {share}",
        By.low: f"may be as low as {low:.3g} {prop.unit}".rstrip() + f", less than {share}",
        By.distance: "",
    }[by]
    far = f"{found.distance:.2g} from the nearest before, {found.nearest}" if found.nearest else "nothing before it"
    return "; ".join(filter(None, (why, far)))


def write_suggestions(found: Sequence[Suggestion], prop: Property, by: By, intervals: bool, file: IO[str]) -> None:
    """Write the suggestions as CSV: the columns of predictions, and rank, score, distance, nearest and reason."""
    writer = csv.writer(file, lineterminator="\n")
    values = columns_of(prop, intervals)
    head = ["rank", "path", "index", "formula", "n_atoms", *values]
    writer.writerow([*head, "score", "distance", "nearest", "reason", "warnings"])
    for rank, each in enumerate(found, start=1):
        row = each.row
        measures = [f"{each.score:.5g}", f"{each.distance:.4g}" if each.nearest else ""]
        texts = [each.nearest, reason_of(each, prop, by), "; ".join(row.warnings)]
        cells = [rank, row.path, row.index, row.formula, row.n_atoms, *cells_of(row, prop, intervals)]
        writer.writerow([*cells, *measures, *texts])
