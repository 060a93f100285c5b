"""Predictions as HTML for notebooks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape

from crystalpredict.errors import printable, reason_of
from crystalpredict.prediction.rows import Prediction, written
from crystalpredict.properties import REQUESTED, TRAINED, Property

KNOWN = {prop.column: prop for prop in (*TRAINED, *REQUESTED)}
REASONS_SHOWN = 5
NOTE = 'style="color:gray;font-size:85%"'


def html_of_rows(rows: Sequence[Prediction], properties: Sequence[Property], *, intervals: bool, shown: int) -> str:
    """Return the counts of some rows, and the first of them as a table.

    Args:
        rows: The rows.
        properties: Their properties.
        intervals: Whether they have intervals.
        shown: Number of rows in the table.
    """
    failures = Counter(reason_of(row.error) for row in rows if row.error)
    warned = sum(bool(row.warnings) for row in rows)
    counts = f"<b>{len(rows):,} predictions</b>, {sum(failures.values()):,} failed, {warned:,} with warnings"
    reasons = "; ".join(f"{count:,} {_text(reason)}" for reason, count in failures.most_common(REASONS_SHOWN))
    parts = [f"<div>{counts}{f'<br><span {NOTE}>{reasons}</span>' if reasons else ''}</div>"]
    heads = ["formula", "atoms", *(_title(prop) for prop in properties), "notes", "file"]
    lines = []
    for row in rows[:shown]:
        values = (_value(row, prop, intervals=intervals) for prop in properties)
        lines.append(_cells([*_start(row), *values, _notes(row), _file(row)]))
    if lines:
        parts.append(f"<table><thead>{_cells(heads, 'th')}</thead><tbody>{''.join(lines)}</tbody></table>")
    if intervals and any(row.bounds for row in rows[:shown]):
        parts.append(f"<div {NOTE}>small: 90 % intervals</div>")
    if len(rows) > shown:
        parts.append(f"<div {NOTE}>the first {shown} rows; to_frame() has all of them</div>")
    return "".join(parts)


def html_of_row(row: Prediction) -> str:
    """Return a row as a table with a line for each value, and a drawing of its relaxed crystal if it has one."""
    lines = [
        _cells([_title(prop), _value(row, prop, intervals=True)])
        for prop in (KNOWN.get(column, Property(column, column, "", "")) for column in (*row.values, *row.texts))
    ]
    drawing = ""
    if row.relaxed is not None:
        from crystalpredict.crystals.drawing import cell_svg

        drawing = cell_svg(row.relaxed, f"relaxed unit cell of {row.formula}")
    formula, atoms = _start(row)
    about = f", {atoms} atoms" if atoms else ""
    head = f"<div><b>{formula or 'no formula'}</b>{about} <span {NOTE}>{_file(row)}</span></div>"
    table = f"<table><tbody>{''.join(lines)}</tbody></table>" if lines else ""
    notes = f"<div>{_notes(row)}</div>" if row.error or row.warnings else ""
    return head + notes + table + drawing


def _cells(cells: Sequence[str], tag: str = "td") -> str:
    return f"<tr>{''.join(f'<{tag}>{cell}</{tag}>' for cell in cells)}</tr>"


def _text(text: str) -> str:
    return escape(printable(text))


def _title(prop: Property) -> str:
    return _text(f"{prop.label}, {prop.unit}" if prop.unit else prop.label)


def _start(row: Prediction) -> list[str]:
    return [_text(row.formula), "" if row.n_atoms is None else f"{row.n_atoms:,}"]


def _file(row: Prediction) -> str:
    return _text(f"{row.path} #{row.index}" if row.index else row.path)


def _notes(row: Prediction) -> str:
    return "<br>".join(map(_text, (row.error,) if row.error else row.warnings))


def _value(row: Prediction, prop: Property, *, intervals: bool) -> str:
    """Return a value with its interval, with as many digits as the table of a terminal has."""
    if prop.is_text or prop.column in row.texts:
        return _text(row.texts.get(prop.column, ""))
    if prop.column not in row.values:
        return ""
    value = written(row.values[prop.column], prop.decimals - 1)
    if not intervals or prop.column not in row.bounds:
        return value
    low, high = (written(end, prop.decimals - 2) for end in row.interval(prop.column))
    return f"{value}<br><small>{low} to {high}</small>"
