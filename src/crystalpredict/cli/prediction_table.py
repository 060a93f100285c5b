"""Print predictions as a table for a terminal of any width; numbers are never broken, warnings get their own lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from typing import TYPE_CHECKING

from crystalpredict.cli.terminal import GAP, filled, width_of, wrapped
from crystalpredict.errors import printable
from crystalpredict.prediction.rows import written
from crystalpredict.prediction.writers import TextWriter
from crystalpredict.uncertainty import DEFAULT_LEVEL

if TYPE_CHECKING:
    from rich.console import Console

    from crystalpredict.prediction.rows import Prediction
    from crystalpredict.properties import Property

FILE_WIDTH = 200  # characters, if the output is not a terminal
MIN_NAME_WIDTH = 12  # characters of the column of files; longer names get their own line
INDENT = "    "


@dataclass(frozen=True)
class Column:
    """A column of the table: its head, and a cell for each row."""

    head: str
    cells: list[str]
    left: bool = False

    @property
    def width(self) -> int:
        """Width of the widest line, terminal characters."""
        return max(map(width_of, (*self.head.split(), *self.cells)), default=0)

    def line(self, text: str, width: int | None = None) -> str:
        """Return a text padded to the width of the column, or to `width`."""
        return filled(text, self.width if width is None else width, left=self.left)


class TableWriter(TextWriter):
    """Prints a table when it is closed, in the first of three layouts that fits the width.

    One line for each structure; a line of values and one of intervals below its name; one line for each value. It
    shows none of the `extra` columns.
    """

    def __post_init__(self) -> None:
        self.texts = [prop for prop in self.properties if prop.is_text]
        self.properties = [prop for prop in self.properties if not prop.is_text]
        self.rows: list[Prediction] = []

    def write(self, row: Prediction) -> None:
        self.rows.append(row)

    def close(self) -> None:
        from rich.console import Console

        width = None if self.stream.isatty() else FILE_WIDTH
        console = Console(file=self.stream, width=width, highlight=False, soft_wrap=True)
        values = [[_value(row, prop) for row in self.rows] for prop in self.properties]
        ends = [[_interval(row, prop) if self.intervals else "" for row in self.rows] for prop in self.properties]
        heads = [f"{prop.label}\n{prop.unit}".strip() for prop in self.properties]
        beside = [Column(head, _side_by_side(*both)) for head, *both in zip(heads, values, ends, strict=True)]
        above = [Column(head, [*one, *two]) for head, one, two in zip(heads, values, ends, strict=True)]
        labels = self._labels()
        room = console.width - sum(column.width + len(GAP) for column in (*labels[1:], *beside))
        fitting = sum(width_of(name) <= room for name in labels[0].cells)
        if room >= min(MIN_NAME_WIDTH, labels[0].width) and 2 * fitting >= len(self.rows):
            self._print_lines(console, [*labels, *beside], min(room, labels[0].width))
        elif sum(column.width + len(GAP) for column in above) <= console.width:
            self._print_blocks(console, above, values, ends)
        else:
            self._print_records(console, values, ends)
        if self.intervals and any(row.values for row in self.rows):
            console.print(f"[..]: intervals of {DEFAULT_LEVEL} % coverage", markup=False)

    def _labels(self) -> list[Column]:
        """Return the columns that identify the structure of a row."""
        rows = self.rows
        columns = [Column("file", [printable(row.path) for row in rows], left=True)]
        if any(row.index for row in rows):
            columns.append(Column("#", [str(row.index) for row in rows]))
        columns.append(Column("formula", [row.formula for row in rows], left=True))
        atoms = ["" if row.n_atoms is None else str(row.n_atoms) for row in rows]
        return [*columns, Column("atoms", atoms)]

    def _print_lines(self, console: Console, columns: Sequence[Column], first: int) -> None:
        """Print a line for each structure; a file name wider than `first` goes on the line above."""
        widths = [first, *(column.width for column in columns[1:])]
        _print_head(console, columns, widths)
        for number, row in enumerate(self.rows):
            cells = [column.cells[number] for column in columns]
            if width_of(cells[0]) > first:
                console.print(cells[0], markup=False)
                cells[0] = ""
            if cells[0] or row.values:
                console.print(GAP.join(map(Column.line, columns, cells, widths)).rstrip(), markup=False)
            self._print_notes(console, row)

    def _print_blocks(
        self, console: Console, columns: Sequence[Column], values: Sequence[list[str]], ends: Sequence[list[str]]
    ) -> None:
        """Print the name of each structure, its values, and each interval below its value."""
        widths = [column.width for column in columns]
        space = min(len(INDENT), console.width - sum(width + len(GAP) for width in widths) + len(GAP))
        _print_head(console, columns, widths, " " * space)
        for number, row in enumerate(self.rows):
            console.print(self._name(row), style="bold", markup=False)
            for lines in (values, ends) if row.values else ():
                cells = [cells[number] for cells in lines]
                line = " " * space + GAP.join(map(Column.line, columns, cells, widths))
                if line.strip():
                    console.print(line, markup=False)
            self._print_notes(console, row)

    def _print_records(self, console: Console, values: Sequence[list[str]], ends: Sequence[list[str]]) -> None:
        """Print the name of each structure, and a line for each of its values."""
        names = Column("", [prop.label for prop in self.properties], left=True)
        units = Column("", [prop.unit for prop in self.properties], left=True)
        numbers = Column("", [cell for column in values for cell in column])
        for number, row in enumerate(self.rows):
            console.print(self._name(row), style="bold", markup=False)
            for place in range(len(values)) if row.values else ():
                texts = names.cells[place], values[place][number], units.cells[place]
                cells = map(Column.line, (names, numbers, units), texts)
                console.print((INDENT + " ".join([*cells, ends[place][number]])).rstrip(), markup=False)
            self._print_notes(console, row)

    def _print_notes(self, console: Console, row: Prediction) -> None:
        """Print text properties, warnings and the error of a structure, each on its own lines."""
        from rich.text import Text

        for kind, style, text in _notes(row, self.texts):
            note = Text(f"{kind}: {printable(text)}", style)
            for line in note.wrap(console, max(console.width - len(INDENT), MIN_NAME_WIDTH), overflow="fold"):
                line.rstrip()
                console.print(Text.assemble(INDENT, line))

    def _name(self, row: Prediction) -> str:
        """Return the file, formula and size of a structure as text."""
        number = f" #{row.index}" if any(other.index for other in self.rows) else ""
        atoms = "" if row.n_atoms is None else f"{row.n_atoms} atom{'s' * (row.n_atoms != 1)}"
        return ", ".join(part for part in (f"{printable(row.path)}{number}", row.formula, atoms) if part)


def _print_head(console: Console, columns: Sequence[Column], widths: Sequence[int], indent: str = "") -> None:
    """Print the heads of columns above a rule."""
    heads = [wrapped(column.head, width) for column, width in zip(columns, widths, strict=True)]
    height = max(map(len, heads))
    for line in range(height):
        cells = ["" if line < height - len(head) else head[line - height + len(head)] for head in heads]
        text = GAP.join(map(Column.line, columns, cells, widths))
        console.print((indent + text).rstrip(), style="bold", markup=False)
    console.print("─" * (len(indent) + sum(widths) + len(GAP) * (len(widths) - 1)), markup=False)


def _notes(row: Prediction, properties: Sequence[Property]) -> Iterator[tuple[str, str, str]]:
    """Yield text properties, warnings and the error of a structure as kind, style and text."""
    yield from ((prop.label, "", text) for prop in properties if (text := row.texts.get(prop.column)))
    yield from (("warning", "yellow", warning) for warning in row.warnings)
    if row.error:
        yield "error", "red", row.error


def _side_by_side(values: Sequence[str], ends: Sequence[str]) -> list[str]:
    """Return each value with its interval, both aligned right."""
    one, two = (max(map(len, column), default=0) for column in (values, ends))
    return [f"{value:>{one}}" + f" {end:>{two}}" * bool(two) for value, end in zip(values, ends, strict=True)]


def _value(row: Prediction, prop: Property) -> str:
    value = row.values.get(prop.column, nan)
    return written(value, prop.decimals - 1) if isfinite(value) else "-"


def _interval(row: Prediction, prop: Property) -> str:
    """Return the interval, with two digits less than in a file."""
    if not row.values or not prop.has_interval:
        return ""
    low, high = (written(end, prop.decimals - 2) for end in row.interval(prop.column))
    return f"[{low}..{high}]"
