"""What the commands print: a line on stderr, or a table of predictions."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from crystalpredict.errors import printable
from crystalpredict.prediction.rows import written
from crystalpredict.properties import TextProperty
from crystalpredict.uncertainty import DEFAULT_LEVEL

if TYPE_CHECKING:
    from crystalpredict.prediction.rows import Prediction
    from crystalpredict.properties import Property


def say(message: str) -> None:
    """A line on stderr, whatever the names of files in it."""
    print(f"crystalpredict: {printable(message)}", file=sys.stderr)  # noqa: T201  the one place that prints


@contextmanager
def messages(*, quiet: bool) -> Iterator[None]:
    """In the block, print what the library logs as lines on stderr; if `quiet`, only warnings."""
    logger = logging.getLogger("crystalpredict")
    handler = _Lines()
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.level, logger.propagate = before


class _Lines(logging.Handler):
    """Prints records by `say`."""

    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


class TableWriter:
    """A table for reading, printed at the end; files by name where that tells them apart."""

    def __init__(self, stream: IO[str], properties: Sequence[Property], intervals: bool = False) -> None:
        self.stream, self.properties, self.intervals = stream, properties, intervals
        self.rows: list[Prediction] = []

    def write(self, row: Prediction) -> None:
        self.rows.append(row)

    def close(self) -> None:
        from rich import box
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table

        several = any(row.index for row in self.rows)
        noted = any(row.warnings or row.error for row in self.rows)
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("file", overflow="fold")
        if several:
            table.add_column("#", justify="right")
        table.add_column("formula")
        table.add_column("atoms", justify="right")
        values = [[_cell(row, prop, self.intervals) for row in self.rows] for prop in self.properties]
        for prop, column in zip(self.properties, values, strict=True):
            longest = max((len(word) for cell in column for word in cell.split(" ")), default=0)
            table.add_column(f"{prop.label}\n{prop.unit}", justify="right", min_width=longest)
        if self.intervals:
            table.caption = f"[..]: holds the true value in {DEFAULT_LEVEL} % of cases"
        if noted:
            table.add_column("note", overflow="fold")
        for number, row in enumerate(self.rows):
            cells = [escape(printable(row.path)), *([str(row.index)] if several else []), escape(row.formula)]
            cells.append("" if row.n_atoms is None else str(row.n_atoms))
            cells += [escape(column[number]) for column in values]
            if noted:
                note = f"[red]{escape(row.error)}[/red]" if row.error else escape("; ".join(row.warnings))
                cells.append(note)
            table.add_row(*cells)
        console = Console(file=self.stream, width=None if self.stream.isatty() else 200, highlight=False)
        least = console.measure(table, options=console.options.update(max_width=10**4)).minimum
        console.width = max(console.width, least)  # rather broken lines than numbers cut off
        console.print(table)


def _cell(row: Prediction, prop: Property, intervals: bool) -> str:
    """The value, and the interval in two digits less than a file has; a narrow column breaks between the two."""
    if row.error:
        return "-"
    if isinstance(prop, TextProperty):
        return row.texts[prop.column] or "-"
    value = written(row.values[prop.column], prop.decimals - 1)
    if not intervals:
        return value
    low, high = (written(end, prop.decimals - 2) for end in row.interval(prop.column))
    return f"{value} [{low}..{high}]"
