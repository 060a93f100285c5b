"""How far a run has come, and how long it will go on."""

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
from crystalpredict.io.inputs import expand

if TYPE_CHECKING:
    from crystalpredict.prediction.shards import Shard

Row = TypeVar("Row")
COUNT_AFTER = 5.0  # seconds: nobody asks how long a shorter run will take
SAY_EVERY = 600.0  # seconds between lines where there is no terminal to draw on


def with_progress(
    rows: Iterable[Row], total: int, is_first: Callable[[Row], bool], *, quiet: bool, what: str = "files"
) -> Iterator[Row]:
    """The rows of `total` files, with a progress bar on stderr if that is a terminal.

    is_first: whether a row is the first of its file.
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
    """How long a run over inputs nobody has counted will go on: a thread counts them when it has lasted a while."""

    def __init__(self, count: Callable[[], int | None], done: Callable[[], int]) -> None:
        """`count` the inputs, None if they can be read only once; `done`, how many of them are."""
        self.count, self.done = count, done
        self.started, self.before = time.monotonic(), done()
        self.total: int | None = None
        self.thread: threading.Thread | None = None

    def rows(self, rows: Iterable[Row], *, quiet: bool) -> Iterator[Row]:
        """The rows; how many there were, and the time left, on a terminal all the time, elsewhere now and then."""
        if quiet:
            yield from rows
            return
        if sys.stderr.isatty():
            yield from self._drawn(rows)
            return
        said = self.started
        for number, row in enumerate(rows, start=1):
            now = time.monotonic()
            self._begin(now)
            if now - said > SAY_EVERY:
                said = now
                say(f"{number} structures in {timedelta(seconds=round(now - self.started))}{self.said()}")
            yield row

    def said(self) -> str:
        """The time left, to be added to a line; empty while nobody knows."""
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
                return Text(f"{task.completed:,.0f} structures{self.said()}")

        with Progress(Line(), console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("", total=None)
            for row in rows:
                self._begin(time.monotonic())
                progress.advance(task)
                yield row

    def _begin(self, now: float) -> None:
        if self.thread is None and now - self.started > COUNT_AFTER:
            self.thread = threading.Thread(target=self._count, daemon=True)
            self.thread.start()

    def _count(self) -> None:
        with suppress(Exception):  # a forecast less; whatever is wrong with an input is said where it is read
            self.total = self.count()


def count_sources(
    inputs: Sequence[str], structure_column: str | None = None, shard: Shard | None = None, *, null: bool = False
) -> int | None:
    """How many files, or structures in archives and tables, the inputs of a command have; of a new `shard`, its part.

    None if they cannot be read a second time. No structure is parsed, and no member of a zip archive unpacked.
    """
    from crystalpredict.io.sources import sources_of

    if any(item == "-" or (item.startswith("@") and not os.path.isfile(item[1:])) for item in inputs):
        return None
    total = 0

    def passed_over(name: str) -> bool:
        nonlocal total
        total += shard is None or shard.takes(name)
        return False

    # from a pipe the run itself reads
    names = (name for name in expand(inputs, null=null) if os.path.isfile(name) or not os.path.exists(name))
    for _ in sources_of(names, structure_column, passed_over):
        pass
    return total
