"""Score the predictions of one or more models against labels."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from crystalpredict._files import file_sha256
from crystalpredict.crystals.crystal import ATOMIC_NUMBERS, ELEMENTS, FloatArray, IntArray
from crystalpredict.data.labels import SPLIT_WORDS
from crystalpredict.errors import UsageError
from crystalpredict.evaluation.metrics import Confusion, confusion_of, interval_of_mean, metrics_of
from crystalpredict.evaluation.scores import (
    DECISIONS,
    MIN_CRYSTALS_PER_ELEMENT,
    Coverage,
    Group,
    Loss,
    Outlier,
    Report,
    Score,
    StabilityScore,
    stability_scores,
)
from crystalpredict.io.table_formats import ID_PROP
from crystalpredict.properties import E_ABOVE_HULL, HULL_BY_NETWORK, Property
from crystalpredict.uncertainty import DEFAULT_LEVEL, LEVELS

if TYPE_CHECKING:
    from crystalpredict.data.labels import LabelledTable
    from crystalpredict.prediction.rows import Prediction

SIZE_RANGES = ((1, 8), (9, 40), (41, None))  # atoms in the cell, the same as in the model cards
NO_BOUNDS = np.full((len(LEVELS), 2), np.nan)  # of a prediction without intervals
MAX_OUTLIERS = 10  # crystals with the largest errors in a score


@dataclass(frozen=True)
class ModelPredictions:
    """Predictions of a model for R rows of a table, in order.

    Attributes:
        name: of the model.
        sha256: of its weights.
        values: in the properties' units, not a number where the prediction failed, (R, P).
        formulas: (R,).
        n_atoms: atoms in the cell, 0 if no structure was read, (R,).
        warnings: of each prediction, (R,).
        reasons: why the prediction failed, else "", (R,).
        bounds: ends of the intervals, not a number where missing, (R, P, levels, 2); None without intervals.
        hull_by_network: energies above hull that the network alone gives, (R,), where values have another source.
    """

    name: str
    sha256: str
    values: FloatArray
    formulas: tuple[str, ...]
    n_atoms: IntArray
    warnings: tuple[tuple[str, ...], ...]
    reasons: tuple[str, ...]
    bounds: FloatArray | None = None
    hull_by_network: FloatArray | None = None


def collect_predictions(
    name: str, sha256: str, columns: Sequence[str], predictions: Iterable[Prediction]
) -> ModelPredictions:
    """Return the predictions of a model for the rows of a table.

    Args:
        name: of the model.
        sha256: of its weights.
        columns: of the P properties.
        predictions: for all structures of the sources of the rows, in order.
    """
    rows = list(_first_of_each_source(predictions))
    values = [[row.values.get(column, np.nan) for column in columns] for row in rows]
    bounds = [[row.bounds.get(column, NO_BOUNDS) for column in columns] for row in rows]
    by_network = np.array([row.values.get(HULL_BY_NETWORK, np.nan) for row in rows], dtype=float)
    return ModelPredictions(
        name=name,
        sha256=sha256,
        values=np.array(values, dtype=float).reshape(len(rows), len(columns)),
        formulas=tuple(row.formula for row in rows),
        n_atoms=np.array([row.n_atoms or 0 for row in rows], dtype=int),
        warnings=tuple(row.warnings for row in rows),
        reasons=tuple(row.error for row in rows),
        bounds=np.array(bounds, dtype=float).reshape(len(rows), len(columns), *NO_BOUNDS.shape),
        hull_by_network=by_network if np.isfinite(by_network).any() else None,
    )


def _first_of_each_source(predictions: Iterable[Prediction]) -> Iterator[Prediction]:
    """Yield one prediction for each source; several structures are an error, because there is one label."""
    last: Prediction | None = None
    for row in predictions:
        if last and row.index:
            last = replace(last, values={}, error="several structures for one label: each row must have one structure")
            continue
        if last:
            yield last
        last = row
    if last:
        yield last


def evaluate(table: LabelledTable, models: Sequence[ModelPredictions]) -> Report:
    """Return the report on one or more models.

    Several models are compared on the crystals for which all of them have a prediction. A property without labelled and
    predicted crystals has no score.

    Args:
        table: R rows with labels.
        models: predictions of each model for the R rows; differences are taken from the first.
    """
    from crystalpredict.data.summary import warnings_of_labels  # here: it imports torch

    path, reasons = Path(table.path), _failure_reasons(models)
    suspicions = warnings_of_labels(table.labels, table.properties, models[0].n_atoms)
    lost = [(drop.row, drop.reason) for drop in table.dropped]
    lost += [(row, reason) for row, reason in zip(table.rows.tolist(), reasons, strict=True) if reason]
    scores = tuple(_scores(table, models))
    scored = {score.prop for score in scores}
    unscored = [
        f"{prop.label}: no row has both a label and a prediction" for prop in table.properties if prop not in scored
    ]
    unscored += _models_without_score(table, models)
    return Report(
        path=table.path,
        sha256=file_sha256(path / ID_PROP if path.is_dir() else path),
        rows=len(table.ids) + len(table.dropped),
        lost=_count_reasons(lost),
        notes=(*table.notes, *_missing_labels(table), *suspicions, *unscored),
        models={model.name: model.sha256 for model in models},
        scores=scores,
    )


def rows_of_split(table: LabelledTable, split: str) -> LabelledTable:
    """Return the rows of one part of the table's split column.

    Args:
        table: with a split column.
        split: name of the part.

    Raises:
        UsageError: no row is in this part.
    """
    wanted = SPLIT_WORDS.get(split.strip().lower(), split.strip())
    chosen = [number for number, name in enumerate(table.splits) if name == wanted]
    if not chosen:
        counts = Counter(filter(None, table.splits))
        has = ", ".join(f"{name} ({count:,})" for name, count in sorted(counts.items())) or "no column of that name"
        if table.dropped:
            first = table.dropped[0]
            has += f"; {len(table.dropped):,} rows were dropped, the first, row {first.row}: {first.reason}"
        raise UsageError(f"{table.path}: no row of split {split!r}: it has {has}")
    rows = set(table.rows[chosen].tolist())
    note = f"split {wanted}, {len(chosen):,} of {len(table.ids):,} rows with labels"
    return replace(
        table,
        ids=tuple(table.ids[number] for number in chosen),
        rows=table.rows[chosen],
        sources=tuple(table.sources[number] for number in chosen),
        labels=table.labels[chosen],
        splits=(wanted,) * len(chosen),
        dropped_labels=tuple(hole for hole in table.dropped_labels if hole.row in rows),
        notes=(*table.notes, note + (", and all dropped rows" if table.dropped else "")),
    )


def _missing_labels(table: LabelledTable) -> Iterator[str]:
    """Yield messages about missing labels by property, and about labels that were left out by reason."""
    for column, prop in enumerate(table.properties):
        if missing := int(np.isnan(table.labels[:, column]).sum()):
            yield f"{prop.label}: {missing:,} of {len(table.ids):,} rows have no label"
    for loss in _count_reasons([(hole.row, hole.reason) for hole in table.dropped_labels]):
        yield f"{loss.count:,} label(s) left out: {loss.reason} (first: row {loss.row})"


def _scores(table: LabelledTable, models: Sequence[ModelPredictions]) -> Iterator[Score]:
    """Yield the scores by property, scale and model."""
    elements = _elements(models[0].formulas)
    for column, prop in enumerate(table.properties):
        for unit, convert in scales(prop):
            scored = [model for model in models if _count_undefined(model, table.labels, column, convert) == 0]
            scored = [model for model in scored if np.isfinite(model.values[:, column]).any()]
            on_scale = convert(np.stack([table.labels[:, column], *(model.values[:, column] for model in scored)]))
            rows = np.flatnonzero(np.isfinite(on_scale).all(axis=0))  # of (1 + models, R)
            if not scored or not len(rows):
                continue
            labels, *predictions = on_scale[:, rows]
            errors = np.abs(predictions - labels)
            for model, ours, misses in zip(scored, predictions, errors, strict=True):
                change = misses - errors[0]
                yield Score(
                    model=model.name,
                    prop=prop,
                    unit=unit,
                    metrics=metrics_of(labels, ours),
                    by_size=_by_size(misses, models[0].n_atoms[rows]),
                    by_element=_by_element(misses, elements[rows]),
                    confusion=_confusion(prop, labels, ours),
                    difference=None
                    if model is models[0] or scored[0] is not models[0]
                    else (float(change.mean()), *interval_of_mean(change)),
                    worst=tuple(
                        Outlier(table.ids[row], int(table.rows[row]), models[0].formulas[row], label, value)
                        for row, label, value in _largest_errors(rows, labels, ours)
                    ),
                    labels=labels,
                    predictions=ours,
                    coverage=_coverage(model, column, labels, rows, convert),
                    stability=_stability(model, labels, ours, rows) if prop.name == E_ABOVE_HULL else (),
                )


def _count_undefined(
    model: ModelPredictions, labels: FloatArray, column: int, convert: Callable[[FloatArray], FloatArray]
) -> int:
    """Return how many predictions for labels (R, P) of a property do not exist on a scale, such as logarithms."""
    values = model.values[np.isfinite(labels[:, column]), column]
    return int((np.isfinite(values) & ~np.isfinite(convert(values))).sum())


def _models_without_score(table: LabelledTable, models: Sequence[ModelPredictions]) -> Iterator[str]:
    """Yield messages about models without a log score, because some predictions are not positive."""
    for column, prop in enumerate(table.properties):
        for unit, convert in scales(prop):
            for model in models:
                if count := _count_undefined(model, table.labels, column, convert):
                    yield f"{prop.label}: {count:,} predictions of {model.name} are not positive: no score in {unit}"


def _confusion(prop: Property, labels: FloatArray, predictions: FloatArray) -> Confusion | None:
    decision = DECISIONS.get(prop.name)
    return confusion_of(labels <= decision.limit, predictions <= decision.limit) if decision else None


def _stability(
    model: ModelPredictions, labels: FloatArray, predictions: FloatArray, rows: IntArray
) -> tuple[StabilityScore, ...]:
    """Return how well stable crystals are found, by the model's energies above hull and by its network's alone."""
    by_network = model.hull_by_network
    if by_network is None:
        return stability_scores(labels, {"network output": predictions})
    ways = {"formation energy less hull": predictions, "network output": by_network[rows]}
    return stability_scores(labels, ways)


def _largest_errors(rows: IntArray, labels: FloatArray, predictions: FloatArray) -> Iterator[tuple[int, float, float]]:
    """Return row, label and prediction of the largest errors, the largest first."""
    order = np.argsort(-np.abs(predictions - labels), kind="stable")[:MAX_OUTLIERS]
    return zip(rows[order].tolist(), labels[order].tolist(), predictions[order].tolist(), strict=True)


def scales(prop: Property) -> list[tuple[str, Callable[[FloatArray], FloatArray]]]:
    """Return the units of a property's scores and the conversions to them; the first is that of the literature."""
    if prop.transform == "log10":
        return [(prop.trained_unit, prop.encode), (prop.unit, lambda values: values)]
    return [(prop.unit, lambda values: values)]


def _by_size(
    errors: FloatArray, n_atoms: IntArray, sizes: Sequence[tuple[int, int | None]] = SIZE_RANGES
) -> tuple[Group, ...]:
    """Return the mean errors (n,) of crystals by their number of atoms (n,), in ranges; the last is open."""
    groups = []
    for low, high in sizes:
        name = str(low) if high == low else f"{low}-{high}" if high else f">{low - 1}"
        groups.append(_group(name, errors[(n_atoms >= low) & (n_atoms <= (high or np.inf))]))
    return tuple(group for group in groups if group.count)


def _thirds(n_atoms: IntArray) -> list[tuple[int, int | None]]:
    """Return ranges of sizes with about a third of the crystals each; crystals of one size are in one range."""
    one, two = np.quantile(n_atoms, [1 / 3, 2 / 3], method="lower").tolist()
    return [(1, one), (one + 1, two), (two + 1, None)]


def _coverage(
    model: ModelPredictions,
    column: int,
    labels: FloatArray,
    rows: IntArray,
    convert: Callable[[FloatArray], FloatArray],
) -> Coverage | None:
    """Return the coverage of the labels (n,) of some rows by a model's intervals; None without intervals."""
    if model.bounds is None or not np.isfinite(bounds := model.bounds[rows, column]).all():
        return None
    ends = np.nan_to_num(convert(bounds), nan=-np.inf)  # (n, levels, 2); 0 and less have no logarithm
    slack = 1e-9 * np.abs(labels)[:, None]  # a label at an end is inside, despite rounding
    inside = (ends[..., 0] - slack <= labels[:, None]) & (labels[:, None] <= ends[..., 1] + slack)
    shares, widths = inside.mean(axis=0).tolist(), np.diff(ends, axis=-1)[..., 0].mean(axis=0).tolist()
    misses, sizes = 1.0 - inside[:, LEVELS.index(DEFAULT_LEVEL)], model.n_atoms[rows]
    thirds = _by_size(misses, sizes, _thirds(sizes))
    return Coverage(
        shares=dict(zip(LEVELS, shares, strict=True)),
        widths=dict(zip(LEVELS, widths, strict=True)),
        by_third=tuple((group.name, group.count, 1 - group.mae) for group in thirds),
        shown=DEFAULT_LEVEL,
    )


def _by_element(errors: FloatArray, elements: NDArray[np.bool_]) -> tuple[Group, ...]:
    """Return the mean errors of the crystals with each element; errors (n,), elements (n, 98)."""
    groups = (_group(symbol, errors[having]) for symbol, having in zip(ELEMENTS, elements.T, strict=True))
    return tuple(group for group in groups if group.count >= MIN_CRYSTALS_PER_ELEMENT)


def _group(name: str, errors: FloatArray) -> Group:
    return Group(name, len(errors), float(errors.mean()) if len(errors) else np.nan)


def _elements(formulas: Sequence[str]) -> NDArray[np.bool_]:
    """Return which elements (R, 98) are in each formula (R,)."""
    found = np.zeros((len(formulas), len(ELEMENTS)), dtype=bool)
    for row, formula in enumerate(formulas):
        numbers = (ATOMIC_NUMBERS.get(symbol) for symbol in re.findall("[A-Z][a-z]?", formula))
        found[row, [number - 1 for number in numbers if number]] = True
    return found


def _failure_reasons(models: Sequence[ModelPredictions]) -> list[str]:
    """Return why each row has no prediction (R,), by the first model that failed; "" if all have one."""
    return [next(filter(None, reasons), "") for reasons in zip(*(model.reasons for model in models), strict=True)]


def _count_reasons(lost: Sequence[tuple[int, str]]) -> tuple[Loss, ...]:
    """Return the reasons of lost rows with their counts, the most frequent first."""
    rows: dict[str, list[int]] = {}
    for row, reason in lost:
        rows.setdefault(reason, []).append(row)
    losses = (Loss(reason, len(which), min(which)) for reason, which in rows.items())
    return tuple(sorted(losses, key=lambda loss: (-loss.count, loss.row)))


def prediction_rows(table: LabelledTable, models: Sequence[ModelPredictions]) -> Iterator[dict[str, Any]]:
    """Yield each row of the table, dropped ones too: labels, predictions, errors, or the reason of the failure.

    Every row has the same keys; a missing value is None. Keys of all models but the first end in the model's name.

    Args:
        table: R rows with labels.
        models: predictions of each model for the R rows.
    """
    reasons, first = _failure_reasons(models), models[0]
    endings = ["", *(f"_{model.name}" for model in models[1:])]
    blank: dict[str, float | None] = {
        key: None
        for prop in table.properties
        for key in (
            f"{prop.column}_label",
            *(f"{prop.column}_{kind}{ending}" for ending in endings for kind in ("predicted", "error")),
        )
    }
    order = [(row, number, None) for number, row in enumerate(table.rows.tolist())]
    for row, number, drop in sorted([*order, *((drop.row, -1, drop) for drop in table.dropped)], key=itemgetter(0)):
        if drop:
            yield _record(drop.id, row, drop.file) | blank | {"warnings": "", "reason": drop.reason}
            continue
        values = dict(blank)
        for column, prop in enumerate(table.properties):
            label = table.labels[number, column]
            values[f"{prop.column}_label"] = float(label) if isfinite(label) else None
            for ending, model in zip(endings, models, strict=True):
                value = model.values[number, column]
                values[f"{prop.column}_predicted{ending}"] = _rounded(value, prop.decimals)
                values[f"{prop.column}_error{ending}"] = _rounded(value - label, prop.decimals)
        source = table.sources[number]
        path = source if isinstance(source, str) else source.name
        crystal = _record(table.ids[number], row, path, first.formulas[number], int(first.n_atoms[number]))
        yield crystal | values | {"warnings": "; ".join(first.warnings[number]), "reason": reasons[number]}


def _record(name: str, row: int, path: str, formula: str = "", n_atoms: int = 0) -> dict[str, Any]:
    return {"id": name, "row": row, "path": path, "formula": formula or None, "n_atoms": n_atoms or None}


def _rounded(value: float, decimals: int) -> float | None:
    return round(float(value), decimals) if isfinite(value) else None
