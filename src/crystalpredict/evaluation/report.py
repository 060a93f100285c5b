"""One HTML page about the errors of models: tables and embedded pictures, no external resources."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

from crystalpredict._version import __version__
from crystalpredict.evaluation.html import environment
from crystalpredict.evaluation.html import number as number
from crystalpredict.evaluation.scores import MIN_CRYSTALS_PER_ELEMENT, Group, Report, Score

CAPTIONS = {
    "parity": "Predictions over labels. They are equal on the line.",
    "errors": "Distribution of the errors: number of crystals whose prediction is too low or too high.",
    "coverage": "Interval coverage: fraction of the labels inside, over the level of the interval. Grey: 95 % of what "
    "chance makes of exact intervals.",
    "elements": "Mean absolute error of the crystals with each element, and their number.",
}
MAX_REASONS = 30  # listed; a table of broken structures may have a reason for each row
Table = tuple[Sequence[str], Sequence[Sequence[str]], int] | tuple[Sequence[str], Sequence[Sequence[str]], int, str]
"""Column heads, rows of cells, number of leading columns that are text, and the CSS class if there is one."""


def render_report(report: Report, images: Mapping[str, Mapping[str, bytes]]) -> str:
    """Return the HTML page of a report.

    Args:
        report: scores of one or more models.
        images: PNG images of the first model, by kind (the keys of CAPTIONS), by property name.
    """
    verb = "predicts" if len(report.models) == 1 else "predict"
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            title=f"How well {' and '.join(report.models)} {verb} {_file_name(report.path)}",
            report=report,
            sources=_sources(report),
            errors=_errors(report),
            differences=_differences(report),
            sections=[_section(report.beside(score), images.get(score.prop.name, {})) for score in report.leading],
            min_element_crystals=MIN_CRYSTALS_PER_ELEMENT,
            lost=_lost(report),
            other_reasons=report.lost[MAX_REASONS:],
        )
    )


def fraction(value: float) -> str:
    """Return a number around 1 with three decimals, `-` if it is not finite."""
    return f"{value:.3f}" if isfinite(value) else "-"


def span(low: float, high: float, sign: str = "") -> str:
    """Return an interval as `low to high`, `-` if an end is not finite; `sign` as for `number`."""
    return f"{number(low, sign)} to {number(high, sign)}" if isfinite(low) and isfinite(high) else "-"


def percent(share: float) -> str:
    """Return a fraction in percent, `-` if it is not finite."""
    return f"{100 * share:.1f} %" if isfinite(share) else "-"


def _file_name(path: str) -> str:
    return path.replace("\\", "/").rstrip("/").rpartition("/")[2]


def _sources(report: Report) -> list[tuple[str, str]]:
    return [
        ("data", f"{report.path}, sha256 {report.sha256}"),
        ("rows", f"{report.rows:,} read, {report.predicted:,} predicted, {report.rows - report.predicted:,} not"),
        *(("", note) for note in report.notes),
        *(("model", f"{name}, weights sha256 {sha256}") for name, sha256 in report.models.items()),
        ("made by", f"crystalpredict {__version__}"),
    ]


def _errors(report: Report) -> Table:
    """Return the table of all scores."""
    several = len(report.models) > 1
    heads = ["property", "unit", *(["model"] if several else []), "crystals", "MAE", "95 % interval", "median", "RMSE"]
    heads += ["R²", "largest", "MAD", "MAE/MAD"]
    rows = []
    for score in report.scores:
        found = score.metrics
        row = [score.prop.label, score.unit, *([score.model] if several else []), f"{found.count:,}", number(found.mae)]
        row += [span(*found.interval), *map(number, (found.median, found.rmse)), fraction(found.r2)]
        rows.append([*row, number(found.largest), number(found.deviation), fraction(found.relative)])
    return heads, rows, 3 if several else 2


def _differences(report: Report) -> Table:
    """Return the table of the differences between the errors of the other models and those of the first."""
    rows = [
        [score.prop.label, score.unit, score.model, number(change, "+"), span(low, high, "+")]
        for score in report.scores if score.difference for change, low, high in [score.difference]
    ]  # fmt: skip
    first = next(iter(report.models), "")
    return ["property", "unit", "model", f"MAE minus that of {first}", "95 % interval"], rows, 3


def _section(scores: Sequence[Score], images: Mapping[str, bytes]) -> dict[str, Any]:
    """Return what the template needs about a property on one scale: scores of each model, images and tables."""
    model = f" Model: {scores[0].model}." if len(scores) > 1 else ""
    confusion = scores[0].confusion
    return {
        "scores": scores,
        "images": [(kind, CAPTIONS[kind] + model, b64encode(png).decode()) for kind, png in images.items()],
        "positives": f"{confusion.true_positives + confusion.false_negatives:,}" if confusion else "",
        "decisions": _decisions(scores),
        "coverage": _coverage(scores),
        "by_size": _grouped("atoms", scores, [score.by_size for score in scores]),
        "by_element": _grouped("element", scores, [score.by_element for score in scores]),
        "largest": _largest(scores),
    }


def _largest(scores: Sequence[Score]) -> Table:
    """Return the table of the crystals with the largest errors."""
    several = len(scores) > 1
    rows = [
        [*([score.model] if several else []), crystal.id, crystal.formula, f"{crystal.row:,}", number(crystal.label),
         number(crystal.prediction), number(crystal.prediction - crystal.label, "+")]
        for score in scores for crystal in score.worst
    ]  # fmt: skip
    heads = [*(["model"] if several else []), "id", "formula", "row", "label", "prediction", "error"]
    return heads, rows, 3 if several else 2


def _decisions(scores: Sequence[Score]) -> Table | None:
    """Return the confusion counts of the property's yes-or-no question; None if it has none."""
    rows = [
        [score.model, *map(fraction, (c.accuracy, c.precision, c.recall)),
         *(f"{n:,}" for n in (c.true_positives, c.false_positives, c.false_negatives, c.true_negatives))]
        for score in scores if (c := score.confusion)
    ]  # fmt: skip
    heads = ["model", "accuracy", "precision", "recall", "true positives", "false positives", "false negatives"]
    return ([*heads, "true negatives"], rows, 1) if rows else None


def _coverage(scores: Sequence[Score]) -> Table | None:
    """Return the coverage of the intervals of each model that has some; None if no model has."""
    found = [(score, score.coverage) for score in scores if score.coverage]
    if not found:
        return None
    levels, shown = list(found[0][1].shares), found[0][1].shown
    sizes = list(dict.fromkeys(name for _, own in found for name, _, _ in own.by_third))
    heads = ["model", *(f"{level} % intervals" for level in levels), f"mean width at {shown} %"]
    heads += [f"{shown} %, {size} atoms" for size in sizes]
    rows = []
    for score, own in found:
        shares = {name: percent(share) for name, _, share in own.by_third}
        row = [score.model, *(percent(own.shares[level]) for level in levels), number(own.widths[own.shown])]
        rows.append([*row, *(shares.get(size, "-") for size in sizes)])
    return heads, rows, 1


def _grouped(head: str, scores: Sequence[Score], groups: Sequence[Sequence[Group]]) -> Table:
    """Return the errors of groups of crystals: a row for each group, a column for each model."""
    names = [score.model for score in scores] if len(scores) > 1 else ["MAE"]
    rows = [
        [same[0].name, f"{same[0].count:,}", *(number(group.mae) for group in same)]
        for same in zip(*groups, strict=True)
    ]
    return [head, "crystals", *names], rows, 1


def _lost(report: Report) -> Table:
    rows = [[loss.reason, f"{loss.count:,}", f"{loss.row:,}"] for loss in report.lost[:MAX_REASONS]]
    return ["reason", "rows", "first row"], rows, 1, "prose"
