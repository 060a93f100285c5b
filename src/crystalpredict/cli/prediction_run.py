"""A run of `predict`: rows are written as they come, and an interrupted run keeps those that are complete."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

from crystalpredict.cli.interrupts import Interrupts
from crystalpredict.cli.output import path_of_result, writer_of
from crystalpredict.cli.progress import Forecast
from crystalpredict.cli.relaxed_cells import in_one_file, is_cell_written
from crystalpredict.cli.report import write_page
from crystalpredict.cli.tally import EXIT_INTERRUPTED, EXIT_SOME_FAILED, Tally
from crystalpredict.cli.terminal import say
from crystalpredict.prediction.pipeline import Windows
from crystalpredict.prediction.rows import name_of, record
from crystalpredict.prediction.shards import Shard
from crystalpredict.prediction.writers import Format

if TYPE_CHECKING:
    from crystalpredict.io.cell_writers import CellWriter
    from crystalpredict.prediction.extra_columns import ExtraColumns
    from crystalpredict.prediction.hits import Hits
    from crystalpredict.prediction.resume import Cursor, PartialFile
    from crystalpredict.prediction.rows import Prediction
    from crystalpredict.prediction.selection import Selection
    from crystalpredict.properties import Property

Row = TypeVar("Row")


@dataclass
class Ending:
    """What ended a run early: a signal, or an unexpected error."""

    interrupted: bool = False
    error: Exception | None = None

    @property
    def early(self) -> bool:
        """Whether some inputs have no row."""
        return self.interrupted or self.error is not None


@dataclass
class Run:
    """A run of `predict`.

    Attributes:
        windows: Rows to write.
        cursor: Counts the sources whose rows are written.
        forecast: Reports the progress.
        part: The partial file, if the run can be resumed.
        stream: Receives the rows.
        kind: Format of the rows.
        properties: Of the rows.
        intervals: Whether rows have intervals.
        selection: Which rows are written, and in which order.
        shard: The share of the inputs, if there are several.
        quiet: Whether nothing is printed on stderr but errors.
        ending: What ended the run early.
        interrupts: Delays signals while a row is written.
        output: File of the rows; None: stdout.
        cells: Writes relaxed cells, if they are requested.
        write_relaxed: Folder or file of the relaxed cells.
        extra: Further columns.
        hits: Writes structures and copies files of the rows, if they are requested.
        kept: Receives the rows that are written; None: they are not kept.
        tally: Counts of the rows.
        unwritten: Number of relaxed cells that could not be written.
    """

    windows: Windows
    cursor: Cursor
    forecast: Forecast
    part: PartialFile | None
    stream: IO[Any]
    kind: Format
    properties: Sequence[Property]
    intervals: bool
    selection: Selection
    shard: Shard | None
    quiet: bool
    ending: Ending
    interrupts: Interrupts
    output: Path | None
    cells: CellWriter | None
    write_relaxed: Path | None
    extra: ExtraColumns
    hits: Hits | None
    kept: list[Prediction] | None = None
    tally: Tally = field(default_factory=Tally)
    unwritten: int = 0

    def write(self) -> int:
        """Write the rows, print errors, and return the exit code; an interrupted document is completed."""
        writer = writer_of(self.kind, self.stream, self.properties, intervals=self.intervals, extra=self.extra.kinds)
        if self.part and self.part.position.rows:
            self.part.discard()  # the header, which the file has
            self.tally = Tally(self.part.position.rows, self.part.position.failed, self.part.position.skipped)
        rows = self._rows()
        if self.selection:
            extra = tuple(self.extra.kinds)
            rows = self.selection.of_rows(rows, lambda row: record(row, self.properties, self.intervals, extra))
        try:
            for row in rows:
                writer.write(row)
                if self.kept is not None:
                    self.kept.append(row)
                if self.cells:
                    self.unwritten += not is_cell_written(self.cells, row)
                if self.hits:
                    self.hits.add(row)
                if self.part and self.shard:
                    self.part.places.append(self.cursor.begun - 1)
        except KeyboardInterrupt:
            self.ending.interrupted = True
        interrupted = self.ending.early
        if not self.part:
            writer.close()
            self.stream.flush()
        elif not interrupted:
            self.part.finish(self.shard.sums() if self.shard else None)
        if not self.quiet:
            self._report_ending()
        if interrupted:
            return EXIT_INTERRUPTED
        unwritten = self.unwritten or bool(self.hits and self.hits.failed)
        return self.tally.exit_code or (EXIT_SOME_FAILED if unwritten else 0)

    def end(self, page: Path | None, sort: str | None) -> None:
        """Raise what ended the run early, or write the page about its rows; `sort`: what they are sorted by."""
        if self.ending.error:
            raise self.ending.error
        if page is None or self.ending.early:
            return
        from crystalpredict.prediction.predictions import Predictions

        rows = Predictions(self.kept or (), self.properties, intervals=self.intervals, kept=self.extra.kinds)
        write_page(rows if self.output is None or self.kept is not None else self.output, page,
                   "" if sort else None, quiet=self.quiet)  # fmt: skip

    def _rows(self) -> Iterator[Prediction]:
        """Yield and count the rows; after an interrupt, those computed are still sorted and written."""
        # writing to stdout may block, and must stay interruptible
        interrupts = self.interrupts if self.output else Interrupts()
        try:
            for row in self.forecast.rows(by_window(self.windows, self._end_window), quiet=self.quiet):
                self.tally.add(row)
                self.cursor.passed(row.path, row.index)
                if self.extra:
                    row = self.extra.added(row, self.cursor.current)
                self.tally.skipped += not (row.error or row.is_predicted)
                if row.error and not self.quiet and self.kind != Format.table:
                    say(f"{name_of(row.path, row.index)}: {row.error}")
                interrupts.hold()  # writing a row is not interrupted
                yield row
                interrupts.release()
            interrupts.hold()
        except KeyboardInterrupt:
            self.ending.interrupted = True
        except Exception as error:
            if self.part or self.output is None or not self.tally.rows:
                raise
            self.ending.error = error

    def _end_window(self) -> None:
        """Save the rows of a window, so that a killed run keeps them."""
        if self.part:
            self.part.commit(self.cursor.position(self.tally.rows, self.tally.failed, self.tally.skipped))
        else:
            self.stream.flush()

    def _report_ending(self) -> None:
        """Print the summary, and where the rows of an interrupted run are."""
        early, part, rows = self.ending.early, self.part, self.tally.rows
        say(self.tally.summary() + (self.forecast.time_left() if early else ""))
        if early and part and part.position.rows:
            say(f"interrupted: {part.position.rows} rows are complete in {part.shown}: continue with --resume")
        elif early and part:
            cells_left = f"; {self.write_relaxed} has cells without rows: replace them with --force"
            say("interrupted before the first rows" + cells_left * bool(self.cells and rows))
        elif early:
            cells = self.write_relaxed if self.write_relaxed and in_one_file(self.write_relaxed) else None
            names = [str(path_of_result(path, interrupted=True)) for path in (self.output, cells) if path]
            say(f"interrupted: {rows} rows are complete" + " in " * bool(names) + " and ".join(names))


def by_window(windows: Iterable[Iterable[Row]], end_window: Callable[[], None]) -> Iterator[Row]:
    """Yield the rows, and call `end_window` after those of each window."""
    for window in windows:
        yield from window
        end_window()
