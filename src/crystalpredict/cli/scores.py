"""A report on models as a table, CSV or JSON, and the rows of a table with their predictions as a file."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import IO, TYPE_CHECKING, Any

from crystalpredict.cli.render import Format

if TYPE_CHECKING:
    from rich.table import Table

    from crystalpredict.scores import Report, Score

ELEMENTS_SHOWN = 6  # of a property, those with the largest errors
FIELDS = (
    "model", "property", "unit", "crystals", "mae", "mae_low95", "mae_high95", "median_error", "rmse", "r2",
    "max_error", "mad_of_labels", "mae_over_mad", "mae_difference", "mae_difference_low95", "mae_difference_high95",
    "decision", "at_most", "accuracy", "precision", "recall",
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
    if score.decision:
        fields |= fields[score.decision.name] | {"decision": score.decision.name}
    return fields


def _print_tables(report: Report, stream: IO[str]) -> None:
    """Errors; how often a yes or no is right; errors by size and by element, each on the literature's scale."""
    from rich.console import Console

    console = Console(file=stream, width=None if stream.isatty() else 200, highlight=False)
    several = len(report.models) > 1
    console.print(_table_of_errors(report, several))
    leading = [score for first in report.leading for score in report.beside(first)]
    if any(score.confusion for score in leading):
        console.print(_table_of_decisions(leading, several))
    console.print(_table_of_groups(leading, several))


def _new_table(heads: Sequence[str], words: int) -> Table:
    """A table with these heads, of which the first are over words, the others over numbers."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column, head in enumerate(heads):
        table.add_column(head, justify="left" if column < words else "right", overflow="fold")
    return table


def _names(score: Score, several: bool) -> list[str]:
    from rich.markup import escape

    return [escape(name) for name in (score.prop.label, score.unit, *([score.model] if several else []))]


def _table_of_errors(report: Report, several: bool) -> Table:
    from crystalpredict.report import difference, fraction, number, span

    heads = ["property", "unit", *(["model"] if several else []), "crystals", "MAE", "95 % interval", "RMSE", "R²"]
    heads += ["largest", "MAE/MAD", *(["MAE - first model's"] if several else [])]
    table = _new_table(heads, 3 if several else 2)
    for score in report.scores:
        found = score.metrics
        cells = [f"{found.count:,}", number(found.mae), span(*found.interval), number(found.rmse), fraction(found.r2)]
        cells += [number(found.largest), fraction(found.relative), *([difference(score)] if several else [])]
        table.add_row(*_names(score, several), *cells)
    return table


def _table_of_decisions(scores: Sequence[Score], several: bool) -> Table:
    from crystalpredict.report import fraction

    table = _new_table([*(["model"] if several else []), "called", "by labels", "right", "precision", "recall"], 1)
    for score in scores:
        if (decision := score.decision) and (counts := score.confusion):
            called = f"{decision.name}: {score.prop.label} ≤ {decision.limit:g} {score.prop.unit}"
            so = f"{counts.true_positives + counts.false_negatives:,} of {score.metrics.count:,}"
            shares = map(fraction, (counts.accuracy, counts.precision, counts.recall))
            table.add_row(*([score.model] if several else []), called, so, *shares)
    return table


def _table_of_groups(scores: Sequence[Score], several: bool) -> Table:
    from crystalpredict.report import number

    sizes = list(dict.fromkeys(group.name for score in scores for group in score.by_size))
    heads = ["MAE (crystals)", "unit", *(["model"] if several else []), *(f"{size} atoms" for size in sizes)]
    table = _new_table([*heads, "worst elements"], 3 if several else 2)
    table.columns[-1].justify = "left"
    for score in scores:
        found = {group.name: f"{number(group.mae)} ({group.count:,})" for group in score.by_size}
        worst = sorted(score.by_element, key=lambda group: -group.mae)[:ELEMENTS_SHOWN]
        told = ", ".join(f"{group.name} {number(group.mae)} ({group.count:,})" for group in worst)
        table.add_row(*_names(score, several), *(found.get(size, "-") for size in sizes), told)
    return table
