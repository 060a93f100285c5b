"""Progress and remaining time of a run."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from crystalpredict.cli.terminal import say
from crystalpredict.io.file_types import Frames, is_query
from crystalpredict.io.inputs import expand

if TYPE_CHECKING:
    from crystalpredict.prediction.shards import Shard

Row = TypeVar("Row")
COUNT_AFTER_SECONDS = 5.0  # shorter runs need no forecast
REPORT_INTERVAL_SECONDS = 600.0  # between lines, if stderr is not a terminal


def with_progress(
    rows: Iterable[Row], total: int, is_first: Callable[[Row], bool], *, quiet: bool, what: str = "files"
) -> Iterator[Row]:
    """Yield the rows of `total` files, with a progress bar on stderr if that is a terminal.

    Args:
        rows: The rows.
        total: Number of files.
        is_first: Returns whether a row is the first of its file.
        quiet: Without a progress bar.
        what: Name of the files in the bar.
    """
    if quiet or not sys.stderr.isatty() or total < 50:
        yield from rows
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total)
        for row in rows:
            if is_first(row):
                progress.advance(task)
            yield row


class Forecast:
    """Remaining time of a run over uncounted inputs, which a thread counts after COUNT_AFTER_SECONDS."""

    def __init__(self, count: Callable[[], int | None], done: Callable[[], int]) -> None:
        """Begin the forecast.

        Args:
            count: Returns the number of inputs; None if they can be read only once.
            done: Returns the number of inputs read so far.
        """
        self.count, self.done = count, done
        self.started, self.before = time.monotonic(), done()
        self.total: int | None = None
        self.thread: threading.Thread | None = None

    def rows(self, rows: Iterable[Row], *, quiet: bool) -> Iterator[Row]:
        """Yield the rows, and report their number and the time left: live on a terminal, else at intervals."""
        if quiet:
            yield from rows
            return
        if sys.stderr.isatty():
            yield from self._drawn(rows)
            return
        last_report = self.started
        for number, row in enumerate(rows, start=1):
            now = time.monotonic()
            self._begin(now)
            if now - last_report > REPORT_INTERVAL_SECONDS:
                last_report = now
                say(f"{number} structures in {timedelta(seconds=round(now - self.started))}{self.time_left()}")
            yield row

    def time_left(self) -> str:
        """Return the time left, to append to a line; empty while it is unknown."""
        if self.total is None or (new := self.done() - self.before) <= 0:
            return ""
        left = (time.monotonic() - self.started) / new * max(0, self.total - self.done())
        return f", {timedelta(seconds=round(left))} left"

    def _drawn(self, rows: Iterable[Row]) -> Iterator[Row]:
        from rich.console import Console
        from rich.progress import Progress, ProgressColumn, Task
        from rich.text import Text

        class Line(ProgressColumn):
            def render(_, task: Task) -> Text:
                return Text(f"{task.completed:,.0f} structures{self.time_left()}")

        with Progress(Line(), console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("", total=None)
            for row in rows:
                self._begin(time.monotonic())
                progress.advance(task)
                yield row

    def _begin(self, now: float) -> None:
        if self.thread is None and now - self.started > COUNT_AFTER_SECONDS:
            self.thread = threading.Thread(target=self._count, daemon=True)
            self.thread.start()

    def _count(self) -> None:
        with suppress(Exception):  # no forecast then; reading the input gives the error
            self.total = self.count()


def count_sources(
    inputs: Sequence[str],
    structure_column: str | None = None,
    shard: Shard | None = None,
    *,
    null: bool = False,
    frames: Frames = Frames.last,
    calculations: bool = False,
) -> int | None:
    """Return the number of sources in the inputs of a command, or in those of a `shard`.

    None if they cannot be read twice, or only slowly: all frames, and queries to a server. No structure is parsed, and
    no member of a zip archive unpacked.
    """
    from crystalpredict.io.sources import sources_of

    if frames == Frames.all or any(map(is_query, inputs)):
        return None
    if any(item == "-" or (item.startswith("@") and not os.path.isfile(item[1:])) for item in inputs):
        return None
    total = 0

    def count_and_skip(name: str) -> bool:
        nonlocal total
        total += shard is None or shard.takes(name)
        return False

    # not from pipes, which the run itself reads
    paths = expand(inputs, null=null, calculations=calculations)
    names = (name for name in paths if os.path.isfile(name) or not os.path.exists(name))
    for _ in sources_of(names, structure_column, count_and_skip, calculations=calculations):
        pass
    return total
