"""Print messages on stderr, and fit texts to the width of a column."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from crystalpredict.errors import printable

GAP = "  "  # between columns


def say(message: str) -> None:
    """Print a line on stderr, with control characters escaped."""
    print(f"crystalpredict: {printable(message)}", file=sys.stderr)  # noqa: T201  the only print


@contextmanager
def messages(*, quiet: bool) -> Iterator[None]:
    """Print log records of the library on stderr in the block; if `quiet`, only warnings."""
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
    """Prints log records with `say`."""

    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


def width_of(text: str) -> int:
    """Return the width of a text in terminal characters; some letters take two."""
    from rich.cells import cell_len

    return cell_len(text)


def filled(text: str, width: int, *, left: bool) -> str:
    """Return a text padded with spaces to a width, aligned left or right."""
    space = " " * (width - width_of(text))
    return text + space if left else space + text


def wrapped(text: str, width: int) -> list[str]:
    """Return the lines of a text, broken between words at a width; at least one line."""
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
