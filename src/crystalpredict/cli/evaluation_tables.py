"""Print a report on models as tables, CSV or JSON, and write labelled rows with their predictions."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import IO, TYPE_CHECKING, Any

from crystalpredict.cli.terminal import GAP, filled, width_of, wrapped
from crystalpredict.prediction.writers import Format

if TYPE_CHECKING:
    from rich.console import Console

    from crystalpredict.evaluation.scores import Report, Score

ELEMENTS_SHOWN = 5  # for each property, those with the largest errors


class ReportFormat(StrEnum):
    """Formats of a report; `auto`: a table on a terminal, CSV in a pipe."""

    auto = "auto"
    table = "table"
    csv = "csv"
    json = "json"


def write_report(report: Report, kind: ReportFormat, stream: IO[str]) -> None:
    """Print the report: JSON in full, CSV as a line for each score, tables as a selection."""
    if kind == ReportFormat.json:
        stream.write(json.dumps(report.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    elif kind == ReportFormat.csv:
        from crystalpredict.evaluation.scores import SCORE_COLUMNS

        rows = csv.DictWriter(stream, SCORE_COLUMNS, lineterminator="\n")
        rows.writeheader()
        rows.writerows(score.to_row() for score in report.scores)
    elif report.scores:
        _print_tables(report, stream)


def write_records(records: Iterable[dict[str, Any]], kind: Format, stream: IO[str]) -> None:
    """Write rows with equal keys as CSV, JSON or JSON lines."""
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


@dataclass(frozen=True)
class Grid:
    """A table that is fitted to the width of a terminal.

    Attributes:
        words: Heads of text columns: the subject of a row, the model if there are several, and others.
        numbers: Heads of number columns.
        rows: Cells of both, in this order.
        optional: Number of last columns that a narrow terminal omits.
    """

    words: Sequence[str]
    numbers: Sequence[str]
    rows: Sequence[Sequence[str]]
    optional: int = 0

    def stacked(self) -> Grid:
        """Return the table with each model below the subject of its row."""
        if self.words[1:2] != ["model"]:
            return self
        rows = [(f"{about}\n  {model}", *others) for about, model, *others in self.rows]
        return replace(self, words=[self.words[0], *self.words[2:]], rows=rows)

    def without_optional(self) -> Grid:
        """Return the table without optional columns."""
        kept = len(self.words) + len(self.numbers) - self.optional
        rows = [row[:kept] for row in self.rows]
        return replace(self, numbers=self.numbers[: len(self.numbers) - self.optional], rows=rows, optional=0)

    def min_widths(self) -> list[int]:
        """Return the width of each column's longest word, number or indented line."""
        return [
            max(
                width_of(piece)
                for line in column
                for piece in (line.split(" ") if words and line[:1] != " " else [line])
            )
            for column, words in self._columns()
        ]

    def print(self, console: Console) -> None:
        """Print the first layout that fits without breaking a word or number, or else the narrowest."""
        *forms, last = self, self.stacked(), self.stacked().without_optional()
        needed = ((form, sum(widths := form.min_widths()) + len(GAP) * (len(widths) - 1)) for form in forms)
        next((form for form, width in needed if width <= console.width), last)._print(console)

    def _print(self, console: Console) -> None:
        widths = self.min_widths()
        room = console.width - sum(widths) - len(GAP) * (len(widths) - 1)
        for place, (column, _) in enumerate(self._columns()[: len(self.words)]):
            more = max(0, min(room, max(map(width_of, column)) - widths[place]))
            widths[place], room = widths[place] + more, room - more
        for number, row in enumerate(([*self.words, *self.numbers], *self.rows)):
            cells = [wrapped(cell, width) for cell, width in zip(row, widths, strict=True)]
            height = max(map(len, cells))
            columns = [[""] * (height - len(cell)) + cell for cell in cells]  # aligned at the bottom
            for pieces in zip(*columns, strict=True):
                texts = [
                    filled(piece, width, left=place < len(self.words))
                    for place, (piece, width) in enumerate(zip(pieces, widths, strict=True))
                ]
                style = None if number else "bold"
                console.print(GAP.join(texts).rstrip(), style=style, markup=False, soft_wrap=True)
            if not number:
                console.print("─" * (sum(widths) + len(GAP) * (len(widths) - 1)), soft_wrap=True)
        console.print()

    def _columns(self) -> list[tuple[list[str], bool]]:
        """Return the lines of each column, and whether it is a text column."""
        return [
            (
                [line for text in (head, *(row[place] for row in self.rows)) for line in text.split("\n")],
                place < len(self.words),
            )
            for place, head in enumerate([*self.words, *self.numbers])
        ]


def _print_tables(report: Report, stream: IO[str]) -> None:
    """Print errors, classification, coverage, and errors by size and element, on the literature's scale."""
    from rich.console import Console

    console = Console(file=stream, width=None if stream.isatty() else 200, highlight=False)
    several = len(report.models) > 1
    _errors(report.scores, several).print(console)
    if several:
        _differences(report).print(console)
    leading = [score for first in report.leading for score in report.beside(first)]
    if any(score.confusion for score in leading):
        _decisions(leading, several).print(console)
    if any(score.stability for score in leading):
        _stability(leading, several).print(console)
    if any(score.coverage for score in leading):
        _coverage(leading, several).print(console)
    _errors_by_size(leading, several).print(console)
    if any(score.by_element for score in leading):
        _errors_by_element(leading, several).print(console)


def _heads(about: str, several: bool) -> list[str]:
    return [about, *(["model"] if several else [])]


def _names(score: Score, several: bool) -> list[str]:
    """Return a property with the unit of its errors and, if there are several, the model."""
    about = f"{score.prop.label}, {score.unit}" if score.unit else score.prop.label
    return [about, *([score.model] if several else [])]


def _errors(scores: Sequence[Score], several: bool) -> Grid:
    from crystalpredict.evaluation.report import fraction, number, span

    rows = []
    for score in scores:
        found = score.metrics
        cells = [f"{found.count:,}", number(found.mae), span(*found.interval), fraction(found.relative)]
        more = [number(found.rmse), fraction(found.r2), number(found.largest)]
        rows.append([*_names(score, several), *cells, *more])
    heads = ["crystals", "MAE", "95 % interval", "MAE/MAD", "RMSE", "R²", "largest"]
    return Grid(_heads("errors", several), heads, rows, optional=3)


def _differences(report: Report) -> Grid:
    from crystalpredict.evaluation.report import number, span

    rows = []
    for score in report.scores:
        if score.difference:
            change, low, high = score.difference
            rows.append([*_names(score, True), number(change, "+"), span(low, high, "+")])
    return Grid(_heads("errors", True), [f"MAE - {next(iter(report.models))}'s", "95 % interval"], rows)


def _decisions(scores: Sequence[Score], several: bool) -> Grid:
    from crystalpredict.evaluation.report import fraction

    rows = []
    for score in scores:
        if (decision := score.decision) and (counts := score.confusion):
            called = f"{decision.name}: {score.prop.label} ≤ {decision.limit:g} {score.prop.unit}"
            so = f"{counts.true_positives + counts.false_negatives:,} of {score.metrics.count:,}"
            shares = map(fraction, (counts.accuracy, counts.precision, counts.recall))
            rows.append([called, *_names(score, several)[1:], so, *shares])
    return Grid(_heads("called", several), ["by labels", "right", "precision", "recall"], rows)


def _stability(scores: Sequence[Score], several: bool) -> Grid:
    from crystalpredict.evaluation.report import fraction

    rows = []
    for score in scores:
        for found in score.stability:
            counts = found.confusion
            stable = f"{counts.true_positives + counts.false_negatives:,} of {score.metrics.count:,}"
            shares = map(fraction, (counts.precision, counts.recall, counts.f1, counts.acceleration))
            rows.append([found.way, *_names(score, several)[1:], f"{found.limit:g}", stable, *shares])
    heads = ["at most, eV/atom", "stable by labels", "precision", "recall", "F1", "DAF"]
    return Grid(_heads("found as stable, by", several), heads, rows)


def _coverage(scores: Sequence[Score], several: bool) -> Grid:
    from crystalpredict.evaluation.report import number, percent

    found = [(score, score.coverage) for score in scores if score.coverage]
    first = found[0][1]
    rows = [
        [*_names(score, several), *map(percent, own.shares.values()), number(own.widths[own.shown])]
        for score, own in found
    ]
    levels = [f"{level} %" for level in first.shares]
    return Grid(_heads("labels inside", several), [*levels, f"mean width,\n{first.shown} %"], rows)


def _errors_by_size(scores: Sequence[Score], several: bool) -> Grid:
    from crystalpredict.evaluation.report import number

    sizes = list(dict.fromkeys(group.name for score in scores for group in score.by_size))
    rows = []
    for score in scores:
        found = {group.name: f"{number(group.mae)} ({group.count:,})" for group in score.by_size}
        rows.append([*_names(score, several), *(found.get(size, "-") for size in sizes)])
    return Grid(_heads("MAE (crystals)", several), [f"{size} atoms" for size in sizes], rows)


def _errors_by_element(scores: Sequence[Score], several: bool) -> Grid:
    from crystalpredict.evaluation.report import number
    from crystalpredict.evaluation.scores import MIN_CRYSTALS_PER_ELEMENT

    rows = []
    for score in scores:
        worst = sorted(score.by_element, key=lambda group: -group.mae)[:ELEMENTS_SHOWN]
        told = ", ".join(f"{group.name}\N{NO-BREAK SPACE}{number(group.mae)}" for group in worst)
        rows.append([*_names(score, several), told])
    head = f"elements with the largest, of {MIN_CRYSTALS_PER_ELEMENT} crystals or more"
    return Grid([*_heads("MAE", several), head], [], rows)
