"""A report on models as a table, CSV or JSON, and the rows of a table with their predictions as a file."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import IO, TYPE_CHECKING, Any

from crystalpredict.prediction.writers import Format

if TYPE_CHECKING:
    from rich.table import Table

    from crystalpredict.evaluation.scores import Report, Score

WIDE = 110  # characters of a terminal, which several models need for all columns
ELEMENTS_SHOWN = 5  # of a property, those with the largest errors
FIELDS = (
    "model", "property", "unit", "crystals", "mae", "mae_low95", "mae_high95", "median_error", "rmse", "r2",
    "max_error", "mad_of_labels", "mae_over_mad", "mae_difference", "mae_difference_low95", "mae_difference_high95",
    "coverage90", "mean_width90", "decision", "at_most", "accuracy", "precision", "recall",
)  # fmt: skip


class ReportFormat(StrEnum):
    """How a report is printed; `auto` is a table on a terminal, CSV in a pipe."""

    auto = "auto"
    table = "table"
    csv = "csv"
    json = "json"


def write_report(report: Report, kind: ReportFormat, stream: IO[str]) -> None:
    """Print the report: JSON has all of it, CSV a line for each score, the table what fits on a screen."""
    if kind == ReportFormat.json:
        stream.write(json.dumps(report.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    elif kind == ReportFormat.csv:
        rows = csv.DictWriter(stream, FIELDS, extrasaction="ignore", lineterminator="\n")
        rows.writeheader()
        rows.writerows(map(_fields, report.scores))
    elif report.scores:
        _print_tables(report, stream)


def write_records(records: Iterable[dict[str, Any]], kind: Format, stream: IO[str]) -> None:
    """Write rows that all have the same keys as CSV, JSON or JSON lines."""
    if kind == Format.csv:
        rows: csv.DictWriter[str] | None = None
        for record in records:
            if rows is None:
                rows = csv.DictWriter(stream, list(record), lineterminator="\n")
                rows.writeheader()
            rows.writerow(record)
        return
    lines = (json.dumps(record, ensure_ascii=False, allow_nan=False) for record in records)
    if kind == Format.json:
        stream.write("[\n" + ",\n".join(lines) + "\n]\n")
    else:
        stream.writelines(line + "\n" for line in lines)


def _fields(score: Score) -> dict[str, Any]:
    """A score as a line of CSV."""
    fields = score.to_dict()
    fields["mae_low95"], fields["mae_high95"] = fields["mae_interval95"]
    fields["mae_difference_low95"], fields["mae_difference_high95"] = fields.get("mae_difference_interval95", ("", ""))
    if score.coverage:
        shares, widths = fields["intervals"]["coverage"], fields["intervals"]["mean_width"]
        fields["coverage90"], fields["mean_width90"] = shares["90"], widths["90"]
    if score.decision:
        fields |= fields[score.decision.name] | {"decision": score.decision.name}
    return fields


def _print_tables(report: Report, stream: IO[str]) -> None:
    """Errors; how often a yes or no is right; errors by size and by element, each on the literature's scale."""
    from rich.console import Console

    console = Console(file=stream, width=None if stream.isatty() else 200, highlight=False)
    several = len(report.models) > 1
    console.print(_table_of_errors(report.scores, several, brief=several and console.width < WIDE))
    if several:
        console.print(_table_of_differences(report))
    leading = [score for first in report.leading for score in report.beside(first)]
    if any(score.confusion for score in leading):
        console.print(_table_of_decisions(leading, several))
    if any(score.stability for score in leading):
        console.print(_table_of_stability(leading, several))
    if any(score.coverage for score in leading):
        console.print(_table_of_coverage(leading, several))
    console.print(_table_of_sizes(leading, several))
    if any(score.by_element for score in leading):
        console.print(_table_of_elements(leading, several))


def _new_table(words: Sequence[str], numbers: Sequence[str]) -> Table:
    """A table with columns of words, which may be broken into lines, and of numbers, which may not."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for head in words:
        table.add_column(head)
    for head in numbers:
        table.add_column(head, justify="right", no_wrap=True)
    return table


def _names(score: Score, several: bool) -> list[str]:
    from rich.markup import escape

    return [escape(name) for name in (_quantity(score), *([score.model] if several else []))]


def _quantity(score: Score) -> str:
    """A property with the unit of its errors."""
    return f"{score.prop.label}, {score.unit}" if score.unit else score.prop.label


def _table_of_errors(scores: Sequence[Score], several: bool, *, brief: bool) -> Table:
    from crystalpredict.evaluation.report import fraction, number, span

    heads = ["crystals", "MAE", "95 % interval", "MAE/MAD", *([] if brief else ["RMSE", "R²", "largest"])]
    table = _new_table(["errors", *(["model"] if several else [])], heads)
    for score in scores:
        found = score.metrics
        cells = [f"{found.count:,}", number(found.mae), span(*found.interval), fraction(found.relative)]
        more = [] if brief else [number(found.rmse), fraction(found.r2), number(found.largest)]
        table.add_row(*_names(score, several), *cells, *more)
    return table


def _table_of_differences(report: Report) -> Table:
    from crystalpredict.evaluation.report import number, span

    first = next(iter(report.models))
    table = _new_table(["errors", "model"], [f"MAE - {first}'s", "95 % interval"])
    for score in report.scores:
        if score.difference:
            change, low, high = score.difference
            table.add_row(*_names(score, True), number(change, "+"), span(low, high, "+"))
    return table


def _table_of_decisions(scores: Sequence[Score], several: bool) -> Table:
    from crystalpredict.evaluation.report import fraction

    words = ["called", *(["model"] if several else [])]
    table = _new_table(words, ["by labels", "right", "precision", "recall"])
    for score in scores:
        if (decision := score.decision) and (counts := score.confusion):
            called = f"{decision.name}: {score.prop.label} ≤ {decision.limit:g} {score.prop.unit}"
            so = f"{counts.true_positives + counts.false_negatives:,} of {score.metrics.count:,}"
            shares = map(fraction, (counts.accuracy, counts.precision, counts.recall))
            table.add_row(called, *_names(score, several)[1:], so, *shares)
    return table


def _table_of_stability(scores: Sequence[Score], several: bool) -> Table:
    from crystalpredict.evaluation.report import fraction

    heads = ["stable by labels", "precision", "recall", "F1", "DAF"]
    table = _new_table(["found as stable, by", *(["model"] if several else [])], ["at most, eV/atom", *heads])
    for score in scores:
        for found in score.stability:
            counts = found.confusion
            stable = f"{counts.true_positives + counts.false_negatives:,} of {score.metrics.count:,}"
            shares = map(fraction, (counts.precision, counts.recall, counts.f1, counts.acceleration))
            model = [score.model] if several else []
            table.add_row(found.way, *model, f"{found.limit:g}", stable, *shares)
    return table


def _table_of_coverage(scores: Sequence[Score], several: bool) -> Table:
    from crystalpredict.evaluation.report import number, percent

    found = [(score, score.coverage) for score in scores if score.coverage]
    first = found[0][1]
    heads = [*(f"{level} %" for level in first.shares), f"mean width, {first.shown} %"]
    table = _new_table(["labels inside", *(["model"] if several else [])], heads)
    for score, own in found:
        table.add_row(*_names(score, several), *map(percent, own.shares.values()), number(own.widths[own.shown]))
    return table


def _table_of_sizes(scores: Sequence[Score], several: bool) -> Table:
    from crystalpredict.evaluation.report import number

    sizes = list(dict.fromkeys(group.name for score in scores for group in score.by_size))
    table = _new_table(["MAE (crystals)", *(["model"] if several else [])], [f"{size} atoms" for size in sizes])
    for score in scores:
        found = {group.name: f"{number(group.mae)} ({group.count:,})" for group in score.by_size}
        table.add_row(*_names(score, several), *(found.get(size, "-") for size in sizes))
    return table


def _table_of_elements(scores: Sequence[Score], several: bool) -> Table:
    from crystalpredict.evaluation.report import number
    from crystalpredict.evaluation.scores import FEWEST

    head = f"elements with the largest, of {FEWEST} crystals or more"
    table = _new_table(["MAE", *(["model"] if several else []), head], [])
    for score in scores:
        worst = sorted(score.by_element, key=lambda group: -group.mae)[:ELEMENTS_SHOWN]
        told = ", ".join(f"{group.name}\N{NO-BREAK SPACE}{number(group.mae)}" for group in worst)
        table.add_row(*_names(score, several), told)
    return table
