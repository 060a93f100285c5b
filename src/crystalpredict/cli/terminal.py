"""What the commands say on stderr, a line at a time."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from crystalpredict.errors import printable


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
