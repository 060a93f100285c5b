"""What the commands say on stderr, a line at a time; texts as wide as a column."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from crystalpredict.errors import printable

GAP = "  "  # between columns


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


def width_of(text: str) -> int:
    """Characters of a terminal that a text takes: two for some letters."""
    from rich.cells import cell_len

    return cell_len(text)


def filled(text: str, width: int, *, left: bool) -> str:
    """A text with spaces after it, or before it unless it stands on the left, up to a width."""
    space = " " * (width - width_of(text))
    return text + space if left else space + text


def wrapped(text: str, width: int) -> list[str]:
    """The lines of a text, broken between words where they are wider than a width; at least one line."""
    lines: list[str] = []
    for line in text.split("\n"):
        first, *words = re.split(r"(?<=\S) ", line)
        lines.append(first)
        for word in words:
            if width_of(lines[-1]) + 1 + width_of(word) <= width:
                lines[-1] += f" {word}"
            else:
                lines.append(word)
    return lines
